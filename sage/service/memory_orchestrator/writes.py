"""What changes memories: each change is one write of the collection, so that it happens whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from sage.errors import Conflict, InvalidRequest, NotFound
from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.inputs import MemoryInput, Stored, says
from sage.service.memory_orchestrator.locks import Locks
from sage.service.memory_orchestrator.recently_recalled import RecentlyRecalled
from sage.service.memory_orchestrator.records import (
    NEVER,
    MemoryRecord,
    MemoryScope,
    id_of,
    importance_of,
    use_of,
)
from sage.service.memory_orchestrator.sessions import SessionCache
from sage.service.memory_orchestrator.vectors import Vectors

_ASKED = 500
"""Ids in one question to the shelf."""


class MemoryWriter:
    """Writers of one session go one after another; ids come from what is said, so that processes that store the same
    text at once meet in one memory."""

    def __init__(
        self,
        shelf: MemoryCollection,
        sessions: SessionCache,
        vectors: Vectors,
        recalled: RecentlyRecalled,
        clock: Callable[[], float],
        most: int | None = None,
        evict: str = "oldest",
    ) -> None:
        """``most``: memories of a scope; ``evict``: which go beyond it, the ``oldest`` or the least ``important``."""
        self._most = most
        self._evict = evict
        self._shelf = shelf
        self._sessions = sessions
        self._vectors = vectors
        self._recalled = recalled
        self._clock = clock
        self._locks = Locks()
        self._time = threading.Lock()
        self._last = 0.0
        self.to_purge: set[str] = set()
        """Tenants whose files may still hold what was deleted."""

    def now(self) -> float:
        """Never before what was stored last, though the clock be set back."""
        return max(self._clock(), self._last)

    def _next(self) -> float:
        """A time after every one before."""
        with self._time:
            self._last = max(self._clock(), self._last + 1e-6)
            return self._last

    # Storing

    def store(self, said: MemoryInput) -> Stored:
        """What says the same already, or a new memory."""
        own = said.vector is not None
        if not own and self._known(said, self.now())[1] is None:
            said = replace(said, vector=self._vectors.of(said.content))  # slow: before anything is locked
        names = (f"s:{said.session}", f"k:{said.key}") if said.key else (f"s:{said.session}",)
        with self._locks.storing(said.scope.key(), *names):
            now = self._next()
            id, known = self._known(said, now)
            if known is not None:
                return Stored(self._with_key(known, said), False)
            stored = Stored(self._put(self._sessions.in_context(_new(said, now, id)), (), own), True)
        self._make_room(said.scope, stored.record.id)
        return stored

    def correct(self, said: MemoryInput, old: str) -> Stored:
        """As :meth:`store`; the memory of the id ``old`` is superseded by it. Raises :class:`Conflict` when it was
        superseded before."""
        own = said.vector is not None
        if not own:
            said = replace(said, vector=self._vectors.of(said.content))
        with self._locks.alone(said.scope.key()):
            now = self._next()
            if said.key and (known := self._by_key(said, now)) is not None:
                return Stored(known, False)
            before = self._current(said.scope, old)
            if says(before, said):
                return Stored(before, False)
            stored = self._corrected(said, before, now, own)
        self._make_room(said.scope, stored.record.id)
        return stored

    def _corrected(self, said: MemoryInput, old: MemoryRecord, now: float, own: bool) -> Stored:
        id, living = self._place(said.scope, said.session, said.type, said.content, now, besides=old.id)
        if living is not None:
            self._shelf.put(said.scope.tenant, self._ending([old], now, living.id))
            self._sessions.forget(said.scope, [old.session])
            return Stored(living, False)
        self._sessions.forget(said.scope, [old.session, said.session])
        record = replace(_new(said, now, id), supersedes=old.id)
        turns = [turn for turn in self._sessions.turns(said.scope, said.session, now) if turn.id != old.id]
        record = self._sessions.in_context_of(record, turns)
        return Stored(self._put(record, self._ending([old], now, record.id), own), True)

    def _ending(self, old: Sequence[MemoryRecord], now: float, by: str) -> list[MemoryRecord]:
        """``old`` superseded, with what was derived from them, and the turns after them without their words."""
        ids = [record.id for record in old]
        scope = old[0].scope
        derived = [record.ended(now, "") for record in self._derived(scope, ids, vectors=True) if record.lives(now)]
        return [*(record.ended(now, by) for record in old), *derived, *self._sessions.without(scope, ids)]

    def _put(self, record: MemoryRecord, others: Sequence[MemoryRecord], own: bool) -> MemoryRecord:
        """``own``: its vector is the caller's; else it goes without where those that are there are of another kind."""
        try:
            self._shelf.put(record.scope.tenant, [record, *others])
        except InvalidRequest as exc:
            if exc.code != "wrong_dimension" or own:
                raise
            record = replace(record, vector=None)
            self._shelf.put(record.scope.tenant, [record, *others])
        if others:
            self._sessions.forget(record.scope, [one.session for one in (record, *others)])
        elif not record.sources:
            self._sessions.said(record)
        return record

    def _known(self, said: MemoryInput, now: float) -> tuple[str, MemoryRecord | None]:
        """What says it already, under its idempotency key, in its session, or recalled lately; and the id that a new
        memory would have."""
        if said.key and (known := self._by_key(said, now)) is not None:
            return known.id, known
        id, living = self._place(said.scope, said.session, said.type, said.content, now)
        if living is None and (again := self._recalled.find(said.scope, said.content)) is not None:
            found = self._shelf.find(said.scope.tenant, again)
            if found is not None and found.lives(now) and said.type in (found.type, "conversation"):
                living = found
        return id, living

    def _by_key(self, said: MemoryInput, now: float) -> MemoryRecord | None:
        where = {**said.scope.filter(), "keys": said.key, "expires": {"$gt": now}}
        found = next(iter(self._shelf.all(said.scope.tenant, where)), None)
        if found is None:
            return None
        if found.uses[found.keys.index(said.key)] != use_of(said.session, said.content):
            raise Conflict(
                f"the idempotency key '{said.key}' was used for another memory ('{found.id}'); take a new one",
                param="idempotency_key",
                code="idempotency_key_reused",
            )
        return found

    def _with_key(self, record: MemoryRecord, said: MemoryInput) -> MemoryRecord:
        """The key is kept, too."""
        if not said.key or said.key in record.keys:
            return record
        whole = self._whole(record)
        uses = (*whole.uses, use_of(said.session, said.content))
        self._shelf.put(record.scope.tenant, [replace(whole, keys=(*whole.keys, said.key), uses=uses)])
        return record

    def _place(
        self, scope: MemoryScope, session: str, kind: str, content: str, now: float, besides: str = ""
    ) -> tuple[str, MemoryRecord | None]:
        """The id of a memory that says this, and that memory where it lives; ``besides``: another one than that."""
        for generation in count():
            id = id_of(scope, session, kind, content, generation)
            if id == besides:
                continue
            found = self._shelf.find(scope.tenant, id)
            if found is None or found.expires <= now:
                return id, None
            if found.superseded > now:
                return id, found
        raise AssertionError("unreachable")

    # Reading

    def get(self, scope: MemoryScope, id: Any, *, vector: bool = False) -> MemoryRecord:
        """Raises :class:`NotFound`, also for one of another scope, and for one that has expired."""
        found = self._shelf.find(scope.tenant, id, vector=vector) if isinstance(id, str) and id else None
        if found is None or found.scope.key() != scope.key() or found.expires <= self.now():
            raise NotFound(f"there is no memory '{id}' in this scope", param="id", code="memory_not_found")
        return found

    def _current(self, scope: MemoryScope, id: str) -> MemoryRecord:
        old = self.get(scope, id, vector=True)
        if old.superseded < NEVER:
            by = f"by '{old.superseded_by}'; correct that one" if old.superseded_by else "when it was deleted"
            raise Conflict(f"the memory '{id}' was superseded already, {by}", param="supersedes", code="superseded")
        return old

    def session(self, scope: MemoryScope, session: str) -> list[MemoryRecord]:
        """All that live in it, in order."""
        where = {**scope.filter(), "session": session, "superseded": {"$gte": NEVER}}
        now = self.now()
        found = [record for record in self._shelf.all(scope.tenant, where) if record.lives(now)]
        return sorted(found, key=lambda record: record.created)

    def history(self, scope: MemoryScope, id: str) -> list[MemoryRecord]:
        """What it corrects and what corrects it, oldest first."""
        first = record = self.get(scope, id)
        seen, chain = {first.id}, [first]
        while (older := self._linked(scope, record.supersedes, seen)) is not None:
            chain.insert(0, record := older)
        record = first
        while (newer := self._linked(scope, record.superseded_by, seen)) is not None:
            chain.append(record := newer)
        return chain

    def _linked(self, scope: MemoryScope, id: str, seen: set[str]) -> MemoryRecord | None:
        """``None`` also for one that was met: imported lines may go in a circle."""
        if not id or id in seen:
            return None
        seen.add(id)
        found = self._shelf.find(scope.tenant, id)
        return found if found is not None and found.scope.key() == scope.key() else None

    def _derived(self, scope: MemoryScope, ids: Sequence[str], *, vectors: bool = False) -> list[MemoryRecord]:
        found: dict[str, MemoryRecord] = {}
        for start in range(0, len(ids), _ASKED):
            where = {**scope.filter(), "sources": {"$in": list(ids[start : start + _ASKED])}}
            found.update({record.id: record for record in self._shelf.all(scope.tenant, where, vectors=vectors)})
        return list(found.values())

    # Taking back

    def restore(self, scope: MemoryScope, id: str) -> str:
        """Says again what the memory ``id`` said: the id of the one that does."""
        with self._locks.alone(scope.key()):
            now, old = self._next(), self.get(scope, id, vector=True)
            if old.superseded >= NEVER:
                return id
            last = self._whole(self.history(scope, id)[-1])
            new_id, living = self._place(scope, old.session, old.type, old.content, now)
            if living is not None:
                if last.lives(now) and last.id != living.id:
                    self._shelf.put(scope.tenant, self._ending([last], now, living.id))
                return living.id
            said = MemoryInput(scope, old.session, old.content, old.type, old.metadata, old.vector, expires=old.expires)
            record = replace(_new(said, now, new_id), supersedes=last.id)
            ended = (
                self._ending([last], now, record.id) if last.lives(now) else [last.ended(last.superseded, record.id)]
            )
            self._sessions.forget(scope, [old.session])
            turns = [turn for turn in self._sessions.turns(scope, old.session, now) if turn.id != last.id]
            return self._put(self._sessions.in_context_of(record, turns), ended, own=False).id

    def _whole(self, record: MemoryRecord) -> MemoryRecord:
        return self._shelf.find(record.scope.tenant, record.id, vector=True) or record

    def delete(self, scope: MemoryScope, id: str, *, hard: bool) -> bool:
        """Whether it was there (softly: whether it lived)."""
        with self._locks.alone(scope.key()):
            now = self._next()
            try:
                old = self.get(scope, id, vector=True)
            except NotFound:
                return False
            if hard:
                self._forget(scope, self.history(scope, id))
            elif old.superseded < NEVER:
                return False
            else:
                self._shelf.put(scope.tenant, self._ending([old], now, ""))
                self._sessions.forget(scope, [old.session])
        if hard:
            self.purge(scope.tenant)
        return True

    def clear(self, scope: MemoryScope, session: str) -> int:
        """How many memories were stored there, with those that were superseded."""
        with self._locks.alone(scope.key()):
            records = list(self._shelf.all(scope.tenant, {**scope.filter(), "session": session}))
            self._forget(scope, records)
        if records:
            self.purge(scope.tenant)
        return sum(not record.sources for record in records)

    def _forget(self, scope: MemoryScope, records: Sequence[MemoryRecord]) -> None:
        """For good, with what was derived from them and where their words stand in others. The caller is alone."""
        if not records:
            return
        ids = [record.id for record in records]
        derived = [record for record in self._derived(scope, ids) if record.id not in ids]
        ids += [record.id for record in derived]
        changed = self._sessions.without(scope, ids)
        if changed:
            self._shelf.put(scope.tenant, changed)
        self.to_purge.add(scope.tenant)
        self._shelf.delete(scope.tenant, ids)
        self._sessions.forget(scope, sorted({record.session for record in (*records, *derived, *changed)}))
        self._recalled.forget(scope, [record.content for record in (*records, *derived)])

    def purge(self, tenant: str) -> None:
        """Raises what the engine raises while others still read what was deleted; the next sweep tries again."""
        self._shelf.purge(tenant)
        self.to_purge.discard(tenant)

    def expire(self, tenant: str) -> int:
        """Forgets for good what has expired; how many they were."""
        gone = list(self._shelf.all(tenant, {"expires": {"$lte": self._clock()}}))
        for scope in {record.scope for record in gone}:
            with self._locks.alone(scope.key()):
                still = [found for one in gone if one.scope == scope and (found := self._expired(one)) is not None]
                self._forget(scope, still)
        if tenant in self.to_purge:
            self.purge(tenant)
        return len(gone)

    def _expired(self, record: MemoryRecord) -> MemoryRecord | None:
        """The same as it is now: it may have been stored anew."""
        found = self._shelf.find(record.scope.tenant, record.id)
        return found if found is not None and found.expires <= self._clock() else None

    def _make_room(self, scope: MemoryScope, new: str = "") -> None:
        """Forgets what the scope has beyond its bound, and a fiftieth more, so that the next stores need not look: what
        was superseded first, then the oldest or least important."""
        most = self._most
        if most is None or self._shelf.count(scope.tenant, scope.filter()) <= most:
            return
        with self._locks.alone(scope.key()):
            over = self._shelf.count(scope.tenant, scope.filter()) - most
            if over <= 0:
                return
            others = [record for record in self._shelf.all(scope.tenant, scope.filter()) if record.id != new]
            others.sort(key=lambda record: record.created)
            others.sort(key=lambda record: (record.superseded >= NEVER, _worth(record, self._evict)))
            self._forget(scope, others[: over + most // 50])

    def derive(self, scope: MemoryScope, session: str, kind: str, content: str, sources: Sequence[str]) -> str | None:
        """Stores what a model made of ``sources``; ``None``: one of them is gone meanwhile. It ends with the first."""
        vector = self._vectors.of(content)
        with self._locks.alone(scope.key()):
            now = self._next()
            found = [self._shelf.find(scope.tenant, source) for source in sources]
            living = [source for source in found if source is not None and source.lives(now)]
            if len(living) < len(sources):
                return None
            id, same = self._place(scope, session, kind, content, now)
            if same is None:
                ends = min(source.expires for source in living)
                said = MemoryInput(scope, session, content, kind, None, vector, expires=ends)
                self._put(replace(_new(said, now, id), sources=tuple(sources)), (), own=False)
        self._make_room(scope, id)
        return id

    def turns(self, scope: MemoryScope, session: str) -> list[MemoryRecord]:
        return self._sessions.turns(scope, session, self.now())

    def take(self, tenant: str, records: Sequence[MemoryRecord]) -> int:
        if records:
            self._shelf.put(tenant, records)
        for record in records:
            self._sessions.forget(record.scope, [record.session])
        for scope in {record.scope for record in records}:
            self._make_room(scope)
        return len(records)

    def after(self, scope: MemoryScope, session: str, id: str) -> float:
        """When the memory ``id`` was stored there, though it be superseded. Raises :class:`NotFound`."""
        record = self._shelf.find(scope.tenant, id)
        if record is None or record.scope.key() != scope.key() or record.session != session:
            raise NotFound(f"there is no memory '{id}' in the session", param="cursor", code="memory_not_found")
        return record.created


def _worth(record: MemoryRecord, evict: str) -> float:
    return importance_of(record) if evict == "important" else 0.0


def _new(said: MemoryInput, now: float, id: str) -> MemoryRecord:
    ends = said.expires if said.expires is not None else NEVER if said.ttl is None else now + said.ttl
    return MemoryRecord(
        id, said.scope, said.session, said.content, said.type, said.metadata or {}, now, ends,
        keys=(said.key,) if said.key else (), uses=(use_of(said.session, said.content),) if said.key else (),
        vector=said.vector,
    )  # fmt: skip
