"""Anthropic's own answers and events, for callers that speak its wire: they go on as they come.

Only the model's name is changed to the public one. The tokens are counted, errors are taken out, and what is no event
of the wire does not go on.

Source: Anthropic's API reference, *Messages* and *Streaming messages*.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from sage.errors import SageError, UpstreamFailed
from sage.middleware.providers.anthropic.usage import MessageCounts
from sage.middleware.providers.anthropic.whole_messages import message_events
from sage.middleware.providers.base import Usage
from sage.middleware.providers.wire import lenient_json
from sage.middleware.providers.wire.errors import first_error, reported_error
from sage.middleware.providers.wire.event_bytes import (
    BYTE_ORDER_MARK,
    MAX_EMPTY,
    MAX_EVENT,
    cut_off,
    event_data,
    too_empty,
    too_long,
)
from sage.middleware.providers.wire.json_values import objects, string
from sage.middleware.providers.wire.sse import read_usage
from sage.middleware.providers.wire.thought_signatures import is_googles

_NAME = re.compile(r"[a-z_]{1,64}")
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_DELTA = b'"content_block_delta"'
_BLANKS = BYTE_ORDER_MARK + b" \t\r\n"
_BEFORE_CONTENT = frozenset({"message_start", "ping"})


def native_request(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """``body`` without thoughts of other vendors' models, which have no signature of Anthropic's: it refuses them."""
    messages = body.get("messages")
    if not any(_is_foreign(block) for message in objects(messages) for block in objects(message.get("content"))):
        return body
    kept = [
        {**message, "content": [block for block in message["content"] if not _is_foreign(block)]}
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        else message
        for message in messages or ()
    ]
    return {**body, "messages": kept}


def _is_foreign(block: Any) -> bool:
    if not isinstance(block, dict) or block.get("type") != "thinking":
        return False
    return not block.get("signature") or is_googles(string(block["signature"]))


def native_answer(answer: dict[str, Any], model: str) -> tuple[dict[str, Any], Usage | None] | None:
    """Anthropic's ``answer`` under the public name; ``None`` if it is no message."""
    if answer.get("type") != "message" or not isinstance(answer.get("content"), list):
        return None
    answer["model"] = model
    return answer, read_usage(answer.get("usage"))


