"""OpenAI's stream of chat chunks as Cohere's events.

Source: Cohere's API reference, *Chat with streaming* (v2).
"""

from __future__ import annotations

from typing import Any

import orjson

from sage.errors import SageError
from sage.middleware.providers.wire.sse import payloads
from sage.middleware.routers.cohere import translation as shapes


class ChatEvents:
    """The events of one answer; the last one, from :meth:`end`, has the finish and the usage."""

    def __init__(self) -> None:
        self._begun = False
        self._block: str | None = None  # the kind of the content block that is open
        self._blocks = 0
        self._call: str | None = None  # OpenAI's index of the tool call that is open
        self._calls: dict[str, int] = {}
        self._citations = 0
        self._finish: str | None = None
        self._usage: dict[str, Any] | None = None

    def translate(self, events: bytes) -> bytes:
        """What ``events`` (whole ones) are in Cohere's wire."""
        return b"".join(self._chunk(chunk) for chunk in payloads(events) if isinstance(chunk, dict))

    def end(self) -> bytes:
        """The end of an answer that is whole."""
        delta: dict[str, Any] = {"finish_reason": shapes.finish_reason(self._finish)}
        if self._usage is not None:
            delta["usage"] = shapes.usage(self._usage)
        return self._begin(None) + self._close() + _event("message-end", delta=delta) + b"data: [DONE]\n\n"

    def broken(self, error: SageError) -> bytes:
        """The end of an answer that broke: Cohere's clients see an error in the last event."""
        return _event("message-end", delta={"finish_reason": "ERROR", "error": error.message})

    def _chunk(self, chunk: dict[str, Any]) -> bytes:
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return b""
        choice = choices[0]
        self._finish = choice.get("finish_reason") or self._finish
        delta = choice.get("delta")
        return self._begin(chunk.get("id")) + (self._delta(delta, choice) if isinstance(delta, dict) else b"")

    def _begin(self, name: Any) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        return _event("message-start", id=name or shapes.answer_id(), delta={"message": message})

    def _delta(self, delta: dict[str, Any], choice: dict[str, Any]) -> bytes:
        written = b""
        if thinking := shapes.thought(delta):
            written += self._content("thinking", thinking, {})
        logprobs = choice.get("logprobs")
        items = shapes.logprob_items(logprobs) if isinstance(logprobs, dict) else []
        if isinstance(delta.get("content"), str) and (delta["content"] or items):
            # An event has the log probabilities of one text.
            pieces = [(item["text"], {"logprobs": item}) for item in items] or [(delta["content"], {})]
            written += b"".join(self._content("text", text, fields) for text, fields in pieces)
        if delta.get("tool_plan"):
            written += _event("tool-plan-delta", delta={"message": {"tool_plan": delta["tool_plan"]}})
        for call in shapes.each(delta.get("tool_calls")):
            written += self._tool_call(call)
        for citation in shapes.each(delta.get("citations")):
            written += _event("citation-start", index=self._citations, delta={"message": {"citations": citation}})
            written += _event("citation-end", index=self._citations)
            self._citations += 1
        return written

    def _content(self, kind: str, text: str, fields: dict[str, Any]) -> bytes:
        written = b""
        if self._block != kind:
            written = self._close()
            opened = {"message": {"content": {"type": kind, kind: ""}}}
            written += _event("content-start", index=self._blocks, delta=opened)
            self._block = kind
        said = {"message": {"content": {kind: text}}}
        return written + _event("content-delta", index=self._blocks, delta=said, **fields)

    def _tool_call(self, call: dict[str, Any]) -> bytes:
        given = call.get("function")
        function: dict[str, Any] = given if isinstance(given, dict) else {}
        index, arguments = str(call.get("index")), function.get("arguments") or ""
        written = b""
        if index not in self._calls:
            written = self._close()
            self._call, self._calls[index] = index, len(self._calls)
            begun = {"id": call.get("id") or f"call_{shapes.answer_id()}", "type": "function"}
            opened = {**begun, "function": {"name": function.get("name"), "arguments": ""}}
            written += _event("tool-call-start", index=self._calls[index], delta={"message": {"tool_calls": opened}})
        if not arguments:
            return written
        said = {"message": {"tool_calls": {"function": {"arguments": arguments}}}}
        return written + _event("tool-call-delta", index=self._calls[index], delta=said)

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
