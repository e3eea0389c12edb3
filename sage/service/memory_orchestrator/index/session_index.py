"""What is known of sessions, kept in the key-value service: how many memories they have, their times and their turns.

All of it is derived from the collection, which stays the one truth. Each entry names the revision of the collection
that it was derived from, and is used only while nothing else has happened to the collection than what this process
knows (:mod:`sage.service.memory_orchestrator.index.write_log`). So a crash between the two services, a write of another
process, or a key-value service that lost or kept too much, can cost time, but never shows wrong sessions.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sage.errors import SageError
from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.index.session_pages import KnownSessions, with_memory
from sage.service.memory_orchestrator.index.write_log import AddedMemory, CollectionRevision, Mark, WriteLog
from sage.service.memory_orchestrator.records import NEVER, MemoryScope

_TTL = 7 * 86400.0
"""Seconds that an entry is kept without being derived again."""
_FORMAT = 1
_MAX_KEPT = 20_000
"""Sessions of a scope; more are derived at each read."""
_ATTEMPTS = 2
"""How often an entry is derived while others write, before the result is used without being kept."""
_log = logging.getLogger(__name__)
Sessions = Mapping[str, Sequence[Any]]
"""``[memories, first_at, last_at]`` by session."""
Turns = Sequence[Sequence[Any]]
"""``[id, type, created, derived]`` of each current memory of a session, in the order in which they were stored."""
_WithNew = Callable[[Any, Sequence[AddedMemory]], Any]


class _State(NamedTuple):
    mark: Mark
    revision: CollectionRevision


class _Read(NamedTuple):
    """A value as it was at a revision of the collection; ``revision=None`` means that others wrote all the time."""

    value: Any
    revision: CollectionRevision | None
    until: float


@dataclass(frozen=True, slots=True)
class _Derived:
    """``until`` is when the first of the memories in ``value`` expires. ``value=None`` means too large to be kept."""

    value: Any
    until: float


class SessionIndex:
    """``kv`` is a :class:`KVService` or a proxy of one. A failure of it costs time only."""

    def __init__(self, kv: Any, collection: MemoryCollection, name: str) -> None:
        self._kv = kv
        self._collection = collection
        self._name = name
        self._writer = secrets.token_hex(8)
        self._logs: dict[str, WriteLog] = {}
        self._known = KnownSessions()
        self._rebuilt = 0
        self._error: str | None = None

    def log(self, tenant: str) -> WriteLog:
        return self._logs.get(tenant) or self._logs.setdefault(tenant, WriteLog())

    def sessions(self, scope: MemoryScope, now: float) -> Sessions:
        sessions: Sessions = self._sessions(scope, now, self._state_of(scope.tenant)).value
        return sessions

    def page(self, scope: MemoryScope, now: float, after: str | None, limit: int) -> list[tuple[str, Sequence[Any]]]:
        """The first ``limit`` sessions by name, those that follow ``after``. Once the sessions of a scope are known, a
        page costs what it holds and what was stored since the page before."""
        state = self._state_of(scope.tenant)
        if state is not None:
            known = self._known.page(scope, now, after, limit, self.log(scope.tenant), state.mark, state.revision)
            if known is not None:
                return known
        read = self._sessions(scope, now, state)
        if read.revision is not None:
            self._known.keep(scope, read.value, read.revision, now, read.until)
        names = sorted(name for name in read.value if after is None or name > after)[:limit]
        return [(name, read.value[name]) for name in names]

    def _sessions(self, scope: MemoryScope, now: float, state: _State | None) -> _Read:
        def derive() -> Sessions:
            times = self._collection.times_by(scope, now, "session")
            return {name: [*times[name]] for name in sorted(times)}

        if state is None:
            return _Read(derive(), None, NEVER)
        return self._read(
            scope, self._sessions_key(scope), now, state,
            lambda: _Derived(derive(), self._collection.first_expiry(scope, now)), _with_sessions,
        )  # fmt: skip

    def turns(self, scope: MemoryScope, session: str, now: float) -> Turns | None:
        """``None`` means that they are too many to be kept, or that the engine cannot tell whether they changed."""

        def derive() -> _Derived:
            records = self._collection.whole_session(scope, session, now)
            if records is None:
                return _Derived(None, NEVER)
            turns = [[record.id, record.type, record.created, bool(record.sources)] for record in records]
            return _Derived(turns, min((record.expires for record in records), default=NEVER))

        def with_turns(turns: Turns | None, new: Sequence[AddedMemory]) -> Turns | None:
            added = [[one.id, one.type, one.created, one.derived] for one in new if one.session == session]
            return turns if turns is None or not added else sorted([*turns, *added], key=lambda turn: float(turn[2]))

        state = self._state_of(scope.tenant)
        if state is None:
            return None
        turns: Turns | None = self._read(scope, self._turns_key(scope, session), now, state, derive, with_turns).value
        return turns

    def forget(self, scope: MemoryScope, sessions: Sequence[str]) -> None:
        """Leaves nothing of these sessions in the key-value service."""
        for key in (self._sessions_key(scope), *(self._turns_key(scope, session) for session in sessions)):
            self._kv.delete(key, tenant=scope.tenant)

    def state(self) -> dict[str, Any]:
        return {"rebuilt": self._rebuilt, "error": self._error}

    def _state_of(self, tenant: str) -> _State | None:
        """``None`` means that there is no collection, or that its engine cannot tell whether it was changed."""
        mark = self.log(tenant).mark()  # before the revision is read
        current = self._collection.revision(tenant)
        return None if current is None else _State(mark, current)

    def _read(
        self,
        scope: MemoryScope,
        key: str,
        now: float,
        state: _State,
        derive: Callable[[], _Derived],
        with_new: _WithNew,
    ) -> _Read:
        """The value of an entry: as it is kept, brought up by what this process stored since, or derived anew."""
        entry = self._kept(scope.tenant, key)
        if entry is not None and entry["at"] <= now < entry["until"]:
            revision = CollectionRevision(*entry["revision"])
            new = self.log(scope.tenant).since(
                revision, state.mark, state.revision, ours=entry["writer"] == self._writer
            )
            if new == []:
                self.log(scope.tenant).settle(*state)  # what is stored from now on can be added to it
                return _Read(entry["value"], state.revision, entry["until"])
            if new is not None:
                of_scope = [memory for memory in new if memory.owner == scope.key()]
                until = min((memory.expires for memory in of_scope), default=NEVER)
                if now < until:
                    value, until = with_new(entry["value"], of_scope), min(until, entry["until"])
                    self._keep(scope.tenant, key, value, state.revision, entry["at"], until)
                    return _Read(value, state.revision, until)
        return self._rebuild(scope, key, state.revision, now, derive)

    def _rebuild(
        self, scope: MemoryScope, key: str, before: CollectionRevision, now: float, derive: Callable[[], _Derived]
    ) -> _Read:
        self._rebuilt += 1
        derived = derive()
        for _ in range(_ATTEMPTS):
            state = self._state_of(scope.tenant)
            if state is None:
                break
            if state.revision == before:
                self.log(scope.tenant).settle(*state)
                self._keep(scope.tenant, key, derived.value, before, now, derived.until)
                return _Read(derived.value, before, derived.until)
            before, derived = state.revision, derive()
        return _Read(derived.value, None, derived.until)

    def _kept(self, tenant: str, key: str) -> dict[str, Any] | None:
        try:
            entry = self._kv.get(key, tenant=tenant)
        except SageError as exc:
            self._note(exc)
            return None
        return entry if _is_entry(entry) else None

    def _keep(self, tenant: str, key: str, value: Any, revision: CollectionRevision, at: float, until: float) -> None:
        if value is not None and len(value) > _MAX_KEPT:
            return
        entry = {
            "format": _FORMAT,
            "revision": [*revision],
            "writer": self._writer,
            "at": at,
            "until": until,
            "value": value,
        }
        try:
            self._kv.put(key, entry, _TTL, tenant=tenant)
            self._error = None
        except SageError as exc:
            self._note(exc)

    def _note(self, exc: SageError) -> None:
        if self._error is None:
            _log.warning("sessions are read from the collection, since the key-value service failed: %s", exc)
        self._error = f"{type(exc).__name__}: {exc}"

    def _sessions_key(self, scope: MemoryScope) -> str:
        return f"memory/{self._name}/sessions/{_hash(scope.key())}"

    def _turns_key(self, scope: MemoryScope, session: str) -> str:
        return f"memory/{self._name}/turns/{_hash((*scope.key(), session))}"


def _with_sessions(sessions: Sessions, new: Sequence[AddedMemory]) -> Sessions:
    changed = dict(sessions)
    for memory in new:
        changed[memory.session] = with_memory(changed.get(memory.session), memory)
    return changed


def _is_entry(entry: Any) -> bool:
    """Whether it is one of ours: the key-value service may hold entries of other releases, or of a user."""
    return (
        isinstance(entry, dict)
        and entry.get("format") == _FORMAT
        and isinstance(entry.get("at"), float | int)
        and isinstance(entry.get("until"), float | int)
        and isinstance(entry.get("writer"), str)
        and isinstance(entry.get("revision"), list)
        and len(entry["revision"]) == 2
        and "value" in entry
    )


def _hash(parts: tuple[str, ...]) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()
