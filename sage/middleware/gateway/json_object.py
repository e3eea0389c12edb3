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
_COUNTED = 2**18  # bytes; a smaller body cannot hold many values
_PIECE = 2**20  # bytes, that are copied while values are counted


def parse_object(body: bytes, *, vectors: bool = False) -> dict[str, Any]:
    """``body`` as a JSON object; raises :class:`InvalidRequest` for anything else, and for more values than one request
    may hold, before it makes any."""
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
    return value


def check_values(body: bytes, *, vectors: bool = False) -> None:
    """Raises :class:`InvalidRequest` when ``body`` holds more values of JSON than one request may; ``vectors`` says
    that it may hold vectors of numbers."""
    if len(body) <= _COUNTED:
        return
    most = max(MAX_VALUES, len(body) // _VECTOR_BYTES if vectors else 0)
    if body.count(b",") <= most:
        return
    values = quotes = begin = 0
    while begin < len(body):
        piece = body[begin : begin + _PIECE]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece = body[begin : begin + _PIECE + 1]  # with what the last backslash escapes
        begin += len(piece)
        text = piece.replace(b"\\\\", b"").replace(b'\\"', b"")  # so that each quotation mark begins or ends a string
        parts = text.split(b'"', 4 * most - quotes + 1)
        values += sum(part.count(b",") for part in parts[quotes % 2 :: 2])
        quotes += len(parts) - 1
        if values > most or quotes > 4 * most:
            raise InvalidRequest(f"the body holds more than {most} values; send it in parts", code="too_many_values")
