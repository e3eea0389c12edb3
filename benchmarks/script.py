"""The answers of the scripted upstream as bytes: made once for each kind of stream, spoilt where asked for."""

from __future__ import annotations

from functools import cache

import orjson
from wire import UPSTREAM_MODEL, answer, piece, usage

_MARK = "@N@"
_DONE = b"data: [DONE]\n\n"


class Script:
    """What every connection answers with, and how often an answer is spoilt: ``corrupt`` is a share, 0 to 1."""

    def __init__(self, corrupt: float) -> None:
        self._every = round(1 / corrupt) if corrupt else 0
        self._answered = 0

    def fault(self) -> int:
        """0 for a true answer, else a number that chooses how this one is spoilt."""
        self._answered += 1
        return self._answered // self._every if self._every and self._answered % self._every == 0 else 0


def event(number: str, delta: dict[str, str], finish: str | None, tokens: dict[str, int] | None = None) -> bytes:
    """One event of a stream; with ``tokens`` it is the one that has usage and no choice."""
    choices = [] if tokens else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    chunk = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": UPSTREAM_MODEL,
        "system_fingerprint": "fp_bench",
        "choices": choices,
    }
    return b"data: " + orjson.dumps(chunk | ({"usage": tokens} if tokens else {})) + b"\n\n"


def stream(number: int, chunks: int, burst: int, include_usage: bool, fault: int) -> list[bytes]:
    """The writes of one stream, before HTTP's chunks are put around them; a fault takes, doubles or cuts."""
    digits = str(number)
    bursts = _bursts(chunks, burst, fault % 3 if fault else None)
    writes = [piece.replace(_MARK.encode(), digits.encode()) for piece in bursts]
    finish = event(digits, {}, "stop") if not (fault and fault % 3 == 2) else b""
    tokens = event(digits, {}, None, usage(number)) if include_usage else b""
    return [*writes, finish + tokens + _DONE]


@cache
def _bursts(chunks: int, burst: int, fault: int | None) -> list[bytes]:
    events = [
        event(_MARK, ({"role": "assistant"} if not i else {}) | {"content": piece(_MARK, i)}, None)
        for i in range(chunks)
    ]
    if fault is not None:
        middle = len(events) // 2
        events[middle : middle + 1] = [[], [events[middle]] * 2, [events[middle]]][fault]
    return [b"".join(events[i : i + burst]) for i in range(0, len(events), burst)]


def unary(number: int, fault: int) -> bytes:
    """The whole body of an answer that does not stream; a fault spoils its text or its usage."""
    body = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": UPSTREAM_MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer(number + (fault % 3 == 1))},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": usage(number + (fault % 3 == 2)),
        "system_fingerprint": "fp_bench",
    }
    return orjson.dumps(body)