class NativeRelay:
    """The relay of a stream in Anthropic's own wire.

    What comes before the first content waits for it, so that another deployment can take over from one that fails
    there.
    """

    def __init__(self, model: str, *, on_error: Callable[[Any], SageError]) -> None:
        self.usage: Usage | None = None
        self.finished = False
        self.error: SageError | None = None
        self._model = model
        self._on_error = on_error
        self._rest = bytearray()
        self._reader = lenient_json.JsonReader()
        self._last_cr = b""
        """A carriage return at the end of the bytes so far, which may be the first half of a line end."""
        self._empty_bytes = 0
        self._counts = MessageCounts()
        self._waiting: list[bytes] | None = []
        """The events before the first content, which has not come yet."""
        self._waiting_bytes = 0
        self._ended = False
        """Whether it has said why it ends."""
        self._is_whole: bool | None = None
        """Whether a whole message comes in place of events; ``None`` means that nothing has come yet."""

    def feed(self, data: bytes) -> bytes:
        if self.finished or self.error is not None:
            return b""
        data = self._last_cr + data
        self._last_cr = b"\r" if data.endswith(b"\r") else b""
        data = data[: len(data) - len(self._last_cr)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        searched = max(0, len(self._rest) - 1)
        self._rest += data
        if self._is_whole is None and (begin := self._rest.lstrip(_BLANKS)):
            self._is_whole = begin.startswith((b"{", b"["))
        cut = 0 if self._is_whole else self._rest.rfind(b"\n\n", searched) + 2
        if cut < 2:
            if len(self._rest) > MAX_EVENT:
                self.error = too_long()
            return b""
        events, self._rest = bytes(self._rest[:cut]), self._rest[cut:]
        return self._relayed(events)

    def close(self) -> bytes:
        rest = b""
        if not self.finished and self.error is None:
            tail, self._rest = bytes(self._rest + self._last_cr), bytearray()
            rest = self._whole(tail) if self._is_whole else self._relayed(tail) + self._flushed()
        if self.error is not None:
            raise self.error
        if not self.finished and self._ended:
            self.finished = True  # nothing is missing but the last event
            rest += self._passed(_STOP, "message_stop")
        if not self.finished:
            raise cut_off()
        return rest

    def _whole(self, body: bytes) -> bytes:
        """The events of a message that came whole."""
        try:
            value = first_error(lenient_json.read(body.lstrip(_BLANKS)))
        except ValueError as exc:
            raise _no_json() from exc
        if not isinstance(value, dict) or (error := reported_error(value)) is not None:
            raise self._on_error(error if isinstance(value, dict) else value)
        answer = native_answer(value, self._model)
        if answer is None:
            raise cut_off()
        message, self.usage = answer
        self.finished = True
        return message_events(message)

    def _flushed(self) -> bytes:
        """What waited for the other half of a character, at the end of the stream."""
        if self.error is not None:
            return b""
        return b"".join([self._told(value, orjson.dumps(value)) for value in self._reader.flush()])

    def _relayed(self, events: bytes) -> bytes:
        pieces = []
        try:
            for event in events.split(b"\n\n"):
                pieces.append(self._event(event))
                if self.finished:
                    break
        except SageError as error:  # the events before it are good
            self.error = error
        return b"".join(pieces)

    def _event(self, event: bytes) -> bytes:
        data = event_data(event.removeprefix(BYTE_ORDER_MARK))
        if not data:
            self._empty_bytes += len(event) + 2
            if self._empty_bytes > MAX_EMPTY:
                raise too_empty()
            return b""
        self._empty_bytes = 0
        if not self._reader.is_waiting:
            try:
                return self._told(orjson.loads(data), data.replace(b"\n", b" "))
            except orjson.JSONDecodeError:
                pass  # read below
        return b"".join([self._told(value, orjson.dumps(value)) for value in self._values(data)])

    def _values(self, data: bytes) -> list[Any]:
        """The values that are whole with ``data``: two deltas may have a half of a character each."""
        try:
            values = self._reader.read(data)
        except ValueError as exc:
            raise _no_json() from exc
        return values if values or _DELTA in data else self._reader.flush()

    def _told(self, value: Any, data: bytes) -> bytes:
        """What goes on for an event of that ``value``, which is ``data`` as JSON."""
        value = first_error(value)
        kind = value.get("type") if isinstance(value, dict) else None
        if kind == "error" or (kind is None and isinstance(value, dict)):
            raise self._on_error(reported_error(value) or value)
        if not isinstance(kind, str) or _NAME.fullmatch(kind) is None:
            raise UpstreamFailed("the upstream sent an event that is none of its wire", code="upstream_nonsense")
        if self.finished:
            return b""
        return self._passed(b"event: %b\ndata: %b\n\n" % (kind.encode(), self._noted(kind, value, data)), kind)

    def _noted(self, kind: str, value: dict[str, Any], data: bytes) -> bytes:
        """The data that goes on for an event, whose counts and whose end are noted."""
        if kind == "message_start" and isinstance(value.get("message"), dict):
            self._counts.add(value["message"].get("usage"))
            value["message"]["model"] = self._model
            return orjson.dumps(value)
        if kind == "message_delta":
            delta = value.get("delta")
            self._ended = self._ended or (isinstance(delta, dict) and isinstance(delta.get("stop_reason"), str))
            self.usage = self._counts.add(value.get("usage"))
        elif kind == "message_stop":
            if not self._ended:
                raise cut_off()
            self.finished = True
        return data

    def _passed(self, event: bytes, kind: str) -> bytes:
        if self._waiting is None:
            return event
        self._waiting.append(event)
        self._waiting_bytes += len(event)
        if kind in _BEFORE_CONTENT:
            if self._waiting_bytes > MAX_EVENT:
                raise too_long()
            return b""
        waiting, self._waiting = self._waiting, None
        return b"".join(waiting)


def _no_json() -> UpstreamFailed:
    return UpstreamFailed("the upstream sent a stream event that is no JSON", code="upstream_nonsense")
