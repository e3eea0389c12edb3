"""OpenAI's wire of responses as an upstream speaks it: whole answers and streams, passed on under the public name.

Source: OpenAI's API reference (responses, *The response object* and *Streaming*).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from sage.errors import SageError, UpstreamFailed
from sage.middleware.providers.base import Usage
from sage.middleware.providers.wire import lenient_json
from sage.middleware.providers.wire.event_bytes import DONE_DATA, MAX_EVENT, cut_off, event_data, too_long
from sage.middleware.providers.wire.response_events import response_events
from sage.middleware.providers.wire.sse import read_usage

WIRE = "responses"
"""Its name among the native wires (:class:`sage.middleware.providers.base.Native`)."""
PATH = "/responses"
_END = re.compile(rb"\r?\n\r?\n|\r\r")
_LONGEST_END = 4
_LOOKED_AT = re.compile(rb'"(?:response|error)"|^event: ?error', re.M)
_ENDED = ("response.completed", "response.incomplete")
_FAILED = ("response.failed", "response.cancelled", "error")
OnError = Callable[[Any], SageError]


def read_response(answer: dict[str, Any], model: str, on_error: OnError) -> Usage | None:
    """Gives a whole ``answer`` the public name ``model``; returns its usage. Raises the error that it reports, and
    :class:`UpstreamFailed` for what is no response."""
    if answer.get("error") is not None:
        raise on_error(answer["error"])
    if not isinstance(answer.get("output"), list):
        raise UpstreamFailed("the upstream answered with something that is no response", code="upstream_nonsense")
    answer["model"] = model
    return read_usage(answer.get("usage"))


class ResponsesRelay:
    """The :class:`~sage.middleware.providers.base.Relay` of such a stream: events with a response get the public name,
    all others go on as they came. What reports an error goes to :attr:`error`. A whole response in place of a stream
    becomes one."""

    def __init__(self, model: str, on_error: OnError) -> None:
        self.usage: Usage | None = None
        self.finished = False
        self.error: SageError | None = None
        self._model = model
        self._on_error = on_error
        self._rest = bytearray()
        self._is_whole: bool | None = None
        """Whether it is a JSON object, and no stream; ``None`` before anything has come."""

    def feed(self, data: bytes) -> bytes:
        if self._is_whole is None and (begins := data.lstrip()):
            self._is_whole = begins.startswith(b"{")
        if self._is_whole:
            self._rest += data
            if len(self._rest) > MAX_EVENT:
                raise too_long()
            return b""
        searched = max(0, len(self._rest) - _LONGEST_END)
        self._rest += data
        events: list[bytes] = []
        start = 0
        for end in _END.finditer(self._rest, searched):
            events.append(bytes(self._rest[start : end.start()]))
            start = end.end()
        if start:
            del self._rest[:start]
        if len(self._rest) > MAX_EVENT:
            raise too_long()
        return self._relayed(events)

    def close(self) -> bytes:
        rest = bytes(self._rest).strip()
        self._rest.clear()
        if self._is_whole:
            return self._whole(rest)
        last = self._relayed([rest]) if rest else b""
        if self.error is not None:
            raise self.error
        if not self.finished:
            raise cut_off()
        return last

    def _whole(self, body: bytes) -> bytes:
        try:
            answer = lenient_json.read(body)
        except ValueError as exc:
            raise cut_off() from exc
        self.usage = read_response(answer, self._model, self._on_error)
        self.finished = True
        return response_events(answer)

    def _relayed(self, events: list[bytes]) -> bytes:
        kept = []
        for event in events:
            if self.finished or self.error is not None:
                break  # what comes after the end is no answer
            if relayed := self._event(event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").strip(b"\n")):
                kept.append(relayed)
        return b"".join(kept)

    def _event(self, event: bytes) -> bytes:
        data = event_data(event)
        if not data or data.startswith(DONE_DATA):
            return b""
        if _LOOKED_AT.search(event) is None and event.startswith(b"event: ") and event.count(b"\n") == 1:
            return event + b"\n\n"
        try:
            value = lenient_json.read(data)
        except ValueError as exc:
            raise UpstreamFailed("the upstream sent an event that is no JSON", code="upstream_nonsense") from exc
        if not isinstance(value, dict):
            raise UpstreamFailed("the upstream sent an event that is no object", code="upstream_nonsense")
        return self._read(value)

    def _read(self, value: dict[str, Any]) -> bytes:
        kind, response = value.get("type"), value.get("response")
        if kind in _FAILED or (kind is None and value.get("error") is not None):
            inner = response.get("error") if isinstance(response, dict) else value.get("error")
            self.error = self._on_error(inner or value)
            return b""
        if not isinstance(kind, str):
            raise UpstreamFailed("the upstream sent an event without a type", code="upstream_nonsense")
        if isinstance(response, dict):
            response["model"] = self._model
            self.usage = read_usage(response.get("usage")) or self.usage
            self.finished = kind in _ENDED
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(value))
