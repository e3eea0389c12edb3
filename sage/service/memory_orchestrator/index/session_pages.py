"""The sessions of the scopes that were asked for lately, in this process and in order, so that pages cost little."""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.service.memory_orchestrator.index.write_log import AddedMemory, CollectionRevision, Mark, WriteLog
from sage.service.memory_orchestrator.records import NEVER, MemoryScope

_MAX_SESSIONS = 200_000
"""Of all scopes together; those that were asked for longest ago go first."""


@dataclass(slots=True)
class _ScopeSessions:
    names: list[str]
    """In order."""
    sessions: dict[str, Sequence[Any]]
    """``[memories, first_at, last_at]`` by session."""
    revision: CollectionRevision
    at: float
    until: float
    """Right from ``at`` until then: the first of the memories expires."""

    def add(self, memories: Sequence[AddedMemory]) -> None:
        for memory in memories:
            before = self.sessions.get(memory.session)
            if before is None:
                insort(self.names, memory.session)
            self.sessions[memory.session] = with_memory(before, memory)
            self.until = min(self.until, memory.expires)


class KnownSessions:
    """Safe to use from several threads. What is in it was derived from the collection at a revision, and is used only
    while nothing else happened than what the log of this process knows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scopes: OrderedDict[tuple[str, str, str], _ScopeSessions] = OrderedDict()
        self._count = 0

    def page(
        self,
        scope: MemoryScope,
        now: float,
        after: str | None,
        limit: int,
        log: WriteLog,
        mark: Mark,
        current: CollectionRevision,
    ) -> list[tuple[str, Sequence[Any]]] | None:
        """``None`` means that the sessions of this scope are not known. ``mark`` was taken before ``current``."""
        with self._lock:
            known = self._scopes.get(scope.key())
            if known is None or not known.at <= now < known.until:
                return None
            new = log.since(known.revision, mark, current, ours=True)
            if new is None:
                return None
            before = len(known.names)
            known.add([memory for memory in new if memory.owner == scope.key()])
            known.revision = current
            self._count += len(known.names) - before
            if now >= known.until:
                return None
            self._scopes.move_to_end(scope.key())
            start = 0 if after is None else bisect_right(known.names, after)
            return [(name, known.sessions[name]) for name in known.names[start : start + limit]]

    def keep(
        self,
        scope: MemoryScope,
        sessions: Mapping[str, Sequence[Any]],
        revision: CollectionRevision,
        at: float,
        until: float = NEVER,
    ) -> None:
        """What was derived from the collection at ``revision``."""
        with self._lock:
            self._remove(scope.key())
            if len(sessions) > _MAX_SESSIONS:
                return
            self._scopes[scope.key()] = _ScopeSessions(sorted(sessions), dict(sessions), revision, at, until)
            self._count += len(sessions)
            while self._count > _MAX_SESSIONS:
                self._remove(next(iter(self._scopes)))

    def _remove(self, key: tuple[str, str, str]) -> None:
        known = self._scopes.pop(key, None)
        if known is not None:
            self._count -= len(known.names)


def with_memory(session: Sequence[Any] | None, memory: AddedMemory) -> list[Any]:
    """``[memories, first_at, last_at]`` of a session with one memory more; ``None`` means that it was not there."""
    count, first, last = session if session is not None else (0, memory.created, memory.created)
    return [count + 1, min(first, memory.created), max(last, memory.created)]
