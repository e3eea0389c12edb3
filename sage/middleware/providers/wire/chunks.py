"""For adapters of vendors with a wire of their own: reads the JSON of a stream, and writes OpenAI's chunks.

Source of the shapes: OpenAI's API reference, *Chat completion chunk*.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from typing import Any

import orjson

from sage.errors import UpstreamFailed
from sage.middleware.providers.base import Usage
from sage.middleware.providers.wire.event_bytes import BYTE_ORDER_MARK, DONE, MAX_EMPTY, MAX_EVENT, too_empty, too_long
from sage.middleware.providers.wire.lenient_json import JsonReader

_LINE = re.compile(rb"\S[^\r\n]*")
_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?\{")


class JsonStream:
    """Takes the bytes of a stream as they come and yields each complete JSON object in it.

    Reads both newline-delimited JSON and server-sent events, whose ``data:`` lines hold one object each; and one object
    on several lines, which is an answer in place of a stream.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._reader = JsonReader()
        self._started = False
        self._empty_bytes = 0
        self._is_one_object = False

    def feed(self, data: bytes) -> Iterator[Any]:
        """The objects that ``data`` completes. A line that is neither JSON nor an SSE field raises in its turn."""
        searched = len(self._rest)
        self._rest += data
        cut = self._rest.rfind(b"\n", searched) + 1 or self._rest.rfind(b"\r", searched) + 1
        if self._is_one_object:
            cut = 0
        if len(self._rest) - cut > MAX_EVENT:
            raise too_long()
        if not cut:
            return iter(())
        lines, self._rest = bytes(self._rest[:cut]), self._rest[cut:]
        return self._values(lines)

    def close(self) -> Iterator[Any]:
        """The object in the last line, if the upstream left out the line end, and what waited for more."""
        rest, self._rest = bytes(self._rest), bytearray()
        yield from self._value(rest)
        yield from self._reader.flush()

    def _values(self, lines: bytes) -> Iterator[Any]:
        empty = self._empty_bytes + len(lines)
        for line in _LINE.findall(lines):
            if line.startswith(b"{") and not self._reader.is_waiting:
                try:
                    value = orjson.loads(line)
                except orjson.JSONDecodeError:
                    pass  # read below
                else:
                    self._started, empty = True, 0
                    yield value
                    continue
            try:
                values = self._value(line)
            except UpstreamFailed:
                if self._started or not _OBJECT.match(line):
                    raise
                self._is_one_object = True
                self._rest[:0] = lines[lines.index(line) :].removeprefix(BYTE_ORDER_MARK)
                return
            self._started = True
            if values:
                empty = 0
                yield from values
        self._empty_bytes = empty
        if empty > MAX_EMPTY:
            raise too_empty()

    def _value(self, line: bytes) -> list[Any]:
        line = (line if self._started else line.removeprefix(BYTE_ORDER_MARK)).strip()
        if line.startswith(b"data:"):
            line = line[5:].strip()
        elif not line.startswith((b"{", b"[")):
            if not line or line.startswith((b":", b"event:", b"id:", b"retry:")):
                return []
            raise UpstreamFailed("the upstream sent something that is no event of a stream", code="upstream_nonsense")
        if not line or line == b"[DONE]":
            return self._reader.flush()
        try:
            return self._reader.read(line)
        except ValueError as exc:
            raise UpstreamFailed("the upstream sent a stream event that is no JSON", code="upstream_nonsense") from exc


class ChunkWriter:
    """Writes the events of one OpenAI chat stream (or of ``completions``, with ``chat=False``)."""

    def __init__(self, model: str, *, keep_usage: bool, chat: bool = True) -> None:
        """``keep_usage`` says that the caller asked for the chunk that carries the usage."""
        self.id = completion_id("chatcmpl" if chat else "cmpl")
        self._head = {
            "id": self.id,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._keep_usage = keep_usage

    def delta(self, delta: dict[str, Any], finish: str | None = None, *, index: int = 0, **fields: Any) -> bytes:
        """A chunk of one choice; ``fields`` stand beside its delta (``logprobs``)."""
        return self._event([{"index": index, "delta": delta, "finish_reason": finish, **fields}])

    def text(self, text: str, finish: str | None = None, logprobs: dict[str, Any] | None = None) -> bytes:
        """A chunk of ``completions``."""
        return self._event([{"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish}])

    def done(self, usage: Usage | None, counted: dict[str, Any] | None = None) -> bytes:
        """The usage, if the caller asked for it, and the end. ``counted`` is sent instead where the vendor has more."""
        if usage is None or not self._keep_usage:
            return DONE
        return self._event([], usage=counted or usage_object(usage)) + DONE

    def _event(self, choices: list[dict[str, Any]], **extra: Any) -> bytes:
        return b"data: " + orjson.dumps({**self._head, "choices": choices, **extra}) + b"\n\n"


def answer_events(answer: dict[str, Any], *, keep_usage: bool, chat: bool = True) -> bytes:
    """The stream that says what ``answer`` says, a whole one of a chat, or of ``completions``, in OpenAI's shape.

    For an upstream that sends one where a stream was asked for.
    """
    choices = [choice for choice in answer["choices"] if isinstance(choice, dict)]
    kind = "chat.completion.chunk" if chat else "text_completion"
    head = {**{name: value for name, value in answer.items() if name not in ("choices", "usage")}, "object": kind}
    chunks = [[_chunk_of(place, choice, chat)] for place, choice in enumerate(choices)]
    for place, choice in enumerate(choices):
        nothing: dict[str, Any] = {"delta": {}} if chat else {"text": "", "logprobs": None}
        finish = choice.get("finish_reason")
        chunks.append([{"index": choice.get("index", place), **nothing, "finish_reason": finish}])
    events = [b"data: " + orjson.dumps({**head, "choices": chunk}) + b"\n\n" for chunk in chunks]
    if keep_usage and isinstance(answer.get("usage"), dict):
        events.append(b"data: " + orjson.dumps({**head, "choices": [], "usage": answer["usage"]}) + b"\n\n")
    return b"".join(events) + DONE


def _chunk_of(place: int, choice: dict[str, Any], chat: bool) -> dict[str, Any]:
    """The first chunk of a choice, which has all of it but its end."""
    chunk = {"index": place, **choice, "finish_reason": None}
    if not chat:
        return chunk
    message = chunk.pop("message", None)
    return {**chunk, "delta": delta_of(message) if isinstance(message, dict) else {}}


def delta_of(message: dict[str, Any]) -> dict[str, Any]:
    """The one delta that says what ``message`` says."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    numbered = [{"index": number, **call} for number, call in enumerate(calls) if isinstance(call, dict)]
    return {**message, "tool_calls": numbered}


def usage_object(usage: Usage) -> dict[str, int]:
    """OpenAI's ``usage``."""
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion_id(prefix: str = "chatcmpl") -> str:
    """A new id for an answer to which the vendor gave none."""
    return f"{prefix}-{secrets.token_hex(12)}"
