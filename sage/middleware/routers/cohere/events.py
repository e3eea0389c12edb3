"""OpenAI's stream of chat chunks as Cohere's events.

Source: Cohere's API reference, *Chat with streaming* (v2).
"""

from __future__ import annotations

from typing import Any

import orjson

from sage.errors import SageError
from sage.middleware.providers.wire.json_values import objects
from sage.middleware.providers.wire.messages import DeltaReader, finish_of
from sage.middleware.providers.wire.sse import payloads
from sage.middleware.providers.wire.tool_calls import CallFragment, ToolCall
from sage.middleware.routers.cohere import translation


class ChatEvents:
    """The events of one answer; the last one, from :meth:`end`, has the finish reason and the usage."""

    def __init__(self) -> None:
        self._started = False
        self._block: str | None = None  # the kind of the content block that is open
        self._blocks = 0
        self._reader = DeltaReader()
        self._call: ToolCall | None = None  # the call that is open
        self._waiting: list[ToolCall] = []  # calls that have not been opened
        self._calls: dict[ToolCall, int] = {}
        self._citations = 0
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] | None = None

    def translate(self, events: bytes) -> bytes:
        """The complete OpenAI ``events`` as Cohere's."""
        return b"".join(self._chunk(chunk) for chunk in payloads(events) if isinstance(chunk, dict))

    def end(self) -> bytes:
        """The last events of a complete answer."""
        finish = translation.finish_reason(self._finish_reason, calls=bool(self._reader.calls))
        delta: dict[str, Any] = {"finish_reason": finish}
        if self._usage is not None:
            delta["usage"] = translation.usage(self._usage)
        last = self._start(None) + self._open_waiting() + self._close()
        return last + _event("message-end", delta=delta) + b"data: [DONE]\n\n"

    def error_event(self, error: SageError) -> bytes:
        """The last event of an answer that broke; Cohere's clients find the error in it."""
        return _event("message-end", delta={"finish_reason": "ERROR", "error": error.message})

    def _chunk(self, chunk: dict[str, Any]) -> bytes:
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return b""
        choice = choices[0]
        if choice.get("finish_reason"):
            self._finish_reason = finish_of(choice)
        delta = choice.get("delta")
        return self._start(chunk.get("id")) + (self._delta(delta, choice) if isinstance(delta, dict) else b"")

    def _start(self, name: Any) -> bytes:
        if self._started:
            return b""
        self._started = True
        message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        return _event("message-start", id=name or translation.answer_id(), delta={"message": message})

    def _delta(self, delta: dict[str, Any], choice: dict[str, Any]) -> bytes:
        read, events = self._reader.read(delta), b""
        if read.reasoning:
            events += self._content("thinking", read.reasoning, {})
        logprobs = choice.get("logprobs")
        items = translation.logprob_items(logprobs) if isinstance(logprobs, dict) else []
        if items and (read.shown or isinstance(delta.get("content"), str)):
            for item in items:  # an event has the log probabilities of one text
                events += self._content("text", item["text"], {"logprobs": item})
        elif read.shown:
            events += self._content("text", read.shown, {})
        if delta.get("tool_plan"):
            events += _event("tool-plan-delta", delta={"message": {"tool_plan": delta["tool_plan"]}})
        for fragment in read.calls:
            events += self._tool_call(fragment)
        for citation in objects(delta["citations"]) if delta.get("citations") else ():
            events += _event("citation-start", index=self._citations, delta={"message": {"citations": citation}})
            events += _event("citation-end", index=self._citations)
            self._citations += 1
        return events

    def _content(self, kind: str, text: str, fields: dict[str, Any]) -> bytes:
        events = b""
        if self._block != kind:
            events = self._close()
            opened = {"message": {"content": {"type": kind, kind: ""}}}
            events += _event("content-start", index=self._blocks, delta=opened)
            self._block = kind
        delta = {"message": {"content": {kind: text}}}
        return events + _event("content-delta", index=self._blocks, delta=delta, **fields)

    def _tool_call(self, fragment: CallFragment) -> bytes:
        """Calls come one after the other, in the order in which they began, each with its name: a call opens
        with its first arguments, or when there is more of a later one, and that waits until this one is whole."""
        call = fragment.call
        if fragment.starts:
            self._waiting.append(call)
        if not fragment.arguments:
            return b""
        events = self._arguments(call, fragment.arguments) if call in self._calls else b""
        while self._waiting and self._waiting[0].name and (self._call is None or self._call.complete):
            events += self._open(self._waiting[0])
        return events

    def _open(self, call: ToolCall) -> bytes:
        events = self._close()
        self._waiting.remove(call)
        self._call, self._calls[call] = call, len(self._calls)
        opened = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        events += _event("tool-call-start", index=self._calls[call], delta={"message": {"tool_calls": opened}})
        return events + self._arguments(call, call.arguments)

    def _arguments(self, call: ToolCall, arguments: str) -> bytes:
        if not arguments:
            return b""
        delta = {"message": {"tool_calls": {"function": {"arguments": arguments}}}}
        return _event("tool-call-delta", index=self._calls[call], delta=delta)

    def _open_waiting(self) -> bytes:
        """The calls that are left at the end of the answer; the last ones may have no arguments."""
        return b"".join([self._open(call) for call in tuple(self._waiting)])

    def _close(self) -> bytes:
        """Ends the block or the tool call that is open."""
        if self._block is not None:
            self._block = None
            self._blocks += 1
            return _event("content-end", index=self._blocks - 1)
        if self._call is not None:
            index, self._call = self._calls[self._call], None
            return _event("tool-call-end", index=index)
        return b""


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))
