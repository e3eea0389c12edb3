"""OpenAI's stream of chat chunks as Cohere's events.

Source: Cohere's API reference, *Chat with streaming* (v2).
"""

from __future__ import annotations

from typing import Any

import orjson

from sage.errors import SageError
from sage.middleware.providers.wire.sse import payloads
from sage.middleware.routers.cohere import translation


class ChatEvents:
    """The events of one answer; the last one, from :meth:`end`, has the finish reason and the usage."""

    def __init__(self) -> None:
        self._started = False
        self._block: str | None = None  # the kind of the content block that is open
        self._blocks = 0
        self._call: str | None = None  # OpenAI's index of the tool call that is open
        self._calls: dict[str, int] = {}
        self._citations = 0
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] | None = None

    def translate(self, events: bytes) -> bytes:
        """The complete OpenAI ``events`` as Cohere's."""
        return b"".join(self._chunk(chunk) for chunk in payloads(events) if isinstance(chunk, dict))

    def end(self) -> bytes:
        """The last events of a complete answer."""
        delta: dict[str, Any] = {"finish_reason": translation.finish_reason(self._finish_reason)}
        if self._usage is not None:
            delta["usage"] = translation.usage(self._usage)
        return self._start(None) + self._close() + _event("message-end", delta=delta) + b"data: [DONE]\n\n"

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
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        delta = choice.get("delta")
        return self._start(chunk.get("id")) + (self._delta(delta, choice) if isinstance(delta, dict) else b"")

    def _start(self, name: Any) -> bytes:
        if self._started:
            return b""
        self._started = True
        message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        return _event("message-start", id=name or translation.answer_id(), delta={"message": message})

    def _delta(self, delta: dict[str, Any], choice: dict[str, Any]) -> bytes:
        events = b""
        if thinking := translation.reasoning(delta):
            events += self._content("thinking", thinking, {})
        logprobs = choice.get("logprobs")
        items = translation.logprob_items(logprobs) if isinstance(logprobs, dict) else []
        if isinstance(delta.get("content"), str) and (delta["content"] or items):
            # An event has the log probabilities of one text.
            pieces = [(item["text"], {"logprobs": item}) for item in items] or [(delta["content"], {})]
            events += b"".join(self._content("text", text, fields) for text, fields in pieces)
        if delta.get("tool_plan"):
            events += _event("tool-plan-delta", delta={"message": {"tool_plan": delta["tool_plan"]}})
        for call in translation.objects(delta.get("tool_calls")):
            events += self._tool_call(call)
        for citation in translation.objects(delta.get("citations")):
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

    def _tool_call(self, call: dict[str, Any]) -> bytes:
        value = call.get("function")
        function: dict[str, Any] = value if isinstance(value, dict) else {}
        index, arguments = str(call.get("index")), function.get("arguments") or ""
        events = b""
        if index not in self._calls:
            events = self._close()
            self._call, self._calls[index] = index, len(self._calls)
            head = {"id": call.get("id") or f"call_{translation.answer_id()}", "type": "function"}
            opened = {**head, "function": {"name": function.get("name"), "arguments": ""}}
            events += _event("tool-call-start", index=self._calls[index], delta={"message": {"tool_calls": opened}})
        if not arguments:
            return events
        delta = {"message": {"tool_calls": {"function": {"arguments": arguments}}}}
        return events + _event("tool-call-delta", index=self._calls[index], delta=delta)

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
