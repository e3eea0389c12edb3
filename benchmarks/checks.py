"""Whether an answer is whole and belongs to its request: echoed number, model, usage and, in streams, every chunk."""

from __future__ import annotations

import orjson
from wire import answer, piece, usage


def answer_fault(body: bytes, number: int, model: str | None) -> str | None:
    """What is wrong with a whole answer that does not stream; ``None``: nothing."""
    try:
        reply = orjson.loads(body)
        choice = reply["choices"][0]
        if choice["message"]["content"] != answer(number):
            return f"wrong text {choice['message']['content']!r:.60}"
        if choice["finish_reason"] != "stop":
            return f"finish_reason {choice['finish_reason']!r}"
        if model and reply["model"] != model:
            return f"model {reply['model']!r}"
        counted = {name: reply["usage"][name] for name in usage(number)}
        return None if counted == usage(number) else f"wrong usage {counted}"
    except (orjson.JSONDecodeError, LookupError, TypeError) as exc:
        return f"not an answer ({exc!r:.60}): {body[:120]!r}"


def stream_fault(body: bytes, number: int, model: str | None, chunks: int, wants_usage: bool) -> str | None:
    """What is wrong with a whole stream; ``None``: nothing."""
    events = body.split(b"\n\n")
    if events[-2:] != [b"data: [DONE]", b""]:
        return f"stream ends with {body[-60:]!r}"
    index, finishes, counted = 0, 0, None
    try:
        for event in events[:-2]:
            if not event.startswith(b"data: "):
                return f"not an event: {event[:80]!r}"
            chunk = orjson.loads(event[6:])
            if model and chunk["model"] != model:
                return f"model {chunk['model']!r} in a stream"
            if chunk["choices"]:
                choice = chunk["choices"][0]
                if text := choice["delta"].get("content"):
                    if text != piece(number, index):
                        return f"wrong chunk {text!r:.40} at {index} of a stream"
                    index += 1
                finishes += choice.get("finish_reason") == "stop"
            if chunk.get("usage"):
                counted = {name: chunk["usage"][name] for name in usage(number)}
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError) as exc:
        return f"not a chunk ({exc!r:.60}): {event[:120]!r}"
    if (index, finishes) != (chunks, 1):
        return f"{index} of {chunks} chunks and {finishes} finishes in a stream"
    expected = usage(number) if wants_usage else None
    return None if counted == expected else f"usage {counted} in a stream, expected {expected}"
