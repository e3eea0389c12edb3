"""Cohere's stream of chat events as OpenAI's, event by event.

Source: Cohere's API reference, *Chat with streaming* (v2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sage.errors import SageError, UpstreamFailed
from sage.middleware.providers.base import Usage
from sage.middleware.providers.cohere.chat import Fail, ended, logprobs, read_usage, usage_of
from sage.middleware.providers.wire.chunks import ChunkWriter, JsonStream


class CohereRelay:
    """One chat stream. The role goes with the first thing that is said, so that an answer that fails before it says
    anything has sent nothing."""

    def __init__(self, model: str, *, keep_usage: bool, fail: Fail) -> None:
        self.usage: Usage | None = None
        self.finished = False
        self.error: SageError | None = None
        self._fail = fail
        self._events = JsonStream()
        self._writer = ChunkWriter(model, keep_usage=keep_usage)
        self._role: dict[str, Any] = {"role": "assistant"}
        self._calls: dict[str, int] = {}  # Cohere's index of a tool call → OpenAI's
        self._translate: dict[str, Callable[[dict[str, Any]], bytes]] = {
            "content-start": self._content,
            "content-delta": self._content,
            "tool-plan-delta": self._tool_plan,
            "tool-call-start": self._tool_call,
            "tool-call-delta": self._tool_call,
            "citation-start": self._citation,
            "message-end": self._end,
        }

    def feed(self, data: bytes) -> bytes:
        return b"" if self.finished or self.error is not None else self._written(self._events.feed(data))

    def close(self) -> bytes:
        rest = b"" if self.finished or self.error is not None else self._written(self._events.close())
        if self.error is not None:
            raise self.error
        if not self.finished:
            raise UpstreamFailed("the upstream ended its stream before the answer was whole", code="upstream_broken")
        return rest

    def _written(self, events: Iterable[Any]) -> bytes:
        pieces = []
        try:
            for event in events:
                pieces.append(self._event(event))
                if self.finished:
                    break
        except SageError as error:  # what came before it is good
            self.error = error
        return b"".join(pieces)

    def _event(self, event: Any) -> bytes:
        if not isinstance(event, dict):
            return b""
        translate = self._translate.get(str(event.get("type")))
        if translate is not None:
            return translate(event)
        if "type" not in event:  # an error in the shape that it has outside of streams
            raise self._fail(502, str(event.get("message") or event.get("error") or "an event without a type"))
        return b""

    def _delta(self, delta: dict[str, Any], finish: str | None = None, /, **fields: Any) -> bytes:
        whole, self._role = {**self._role, **delta}, {}
        return self._writer.delta(whole, finish, **fields)

    def _content(self, event: dict[str, Any]) -> bytes:
        content = _message(event).get("content")
        if not isinstance(content, dict):
            return b""
        probable: dict[str, Any] = {"logprobs": logprobs(event["logprobs"])} if event.get("logprobs") else {}
        said = {"content": content.get("text"), "reasoning_content": content.get("thinking")}
        delta = {name: text for name, text in said.items() if isinstance(text, str) and text}
        return self._delta(delta, **probable) if delta or probable else b""

    def _tool_plan(self, event: dict[str, Any]) -> bytes:
        plan = _message(event).get("tool_plan")
        return self._delta({"tool_plan": plan}) if isinstance(plan, str) and plan else b""

    def _tool_call(self, event: dict[str, Any]) -> bytes:
        call = _message(event).get("tool_calls")
        if not isinstance(call, dict):
            return b""
        begins, theirs = event["type"] == "tool-call-start", str(event.get("index"))
        if begins:
            self._calls[theirs] = len(self._calls)
        given = call.get("function")
        function = given if isinstance(given, dict) else {}
        delta: dict[str, Any] = {"index": self._calls.get(theirs, max(len(self._calls) - 1, 0))}
        if begins:
            delta.update(id=call.get("id"), type="function")
        delta["function"] = {"name": function.get("name")} if begins else {}
        delta["function"]["arguments"] = function.get("arguments") or ""
        return self._delta({"tool_calls": [delta]})

    def _citation(self, event: dict[str, Any]) -> bytes:
        citation = _message(event).get("citations")
        return self._delta({"citations": [citation]}) if isinstance(citation, dict) else b""

    def _end(self, event: dict[str, Any]) -> bytes:
        told = event.get("delta")
        delta: dict[str, Any] = told if isinstance(told, dict) else {}
        finish = ended(delta.get("finish_reason"), delta.get("error"), self._fail)
        self.usage = read_usage(delta.get("usage"))
        self.finished = True
        counted = usage_of(delta["usage"], self.usage) if self.usage is not None else None
        return self._delta({}, finish) + self._writer.done(self.usage, counted)


def _message(event: dict[str, Any]) -> dict[str, Any]:
    """What an event says of the message; tool calls and citations are one each here, not lists."""
    delta = event.get("delta")
    message = delta.get("message") if isinstance(delta, dict) else None
    return message if isinstance(message, dict) else {}
