"""JSON lines: unchanged documents, each checked for what a collection would refuse."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from sage.strict_json import loads

_LONGEST = 16 * 2**20  # bytes of one line
_FIELDS = frozenset({"id", "text", "metadata", "vector"})


def read_lines(path: Path, offset: int = 0, line: int = 0) -> Iterator[dict[str, Any]]:
    """``{"line", "end", "ends_line", "document"}`` for each line that is not empty, with ``error`` in place of
    ``document`` for an invalid one. ``offset`` and ``line`` are bytes and lines to skip; ``end`` is the offset after
    the line, ``ends_line`` whether it has a line end.
    """
    with path.open("rb") as file:
        file.seek(offset)
        end = offset
        while content := file.readline(_LONGEST + 1):
            line += 1
            end += len(content)
            if len(content) > _LONGEST:
                while content and not content.endswith(b"\n"):
                    content = file.readline(_LONGEST)
                    end += len(content)
                yield {
                    "line": line,
                    "end": end,
                    "ends_line": content.endswith(b"\n"),
                    **_invalid_line(f"is longer than {_LONGEST} bytes"),
                }
                continue
            if content.startswith(b"\xef\xbb\xbf") and line == 1:
                content = content[3:]
            if content.strip():
                yield {"line": line, "end": end, "ends_line": content.endswith(b"\n"), **_checked(content)}


def _checked(content: bytes) -> dict[str, Any]:
    try:
        document = loads(content)
    except orjson.JSONDecodeError as exc:
        return _invalid_line(f"is not JSON: {exc.args[0] if exc.args else exc}")
    except ValueError as exc:
        return _invalid_line(f"cannot be taken: {exc}")
    if not isinstance(document, dict):
        return _invalid_line('is not an object such as {"text": "…"}')
    if unknown := sorted(document.keys() - _FIELDS):
        return _invalid_line(f"has the unknown field '{unknown[0]}'; a document has id, text, metadata and vector")
    if not isinstance(document.get("text"), str):
        return _invalid_line("has no 'text'")
    if document.get("id") is not None and not (isinstance(document["id"], str) and document["id"]):
        return _invalid_line("'id' is not text")
    if not isinstance(document.get("metadata") or {}, dict):
        return _invalid_line("'metadata' is not an object")
    if document.get("vector") is not None and not _is_vector(document["vector"]):
        return _invalid_line("'vector' is not a list of numbers")
    return {"document": document}


def _invalid_line(error: str) -> dict[str, Any]:
    return {"error": error}


def _is_vector(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(number, float | int) and not isinstance(number, bool) for number in value)
        and all(map(math.isfinite, value))
    )
