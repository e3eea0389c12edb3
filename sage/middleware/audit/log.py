"""The audit of one installation: events are appended to a chain of hashes, and read in pages."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, or_, select, update

from sage.errors import Unavailable
from sage.middleware.audit.database import open_audit_database
from sage.middleware.audit.event import AuditEvent, hash_of
from sage.middleware.audit.tables import events, head
from sage.middleware.database.database import Database
from sage.middleware.settings.database import DatabaseUrl
from sage.private_files import make_private_dir

_MOST_WAITING = 1000


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which events are wanted; ``None`` means any. ``action`` may be a noun alone (``key``); ``begin`` and ``end`` are
    Unix seconds, ``end`` not included."""

    tenant: str | None = None
    actor: str | None = None
    action: str | None = None
    target: str | None = None
    begin: float | None = None
    end: float | None = None


class AuditLog:
    """The audit in ``data_dir``, or at ``url``. Its calls block; safe to use from several threads and processes, which
    then have one order of events among them. The database is opened with the first call."""

    def __init__(self, data_dir: Path, url: DatabaseUrl | None = None, clock: Callable[[], float] = time.time) -> None:
        self._data_dir = data_dir
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._waiting: deque[tuple[int, AuditEvent]] = deque(maxlen=_MOST_WAITING)

    def open(self) -> Database:
        """Its database. Raises :class:`sage.errors.ConfigError` and :class:`Unavailable`."""
        with self._lock:
            if self._database is None:
                make_private_dir(self._data_dir)
                self._database = open_audit_database(self._data_dir, self._url)
            return self._database

    def append(self, *new: AuditEvent) -> None:
        """Appends events in a transaction of their own.

        Where the database cannot be written now, they wait in memory for the next call that can (at most a thousand),
        since what they tell of has happened. That is logged; nothing is raised.
        """
        now = self._now()
        with self._lock:
            waiting = [*self._waiting, *((now, event) for event in new)]
            self._waiting.clear()
        if not waiting:
            return
        try:
            with self.open().writing(alone=False) as connection:
                _append(connection, waiting)
        except Unavailable as exc:
            logging.getLogger("sage").error("the audit cannot be written now: %s", exc.message)
            with self._lock:
                self._waiting.extendleft(reversed(waiting))

    def append_in(self, connection: Connection, event: AuditEvent) -> None:
        """Appends an event in a transaction of the same database; it is there when that one commits."""
        _append(connection, [(self._now(), event)])

    def page(self, wanted: AuditFilter, before: int | None, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        """At most ``limit`` events, the newest first, all older than the event ``before``; and ``before`` for the next
        page, ``None`` at the last."""
        query = select(events).order_by(events.c.seq.desc()).limit(limit + 1).where(*_conditions(wanted))
        if before is not None:
            query = query.where(events.c.seq < before)
        with self.open().reading() as connection:
            rows = connection.execute(query).all()
        following = rows[limit - 1].seq if len(rows) > limit else None
        return [shown_event(row) for row in rows[:limit]], following

    def last(self, action: str) -> dict[str, Any] | None:
        """The newest event of that action."""
        found, _ = self.page(AuditFilter(action=action), None, 1)
        return found[0] if found else None

    def head(self) -> tuple[int, str]:
        """The number and the hash of the last event."""
        with self.open().reading() as connection:
            row = connection.execute(select(head.c.seq, head.c.hash)).one()
        return row.seq, row.hash

    def close(self) -> None:
        """Writes what waits, if it can, and closes the database; it may be opened again."""
        if self._waiting:
            self.append()
        with self._lock:
            database, self._database = self._database, None
        if database is not None:
            database.close()

    def _now(self) -> int:
        return int(self._clock() * 1000)


def shown_event(row: Any) -> dict[str, Any]:
    """An event as callers see it; ``time`` is in Unix seconds."""
    return {
        "seq": row.seq,
        "time": row.at / 1000,
        "actor": row.actor,
        "credential": row.credential or None,
        "tenant": row.tenant or None,
        "action": row.action,
        "target": row.target,
        "details": json.loads(row.details),
        "address": row.address or None,
        "hash": row.hash,
    }


def _append(connection: Connection, new: list[tuple[int, AuditEvent]]) -> None:
    # The head's row is locked first: on PostgreSQL other writers wait here, and on SQLite there is one at a time.
    last = connection.execute(select(head.c.seq, head.c.hash).with_for_update()).one()
    seq, previous = last.seq, last.hash
    for at, event in new:
        seq, texts = seq + 1, event.columns()
        previous = hash_of(seq, at, texts, previous)
        connection.execute(insert(events).values(seq=seq, at=at, hash=previous, **texts))
    connection.execute(update(head).values(seq=seq, hash=previous))


def _conditions(wanted: AuditFilter) -> list[Any]:
    conditions: list[Any] = []
    if wanted.tenant is not None:
        conditions.append(events.c.tenant == wanted.tenant)
    if wanted.actor is not None:
        conditions.append(events.c.actor.in_((wanted.actor, f"user:{wanted.actor}")))
    if wanted.action is not None:
        starts = events.c.action.startswith(f"{wanted.action}.", autoescape=True)
        conditions.append(or_(events.c.action == wanted.action, starts))
    if wanted.target is not None:
        conditions.append(events.c.target == wanted.target)
    if wanted.begin is not None:
        conditions.append(events.c.at >= int(wanted.begin * 1000))
    if wanted.end is not None:
        conditions.append(events.c.at < int(wanted.end * 1000))
    return conditions
