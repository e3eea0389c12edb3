"""A search of memories: what callers may ask for, its checks, and the filter that it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sage.errors import InvalidRequest
from sage.middleware.retrieval.filters.language import parse_filter
from sage.service.memory_orchestrator.checks import check_name, check_vector
from sage.service.memory_orchestrator.records import NEVER, MemoryScope

MAX_LIMIT = 1000


@dataclass(frozen=True)
class MemoryQuery:
    """``text``, ``vector`` or both say what to look for. ``as_of`` is in Unix seconds; ``None`` means now. ``recency``,
    ``importance`` and ``diversity`` are weights from 0 (off) to 1. ``rerank`` names a model."""

    scope: MemoryScope
    text: str | None = None
    vector: Sequence[float] | None = None
    session: str | None = None
    type: str | None = None
    limit: int = 10
    threshold: float | None = None
    filter: Mapping[str, Any] | None = None
    as_of: float | None = None
    explain: bool = False
    recency: float = 0.0
    importance: float = 0.0
    diversity: float = 0.0
    rerank: str | None = None
    decompose: bool = False

    def check(self) -> None:
        """Raises :class:`InvalidRequest` that names the field at fault, by the name that callers use."""
        self._check_target()
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or not 1 <= self.limit <= MAX_LIMIT:
            raise InvalidRequest(f"'limit' must be a whole number, 1 to {MAX_LIMIT}", param="limit")
        for name in ("recency", "importance", "diversity"):
            _check_number(getattr(self, name), name, 0, 1)
        for name, number in (("score_threshold", self.threshold), ("as_of", self.as_of)):
            if number is not None:
                _check_number(number, name, -1e18, 1e18)
        for name, value in (("session_id", self.session), ("memory_type", self.type)):
            if value is not None:
                check_name(value, name)
        check_vector(self.vector)
        if self.rerank is not None and (not isinstance(self.rerank, str) or self.text is None):
            raise InvalidRequest("'rerank' names a model and needs a 'query'", param="rerank")
        if not isinstance(self.decompose, bool) or (self.decompose and self.text is None):
            raise InvalidRequest("'decompose' is true or false, and needs a 'query'", param="decompose")
        check_filter(self.filter)

    def _check_target(self) -> None:
        if self.text is None and self.vector is None:
            raise InvalidRequest("give 'query', 'vector' or both to search for", param="query")
        if self.text is not None and (not isinstance(self.text, str) or not self.text.strip()):
            raise InvalidRequest("'query' must be a text that says what to look for", param="query")

    @property
    def is_reordered(self) -> bool:
        """Whether the order of the engine's results is changed afterwards, so that more candidates are needed."""
        return bool(self.recency or self.importance or self.diversity or self.rerank)

    def where(self, now: float) -> dict[str, Any]:
        """The filter that a memory must pass before the best are chosen."""
        conditions: dict[str, Any] = {**self.scope.filter(), "expires": {"$gt": now}}
        if self.as_of is None:
            conditions["superseded"] = {"$gte": NEVER}
        else:
            conditions["created"] = {"$lte": self.as_of}
            conditions["superseded"] = {"$gt": self.as_of}
        if self.session is not None:
            conditions["session"] = self.session
        if self.type is not None:
            conditions["type"] = self.type
        return {"$and": [conditions, _on_metadata(self.filter)]} if self.filter else conditions


class Period(NamedTuple):
    """From ``start`` to ``end``, in Unix seconds, both included; ``None`` means without that bound."""

    start: float | None = None
    end: float | None = None

    @classmethod
    def of(cls, start: Any, end: Any) -> Period:
        """Raises :class:`InvalidRequest`."""
        for name, value in (("start_time", start), ("end_time", end)):
            if value is not None:
                _check_number(value, name, -1e18, 1e18)
        return cls(start, end)

    def __contains__(self, time: object) -> bool:
        assert isinstance(time, int | float)
        return (self.start is None or time >= self.start) and (self.end is None or time <= self.end)

    def filter(self) -> dict[str, float]:
        bounds = {"$gte": self.start, "$lte": self.end}
        return {name: value for name, value in bounds.items() if value is not None}


def _check_number(value: Any, param: str, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidRequest(f"'{param}' must be a number, {least:g} to {most:g}", param=param)


def check_filter(filter: Any) -> None:
    """Raises :class:`InvalidRequest` that names what is wrong with a filter over metadata."""
    if filter is not None and not isinstance(filter, Mapping):
        raise InvalidRequest("'filter' must be an object", param="filter")
    parse_filter(filter, "filter")  # first: it bounds the nesting
    _check_fields(filter)


def _check_fields(condition: Any) -> None:
    if isinstance(condition, Mapping):
        for name, value in condition.items():
            if not isinstance(name, str) or not name:
                raise InvalidRequest(f"'filter' has the field {name!r}; a field's name must be a text", param="filter")
            if name == "$exists" or value is None or (isinstance(value, list | tuple) and None in value):
                raise InvalidRequest(
                    "'filter' uses null or '$exists'; memories can be filtered only by values that they have",
                    param="filter",
                    code="unsupported_filter",
                )
            _check_fields(value)
    elif isinstance(condition, list | tuple):
        for one in condition:
            _check_fields(one)


def _on_metadata(condition: Any) -> Any:
    """The caller's filter, on the fields under which the caller's metadata is stored (``meta.…``)."""
    if isinstance(condition, Mapping):
        return {
            name if name.startswith("$") else f"meta.{name}": _on_metadata(value) if name.startswith("$") else value
            for name, value in condition.items()
        }
    return [_on_metadata(one) for one in condition] if isinstance(condition, list | tuple) else condition
