"""Walks the chain of the audit and finds the first place where it was changed.

What it finds: an event that was changed, taken out or put in, and a tail that was cut off. What it cannot find by
itself: who can write the database can also write a whole new chain with a new head. An anchor tells, which is the
number and hash of an event that were kept elsewhere (:mod:`sage.middleware.audit.anchors`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from sage.middleware.audit.event import GENESIS, TEXTS, hash_of
from sage.middleware.audit.tables import events, head
from sage.middleware.database.database import Database

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """How many events stand, with the last one's hash; ``fault`` is the first thing that is wrong, and where."""

    events: int
    hash: str
    anchors: int = 0
    """How many anchors were compared."""
    fault: str | None = None


def verify(database: Database, anchors: Mapping[int, str] | None = None) -> AuditVerdict:
    """Walks all events; ``anchors`` are hashes of events by their number. Blocks."""
    anchors = anchors or {}
    with database.reading() as connection:
        seq, previous, met = 0, GENESIS, 0
        for row in _rows(connection):
            fault = _fault(row, seq + 1, previous)
            if fault is None and row.seq in anchors:
                met += 1
                if anchors[row.seq] != row.hash:
                    fault = f"event {row.seq} is not the one whose hash was kept as an anchor"
            if fault is not None:
                return AuditVerdict(seq, previous, met, fault)
            seq, previous = row.seq, row.hash
        return AuditVerdict(seq, previous, met, _fault_of_end(connection, seq, previous, anchors))


def _fault(row: Any, expected: int, previous: str) -> str | None:
    if row.seq != expected:
        return f"event {expected} is missing: the next one is {row.seq}"
    texts = {name: getattr(row, name) for name in (*TEXTS, "details")}
    if hash_of(row.seq, row.at, texts, previous) != row.hash:
        return f"event {row.seq} was changed, or what stands before it was: its hash does not match"
    return None


def _fault_of_end(connection: Connection, seq: int, last: str, anchors: Mapping[int, str]) -> str | None:
    end = connection.execute(select(head.c.seq, head.c.hash)).one_or_none()
    if end is None:
        return "the head of the chain is missing, so nothing tells whether events at its end were deleted"
    if end.seq > seq:
        return f"events {seq + 1} to {end.seq} are missing: the end of the chain was cut off"
    if (end.seq, end.hash) != (seq, last):
        return f"event {end.seq + 1} was not written by the gateway: the head of the chain does not know it"
    beyond = sorted(each for each in anchors if each > seq)
    if beyond:
        return f"event {beyond[0]}, whose hash was kept as an anchor, is missing: the end of the chain was cut off"
    return None


def _rows(connection: Connection) -> Iterator[Any]:
    after = -(2**63)
    while rows := connection.execute(
        select(events).where(events.c.seq > after).order_by(events.c.seq).limit(_PAGE)
    ).all():
        yield from rows
        after = rows[-1].seq
