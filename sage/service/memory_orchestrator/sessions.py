"""The turns of sessions: which ones came before a new turn."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import replace

from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.context.dates import date_words
from sage.service.memory_orchestrator.records import MemoryRecord, MemoryScope

CONTEXT_TURNS = 2
"""A search finds a turn also by the words of so many turns before it. Measured on two LoCoMo conversations
(benchmarks/memory.py): evidence recall@5 .653 with one, .694 with two, .682 with three."""
_CONTEXT_CHARACTERS = 2000
"""Of each of these turns, its last characters that count."""
_MAX_SESSIONS = 4096
"""Sessions whose last turns are cached."""
_SessionKey = tuple[str, str, str, str]


class SessionCache:
    """The last turns of sessions, cached. The collection is the truth: turns that another process stored are seen when
    this process first meets the session."""

    def __init__(self, collection: MemoryCollection) -> None:
        self._collection = collection
        self._lock = threading.Lock()
        self._last_turns: OrderedDict[_SessionKey, deque[MemoryRecord]] = OrderedDict()

    def with_context(self, record: MemoryRecord) -> MemoryRecord:
        """``record`` with the words of the last turns of its session. The caller holds the session's lock."""
        return _with_context_of(record, self._turns_before(record))

    def with_context_without(self, record: MemoryRecord, superseded: str) -> MemoryRecord:
        """As :meth:`with_context`, from the collection, without the turn of the id ``superseded``."""
        turns = self._newest(record, CONTEXT_TURNS + 1)
        return _with_context_of(record, [turn for turn in turns if turn.id != superseded])

    def _turns_before(self, record: MemoryRecord) -> list[MemoryRecord]:
        key = (*record.scope.key(), record.session)
        with self._lock:
            if (cached := self._last_turns.get(key)) is not None:
                self._last_turns.move_to_end(key)
                return list(cached)
        turns = deque(self._newest(record, CONTEXT_TURNS), maxlen=CONTEXT_TURNS)
        with self._lock:
            self._last_turns[key] = turns
            while len(self._last_turns) > _MAX_SESSIONS:
                self._last_turns.popitem(last=False)
            return list(turns)

    def append(self, record: MemoryRecord) -> None:
        """``record`` is the newest turn of its session."""
        with self._lock:
            if (cached := self._last_turns.get((*record.scope.key(), record.session))) is not None:
                cached.append(replace(record, vector=None, keywords=""))

    def invalidate(self, scope: MemoryScope, sessions: Sequence[str]) -> None:
        """These sessions changed by something other than a new turn: the next use reads them from the collection."""
        with self._lock:
            for session in sessions:
                self._last_turns.pop((*scope.key(), session), None)

    def _newest(self, record: MemoryRecord, count: int) -> list[MemoryRecord]:
        """The last current turns of the session of ``record``, in order. Derived memories are not turns."""
        newest = self._collection.session_page(record.scope, record.session, record.created, count, newest=True)
        return newest[::-1]

    def rewritten_without(self, scope: MemoryScope, removed: Sequence[str]) -> list[MemoryRecord]:
        """The turns that are found by the words of memories in ``removed`` (ids), rewritten without these words."""
        records = self._collection.referring(scope, "context", removed, vectors=True)
        return [self._rewritten(record, removed) for record in records if record.id not in removed]

    def _rewritten(self, record: MemoryRecord, removed: Sequence[str]) -> MemoryRecord:
        remaining = [self._collection.get(record.scope.tenant, id) for id in record.context if id not in removed]
        return _in_context(record, [turn for turn in remaining if turn is not None])


def _with_context_of(record: MemoryRecord, turns: Sequence[MemoryRecord]) -> MemoryRecord:
    return _in_context(record, [turn for turn in turns if turn.is_current(record.created)][-CONTEXT_TURNS:])


def _in_context(record: MemoryRecord, turns: Sequence[MemoryRecord]) -> MemoryRecord:
    words = [date_words(record.created, record.content), *(turn.content[-_CONTEXT_CHARACTERS:] for turn in turns)]
    return replace(record, keywords="\n".join(filter(None, words)), context=tuple(turn.id for turn in turns))
