"""JSON lines: documents as they are, each checked for what a collection would refuse."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

_LONGEST = 16 * 2**20  # bytes of one line
_FIELDS = frozenset({"id", "text", "metadata", "vector"})


def read_lines(path: Path, offset: int = 0, line: int = 0) -> Iterator[dict[str, Any]]:
    """``{"line", "end", "whole", "document"}`` or with ``error`` of each line that is not empty.

    ``offset`` and ``line``: bytes and lines that were read before; ``end``: the offset behind the line.
    """
    with path.open("rb") as file:
        file.seek(offset)
        end = offset
        while raw := file.readline(_LONGEST + 1):
            line += 1
            end += len(raw)
            if len(raw) > _LONGEST:
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(_LONGEST)
                    end += len(raw)
                yield {
                    "line": line,
                    "end": end,
                    "whole": raw.endswith(b"\n"),
                    "error": f"is longer than {_LONGEST} bytes",
                }
                continue
            if raw.startswith(b"\xef\xbb\xbf") and line == 1:
                raw = raw[3:]
            if raw.strip():
                yield {"line": line, "end": end, "whole": raw.endswith(b"\n"), **_checked(raw)}


def _checked(raw: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        return {"error": f"is not JSON: {exc.args[0] if exc.args else exc}"}
    if not isinstance(found, dict):
        return {"error": 'is not an object such as {"text": "…"}'}
    if unknown := sorted(found.keys() - _FIELDS):
        return {"error": f"has the unknown field '{unknown[0]}'; a document has id, text, metadata and vector"}
    if not isinstance(found.get("text"), str):
        return {"error": "has no 'text'"}
    if found.get("id") is not None and not (isinstance(found["id"], str) and found["id"]):
        return {"error": "'id' is not text"}
    if not isinstance(found.get("metadata") or {}, dict):
        return {"error": "'metadata' is not an object"}
    if found.get("vector") is not None and not _is_vector(found["vector"]):
        return {"error": "'vector' is not a list of numbers"}
    return {"document": found}


def _is_vector(given: Any) -> bool:
    return (
        isinstance(given, list)
        and bool(given)
        and all(isinstance(number, float | int) and not isinstance(number, bool) for number in given)
        and all(map(math.isfinite, given))
    )
