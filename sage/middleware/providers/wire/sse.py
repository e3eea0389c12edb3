"""Relays a stream of server-sent events in OpenAI's wire, whole events at a time, as cheaply as bytes allow.

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

DONE = b"data: [DONE]\n\n"
MAX_EVENT = 16 * 2**20
_MOST = 2**53
_DONE_LINE = re.compile(rb"^data: ?\[DONE\]", re.M)
_MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"\\]|\\.)*"')
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"')


class EventRelay:
    """The :class:`~sage.middleware.providers.base.Relay` of OpenAI's own wire.

    ``model`` is the public name that every chunk is to carry; ``keep_usage`` tells whether the chunk that carries
    nothing but usage goes on to the client; ``choices`` is how many answers must have ended before a stream without
    ``[DONE]`` counts as whole. ``on_error`` makes an error of ours from one that the upstream sent as an event.
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
        self._ours = b'"model":' + orjson.dumps(model)
        self._model = model
        self._theirs: bytes | None = None
        self._keep_usage = keep_usage
        self._on_error = on_error
        self._choices = choices
        self._ended = 0
        self._transform = transform
        self._begun = False
        self._half = b""  # a carriage return at the end of the bytes, which may be half of a line end
        self._parts: list[bytes] = []  # of an event that is not whole yet
        self._held = 0

    def feed(self, data: bytes) -> bytes:
        """The whole events that ``data`` completes. An error event of the upstream is kept in ``error``, not sent."""
        if not self._begun:
            self._begun = True
            data = data.removeprefix(b"\xef\xbb\xbf")
        if self._half or b"\r" in data:
            data = self._one_kind_of_line_end(data)
        if self._parts and b"\n\n" not in self._parts[-1][-1:] + data:
            return self._hold(data)
        if self._parts:
            data = b"".join((*self._parts, data))
            self._parts, self._held = [], 0
        cut = data.rfind(b"\n\n") + 2
        if cut < 2:
            return self._hold(data)
        if cut < len(data):
            self._hold(data[cut:])
            data = data[:cut]
        return self._whole(data)

    def _one_kind_of_line_end(self, data: bytes) -> bytes:
        data = self._half + data
        self._half = b"\r" if data.endswith(b"\r") else b""
        return data[: len(data) - len(self._half)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _hold(self, data: bytes) -> bytes:
        if data:
            self._parts.append(data)
            self._held += len(data)
        if self._held > MAX_EVENT:
            raise UpstreamFailed(f"the upstream sent a stream event of more than {MAX_EVENT} bytes")
        return b""

    def _whole(self, events: bytes) -> bytes:
        if self._transform is not None or b'"error"' in events or b"\nerror:" in events or events.startswith(b"error:"):
            return self._parsed(events)
        renamed = self._rename(events)
        if renamed is None:
            return self._parsed(events)
        if b"[DONE]" in events and _DONE_LINE.search(events):
            self.finished = True
        if b'"finish_reason":"' in events or b'"finish_reason": "' in events:
            self._ended += len(_FINISH.findall(events))
        return self._read_usage(renamed) if b'"usage"' in events else renamed

    def _rename(self, events: bytes) -> bytes | None:
        """``events`` under the public name; none where bytes alone do not tell which ``"model"`` is the answer's."""
        count = events.count(b'"model"')
        if not count:
            return events
        if count > events.count(b"\n\n"):
            return None
        if self._theirs is None:
            match = _MODEL.search(events)
            if match is None:
                return None
            self._theirs = match[0]
        if self._theirs != self._ours:
            events = events.replace(self._theirs, self._ours)
        return events if events.count(self._ours) == count else None

    def _read_usage(self, events: bytes) -> bytes:
        """Notes the usage, and takes the chunk that carries nothing else out unless the caller asked for it."""
        kept = []
        for event in events.split(b"\n\n")[:-1]:
            chunk = _payload(event) if b'"usage"' in event else None
            if not isinstance(chunk, dict) or not self._note_usage(chunk) or chunk.get("choices") or self._keep_usage:
                kept.append(event + b"\n\n")
        return b"".join(kept)

    def _note_usage(self, chunk: dict[str, Any]) -> bool:
        usage = read_usage(chunk.get("usage"))
        if usage is not None:
            self.usage = usage
        return usage is not None

    def _parsed(self, events: bytes) -> bytes:
        """The slow and careful way: every event is parsed and written again."""
        kept = []
        for event in events.split(b"\n\n")[:-1]:
            if _DONE_LINE.search(event):
                self.finished = True
                kept.append(event + b"\n\n")
                continue
            chunk = _payload(event)
            if not isinstance(chunk, dict):
                kept.append(event + b"\n\n")
                continue
            if chunk.get("error") is not None or event.startswith((b"error:", b"event: error", b"event:error")):
                self.error = self._on_error(chunk.get("error", chunk))
                break
            try:
                kept.append(self._rewritten(event, chunk))
            except SageError as error:  # what came before it is good
                self.error = error
                break
        return b"".join(kept)

    def _rewritten(self, event: bytes, chunk: dict[str, Any]) -> bytes:
        choices = chunk.get("choices")
        if isinstance(choices, list):
            self._ended += sum(1 for choice in choices if isinstance(choice, dict) and choice.get("finish_reason"))
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
        """At the upstream's clean end of stream: what is left to send. Raises unless the answer is whole."""
        tail = b"".join(self._parts) + self._half.replace(b"\r", b"\n")
        rest = self.feed(b"\n\n") if tail.strip() and _is_event(tail) else b""
        if self.error is not None:
            raise self.error
        if self.finished:
            return rest
        if self._ended >= self._choices:
            # Some servers leave [DONE] out; every answer has given its reason to end, so nothing is missing.
            self.finished = True
            return rest + DONE
        answer = _json(tail)
        if isinstance(answer, dict) and answer.get("error") is not None:
            raise self._on_error(answer["error"])
        raise UpstreamFailed("the upstream ended its stream before the answer was whole", code="upstream_broken")


def read_usage(usage: Any) -> Usage | None:
    """Tokens from a ``usage`` object, or none if there is none. Counts that are no counts are 0."""
    if not isinstance(usage, dict):
        return None
    return Usage(count(usage.get("prompt_tokens")), count(usage.get("completion_tokens")))


def count(value: Any) -> int:
    """A count of tokens as an upstream told it; 0 for what is none. So bounded that sums of counts fit JSON, too."""
    return int(min(value, _MOST)) if isinstance(value, int | float) and value > 0 else 0


def payloads(events: bytes) -> list[Any]:
    """The JSON of each event in ``events`` (whole ones), without ``[DONE]`` and without what is no JSON."""
    found = (_payload(event) for event in events.split(b"\n\n"))
    return [payload for payload in found if payload is not None]


def _payload(event: bytes) -> Any:
    lines = [line for line in event.split(b"\n") if line.startswith((b"data:", b"error:"))]
    return _json(b"\n".join(line.partition(b":")[2] for line in lines)) if lines else None


def _is_event(tail: bytes) -> bool:
    """Whether the stream ended one line end short of a whole event."""
    return tail.startswith(b"data:") and (_DONE_LINE.match(tail) is not None or _payload(tail) is not None)


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
