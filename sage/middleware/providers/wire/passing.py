"""Relays answers of any type as they come: sounds, pictures in JSON, texts, and events that are no chunks of a chat.

A JSON of up to 64 KiB goes on as a whole, so that an error in it can still be another deployment's turn. Of a larger
one, only what stands after the key ``"usage"`` is read: a quotation mark inside a JSON string is always escaped, so
those bytes can only be a key.

Source: OpenAI's API reference (audio, images: their answers and the events of their streams).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from sage.errors import SageError
from sage.middleware.providers.base import ModelCall, Usage
from sage.middleware.providers.wire.errors import reported_error
from sage.middleware.providers.wire.event_bytes import DONE_DATA, MAX_EVENT, cut_off, event_data, too_long
from sage.middleware.providers.wire.media_usage import measured_usage
from sage.middleware.providers.wire.sse import read_usage

_WHOLE = 64 * 1024
"""The largest JSON, in bytes, that is held until it is whole."""
_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
_IMAGE = re.compile(rb'"(?:b64_json|url)"\s*:')
_OVERLAP = 32
_MOST_USAGE = 8 * 1024
"""Bytes of a ``usage`` that are read."""
_ENDS = ("transcript.text.done", "speech.audio.done", "image_generation.completed", "image_edit.completed")
_BEGINNINGS = ("transcript.", "speech.audio.", "image_generation.", "image_edit.")
_NOTABLE = re.compile(rb'"usage"|"error"|"model"|\.done"|\.completed"')
_ERROR_NAME = re.compile(rb"^event: ?error", re.M)


class PassingRelay:
    """The :class:`~sage.middleware.providers.base.Relay` of an answer that goes on as it is, under the public name of
    its model where it says one. ``on_error`` makes our error of one that the upstream reports in it."""

    def __init__(self, call: ModelCall, on_error: Callable[[Any], SageError]) -> None:
        self.finished = False
        self.error: SageError | None = None
        self.media_type = ""
        """The ``Content-Type`` of the answer."""
        self._model = call.model
        self._operation = call.operation
        self._request = {name: call.body.get(name) for name in ("input", "n", "size", "resolution", "quality")}
        """What the measures of the answer may depend on; the body is forgotten."""
        self._on_error = on_error
        self._facts: dict[str, Any] = {}
        """What the answer says of itself beside its usage (``duration``)."""
        self._images = 0
        self._is_reported = False
        """Whether the upstream has told its usage."""
        self.usage: Usage | None = self._measured()
        """As the upstream has told it, else what can be counted of the request and its answer."""
        self._feed: Callable[[bytes], bytes] = self._pass
        self._held = bytearray()
        """A JSON that is not whole, an event that is not, or the beginning of a usage."""
        self._last = b""
        """The end of what was passed on, in which a key may begin."""
        self._awaits_end = False
        """Whether the stream is of a kind that has a last event."""

    def start(self, headers: Mapping[str, str]) -> None:
        """The head of the answer has come."""
        self.media_type = headers.get("content-type") or "application/octet-stream"
        kind = self.media_type.partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            self._feed = self._feed_events
        elif kind == "application/json" or kind.endswith("+json"):
            self._feed = self._hold

    @property
    def is_events(self) -> bool:
        """Whether an error can still be told to the client once the answer has begun."""
        return self.media_type.partition(";")[0].strip().lower() == "text/event-stream"

    def _measured(self) -> Usage:
        return measured_usage(self._operation, self._request, self._facts, self._images)

    def feed(self, data: bytes) -> bytes:
        """What of ``data``, and of what was held back, goes on to the client."""
        return self._feed(data)

    def _pass(self, data: bytes) -> bytes:
        return data

    # JSON

    def _hold(self, data: bytes) -> bytes:
        self._held += data
        if len(self._held) <= _WHOLE:
            return b""
        held = bytes(self._held)
        self._held.clear()
        self._feed = self._pass_json
        return self._pass_json(held)

    def _pass_json(self, data: bytes) -> bytes:
        """Passes on a part of a large JSON; looks for its usage, and counts its images."""
        if self._held and len(self._held) < _MOST_USAGE:
            self._held += data[:_MOST_USAGE]
        looked_at = self._last + data
        self._images += sum(match.end() > len(self._last) for match in _IMAGE.finditer(looked_at))
        for match in _USAGE.finditer(looked_at):
            self._held[:] = looked_at[match.end() : match.end() + _MOST_USAGE]
        self._last = looked_at[-_OVERLAP:]
        return data

    def _read_whole(self, data: bytes) -> bytes:
        """A JSON that has come whole."""
        try:
            answer = orjson.loads(data)
        except orjson.JSONDecodeError:
            return data
        if not isinstance(answer, dict):
            return data
        error = reported_error(answer)
        if error is not None:
            raise self._on_error(error)
        self._note(answer)
        images = answer.get("data")
        self._images = len(images) if isinstance(images, list) else 0
        if answer.get("model") in (None, self._model):
            return data
        answer["model"] = self._model
        return orjson.dumps(answer)

    # Events

    def _feed_events(self, data: bytes) -> bytes:
        """The complete events: an error can only be told between two of them."""
        held = self._held
        begin = max(0, len(held) - 3)
        held += data.replace(b"\r\n", b"\n") if b"\r" in data else data
        cut = held.rfind(b"\n\n", begin) + 2
        if cut < 2:
            if len(held) > MAX_EVENT:
                raise too_long()
            return b""
        events = bytes(held[:cut])
        del held[:cut]
        if not _NOTABLE.search(events) and not _ERROR_NAME.search(events):
            return events
        return self._read_events(events)

    def _read_events(self, events: bytes) -> bytes:
        kept = []
        for event in events.split(b"\n\n")[:-1]:
            data = event_data(event)
            if data.startswith(DONE_DATA):
                self._awaits_end = False
            elif _NOTABLE.search(event) or _ERROR_NAME.search(event):
                try:
                    said = orjson.loads(data)
                except orjson.JSONDecodeError:
                    said = None
                if isinstance(said, dict):
                    error = reported_error(said) or (said if _ERROR_NAME.search(event) else None)
                    if error is not None:
                        self.error = self._on_error(error)
                        break
                    event = self._renamed(event, said)
            kept.append(event + b"\n\n")
        return b"".join(kept)

    def _renamed(self, event: bytes, said: dict[str, Any]) -> bytes:
        """Notes what an event says; the event under the public name of the model."""
        kind = said.get("type")
        if isinstance(kind, str):
            self._awaits_end = kind.startswith(_BEGINNINGS) and kind not in _ENDS
            self._images += kind.endswith(".completed")
        self._note(said)
        if said.get("model") in (None, self._model):
            return event
        said["model"] = self._model
        names = [line for line in event.split(b"\n") if line and not line.startswith(b"data:")]
        return b"\n".join([*names, b"data: " + orjson.dumps(said)])

    def _note(self, said: dict[str, Any]) -> None:
        usage = read_usage(said.get("usage"))
        if usage is not None:
            self.usage = _sum(self.usage, usage) if self._is_reported and self.usage is not None else usage
            self._is_reported = True
        if "duration" in said:
            self._facts["duration"] = said["duration"]

    # The end

    def close(self) -> bytes:
        """What was held back at the clean end of the answer. Raises if a stream has not come to its last event."""
        rest = b""
        if self._feed == self._hold:
            rest = self._read_whole(bytes(self._held))
        elif self._feed == self._pass_json:
            self._note({"usage": _first_object(bytes(self._held))})
        elif self._feed == self._feed_events:
            if self._held.strip():
                rest = self._read_events(bytes(self._held) + b"\n\n")
            if self.error is not None:
                raise self.error
            if self._awaits_end:
                raise cut_off()
        if not self._is_reported:
            self.usage = self._measured()
        self.finished = True
        return rest


def _sum(first: Usage, second: Usage) -> Usage:
    """The usage of several events, each of which tells of an image."""
    reported = {**(first.reported or {}), **(second.reported or {})}
    if first.reported is not None and second.reported is not None:
        for name, value in first.reported.items():
            other = second.reported.get(name)
            if isinstance(value, dict) and isinstance(other, dict):
                reported[name] = {key: _added(value.get(key), other.get(key)) for key in {**value, **other}}
            else:
                reported[name] = _added(value, other)
    tokens = first.prompt_tokens + second.prompt_tokens, first.completion_tokens + second.completion_tokens
    return Usage(*tokens, reported)


def _added(value: Any, other: Any) -> Any:
    if isinstance(value, int | float) and isinstance(other, int | float):
        return value + other
    return other if value is None else value


def _first_object(data: bytes) -> Any:
    """The JSON object that ``data`` begins with; ``None`` if it is not whole."""
    try:
        return json.JSONDecoder().raw_decode(data.decode("utf-8", "replace"))[0]
    except ValueError:
        return None
