"""Attributes of files as metadata of their chunks, and OpenAI's filters as ours.

An attribute is metadata of the same name, so ``{"lang": "en"}`` filters at ``/collections`` too. The ingest writes
some names itself (``source``, ``title`` …): an attribute of such a name is kept as ``attribute:source``, and a filter
on it means that in chunks of files, and the metadata itself in documents that came otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.ingest.document import OWN_FIELDS

FILE_ID = "file_id"
"""The metadata by which the chunks of files are known."""
_TAKEN = frozenset({*OWN_FIELDS, FILE_ID})
_PREFIX = "attribute:"
_DIGEST = "digest"
_COMPARISONS = frozenset({"eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"})
_DEPTH = 6
_MOST_SHOWN = 16


def metadata_of(file_id: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What every chunk of a file has."""
    return {**{_kept_as(name): value for name, value in attributes.items()}, FILE_ID: file_id}


def changed_metadata(metadata: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a chunk whose file had the attributes ``old`` and has ``new``. The digest of its bytes and old
    attributes is gone, so that a file that comes again with those is not taken for the same."""
    gone = {_kept_as(name) for name in old}
    kept = {name: value for name, value in metadata.items() if name not in gone}
    kept |= {_DIGEST: ""} if _DIGEST in kept else {}
    return kept | {_kept_as(name): value for name, value in new.items()}


def shown_attributes(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a document that came without a file: its metadata that are plain values, 16 at most."""
    plain = {
        name.removeprefix(_PREFIX): value
        for name, value in metadata.items()
        if name not in _TAKEN and isinstance(value, str | int | float | bool)
    }
    return dict(list(plain.items())[:_MOST_SHOWN])


def our_filter(filters: Any, place: str = "filters", depth: int = 0) -> dict[str, Any]:
    """OpenAI's filter in our language. Raises :class:`InvalidRequest` that names the place at fault."""
    if not isinstance(filters, Mapping) or not isinstance(filters.get("type"), str):
        raise _fault(place, 'must be {"type": "eq", "key": …, "value": …} or {"type": "and", "filters": […]}')
    kind = filters["type"]
    if kind in ("and", "or"):
        _only(filters, ("type", "filters"), place)
        inner = filters.get("filters")
        if not isinstance(inner, list) or not inner:
            raise _fault(f"{place}.filters", "must be a list of filters, one or more")
        if depth >= _DEPTH:
            raise _fault(place, f"goes too deep: {_DEPTH} levels at most")
        below = [our_filter(each, f"{place}.filters[{index}]", depth + 1) for index, each in enumerate(inner)]
        return {f"${kind}": below}
    if kind not in _COMPARISONS:
        raise _fault(f"{place}.type", f"is one of {', '.join(sorted(_COMPARISONS))}, and, or")
    _only(filters, ("type", "key", "value"), place)
    key = filters.get("key")
    if not isinstance(key, str) or not key or key.startswith("$"):
        raise _fault(f"{place}.key", "must be the name of an attribute")
    return _comparison(key, {f"${kind}": _operand(filters.get("value"), kind, f"{place}.value")})


def _comparison(key: str, condition: dict[str, Any]) -> dict[str, Any]:
    if _kept_as(key) == key:
        return {key: condition}
    of_files = {"$and": [{FILE_ID: {"$exists": True}}, {_kept_as(key): condition}]}
    return {"$or": [of_files, {"$and": [{FILE_ID: {"$exists": False}}, {key: condition}]}]}


def _operand(value: Any, kind: str, place: str) -> Any:
    is_list = kind in ("in", "nin")
    if is_list != isinstance(value, list):
        raise _fault(place, "must be a list of values" if is_list else "must be one value")
    for each in value if is_list else [value]:
        if not isinstance(each, str | int | float | bool):
            raise _fault(place, "must be a text, a number or a truth value")
    if kind in ("gt", "gte", "lt", "lte") and isinstance(value, bool):
        raise _fault(place, "must be a number or a text")
    return value


def _kept_as(name: str) -> str:
    return f"{_PREFIX}{name}" if name in _TAKEN or name.startswith(_PREFIX) else name


def _only(filters: Mapping[str, Any], names: tuple[str, ...], place: str) -> None:
    if unknown := sorted(str(name) for name in filters if name not in names):
        raise _fault(f"{place}.{unknown[0][:64]}", f"is unknown; there are {', '.join(names)}")


def _fault(place: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"'{place}' {message}", param=place)
