"""The turns of sessions: which came before a new one, and which sessions there are."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.records import NEVER, MemoryRecord, MemoryScope

BEFORE = 2
"""Turns before a memory whose words it is found by, too. Measured on two LoCoMo conversations (benchmarks/memory.py):
evidence recall@5 .653 with one, .694 with two, .682 with three."""
_CUT = 2000
"""Characters of such a turn that count."""
_KEPT = 4096
"""Sessions whose last turns are remembered here."""
_ASKED = 500
"""Ids in one question to the shelf."""
_Place = tuple[str, str, str, str]


class SessionCache:
    """A cache over the shelf, which is the truth: another process's turns are seen when a session is first met here."""

    def __init__(self, shelf: MemoryCollection) -> None:
        self._shelf = shelf
        self._lock = threading.Lock()
        self._last: OrderedDict[_Place, deque[MemoryRecord]] = OrderedDict()

    def in_context(self, record: MemoryRecord) -> MemoryRecord:
        """``record`` with the words of the last turns of its session. The caller holds the session."""
        return self.in_context_of(record, self._turns(record))

    def in_context_of(self, record: MemoryRecord, turns: Sequence[MemoryRecord]) -> MemoryRecord:
        """With the words of the last of ``turns``."""
        before = [turn for turn in turns if turn.lives(record.created)][-BEFORE:]
        return replace(record, keywords=_words(before), context=tuple(turn.id for turn in before))

    def _turns(self, record: MemoryRecord) -> list[MemoryRecord]:
        place = (*record.scope.key(), record.session)
        with self._lock:
            if (known := self._last.get(place)) is not None:
                self._last.move_to_end(place)
                return list(known)
        turns = deque(self.turns(record.scope, record.session, record.created), maxlen=BEFORE)
        with self._lock:
            self._last[place] = turns
            while len(self._last) > _KEPT:
                self._last.popitem(last=False)
            return list(turns)

    def said(self, record: MemoryRecord) -> None:
        """``record`` is the session's newest turn."""
        with self._lock:
            if (known := self._last.get((*record.scope.key(), record.session))) is not None:
                known.append(replace(record, vector=None, keywords=""))

    def forget(self, scope: MemoryScope, sessions: Sequence[str]) -> None:
        """Something but a new turn has changed in them."""
        with self._lock:
            for session in sessions:
                self._last.pop((*scope.key(), session), None)

    def turns(self, scope: MemoryScope, session: str, now: float) -> list[MemoryRecord]:
        """All that live, in order; derived memories are none."""
        where = {**scope.filter(), "session": session, "superseded": {"$gte": NEVER}}
        found = [record for record in self._shelf.all(scope.tenant, where) if record.lives(now) and not record.sources]
        return sorted(found, key=lambda record: record.created)

    def without(self, scope: MemoryScope, gone: Sequence[str]) -> list[MemoryRecord]:
        """The turns whose keywords hold what those in ``gone`` said, with keywords that do not."""
        changed: dict[str, MemoryRecord] = {}
        for start in range(0, len(gone), _ASKED):
            where = {**scope.filter(), "context": {"$in": list(gone[start : start + _ASKED])}}
            for record in self._shelf.all(scope.tenant, where, vectors=True):
                changed[record.id] = record
        return [self._rewritten(record, gone) for record in changed.values() if record.id not in gone]

    def _rewritten(self, record: MemoryRecord, gone: Sequence[str]) -> MemoryRecord:
        kept = [self._shelf.find(record.scope.tenant, id) for id in record.context if id not in gone]
        before = [turn for turn in kept if turn is not None]
        return replace(record, keywords=_words(before), context=tuple(turn.id for turn in before))

    def listed(self, scope: MemoryScope, now: float) -> list[dict[str, Any]]:
        """``{session_id, memories, first_at, last_at}`` by name. Looks at every memory of the scope."""
        found: dict[str, dict[str, Any]] = {}
        for record in self._shelf.all(scope.tenant, {**scope.filter(), "superseded": {"$gte": NEVER}}):
            if not record.lives(now):
                continue
            session = found.setdefault(
                record.session,
                {"session_id": record.session, "memories": 0, "first_at": record.created, "last_at": record.created},
            )
            session["memories"] += 1
            session["first_at"] = min(session["first_at"], record.created)
            session["last_at"] = max(session["last_at"], record.created)
        return [found[name] for name in sorted(found)]


def _words(turns: Sequence[MemoryRecord]) -> str:
    return "\n".join(turn.content[-_CUT:] for turn in turns)
