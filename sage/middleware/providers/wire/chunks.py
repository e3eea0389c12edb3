"""For adapters of vendors with a wire of their own: reads the JSON of a stream, and writes OpenAI's chunks.

Source of the shapes: OpenAI's API reference, *Chat completion chunk*.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

import orjson

from sage.errors import UpstreamFailed
from sage.middleware.providers.base import Usage
from sage.middleware.providers.wire.sse import DONE, MAX_EVENT


class JsonStream:
    """Takes the bytes of a stream as they come and yields each complete JSON object in it.

    Reads both newline-delimited JSON and server-sent events, whose ``data:`` lines hold one object each.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The objects that ``data`` completes. A line that is neither JSON nor an SSE field raises in its turn."""
        searched = len(self._rest)
        self._rest += data
        cut = self._rest.rfind(b"\n", searched) + 1
        if len(self._rest) - cut > MAX_EVENT:
            raise UpstreamFailed(f"the upstream sent a stream event of more than {MAX_EVENT} bytes")
        if not cut:
            return iter(())
        lines, self._rest = bytes(self._rest[:cut]), self._rest[cut:]
        return (value for line in lines.split(b"\n") if (value := _value(line)) is not None)

    def close(self) -> Iterator[Any]:
        """The object in the last line, if the upstream left out the line end."""
        rest, self._rest = bytes(self._rest), bytearray()
        return (value for line in (rest,) if (value := _value(line)) is not None)


def _value(line: bytes) -> Any:
    line = line.strip()
    if line.startswith(b"data:"):
        line = line[5:].strip()
    elif not line.startswith((b"{", b"[")):
        if not line or line.startswith((b":", b"event:", b"id:", b"retry:")):
            return None
        raise UpstreamFailed("the upstream sent something that is no event of a stream", code="upstream_nonsense")
    if line == b"[DONE]":
        return None
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise UpstreamFailed("the upstream sent a stream event that is no JSON", code="upstream_nonsense") from exc


class ChunkWriter:
    """Writes the events of one OpenAI chat stream (or of ``completions``, with ``chat=False``)."""

    def __init__(self, model: str, *, keep_usage: bool, chat: bool = True) -> None:
        """``keep_usage`` says that the caller asked for the chunk that carries the usage."""
        self.id = f"chatcmpl-{secrets.token_hex(12)}" if chat else f"cmpl-{secrets.token_hex(12)}"
        self._head = {
            "id": self.id,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._keep_usage = keep_usage

    def delta(self, delta: dict[str, Any], finish: str | None = None, **fields: Any) -> bytes:
        """A chunk of the one choice; ``fields`` stand beside its delta (``logprobs``)."""
        return self._event([{"index": 0, "delta": delta, "finish_reason": finish, **fields}])

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


def usage_object(usage: Usage) -> dict[str, int]:
    """OpenAI's ``usage``."""
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion_id(prefix: str = "chatcmpl") -> str:
    """A new id for an answer to which the vendor gave none."""
    return f"{prefix}-{secrets.token_hex(12)}"
