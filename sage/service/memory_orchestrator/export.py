"""Memories as lines of JSON with all that they have: vectors, times, corrections, sources."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import orjson

from sage.errors import InvalidRequest
from sage.service.memory_orchestrator.checks import check_content, check_metadata, check_name, check_vector
from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.records import MemoryRecord
from sage.strict_json import loads

_FORMAT = 1
_NAMES = ("id", "session", "type")
_OPTIONAL_NAMES = ("user", "agent", "superseded_by", "supersedes")
_TIMES = ("created", "expires", "superseded")
_LISTS = ("sources", "context", "keys", "uses")


class Exported(TypedDict):
    """Lines, and the cursor of the next page; ``None`` means that this is the last one."""

    lines: list[str]
    cursor: str | None


def export_page(collection: MemoryCollection, tenant: str, limit: int, cursor: str | None) -> Exported:
    records, next_cursor = collection.page(tenant, limit, cursor)
    return {"lines": [_line_of(record) for record in records], "cursor": next_cursor}


def _line_of(record: MemoryRecord) -> str:
    """Without a line break at its end."""
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
    for number, line in enumerate(lines, 1):
        if not isinstance(line, str):
            raise InvalidRequest(f"line {number} is not a text", param="lines")
    return [_read_line(line, number, tenant) for number, line in enumerate(lines, 1) if line.strip()]


def _read_line(line: str, number: int, tenant: str) -> MemoryRecord:
    try:
        fields = loads(line.encode())
    except ValueError as exc:
        raise InvalidRequest(f"line {number} is not JSON of ours: {exc}", param="lines") from None
    if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
        raise InvalidRequest(f"line {number} is not an exported memory of format {_FORMAT}", param="lines")
    try:
        _check_fields(fields)
    except InvalidRequest as exc:
        raise InvalidRequest(f"line {number}: {exc.message}", param="lines") from None
    return MemoryRecord.from_item(tenant, _item_of(fields))


def _item_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    keywords, content = fields["keywords"], fields["content"]
    stored = ("session", "type", *_OPTIONAL_NAMES, *_TIMES, *_LISTS)
    return {
        "id": fields["id"],
        "text": f"{keywords}\n{content}" if keywords else content,
        "vector": fields["vector"],
        "metadata": {
            **{name: fields[name] for name in stored},
            "start": len(keywords) + 1 if keywords else 0,
            "metadata": orjson.dumps(fields["metadata"]).decode(),
        },
    }


def _check_fields(fields: Mapping[str, Any]) -> None:
    """By the rules that hold for a memory that is stored. Raises :class:`InvalidRequest`."""
    for name in _NAMES:
        check_name(fields.get(name), name)
    for name in _OPTIONAL_NAMES:
        if fields.get(name) != "":
            check_name(fields.get(name), name)
    check_content(fields.get("content"))
    _require(isinstance(fields.get("keywords"), str), "keywords", "a text")
    for name in _TIMES:
        _require(_is_time(fields.get(name)), name, "a time in Unix seconds")
    for name in _LISTS:
        _require(_are_texts(fields.get(name)), name, "a list of texts")
    _require(len(fields["keys"]) == len(fields["uses"]), "uses", "as long as 'keys'")
    _require(isinstance(fields.get("metadata"), dict), "metadata", "an object")
    check_metadata(fields["metadata"])
    _require("vector" in fields, "vector", "a list of numbers or null")
    check_vector(fields["vector"])


def _require(is_right: bool, name: str, expected: str) -> None:
    if not is_right:
        raise InvalidRequest(f"'{name}' must be {expected}", param=name)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
