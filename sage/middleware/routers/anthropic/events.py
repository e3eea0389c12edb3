"""OpenAI's stream of chat chunks as Anthropic's events.

Blocks have indexes from 0 without gaps, and one is open at a time.

Source: Anthropic's API reference, *Streaming messages*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from sage.errors import SageError
from sage.middleware.providers.wire.event_bytes import DONE
from sage.middleware.providers.wire.json_values import objects, string
from sage.middleware.providers.wire.messages import DeltaReader, finish_of
from sage.middleware.providers.wire.repeated_events import EventShape, HasShape, has_text_alone, in_runs
from sage.middleware.providers.wire.sse import payloads
from sage.middleware.providers.wire.tool_calls import CallFragment, ToolCall
from sage.middleware.routers.anthropic import answer
from sage.middleware.routers.anthropic.errors import error_object
from sage.middleware.usage.estimates import text_tokens

_MOST_LEARNED = 8
"""How often it is tried to find chunks that are alike: some servers number each of them."""
_BYTES_OF_TOKEN = 128
"""About how many bytes of an event there are for each token: most have the text of one, and 100 bytes around it."""
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_BEFORE_TEXT = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":"'
)
_AFTER_TEXT = b'"}}\n\n'
_BLOCK_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


class MessageEvents:
    """The events of one answer; the last ones, from :meth:`end`, have the stop reason and the usage.

    ``prompt_tokens`` is the estimate that the stream begins with, before the upstream has counted any. ``sender`` is
    who sends the chunks, if it does so by their shape.
    """

    def __init__(
        self,
        model: str,
        stops: Sequence[str],
        prompt_tokens: int,
        request_id: str,
        sender: HasShape | None = None,
    ) -> None:
        self._model = model
        self._stops = stops
        self._prompt_tokens = prompt_tokens
        self._request_id = request_id
        self._sender = sender
        self._started = False
        self._reader = DeltaReader()
        self._block: str | None = None
        """The type of the block that is open."""
        self._blocks = 0
        self.shape: EventShape | None = None
        """What most chunks of the block of text that is open look like."""
        self._before = self._between = b""
        """What stands before the text of an event of that block, and between two of them."""
        self._learned = 0
        self._is_signed = False
        """Whether the block of thinking that is open has its signature."""
        self._unsigned: list[str] = []
        """The pieces of thoughts that have no signature so far. Google signs with the call that follows, which may be
        after a text."""
        self._call: ToolCall | None = None
        """The call whose block is open."""
        self._waiting: list[ToolCall] = []
        """Calls that have no block yet."""
        self._end: dict[str, Any] = {}
        """The choice that said why the answer ended."""
        self._refusal = ""
        self._usage: dict[str, Any] | None = None
        self._answer_tokens = 0

    def translate(self, events: bytes) -> bytes:
        """The complete OpenAI ``events`` as Anthropic's."""
        shape = self.shape
        texts = shape.texts_sent(self._sender, events) if shape is not None else None
        return in_runs(events, self, self._more_text, self._translated) if texts is None else self._more_text(texts)

    def _more_text(self, texts: list[bytes]) -> bytes:
        """The events of the block of text that is open for ``texts`` as they stand in JSON."""
        if b"" in texts:
            texts = [text for text in texts if text]
            if not texts:
                return b""
        written = self._before + self._between.join(texts) + _AFTER_TEXT
        self._answer_tokens += -(-len(written) // _BYTES_OF_TOKEN)
        return written

    def _translated(self, event: bytes) -> bytes:
        """One event that is like none before."""
        if event == DONE:
            return b""
        was_text = self._block == "text"  # the event that opens a block is mostly like no other one
        translated = b""
        for chunk in payloads(event):
            if isinstance(chunk, dict):
                translated += self._chunk(chunk)
                if translated and was_text and self._block == "text":
                    self._learn(event, chunk)
        return translated

    def _learn(self, event: bytes, chunk: dict[str, Any]) -> None:
        """Lets events that are like this one go on unread, if it has nothing but a text of the block that is open."""
        if self._learned < _MOST_LEARNED and has_text_alone(chunk):
            self._learned += 1
            self.shape = EventShape.under(b"content", event)

    def end(self) -> bytes:
        """The last events of a complete answer."""
        last = self._start(None) + self._open_waiting() + self._close()
        reason, stop = answer.stop_reason(
            finish_of(self._end), self._end, self._stops, calls=bool(self._reader.calls), refusal=self._refusal
        )
        usage = answer.usage(self._usage, (self._prompt_tokens, self._answer_tokens))
        delta = {"stop_reason": reason, "stop_sequence": stop}
        return last + _event("message_delta", delta=delta, usage=usage) + _STOP

    def error_event(self, error: SageError) -> bytes:
        """The last event of an answer that broke."""
        return _event("error", error=error_object(error), request_id=self._request_id)

    def _chunk(self, chunk: dict[str, Any]) -> bytes:
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return b""
        choice = choices[0]
        if choice.get("finish_reason"):
            self._end = {name: choice[name] for name in ("finish_reason", "stop_reason") if name in choice}
        delta = choice.get("delta")
        started = b"" if self._started else self._start(chunk.get("id"))
        return started + self._delta(delta) if delta and isinstance(delta, dict) else started

    def _start(self, name: Any) -> bytes:
        if self._started:
            return b""
        self._started = True
        message: dict[str, Any] = {
            "id": answer.message_id(name),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": answer.usage(self._usage, (self._prompt_tokens, 0)),
        }
        return _event("message_start", message=message) + _PING

    def _delta(self, delta: dict[str, Any]) -> bytes:
        read = self._reader.read(delta)
        shown = read.shown
        if self._block == "text" and shown and not read.reasoning and not read.calls:  # nearly every one
            self._answer_tokens += text_tokens(shown)
            self._refusal += read.refusal
            return self._text_delta(shown)
        events = b""
        if read.reasoning or delta.get("thinking_blocks"):
            events += self._thinking(read.reasoning, objects(delta.get("thinking_blocks")))
        if shown:
            self._answer_tokens += text_tokens(shown)
            self._refusal += read.refusal
            events += self._open_block("text", {"type": "text", "text": ""}) + self._text_delta(shown)
        for fragment in read.calls:
            events += self._tool_call(fragment)
        return events

    def _text_delta(self, text: str) -> bytes:
        return self._before + orjson.dumps(text)[1:-1] + _AFTER_TEXT

    def _thinking(self, reasoning: str, signed: list[dict[str, Any]]) -> bytes:
        """What a delta adds to the thinking: its text, and the signatures. Blocks that are signed may say once more
        what came before, or what ``reasoning`` says."""
        if reasoning and not any(block.get("thinking") and block.get("signature") for block in signed):
            signed = [{"thinking": reasoning}, *({**block, "thinking": ""} for block in signed)]
        events = b""
        for block in signed:
            text, signature = string(block.get("thinking")), string(block.get("signature"))
            if block.get("type") == "redacted_thinking":
                redacted = {"type": "redacted_thinking", "data": string(block.get("data"))}
                events += self._close() + self._open_block("redacted_thinking", redacted) + self._close()
            if signature:
                text = text.removeprefix("".join(self._unsigned))
            if text:
                self._answer_tokens += text_tokens(text)
                events += self._think({"type": "thinking_delta", "thinking": text})
                self._unsigned.append(text)
            if signature:
                events += self._think({"type": "signature_delta", "signature": signature})
                self._is_signed, self._unsigned = True, []
        return events

    def _think(self, delta: dict[str, Any]) -> bytes:
        """``delta`` in a block of thinking; what was signed is whole."""
        events = self._close() if self._is_signed else b""
        events += self._open_block("thinking", answer.thinking("", ""))
        return events + _event("content_block_delta", index=self._blocks, delta=delta)

    def _tool_call(self, fragment: CallFragment) -> bytes:
        """Calls come one after the other, in the order in which they began, each with its name: a call opens with its
        first arguments, or when there is more of a later one, and that waits until this one is whole."""
        call = fragment.call
        if fragment.starts:
            self._waiting.append(call)
        if not fragment.arguments:
            return b""
        self._answer_tokens += text_tokens(fragment.arguments)
        events = self._arguments(fragment.arguments) if call is self._call else b""
        while self._waiting and self._waiting[0].name and (self._call is None or self._call.complete):
            events += self._open_call(self._waiting.pop(0))
        return events

    def _open_call(self, call: ToolCall) -> bytes:
        events = self._close() + self._open_block("tool_use", answer.tool_use(call, {}))
        self._call = call
        return events + self._arguments(call.arguments)

    def _arguments(self, text: str) -> bytes:
        if not text:
            return b""
        delta = {"type": "input_json_delta", "partial_json": text}
        return _event("content_block_delta", index=self._blocks, delta=delta)

    def _open_waiting(self) -> bytes:
        """The calls that are left at the end of the answer; the last ones may have no arguments."""
        calls, self._waiting = self._waiting, []
        return b"".join([self._open_call(call) for call in calls])

    def _open_block(self, kind: str, block: dict[str, Any]) -> bytes:
        """Opens a block unless one of its kind is open."""
        if self._block == kind:
            return b""
        events = self._close()
        self._block = kind
        if kind == "text":
            self._before = _BEFORE_TEXT % self._blocks
            self._between = _AFTER_TEXT + self._before
        return events + _event("content_block_start", index=self._blocks, content_block=block)

    def _close(self) -> bytes:
        """Ends the block that is open."""
        if self._block is None:
            return b""
        self._block, self._call, self._is_signed, self.shape = None, None, False, None
        self._blocks += 1
        return _BLOCK_STOP % (self._blocks - 1)


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))
