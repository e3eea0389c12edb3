"""JSON objects that callers send: whole bodies, and single lines of them."""

from __future__ import annotations

from typing import Any

import orjson

from sage.errors import InvalidRequest
from sage.strict_json import NestedTooDeeply, loads

MAX_VALUES = 350_000
"""Of JSON, in one body: orjson makes as many within a tenth of a second, in which nothing else runs."""
_VECTOR_BYTES = 8
"""In bodies of vectors there may be one value for so many bytes: they are written with more digits."""
_UNCOUNTED = 2**18  # bytes; a smaller body cannot hold many values
_COUNTED_LATER = 5 * 2**18
"""Bytes. A body of no more is read before its values are counted: it cannot hold many more, and most hold few, which
shows sooner in them than in its bytes."""
_SIGNS = (b",", b"[", b"{")
"""Each value but the first stands behind one of these."""
_FEW = 500
"""Signs that are found one by one, which is faster than to count them, in a body of long texts or pictures."""
_PIECE = 2**20  # bytes, that are copied while values are counted


def parse_object(body: bytes, *, vectors: bool = False) -> dict[str, Any]:
    """``body`` as a JSON object; raises :class:`InvalidRequest` for anything else, and for more values than one request
    may hold, of which it makes no more than orjson makes within a tenth of a second."""
    if len(body) > _COUNTED_LATER:
        check_values(body, vectors=vectors)
    try:
        value = loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"the body is not JSON: {exc}", code="invalid_json") from None
    except NestedTooDeeply as exc:
        raise InvalidRequest(f"the body is {exc}", param=exc.field, code="invalid_json") from None
    except ValueError as exc:
        raise InvalidRequest(str(exc), code="invalid_json") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    if _UNCOUNTED < len(body) <= _COUNTED_LATER and _count(value) > (most := _most_values(body, vectors)):
        raise _too_many(most)
    return value


def check_values(body: bytes, *, vectors: bool = False) -> None:
    """Raises :class:`InvalidRequest` when ``body`` holds more values of JSON than one request may; ``vectors`` says
    that it may hold vectors of numbers."""
    if len(body) <= _UNCOUNTED:
        return
    most = _most_values(body, vectors)
    if sum(_FEW if _has_few(body, sign) else body.count(sign) for sign in _SIGNS) <= most:
        return
    values = quotes = begin = 0
    while begin < len(body):
        piece = body[begin : begin + _PIECE]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece = body[begin : begin + _PIECE + 1]  # with what the last backslash escapes
        begin += len(piece)
        text = piece.replace(b"\\\\", b"").replace(b'\\"', b"")  # so that each quotation mark begins or ends a string
        parts = text.split(b'"', 4 * most - quotes + 1)
        outside = b"".join(parts[quotes % 2 :: 2])
        values += len(outside) - len(outside.translate(None, b",[{"))
        quotes += len(parts) - 1
        if values > most or quotes > 4 * most:
            raise _too_many(most)


def _most_values(body: bytes, vectors: bool) -> int:
    return max(MAX_VALUES, len(body) // _VECTOR_BYTES if vectors else 0)


def _too_many(most: int) -> InvalidRequest:
    return InvalidRequest(f"the body holds more than {most} values; send it in parts", code="too_many_values")


def _count(value: dict[str, Any]) -> int:
    """The values in ``value``."""
    count = 0
    level: list[Any] = [value]
    while level:
        parts = [part for each in level for part in (each.values() if type(each) is dict else each)]
        count += len(parts)
        level = [part for part in parts if type(part) is dict or type(part) is list]
    return count


def _has_few(body: bytes, sign: bytes) -> bool:
    """Whether ``sign`` stands in ``body`` less than :data:`_FEW` times."""
    at = -1
    for _ in range(_FEW):
        at = body.find(sign, at + 1)
        if at < 0:
            return True
    return False
