"""Relays a stream of server-sent events in OpenAI's wire, complete events at a time, without parsing most of them.

A quotation mark inside a JSON string is always escaped, so the bytes ``"model":`` can only be a key: looking for keys
in the raw bytes is sound. What a key says of the answer is decided by the parsed event alone: the bytes only tell which
few events have to be parsed. What goes on to the client are events that its SDK reads: one line of data each, which is
JSON, and comments.

Source of the format: the HTML standard, *Server-sent events*, and OpenAI's API reference, *chat/completions* streaming.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from sage.errors import SageError, UpstreamFailed
from sage.middleware.providers.base import Usage
from sage.middleware.providers.wire import lenient_json
from sage.middleware.providers.wire.errors import error_of_choices, first_error, reported_error
from sage.middleware.providers.wire.event_bytes import (
    BYTE_ORDER_MARK,
    DONE,
    DONE_DATA,
    MAX_EMPTY,
    MAX_EVENT,
    count_plain,
    cut_off,
    event_data,
    hides_text,
    too_empty,
    too_long,
)
from sage.middleware.providers.wire.repeated_events import EventShape

_MAX_COUNT = 2**53
"""More tokens than this no upstream has counted."""
_MOST_UNLIKE = 8
"""Times in a row after which no other shape is looked for: each event has something of its own (probabilities)."""
_ERROR_NAME = re.compile(rb"^(?:error:|event: ?error)", re.M)
_MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"\\]|\\.)*"')
_NO_FINISH = ("", "null", "None")
"""What servers write into ``finish_reason`` in place of ``null``."""
_MALFORMED = (AttributeError, KeyError, TypeError, ValueError, orjson.JSONEncodeError)
"""What a transformation, or the writing, of a chunk raises that does not have the documented shape."""
_COMMENTS = re.compile(rb"(?:\s++|:[^\r\n]*+[\r\n])*+")
NOTABLE = rb'error"|usage"(?!\s*:\s*null)|finish_reason"(?!\s*:\s*(?:null|""))'
"""The rest, after its quotation mark, of each key that makes an event more than a piece of text."""
_NOTABLE = re.compile(rb'"(?:' + NOTABLE + rb")")
"""Where the answer may have ended, its usage or an error may be; only the parsed event tells."""


class EventRelay:
    """The :class:`~sage.middleware.providers.base.Relay` of OpenAI's own wire.

    ``model`` is the public name that every chunk is to carry. ``keep_usage`` tells whether the chunk that carries
    nothing but usage goes on to the client. ``choices`` is how many answers must have ended before a stream without
    ``[DONE]`` counts as complete. ``on_error`` makes our error of one that the upstream sent as an event. ``whole``
    makes the events, and the usage, of an answer that came as one JSON in place of a stream. ``logprobs`` tells whether
    there are numbers that may be none (``NaN``).
    """

    __slots__ = (
        "_choices",
        "_empty_bytes",
        "_finished_choices",
        "_has_numbers",
        "_incomplete",
        "_incomplete_bytes",
        "_is_notable",
        "_is_stream",
        "_keep_usage",
        "_last_cr",
        "_model",
        "_on_error",
        "_parses",
        "_public_model",
        "_reader",
        "_transform",
        "_unlike",
        "_upstream_model",
        "_whole",
        "error",
        "finished",
        "shape",
        "usage",
    )
    _notable = _NOTABLE

    def __init__(
        self,
        model: str,
        *,
        keep_usage: bool,
        on_error: Callable[[Any], SageError],
        choices: int = 1,
        transform: Callable[[dict[str, Any]], None] | None = None,
        whole: Callable[[bytes], tuple[bytes, Usage | None]] | None = None,
        logprobs: bool = False,
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
        self._finished_choices: set[int] = set()
        self._transform = transform
        self._whole = whole
        self._has_numbers = logprobs
        self._is_stream: bool | None = None
        """Whether events come, or one JSON in place of them; ``None`` means that nothing has come yet."""
        self._parses = transform is not None
        """Whether every event is parsed now."""
        self._is_notable = True
        """Whether the last events are more than pieces of text, as far as their bytes tell."""
        self._reader: lenient_json.JsonReader | None = None
        """Made with the first event that is parsed: most streams need none."""
        self.shape: EventShape | None = None
        """That of an event that was no more than a piece of text."""
        self._unlike = 0
        """How many times in a row events had another shape."""
        self._last_cr = b""
        """A carriage return at the end of the bytes so far, which may be the first half of a line end."""
        self._incomplete: list[bytes] = []
        """The parts of an event that has not ended yet, or of an answer that is no stream."""
        self._incomplete_bytes = 0
        self._empty_bytes = 0
        """Blank lines, comments and events without data since the last data."""

    def feed(self, data: bytes) -> bytes:
        """The events that ``data`` completes. An error event of the upstream goes to ``error``, not to the client."""
        if self.shape is not None and not self._parses and not self._incomplete and not self._last_cr:
            relayed = self.shape.relay(data)
            if relayed is not None:
                self._unlike = self._empty_bytes = 0
                return relayed
        return self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        """What :meth:`feed` is for, where bytes have to be looked at."""
        if not self._is_stream:
            data = self._begin(data)
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
        if self.shape is None and self._unlike < _MOST_UNLIKE:
            return self._relay_first(data)
        return self._relay(data)

    def _relay_first(self, events: bytes) -> bytes:
        """Relays events while no shape is known. Two are looked at: the others are often like the second."""
        cut = events.find(b"\n\n", events.find(b"\n\n") + 2) + 2
        if cut < 2 or cut == len(events):
            return self._relay(events)
        relayed, rest, more = self._relay(events[:cut]), events[cut:], None
        if self.error is not None or self.finished:
            return relayed
        is_notable = self._is_notable
        if self.shape is not None and not self._parses:
            more = self.shape.relay(rest)
        if more is None:
            more = self._relay(rest)
            self._is_notable = self._is_notable or is_notable
        return relayed + more

    def _begin(self, data: bytes) -> bytes:
        """The beginning of a stream; empty, and ``data`` kept, while it may be a JSON in place of one.

        Comments before either are left out: they are no answer yet.
        """
        if self._is_stream is None:
            self._count_empty(len(data))
            data = b"".join((*self._incomplete, data)).removeprefix(BYTE_ORDER_MARK)
            data = _COMMENTS.sub(b"", data, count=1)
            self._incomplete, self._incomplete_bytes = [], 0
            if data and not data.startswith(b":") and not BYTE_ORDER_MARK.startswith(data):
                self._is_stream = data[:1] not in b"{["
                if self._is_stream:
                    return data
        self._keep_incomplete(data)
        return b""

    def _with_line_feeds(self, data: bytes) -> bytes:
        data = self._last_cr + data
        self._last_cr = b"\r" if data.endswith(b"\r") else b""
        return data[: len(data) - len(self._last_cr)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _keep_incomplete(self, data: bytes) -> bytes:
        if data:
            self._incomplete.append(data)
            self._incomplete_bytes += len(data)
        if self._incomplete_bytes > MAX_EVENT:
            raise too_long()
        return b""

    def _relay(self, events: bytes) -> bytes:
        is_waiting = self._reader is not None and self._reader.is_waiting
        notable = self._is_notable = is_waiting or self._notable.search(events) is not None
        if self._parses:
            return self._relay_parsed(events)
        count, is_last = 1, False
        if events.count(b"\n") != 2 or not (events.startswith(b"data: {") and events.endswith(b"}\n\n")):
            is_last = events.endswith(DONE)
            count = count_plain(events, is_last)
        if not count or (notable and b'"error"' in events) or hides_text(events, numbers=self._has_numbers):
            return self._relay_parsed(events)
        renamed = self._rename(events, count)
        if renamed is None:
            return self._relay_parsed(events)
        if self._empty_bytes:
            self._empty_bytes = 0
        if is_last:
            self.finished = True
        if notable:
            return self._read_notable(renamed) if _NOTABLE.search(renamed) else renamed
        if not is_last and self._unlike < _MOST_UNLIKE:
            self._learn_shape(events[events.rfind(b"\n\n", 0, -2) + 2 if count > 1 else 0 :])
        return renamed

    def _learn_shape(self, event: bytes) -> None:
        self._unlike += 1
        shape = EventShape.of(event, self._upstream_model or self._public_model, self._public_model)
        if shape is not None:
            self.shape = shape

    def _rename(self, events: bytes, events_count: int) -> bytes | None:
        """``events`` under the public name; ``None`` where bytes do not tell which ``"model"`` is the answer's."""
        count = events.count(b'"model"')
        if not count:
            return events
        if count > events_count:
            return None
        if self._upstream_model is None:
            match = _MODEL.search(events)
            if match is None:
                return None
            self._upstream_model = match[0]
        if self._upstream_model != self._public_model:
            events = events.replace(self._upstream_model, self._public_model)
        return events if events.count(self._public_model) == count else None

    def _read_notable(self, events: bytes) -> bytes:
        """Reads the few ``events`` that are more than pieces of text; those that :meth:`_note` drops are left out."""
        kept_events = []
        for event in events.split(b"\n\n")[:-1]:
            chunk = _json(event_data(event)) if _NOTABLE.search(event) else None
            if not isinstance(chunk, dict) or self._note(chunk):
                kept_events.append(event + b"\n\n")
        return b"".join(kept_events)

    def _note(self, chunk: dict[str, Any]) -> bool:
        """Notes which choices end with ``chunk``, and the usage; whether the client is to have the chunk, too.

        One that carries nothing but usage is dropped unless the caller asked for it.
        """
        choices = chunk.get("choices")
        for place, choice in enumerate(choices if isinstance(choices, list) else ()):
            finish = choice.get("finish_reason") if isinstance(choice, dict) else None
            if isinstance(finish, str) and finish.strip() not in _NO_FINISH:  # a choice can end more than once
                index = choice.get("index")
                self._finished_choices.add(index if isinstance(index, int) else place)
        usage = read_usage(chunk.get("usage"))
        if usage is None:
            return True
        self.usage = usage
        return bool(choices) or self._keep_usage

    def _relay_parsed(self, events: bytes) -> bytes:
        """The slow way for what bytes do not tell: every event is parsed and serialised again."""
        kept: list[bytes] = []
        try:
            self._count_empty(len(events))
            for event in events.split(b"\n\n"):
                if event and not self.finished:  # what comes after the end is no answer
                    self._relay_event(event, kept)
        except SageError as error:  # the events before it are good
            self.error = error
        return b"".join(kept)

    def _count_empty(self, size: int) -> None:
        self._empty_bytes += size
        if self._empty_bytes > MAX_EMPTY + size:
            raise too_empty()

    def _relay_event(self, event: bytes, kept: list[bytes]) -> None:
        """Adds what goes on to the client for ``event``, without ids, names and empty data, which SDKs trip over."""
        data = event_data(event)
        if not data:
            kept += [line + b"\n\n" for line in event.split(b"\n") if line.startswith(b":")][-1:]
            return
        self._empty_bytes = 0
        reader = self._reader = self._reader or lenient_json.JsonReader()
        is_error = (b"\n" in event or event.startswith(b"e")) and _ERROR_NAME.search(event) is not None
        if reader.is_waiting and (is_error or b'"error"' in data):
            self._flush(kept)
        if is_error:
            raise self._named_error(data)
        if data.startswith(DONE_DATA):
            self._flush(kept)
            self.finished = True
            kept.append(DONE)
            return
        try:
            chunks = reader.read(data)
        except ValueError as exc:
            self._flush(kept)
            raise _no_chunk() from exc
        self._parses = self._transform is not None or reader.is_waiting
        kept.extend(self._checked(chunk) for chunk in chunks)

    def _flush(self, kept: list[bytes]) -> None:
        """Adds what waited for the other half of a character."""
        self._parses = self._transform is not None
        if self._reader is not None:
            kept.extend(self._checked(chunk) for chunk in self._reader.flush())

    def _named_error(self, data: bytes) -> SageError:
        """The error in an event that is called one; its data need not be JSON."""
        value = first_error(_json(data))
        error = reported_error(value) if isinstance(value, dict) else None
        return self._on_error(error or value or data.decode("utf-8", "replace"))

    def _checked(self, chunk: Any) -> bytes:
        """The event that goes on for ``chunk``; raises the error that it reports."""
        if not isinstance(chunk, dict):
            chunk = first_error(chunk)
        if not chunk and chunk in (None, {}):
            return b""  # it says nothing, but SDKs take it for a chunk
        if not isinstance(chunk, dict):
            raise _no_chunk()
        error = reported_error(chunk) or error_of_choices(chunk.get("choices"))
        if error is not None:
            raise self._on_error(error)
        if chunk.get("error") is not None:
            del chunk["error"]  # it says nothing, but OpenAI's SDK takes every object there for an error
        return self._rewritten(chunk)

    def _rewritten(self, chunk: dict[str, Any]) -> bytes:
        if not self._note(chunk):
            return b""
        if "model" in chunk:
            chunk["model"] = self._model
        try:
            if self._transform is not None:
                self._transform(chunk)
            return b"data: " + orjson.dumps(chunk) + b"\n\n"
        except _MALFORMED as exc:
            raise _no_chunk() from exc

    def close(self) -> bytes:
        """What remains to be sent at the upstream's clean end of stream. Raises if the answer is incomplete."""
        tail = b"".join(self._incomplete) + self._last_cr.replace(b"\r", b"\n")
        if not self._is_stream:
            return self._answer(tail)
        rest = EventRelay._feed(self, b"\n\n") if _is_event(tail) else b""
        rest += self._rest()
        if self.error is not None:
            raise self.error
        if self.finished:
            return rest
        if len(self._finished_choices) >= self._choices:
            # Some servers leave out [DONE]; every answer has a finish_reason, so nothing is missing.
            self.finished = True
            return rest + DONE
        raise cut_off()

    def _rest(self) -> bytes:
        """What waited for the other half of a character, at the end of the stream."""
        kept: list[bytes] = []
        try:
            self._flush(kept)
        except SageError as error:
            self.error = error
        return b"".join(kept)

    def _answer(self, body: bytes) -> bytes:
        """The events of ``body``, which is all that has come, and may be an answer that is no stream."""
        answer = first_error(_json(body))
        if answer is not None and self._whole is not None:
            events, self.usage = self._whole(body)
            self.finished = True
            return events
        if isinstance(answer, dict) and (error := reported_error(answer)) is not None:
            raise self._on_error(error)
        raise cut_off()


