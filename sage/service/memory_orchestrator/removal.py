"""Removing memories for good: on request, when they have expired, and when a scope has too many."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

from sage.errors import NotFound
from sage.service.memory_orchestrator.clock import WriteClock
from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.index.session_index import SessionIndex
from sage.service.memory_orchestrator.locks import ScopeLocks
from sage.service.memory_orchestrator.reader import MemoryReader
from sage.service.memory_orchestrator.recently_recalled import RecentlyRecalled
from sage.service.memory_orchestrator.records import NEVER, MemoryRecord, MemoryScope, importance_of
from sage.service.memory_orchestrator.sessions import SessionCache

_SPARE = 50
"""A scope with too many memories loses one fiftieth of its bound more, so that the next stores need not make room."""


class MemoryRemover:
    """``max_size`` bounds the memories of a scope; ``evict`` says which go beyond it: the ``oldest`` or the least
    ``important``."""

    def __init__(
        self,
        collection: MemoryCollection,
        reader: MemoryReader,
        sessions: SessionCache,
        index: SessionIndex,
        recalled: RecentlyRecalled,
        clock: WriteClock,
        locks: ScopeLocks,
        max_size: int | None,
        evict: str,
    ) -> None:
        self._collection = collection
        self._reader = reader
        self._sessions = sessions
        self._index = index
        self._recalled = recalled
        self._clock = clock
        self._locks = locks
        self._max_size = max_size
        self._evict = evict
        self._to_purge: dict[str, int] = {}
        """Tenants whose files may still hold bytes of removed memories; the number changes with each removal."""
        self._marks = itertools.count()
        self._marking = threading.Lock()

    def delete(self, scope: MemoryScope, id: str) -> bool:
        """Removes a memory with all that it corrects and that corrects it. ``False`` means that it was not there."""
        with self._locks.exclusive(scope.key()):
            try:
                history = self._reader.history(scope, id)
            except NotFound:
                return False
            self._remove(scope, history)
        self._purge(scope.tenant)
        return True

    def clear(self, scope: MemoryScope, session: str) -> int:
        """Removes a session. The number of memories that were stored in it, superseded ones included."""
        with self._locks.exclusive(scope.key()):
            records = list(self._collection.all(scope.tenant, {**scope.filter(), "session": session}))
            self._remove(scope, records)
        if records:
            self._purge(scope.tenant)
        return sum(not record.sources for record in records)

    def expire(self, tenant: str) -> int:
        """Removes what has expired, and erases what an earlier purge could not. The number of expired memories."""
        expired = list(self._collection.all(tenant, {"expires": {"$lte": self._clock.system()}}))
        for scope in {record.scope for record in expired}:
            with self._locks.exclusive(scope.key()):
                self._remove(scope, self._still_expired([record for record in expired if record.scope == scope]))
        if tenant in self._to_purge:
            self._purge(tenant)
        return len(expired)

    def _still_expired(self, records: Sequence[MemoryRecord]) -> list[MemoryRecord]:
        """Read again under the lock: a memory may have been stored anew since."""
        latest = [self._collection.get(record.scope.tenant, record.id) for record in records]
        return [record for record in latest if record is not None and record.expires <= self._clock.system()]

    def make_room(self, scope: MemoryScope, new_id: str = "") -> None:
        """Removes the memories beyond the scope's bound: superseded ones first, then the oldest or least important.
        The memory ``new_id`` stays. The caller holds no lock."""
        if self._max_size is None or self._collection.count(scope.tenant, scope.filter()) <= self._max_size:
            return
        with self._locks.exclusive(scope.key()):
            excess = self._collection.count(scope.tenant, scope.filter()) - self._max_size
            if excess <= 0:
                return
            records = self._collection.all(scope.tenant, scope.filter())
            candidates = sorted((record for record in records if record.id != new_id), key=self._eviction_order)
            self._remove(scope, candidates[: excess + self._max_size // _SPARE])

    def _eviction_order(self, record: MemoryRecord) -> tuple[bool, float, float]:
        importance = importance_of(record) if self._evict == "important" else 0.0
        return record.superseded >= NEVER, importance, record.created

    def _remove(self, scope: MemoryScope, records: Sequence[MemoryRecord]) -> None:
        """With what was derived from them, and their words in the context of other turns. The caller holds the scope's
        exclusive lock."""
        if not records:
            return
        ids = [record.id for record in records]
        derived = [record for record in self._collection.referring(scope, "sources", ids) if record.id not in ids]
        ids += [record.id for record in derived]
        rewritten = self._sessions.rewritten_without(scope, ids)
        if rewritten:
            self._collection.put(scope.tenant, rewritten)
        self._mark(scope.tenant)
        self._collection.delete(scope.tenant, ids)
        self._mark(scope.tenant)
        self._sessions.invalidate(scope, sorted({record.session for record in (*records, *derived, *rewritten)}))
        self._index.forget(scope, sorted({record.session for record in (*records, *derived)}))
        self._recalled.remove(scope, [record.content for record in (*records, *derived)])

    def _purge(self, tenant: str) -> None:
        """Raises what the engine raises while others still read removed memories; the next round of expiry tries
        again. So it does after a removal that went on beside this purge."""
        mark = self._to_purge.get(tenant)
        try:
            self._collection.purge(tenant)
        except BaseException:
            self._mark(tenant)  # another purge, which began before, may end now
            raise
        with self._marking:
            if self._to_purge.get(tenant) == mark:
                self._to_purge.pop(tenant, None)

    def _mark(self, tenant: str) -> None:
        with self._marking:
            self._to_purge[tenant] = next(self._marks)
