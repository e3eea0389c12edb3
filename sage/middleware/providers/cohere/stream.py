"""Cohere's stream of chat events as OpenAI's, event by event.

Source: Cohere's API reference, *Chat with streaming* (v2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage.errors import SageError
from sage.middleware.providers.cohere.chat import Fail, chat_answer, finish_reason, logprobs, read_usage, usage_of
from sage.middleware.providers.wire.chunks import answer_events
from sage.middleware.providers.wire.errors import reported_error
from sage.middleware.providers.wire.tool_calls import CallFragment, ToolCalls, call_id
from sage.middleware.providers.wire.translated_stream import TranslatedStream


class CohereRelay(TranslatedStream):
    """The relay of one chat stream."""

    def __init__(self, model: str, *, keep_usage: bool, fail: Fail, on_error: Callable[[Any], SageError]) -> None:
        super().__init__(model, keep_usage=keep_usage, on_error=on_error)
        self._model = model
        self._keep_usage = keep_usage
        self._fail = fail
        self._calls = ToolCalls()
        self._translate: dict[str, Callable[[dict[str, Any]], bytes]] = {
            "content-start": self._content,
            "content-delta": self._content,
            "tool-plan-delta": self._tool_plan,
            "tool-call-start": self._tool_call,
            "tool-call-delta": self._tool_call,
            "citation-start": self._citation,
            "message-end": self._end,
        }

    def _event(self, event: Any) -> bytes:
        if not isinstance(event, dict):
            return b""
        translate = self._translate.get(str(event.get("type")))
        if translate is not None:
            return translate(event)
        if "type" not in event and isinstance(event.get("message"), dict):
            return self._whole(event)
        if "type" not in event:  # an error, in the shape of errors outside of streams
            raise self._on_error(reported_error(event) or event)
        return b""

    def _whole(self, answer: dict[str, Any]) -> bytes:
        """The stream of an answer that came whole."""
        decoded = chat_answer(answer, self._model, self._fail)
        assert decoded is not None
        translated, self.usage = decoded
        self.finished = True
        return answer_events(translated, keep_usage=self._keep_usage)

    def _content(self, event: dict[str, Any]) -> bytes:
        content = _message(event).get("content")
        if not isinstance(content, dict):
            return b""
        fields: dict[str, Any] = {"logprobs": logprobs(event["logprobs"])} if event.get("logprobs") else {}
        texts = {"content": content.get("text"), "reasoning_content": content.get("thinking")}
        delta = {name: text for name, text in texts.items() if isinstance(text, str) and text}
        return self._delta(delta, **fields) if delta or fields else b""

    def _tool_plan(self, event: dict[str, Any]) -> bytes:
        plan = _message(event).get("tool_plan")
        return self._delta({"tool_plan": plan}) if isinstance(plan, str) and plan else b""

    def _tool_call(self, event: dict[str, Any]) -> bytes:
        call = _message(event).get("tool_calls")
        if not isinstance(call, dict):
            return b""
        starts, function = event["type"] == "tool-call-start", call.get("function")
        identity = call.get("id") or (call_id() if starts else None)
        entry = {
            "index": event.get("index"),
            "id": identity,
            "function": function if isinstance(function, dict) else {},
        }
        return b"".join([self._fragment(fragment) for fragment in self._calls.add([entry])])

    def _fragment(self, fragment: CallFragment) -> bytes:
        call, function = fragment.call, {"arguments": fragment.arguments}
        if not fragment.starts:
            return self._delta({"tool_calls": [{"index": call.number, "function": function}]})
        started = {"index": call.number, "id": call.id, "type": "function"}
        return self._delta({"tool_calls": [{**started, "function": {"name": fragment.name, **function}}]})

    def _citation(self, event: dict[str, Any]) -> bytes:
        citation = _message(event).get("citations")
        return self._delta({"citations": [citation]}) if isinstance(citation, dict) else b""

    def _end(self, event: dict[str, Any]) -> bytes:
        delta = event.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        finish = finish_reason(delta.get("finish_reason"), delta.get("error"), self._fail)
        self.usage = read_usage(delta.get("usage"))
        self.finished = True
        counted = usage_of(delta["usage"], self.usage) if self.usage is not None else None
        return self._delta({}, finish) + self._writer.done(self.usage, counted)


def _message(event: dict[str, Any]) -> dict[str, Any]:
    """The message in an event. It holds one tool call and one citation, not lists of them."""
    delta = event.get("delta")
    message = delta.get("message") if isinstance(delta, dict) else None
    return message if isinstance(message, dict) else {}
