"""Memories as lines of JSON, whole: vectors, times, corrections, sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import orjson

from sage.errors import InvalidRequest
from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.records import MemoryRecord

_FORMAT = 1
_TEXTS = ("id", "session", "content", "type", "user", "agent", "superseded_by", "supersedes", "keywords")
_LISTS = ("sources", "context", "keys", "uses")
_TIMES = ("created", "expires", "superseded")
_APART = ("id", "content", "keywords")


class Exported(TypedDict):
    """Lines, and where to go on; ``None``: that was all."""

    lines: list[str]
    cursor: str | None


def written_page(shelf: MemoryCollection, tenant: str, limit: int, cursor: str | None) -> Exported:
    records, further = shelf.page(tenant, limit, cursor)
    return {"lines": [written(record) for record in records], "cursor": further}


def written(record: MemoryRecord) -> str:
    """One line, without its end."""
    return orjson.dumps(
        {
            "format": _FORMAT,
            "id": record.id,
            "user": record.scope.user or "",
            "agent": record.scope.agent or "",
            "session": record.session,
            "content": record.content,
            "type": record.type,
            "metadata": dict(record.metadata),
            "created": record.created,
            "expires": record.expires,
            "superseded": record.superseded,
            "superseded_by": record.superseded_by,
            "supersedes": record.supersedes,
            "keys": list(record.keys),
            "uses": list(record.uses),
            "sources": list(record.sources),
            "keywords": record.keywords,
            "context": list(record.context),
            "vector": None if record.vector is None else [float(value) for value in record.vector],
        }
    ).decode()


def read_lines(lines: Sequence[str], tenant: str) -> list[MemoryRecord]:
    """Raises :class:`InvalidRequest` that names the first line at fault."""
    if isinstance(lines, str) or not isinstance(lines, Sequence):
        raise InvalidRequest("'lines' must be a list of lines", param="lines")
    for place, line in enumerate(lines, 1):
        if not isinstance(line, str):
            raise InvalidRequest(f"line {place} is no text", param="lines")
    return [_read(line, place, tenant) for place, line in enumerate(lines, 1) if line.strip()]


def _read(line: str, place: int, tenant: str) -> MemoryRecord:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"line {place} is no JSON: {exc}", param="lines") from None
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise InvalidRequest(f"line {place} is no exported memory of format {_FORMAT}", param="lines")
    _check(found, place)
    item: dict[str, Any] = {
        "id": found["id"],
        "text": f"{found['keywords']}\n{found['content']}" if found["keywords"] else found["content"],
        "vector": found["vector"],
        "metadata": {
            **{name: found[name] for name in (*_TEXTS, *_TIMES, *_LISTS) if name not in _APART},
            "start": len(found["keywords"]) + 1 if found["keywords"] else 0,
            "metadata": orjson.dumps(found["metadata"]).decode(),
        },
    }
    return MemoryRecord.read(tenant, item)


def _check(found: dict[str, Any], place: int) -> None:
    fits = {
        **{name: isinstance(found.get(name), str) for name in _TEXTS},
        **{name: isinstance(found.get(name), int | float) for name in _TIMES},
        "metadata": isinstance(found.get("metadata"), dict),
        **{name: _are_texts(found.get(name)) for name in _LISTS},
        "vector": "vector" in found and (found["vector"] is None or isinstance(found["vector"], list)),
    }
    wrong = [name for name, right in fits.items() if not right]
    if wrong:
        raise InvalidRequest(f"line {place}: '{wrong[0]}' is missing or of another kind", param="lines")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
