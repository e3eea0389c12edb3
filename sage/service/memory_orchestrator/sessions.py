"""The turns of sessions: which came before a new one, and which sessions there are."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sage.service.memory_orchestrator.records import Record, Scope
from sage.service.memory_orchestrator.shelf import Shelf

BEFORE = 2
"""Turns before a memory whose words it is found by, too. Measured on two LoCoMo conversations (benchmarks/memory.py):
evidence recall@5 .653 with one, .694 with two, .682 with three."""
_KEPT = 4096
"""Sessions whose last turns are remembered here."""
Place = tuple[str, str, str, str]


class Sessions:
    """A cache over the shelf, which is the truth: another process's turns are seen when a session is first met here."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._lock = threading.Lock()
        self._last: OrderedDict[Place, deque[str]] = OrderedDict()

    def before(self, scope: Scope, session: str, now: float) -> str:
        """What is said by the last turns of ``session``, oldest first. The caller holds the session's lock."""
        return "\n".join(self._turns(scope, session, now))

    def _turns(self, scope: Scope, session: str, now: float) -> deque[str]:
        place = (*scope.key(), session)
        with self._lock:
            if (known := self._last.get(place)) is not None:
                self._last.move_to_end(place)
                return known
        turns = deque((record.content for record in self.turns(scope, session, now)), maxlen=BEFORE)
        with self._lock:
            self._last[place] = turns
            while len(self._last) > _KEPT:
                self._last.popitem(last=False)
        return turns

    def said(self, record: Record) -> None:
        """``record`` is the session's newest turn."""
        with self._lock:
            if (known := self._last.get((*record.scope.key(), record.session))) is not None:
                known.append(record.content)

    def forget(self, scope: Scope, session: str) -> None:
        """Something but a new turn has changed in it."""
        with self._lock:
            self._last.pop((*scope.key(), session), None)

    def turns(self, scope: Scope, session: str, now: float) -> list[Record]:
        """All that live, in order; derived memories are none."""
        where = {**scope.filter(), "session": session}
        found = [record for record in self._shelf.all(scope.tenant, where) if record.lives(now) and not record.sources]
        return sorted(found, key=lambda record: record.created)

    def rewritten(self, scope: Scope, session: str, gone: Sequence[str], now: float) -> list[Record]:
        """The turns whose keywords hold what was said by those in ``gone``, with keywords that do not."""
        where = {**scope.filter(), "session": session}
        kept = [
            record
            for record in self._shelf.all(scope.tenant, where, vectors=True)
            if record.id not in gone and not record.sources
        ]
        kept.sort(key=lambda record: record.created)
        changed = []
        for place, record in enumerate(kept):
            before = [turn for turn in kept[:place] if turn.superseded > record.created and turn.expires > now]
            keywords = "\n".join(turn.content for turn in before[-BEFORE:])
            if keywords != record.keywords:
                changed.append(replace(record, keywords=keywords))
        return changed

    def listed(self, scope: Scope, now: float) -> list[dict[str, Any]]:
        """``{session_id, memories, first_at, last_at}`` by name."""
        found: dict[str, dict[str, Any]] = {}
        for record in self._shelf.all(scope.tenant, scope.filter()):
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
