"""What changes memories: each change is one write of the collection, so that it happens whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from sage.errors import Conflict, InvalidRequest, NotFound
from sage.service.memory_orchestrator.recalled import Recalled
from sage.service.memory_orchestrator.records import (
    NEVER,
    Record,
    Scope,
    check_content,
    check_metadata,
    check_name,
    check_ttl,
    fingerprint,
    id_of,
    importance_of,
)
from sage.service.memory_orchestrator.sessions import Sessions
from sage.service.memory_orchestrator.shelf import Shelf
from sage.service.memory_orchestrator.vectors import Vectors

_STRIPES = 64


@dataclass(frozen=True, slots=True)
class Stored:
    """A memory, and whether it was not there before."""

    record: Record
    new: bool


class Keeper:
    """Writers of one session go one after another; ids come from what is said, so that processes that store the same
    text at once meet in one memory."""

    def __init__(
        self,
        shelf: Shelf,
        sessions: Sessions,
        vectors: Vectors,
        recalled: Recalled,
        clock: Callable[[], float],
        max_size: int | None,
        evict: str,
    ) -> None:
        self._shelf = shelf
        self._sessions = sessions
        self._vectors = vectors
        self._recalled = recalled
        self._clock = clock
        self._max_size = max_size
        self._evict = evict
        self._stripes = [threading.RLock() for _ in range(_STRIPES)]
        self._last = 0.0
        self._time = threading.Lock()
        self.to_purge: set[str] = set()
        """Tenants whose files may still hold what was deleted."""

    @contextmanager
    def _held(self, scope: Scope, *sessions: str) -> Iterator[float]:
        """Holds ``sessions``, and gives a time that is later than every one before."""
        places = sorted({hash((*scope.key(), session)) % _STRIPES for session in sessions})
        with ExitStack() as stack:
            for place in places:
                stack.enter_context(self._stripes[place])
            with self._time:
                now = self._last = max(self._clock(), self._last + 1e-6)
            yield now

    def store(
        self,
        scope: Scope,
        session: Any,
        content: Any,
        vector: Sequence[float] | None,
        kind: Any,
        metadata: Mapping[str, Any] | None,
        ttl: Any,
        supersedes: str | None,
        key: str | None,
    ) -> Stored:
        session, kind = check_name(session, "session_id"), check_name(kind, "memory_type")
        content, told, lives = check_content(content), check_metadata(metadata), check_ttl(ttl)
        if key is not None:
            check_name(key, "idempotency_key")
        old = None if supersedes is None else self.get(scope, supersedes)
        with self._held(scope, session, *([old.session] if old is not None else ())) as now:
            if key is not None and (known := self._by_key(scope, key, session, content)) is not None:
                return Stored(known, False)
            id, same = self._place(scope, session, kind, content, now)
            if old is not None:
                old = self._current(scope, old.id, now)
                same = old if old.session == session and fingerprint(old.content) == fingerprint(content) else None
            elif same is None and (again := self._recalled.find(scope, content)) is not None:
                same = self._living(scope.tenant, again, now)
            if same is not None:
                return Stored(same, False)
            before = self._sessions.before(scope, session, now)
            record = Record(
                id, scope, session, content, kind, told, now, NEVER if lives is None else now + lives,
                supersedes="" if old is None else old.id, key=key or "", keywords=before,
            )  # fmt: skip
            return Stored(self._put_new(record, vector, old, now), True)

    def _put_new(self, record: Record, vector: Sequence[float] | None, old: Record | None, now: float) -> Record:
        others = [] if old is None else [old.ended(now, record.id)]
        given = vector is not None
        whole = replace(record, vector=vector if given else self._vectors.of(record.content))
        try:
            self._shelf.put(record.scope.tenant, [whole, *others])
        except InvalidRequest as exc:
            if exc.code != "wrong_dimension" or given:
                raise
            whole = replace(record, vector=None)  # the others have vectors of the caller's: it is found by its words
            self._shelf.put(record.scope.tenant, [whole, *others])
        if old is not None:
            self._sessions.forget(old.scope, old.session)
        self._sessions.said(whole)
        self._make_room(whole, now)
        return whole

    def _by_key(self, scope: Scope, key: str, session: str, content: str) -> Record | None:
        where = {**scope.filter(), "key": key}
        found = next(iter(self._shelf.all(scope.tenant, where)), None)
        if found is not None and (found.session != session or fingerprint(found.content) != fingerprint(content)):
            raise Conflict(
                f"the idempotency key '{key}' was used for another memory ('{found.id}'); take a new one",
                param="idempotency_key",
                code="idempotency_key_reused",
            )
        return found

    def _place(self, scope: Scope, session: str, kind: str, content: str, now: float) -> tuple[str, Record | None]:
        """The id of a memory that says this: of the one that lives, or of a new one."""
        for generation in count():
            id = id_of(scope, session, kind, content, generation)
            found = self._shelf.find(scope.tenant, id)
            if found is None or found.expires <= now:
                return id, None
            if found.superseded > now:
                return id, found
        raise AssertionError("unreachable")

    def _living(self, tenant: str, id: str, now: float) -> Record | None:
        found = self._shelf.find(tenant, id)
        return found if found is not None and found.lives(now) else None

    def _current(self, scope: Scope, id: str, now: float) -> Record:
        old = self.get(scope, id, vector=True)
        if old.superseded <= now:
            by = f"by '{old.superseded_by}'; correct that one" if old.superseded_by else "when it was deleted"
            raise Conflict(f"the memory '{id}' was superseded already, {by}", param="supersedes", code="superseded")
        return old

    def get(self, scope: Scope, id: str, *, vector: bool = False) -> Record:
        """Raises :class:`NotFound`, also for one of another scope, and for one that has expired."""
        found = self._shelf.find(scope.tenant, id, vector=vector) if isinstance(id, str) and id else None
        if found is None or found.scope.key() != scope.key() or found.expires <= self._clock():
            raise NotFound(f"there is no memory '{id}' in this scope", param="id", code="memory_not_found")
        return found

    def session(self, scope: Scope, session: str) -> list[Record]:
        """All that live in it, in order."""
        now, where = self._clock(), {**scope.filter(), "session": session}
        found = [record for record in self._shelf.all(scope.tenant, where) if record.lives(now)]
        return sorted(found, key=lambda record: record.created)

    def history(self, scope: Scope, id: str) -> list[Record]:
        first = record = self.get(scope, id)
        chain = [record]
        while record.supersedes and (older := self._shelf.find(scope.tenant, record.supersedes)) is not None:
            chain.insert(0, record := older)
        record = first
        while record.superseded_by and (newer := self._shelf.find(scope.tenant, record.superseded_by)) is not None:
            chain.append(record := newer)
        return chain

    def restore(self, scope: Scope, id: str) -> str:
        old = self.get(scope, id, vector=True)
        if old.superseded >= NEVER:
            return id
        if not old.superseded_by:
            with self._held(scope, old.session):
                self._shelf.put(scope.tenant, [replace(old, superseded=NEVER)])
                self._sessions.forget(scope, old.session)
            return id
        last = self.history(scope, id)[-1]
        head = last.id if last.superseded >= NEVER else None
        stored = self.store(scope, old.session, old.content, old.vector, old.type, old.metadata, None, head, None)
        return stored.record.id

    def delete(self, scope: Scope, id: str, *, hard: bool) -> bool:
        try:
            old = self.get(scope, id, vector=True)
        except NotFound:
            return False
        if hard:
            self._forget(scope, self.history(scope, id))
            return True
        with self._held(scope, old.session) as now:
            if old.superseded < NEVER:
                return False
            self._shelf.put(scope.tenant, [old.ended(now, "")])
            self._sessions.forget(scope, old.session)
        return True

    def clear(self, scope: Scope, session: str) -> int:
        where = {**scope.filter(), "session": session}
        records = list(self._shelf.all(scope.tenant, where))
        if records:
            self._forget(scope, records)
        return sum(not record.sources for record in records)

    def _forget(self, scope: Scope, records: Sequence[Record], *, purge: bool = True) -> None:
        """For good, with what was derived from them and what their words stand in."""
        tenant, sessions = scope.tenant, sorted({record.session for record in records})
        with self._held(scope, *sessions) as now:
            ids = [record.id for record in records]
            derived = [record for record in self._shelf.all(tenant, scope.filter()) if set(record.sources) & set(ids)]
            ids += [record.id for record in derived if record.id not in ids]
            changed = [one for session in sessions for one in self._sessions.rewritten(scope, session, ids, now)]
            if changed:
                self._shelf.put(tenant, changed)
            for session in sessions:
                self._sessions.forget(scope, session)
            self._recalled.forget(scope, [record.content for record in (*records, *derived)])
            self._shelf.delete(tenant, ids)
        self.to_purge.add(tenant)
        if purge:
            self.purge(tenant)

    def purge(self, tenant: str) -> None:
        self._shelf.purge(tenant)
        self.to_purge.discard(tenant)

    def expire(self, tenant: str) -> int:
        """Forgets for good what has expired; how many they were."""
        gone = list(self._shelf.all(tenant, {"expires": {"$lte": self._clock()}}))
        for scope in {record.scope for record in gone}:
            self._forget(scope, [record for record in gone if record.scope == scope], purge=False)
        if tenant in self.to_purge:
            self.purge(tenant)
        return len(gone)

    def _make_room(self, new: Record, now: float) -> None:
        if self._max_size is None:
            return
        live = {"superseded": {"$gt": now}, "expires": {"$gt": now}}
        over = self._shelf.count(new.scope.tenant, {**new.scope.filter(), **live}) - self._max_size
        if over <= 0:
            return
        others = [one for one in self._shelf.all(new.scope.tenant, {**new.scope.filter(), **live}) if one.id != new.id]
        others.sort(key=lambda record: record.created)
        if self._evict == "important":
            others.sort(key=lambda record: importance_of(record))
        self._forget(new.scope, others[:over], purge=False)

    def derive(self, scope: Scope, session: str, kind: str, content: str, sources: Sequence[str]) -> str | None:
        """Stores what a model made of ``sources``; ``None``: one of them is gone meanwhile."""
        with self._held(scope, session) as now:
            if any(self._living(scope.tenant, source, now) is None for source in sources):
                return None
            id, same = self._place(scope, session, kind, content, now)
            if same is not None:
                return same.id
            record = Record(id, scope, session, content, kind, {}, now, sources=tuple(sources))
            try:
                self._shelf.put(scope.tenant, [replace(record, vector=self._vectors.of(content))])
            except InvalidRequest as exc:
                if exc.code != "wrong_dimension":
                    raise
                self._shelf.put(scope.tenant, [record])
            return id

    def turns(self, scope: Scope, session: str) -> list[Record]:
        return self._sessions.turns(scope, session, self._clock())

    def take(self, tenant: str, records: Sequence[Record]) -> int:
        if records:
            self._shelf.put(tenant, records)
        for record in records:
            self._sessions.forget(record.scope, record.session)
        return len(records)
