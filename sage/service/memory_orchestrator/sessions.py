"""The turns of sessions: which ones came before a new turn."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import replace

from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.context.dates import date_words
from sage.service.memory_orchestrator.query import Period
from sage.service.memory_orchestrator.records import MemoryRecord, MemoryScope

CONTEXT_TURNS = 2
"""A search finds a turn also by the words of so many turns before it. Measured on two LoCoMo conversations
(benchmarks/memory.py): evidence recall@5 .653 with one, .694 with two, .682 with three."""
_CONTEXT_CHARACTERS = 2000
"""Of each of these turns, its last characters that count."""
_MAX_SESSIONS = 4096
"""Sessions whose last turns are cached."""
_STEP, _SAID_TOGETHER = 1e-6, 0.5
"""Seconds between turns for which one time was given, and the time that all of them may take."""
_SessionKey = tuple[str, str, str, str]


class SessionCache:
    """The last turns of sessions, cached. The collection is the truth: turns that another process stored are seen when
    this process first meets the session."""

    def __init__(self, collection: MemoryCollection) -> None:
        self._collection = collection
        self._lock = threading.Lock()
        self._last_turns: OrderedDict[_SessionKey, deque[MemoryRecord]] = OrderedDict()

    def with_context(self, record: MemoryRecord, now: float) -> MemoryRecord:
        """``record`` with the words of the last turns of its session before it. The caller holds the session's lock."""
        return _with_context_of(record, self._turns_before(record, now))

    def in_order(self, record: MemoryRecord, now: float) -> MemoryRecord:
        """``record``, which was said at a time that a caller gave, after those of its session that were said then, too:
        no two turns of a session have one time, and pages go by it."""
        said_then = Period(record.created, record.created + _SAID_TOGETHER)
        last = self._collection.session_page(record.scope, record.session, now, 1, newest=True, period=said_then)
        return replace(record, created=last[0].created + _STEP) if last else record

    def with_context_without(self, record: MemoryRecord, superseded: str) -> MemoryRecord:
        """As :meth:`with_context`, from the collection, without the turn of the id ``superseded``."""
        turns = self._newest(record, record.created, CONTEXT_TURNS + 1)
        return _with_context_of(record, [turn for turn in turns if turn.id != superseded])

    def _turns_before(self, record: MemoryRecord, now: float) -> list[MemoryRecord]:
        key = (*record.scope.key(), record.session)
        with self._lock:
            if (cached := self._last_turns.get(key)) is not None:
                self._last_turns.move_to_end(key)
                turns = deque(cached)
        if cached is None:
            turns = deque(self._newest(record, now, CONTEXT_TURNS), maxlen=CONTEXT_TURNS)
        if turns and turns[-1].created > record.created:  # others were said later, but stored before
            return self._newest(record, now, CONTEXT_TURNS, Period(end=record.created))
        if cached is not None:
            return list(turns)
        with self._lock:
            self._last_turns[key] = turns
            while len(self._last_turns) > _MAX_SESSIONS:
                self._last_turns.popitem(last=False)
            return list(turns)

    def append(self, record: MemoryRecord) -> None:
        """``record`` was stored, as the newest turn of its session or among those before."""
        with self._lock:
            cached = self._last_turns.get((*record.scope.key(), record.session))
            if cached is not None and not (cached and cached[-1].created > record.created):
                cached.append(replace(record, vector=None, keywords=""))

    def invalidate(self, scope: MemoryScope, sessions: Sequence[str]) -> None:
        """These sessions changed by something other than a new turn: the next use reads them from the collection."""
        with self._lock:
            for session in sessions:
                self._last_turns.pop((*scope.key(), session), None)

    def _newest(
        self,
        record: MemoryRecord,
        now: float,
        count: int,
        period: Period = Period(),  # noqa: B008 - immutable
    ) -> list[MemoryRecord]:
        """The last turns of the session of ``record`` that are current at ``now``, in order. Derived memories are not
        turns."""
        page = self._collection.session_page
        return page(record.scope, record.session, now, count, newest=True, period=period)[::-1]

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
