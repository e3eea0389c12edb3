"""Reading single memories, sessions and the history of corrections. Takes no locks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage.errors import Conflict, NotFound
from sage.service.memory_orchestrator.clock import WriteClock
from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.index.session_index import SessionIndex
from sage.service.memory_orchestrator.query import Period
from sage.service.memory_orchestrator.records import NEVER, MemoryRecord, MemoryScope


class MemoryReader:
    def __init__(self, collection: MemoryCollection, index: SessionIndex, clock: WriteClock) -> None:
        self._collection = collection
        self._index = index
        self._clock = clock

    def get(self, scope: MemoryScope, id: Any, *, vector: bool = False) -> MemoryRecord:
        """Also a superseded memory. Raises :class:`NotFound`, also for one of another scope or one that has expired."""
        record = self._collection.get(scope.tenant, id, vector=vector) if isinstance(id, str) and id else None
        if record is None or record.scope.key() != scope.key() or record.expires <= self._clock.now():
            raise NotFound(f"there is no memory '{id}' in this scope", param="id", code="memory_not_found")
        return record

    def correctable(self, scope: MemoryScope, id: str) -> MemoryRecord:
        """With its vector. Raises :class:`NotFound`, and :class:`Conflict` for a superseded memory."""
        record = self.get(scope, id, vector=True)
        if record.superseded < NEVER:
            by = f"by '{record.superseded_by}'; correct that one" if record.superseded_by else "when it was deleted"
            raise Conflict(f"the memory '{id}' was superseded already, {by}", param="supersedes", code="superseded")
        return record

    def with_vector(self, record: MemoryRecord) -> MemoryRecord:
        return self._collection.get(record.scope.tenant, record.id, vector=True) or record

    def session(self, scope: MemoryScope, session: str) -> list[MemoryRecord]:
        """Its current memories, in the order in which they were stored."""
        return self._collection.session(scope, session, self._clock.now())

    def session_page(
        self,
        scope: MemoryScope,
        session: str,
        limit: int,
        type: str | None,
        after: float | None,
        period: Period,
    ) -> list[MemoryRecord]:
        """See :meth:`MemoryCollection.session_page`."""
        now = self._clock.now()
        turns = None if self._collection.is_ordered else self._index.turns(scope, session, now)
        if turns is not None:
            ids = [turn[0] for turn in turns if turn[2] in period and _belongs(turn, type, after)][:limit]
            records = self._collection.find(scope.tenant, ids) if ids else {}
            page = [records[id] for id in ids if id in records and records[id].is_current(now)]
            if len(page) == len(ids):  # else some were removed or corrected just now
                return page
        return self._collection.session_page(scope, session, now, limit, type=type, after=after, period=period)

    def session_summaries(self, scope: MemoryScope, limit: int, after: str | None) -> list[dict[str, Any]]:
        """``{session_id, memories, first_at, last_at}`` by name; with ``after``, those whose names follow it."""
        return [
            {"session_id": name, "memories": count, "first_at": first, "last_at": last}
            for name, (count, first, last) in self._index.page(scope, self._clock.now(), after, limit)
        ]

    def session_summary(self, scope: MemoryScope, session: str) -> dict[str, Any] | None:
        """``{session_id, memories, first_at, last_at, types}``; ``None`` means that there is no such session."""
        types = self._types(scope, session)
        if not types:
            return None
        return {
            "session_id": session,
            "memories": sum(count for count, _, _ in types.values()),
            "first_at": min(first for _, first, _ in types.values()),
            "last_at": max(last for _, _, last in types.values()),
            "types": {type: count for type, (count, _, _) in sorted(types.items())},
        }

    def _types(self, scope: MemoryScope, session: str) -> dict[str, tuple[int, float, float]]:
        """Its current memories by type: how many there are, and when the first and the last were stored."""
        now = self._clock.now()
        turns = None if self._collection.is_ordered else self._index.turns(scope, session, now)
        if turns is None:
            return self._collection.times_by(scope, now, "type", session)
        types: dict[str, tuple[int, float, float]] = {}
        for _, type, created, _ in turns:
            count, first, _ = types.get(type, (0, created, created))
            types[type] = (count + 1, first, created)
        return types

    def time_stored(self, scope: MemoryScope, session: str, id: str) -> float:
        """When the memory ``id`` of this session was stored, also if it was superseded. Raises :class:`NotFound`."""
        record = self._collection.get(scope.tenant, id)
        if record is None or record.scope.key() != scope.key() or record.session != session:
            raise NotFound(f"there is no memory '{id}' in the session", param="cursor", code="memory_not_found")
        return record.created

    def history(self, scope: MemoryScope, id: str) -> list[MemoryRecord]:
        """The memory, those that it corrects and those that correct it, oldest first."""
        start = record = self.get(scope, id)
        visited, chain = {start.id}, [start]
        while (older := self._linked(scope, record.supersedes, visited)) is not None:
            chain.insert(0, older)
            record = older
        record = start
        while (newer := self._linked(scope, record.superseded_by, visited)) is not None:
            chain.append(newer)
            record = newer
        return chain

    def _linked(self, scope: MemoryScope, id: str, visited: set[str]) -> MemoryRecord | None:
        """``None`` also for a memory that was visited: the links of imported memories may form a circle."""
        if not id or id in visited:
            return None
        visited.add(id)
        record = self._collection.get(scope.tenant, id)
        return record if record is not None and record.scope.key() == scope.key() else None


def _belongs(turn: Sequence[Any], type: str | None, after: float | None) -> bool:
    """Whether a turn belongs to a page: of one type, or of all turns that were not derived from others."""
    _, own_type, created, derived = turn
    return (own_type == type if type is not None else not derived) and (after is None or created > after)
