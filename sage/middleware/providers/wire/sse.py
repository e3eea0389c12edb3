"""Relays a stream of server-sent events in OpenAI's wire, complete events at a time, without parsing most of them.

A quotation mark inside a JSON string is always escaped, so the bytes ``"model":`` can only be a key: looking for keys
in the raw bytes is sound, and only the few events that matter are ever parsed.

Source of the format: the HTML standard, *Server-sent events*, and OpenAI's API reference, *chat/completions* streaming.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from sage.errors import SageError, UpstreamFailed
from sage.middleware.providers.base import Usage
from sage.middleware.providers.wire.errors import first_error, reported_error

DONE = b"data: [DONE]\n\n"
MAX_EVENT = 16 * 2**20
_MAX_COUNT = 2**53
_DONE_LINE = re.compile(rb"^data: ?\[DONE\]", re.M)
_MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"\\]|\\.)*"')
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"')


class EventRelay:
    """The :class:`~sage.middleware.providers.base.Relay` of OpenAI's own wire.

    ``model`` is the public name that every chunk is to carry. ``keep_usage`` tells whether the chunk that carries
    nothing but usage goes on to the client. ``choices`` is how many answers must have ended before a stream without
    ``[DONE]`` counts as complete. ``on_error`` makes our error of one that the upstream sent as an event.
    """

    def __init__(
        self,
        model: str,
        *,
        keep_usage: bool,
        on_error: Callable[[Any], SageError],
        choices: int = 1,
        transform: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.usage: Usage | None = None
        self.finished = False
        self.error: SageError | None = None
        self._model = model
        self._public_model = b'"model":' + orjson.dumps(model)
        self._upstream_model: bytes | None = None
        """The bytes of the upstream's ``"model": "…"``, once one is seen; they are replaced by ``_public_model``."""
        self._keep_usage = keep_usage
        self._on_error = on_error
        self._choices = choices
        self._finished_choices = 0
        self._transform = transform
        self._started = False
        self._last_cr = b""
        """A carriage return at the end of the bytes so far, which may be the first half of a line end."""
        self._incomplete: list[bytes] = []
        """The parts of an event that has not ended yet."""
        self._incomplete_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """The events that ``data`` completes. An error event of the upstream goes to ``error``, not to the client."""
        if not self._started:
            self._started = True
            data = data.removeprefix(b"\xef\xbb\xbf")
        if self._last_cr or b"\r" in data:
            data = self._with_line_feeds(data)
        if self._incomplete and b"\n\n" not in self._incomplete[-1][-1:] + data:
            return self._keep_incomplete(data)
        if self._incomplete:
            data = b"".join((*self._incomplete, data))
            self._incomplete, self._incomplete_bytes = [], 0
        cut = data.rfind(b"\n\n") + 2
        if cut < 2:
            return self._keep_incomplete(data)
        if cut < len(data):
            self._keep_incomplete(data[cut:])
            data = data[:cut]
        return self._relay(data)

    def _with_line_feeds(self, data: bytes) -> bytes:
        data = self._last_cr + data
        self._last_cr = b"\r" if data.endswith(b"\r") else b""
        return data[: len(data) - len(self._last_cr)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _keep_incomplete(self, data: bytes) -> bytes:
        if data:
            self._incomplete.append(data)
            self._incomplete_bytes += len(data)
        if self._incomplete_bytes > MAX_EVENT:
            raise UpstreamFailed(f"the upstream sent a stream event of more than {MAX_EVENT} bytes")
        return b""

    def _relay(self, events: bytes) -> bytes:
        if self._transform is not None or b'"error"' in events or b"\nerror:" in events or events.startswith(b"error:"):
            return self._relay_parsed(events)
        renamed = self._rename(events)
        if renamed is None:
            return self._relay_parsed(events)
        if b"[DONE]" in events and _DONE_LINE.search(events):
            self.finished = True
        if b'"finish_reason":"' in events or b'"finish_reason": "' in events:
            self._finished_choices += len(_FINISH.findall(events))
        return self._read_usage(renamed) if b'"usage"' in events else renamed

    def _rename(self, events: bytes) -> bytes | None:
        """``events`` under the public name; ``None`` where bytes do not tell which ``"model"`` is the answer's."""
        count = events.count(b'"model"')
        if not count:
            return events
        if count > events.count(b"\n\n"):
            return None
        if self._upstream_model is None:
            match = _MODEL.search(events)
            if match is None:
                return None
            self._upstream_model = match[0]
        if self._upstream_model != self._public_model:
            events = events.replace(self._upstream_model, self._public_model)
        return events if events.count(self._public_model) == count else None

    def _read_usage(self, events: bytes) -> bytes:
        """Notes the usage, and drops the chunk that carries nothing else unless the caller asked for it."""
        kept_events = []
        for event in events.split(b"\n\n")[:-1]:
            chunk = _payload(event) if b'"usage"' in event else None
            if not isinstance(chunk, dict) or not self._note_usage(chunk) or chunk.get("choices") or self._keep_usage:
                kept_events.append(event + b"\n\n")
        return b"".join(kept_events)

    def _note_usage(self, chunk: dict[str, Any]) -> bool:
        usage = read_usage(chunk.get("usage"))
        if usage is not None:
            self.usage = usage
        return usage is not None

    def _relay_parsed(self, events: bytes) -> bytes:
        """The slow way for what bytes do not tell: every event is parsed and serialised again."""
        kept_events = []
        for event in events.split(b"\n\n")[:-1]:
            if _DONE_LINE.search(event):
                self.finished = True
                kept_events.append(event + b"\n\n")
                continue
            chunk = first_error(_payload(event))
            if not isinstance(chunk, dict):
                kept_events.append(event + b"\n\n")
                continue
            error = reported_error(chunk)
            if error is not None or event.startswith((b"error:", b"event: error", b"event:error")):
                self.error = self._on_error(chunk if error is None else error)
                break
            if chunk.get("error") is not None:
                del chunk["error"]  # it says nothing, but OpenAI's SDK takes every object there for an error
            try:
                kept_events.append(self._rewritten(event, chunk))
            except SageError as error:  # the events before it are good
                self.error = error
                break
        return b"".join(kept_events)

    def _rewritten(self, event: bytes, chunk: dict[str, Any]) -> bytes:
        choices = chunk.get("choices")
        if isinstance(choices, list):
            self._finished_choices += sum(
                1 for choice in choices if isinstance(choice, dict) and choice.get("finish_reason")
            )
        if self._note_usage(chunk) and not choices and not self._keep_usage:
            return b""
        if "model" in chunk:
            chunk["model"] = self._model
        if self._transform is not None:
            self._transform(chunk)
        try:
            data = b"data: " + orjson.dumps(chunk)
        except orjson.JSONEncodeError as exc:
            raise UpstreamFailed(
                "the upstream sent a chunk that cannot be passed on", code="upstream_nonsense"
            ) from exc
        fields = [line for line in event.split(b"\n") if not line.startswith(b"data:")]  # `event:`, `id:`, comments
        return b"\n".join((*fields, data)) + b"\n\n"

    def close(self) -> bytes:
        """What remains to be sent at the upstream's clean end of stream. Raises if the answer is incomplete."""
        tail = b"".join(self._incomplete) + self._last_cr.replace(b"\r", b"\n")
        rest = self.feed(b"\n\n") if tail.strip() and _is_event(tail) else b""
        if self.error is not None:
            raise self.error
        if self.finished:
            return rest
        if self._finished_choices >= self._choices:
            # Some servers leave out [DONE]; every answer has a finish_reason, so nothing is missing.
            self.finished = True
            return rest + DONE
        answer = first_error(_json(tail))
        if isinstance(answer, dict) and (error := reported_error(answer)) is not None:
            raise self._on_error(error)
        raise UpstreamFailed("the upstream ended its stream before the answer was whole", code="upstream_broken")


def read_usage(usage: Any) -> Usage | None:
    """The tokens in a ``usage`` object; ``None`` if it is not an object. A count that is not a number is 0."""
    if not isinstance(usage, dict):
        return None
    return Usage(count(usage.get("prompt_tokens")), count(usage.get("completion_tokens")))


def count(value: Any) -> int:
    """A number of tokens as an upstream reported it; 0 for what is not one. Bounded, so that sums fit JSON too."""
    return int(min(value, _MAX_COUNT)) if isinstance(value, int | float) and value > 0 else 0


def payloads(events: bytes) -> list[Any]:
    """The JSON of each event in ``events``, which are complete, without ``[DONE]`` and what is not JSON."""
    parsed = (_payload(event) for event in events.split(b"\n\n"))
    return [payload for payload in parsed if payload is not None]


def _payload(event: bytes) -> Any:
    lines = [line for line in event.split(b"\n") if line.startswith((b"data:", b"error:"))]
    return _json(b"\n".join(line.partition(b":")[2] for line in lines)) if lines else None


def _is_event(tail: bytes) -> bool:
    """Whether only the last line end of an event is missing."""
    return tail.startswith(b"data:") and (_DONE_LINE.match(tail) is not None or _payload(tail) is not None)


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