_ANTHROPIC_PROMPT = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
"""What it counts apart, and others as one."""


def read_usage(usage: Any) -> Usage | None:
    """The tokens in a ``usage`` object; ``None`` if it is not an object. A count that is not a number is 0."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is int and type(completion) is int and 0 <= prompt <= _MAX_COUNT and 0 <= completion <= _MAX_COUNT:
        return Usage(prompt, completion, usage)
    if prompt is None and completion is None:  # Anthropic's names, which some servers of this wire send, too
        prompt, completion = sum(count(usage.get(name)) for name in _ANTHROPIC_PROMPT), usage.get("output_tokens")
    return Usage(count(prompt), count(completion), usage)


def count(value: Any) -> int:
    """A number of tokens as an upstream reported it; 0 for what is not one. Bounded, so that sums fit JSON too."""
    return int(min(value, _MAX_COUNT)) if isinstance(value, int | float) and value > 0 else 0


def payloads(events: bytes) -> list[Any]:
    """The JSON of each event in ``events``, which are complete, without ``[DONE]`` and comments.

    Raises :class:`UpstreamFailed` for data that is no JSON: left out, it would be missing in an answer that ends well.
    """
    if events.startswith(b"data: {") and events.find(b"\n") == len(events) - 2:  # one event, as most are
        try:
            return [orjson.loads(events[6:])]
        except orjson.JSONDecodeError:
            pass  # read below
    parsed = []
    for event in events.split(b"\n\n"):
        data = event_data(event)
        if not data or data.startswith(DONE_DATA):
            continue
        try:
            parsed.append(orjson.loads(data))
        except orjson.JSONDecodeError:
            parsed.append(_read(data))
    return parsed


def _read(data: bytes) -> Any:
    try:
        return lenient_json.read(data)
    except ValueError as exc:
        raise _no_chunk() from exc


def _is_event(tail: bytes) -> bool:
    """Whether only the last line end of an event is missing."""
    data = event_data(tail)
    return data == DONE_DATA or (data != b"" and _json(data) is not None)


def _json(data: bytes) -> Any:
    try:
        return lenient_json.read(data)
    except ValueError:
        return None


def _no_chunk() -> UpstreamFailed:
    return UpstreamFailed("the upstream sent an event that is no chunk of an answer", code="upstream_nonsense")
