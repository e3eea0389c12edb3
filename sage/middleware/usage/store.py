"""The ledger's database, as its storing thread uses it: batches, what is too old, and what is to be forgotten."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import IntegrityError

from sage.errors import InvalidRequest
from sage.middleware.database.database import Database
from sage.middleware.settings.usage import UsageRetention
from sage.middleware.usage.entries import Identities, LateCost, LedgerEntry, first_id
from sage.middleware.usage.models import (
    QUARTER,
    QUARTERS_A_DAY,
    days,
    quarters,
    requests,
    series,
    series_tags,
    tag_quarters,
    tenant_quarters,
    writers,
)
from sage.middleware.usage.records import CallSeries, UsageRecord
from sage.middleware.usage.writer import BatchWriter

_TRIMS_EVERY = 30.0
_PIECE = 1000
"""Rows that one transaction takes away: a few milliseconds."""
_PIECES = 30
"""Transactions in a row, so that what was settled meanwhile is stored within a second."""
_FORGETS_WRITERS = 7 * 86400
_log = logging.getLogger("sage")


class UsageStore:
    """Belongs to one thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer = BatchWriter()
        self._identities = Identities()
        self._number = 0
        self._current: list[int] = []
        self._trimmed_at = time.monotonic()

    def write(self, batch: Sequence[LedgerEntry | LateCost]) -> None:
        """Stores ``batch`` once, also when it is given again after a failure whose outcome is unknown. Raises
        :class:`sage.errors.Unavailable`; what the database can never take is dropped."""
        known = [id(each) for each in batch]
        if known != self._current:
            self._number, self._current = self._number + 1, known
        try:
            self._write(batch)
        except (IntegrityError, InvalidRequest):
            for each in batch:
                self._write_alone(each)
        self._current = []

    def _write(self, batch: Sequence[LedgerEntry | LateCost]) -> None:
        with self._database.writing(alone=False) as connection:
            self._writer.write(connection, self._number, batch)

    def _write_alone(self, each: LedgerEntry | LateCost) -> None:
        """For a batch with a call that cannot be stored as it is."""
        self._number += 1
        if isinstance(each, LedgerEntry):
            each.id = self._identities.next(each.record.time)  # another process may have had its id
            each.record = _without_nul(each.record)
        try:
            self._write([each])
        except (IntegrityError, InvalidRequest):
            _log.exception("a call cannot be stored in the usage ledger")

    def trim(self, retention: UsageRetention) -> None:
        """Takes away some of what is older than its retention, at most twice a minute."""
        if time.monotonic() - self._trimmed_at < _TRIMS_EVERY:
            return
        for _ in range(_PIECES):
            if not self.trim_piece(retention):
                self._trimmed_at = time.monotonic()
                return

    def trim_piece(self, retention: UsageRetention) -> bool:
        """Takes away a few rows; returns whether there may be more."""
        now = time.time()
        with self._database.writing(alone=False) as connection:
            old = select(requests.c.id).where(requests.c.id < first_id(now - retention.requests))
            ids = connection.execute(old.order_by(requests.c.id).limit(_PIECE)).scalars().all()
            if ids:
                connection.execute(delete(requests).where(requests.c.id <= ids[-1]))
            more = len(ids) == _PIECE
            before = int(now - retention.rollups) // QUARTER
            for table in (quarters, tag_quarters, tenant_quarters, days):
                column = table.c.day if table is days else table.c.quarter
                oldest = before // QUARTERS_A_DAY if table is days else before
                first = connection.execute(select(column).where(column < oldest).order_by(column).limit(1)).scalar()
                if first is not None:
                    connection.execute(delete(table).where(column == first))
                    more = True
            more |= _trim_series(connection, now - retention.requests)
            connection.execute(delete(writers).where(writers.c.at < now - _FORGETS_WRITERS))
        return more


def _trim_series(connection: Connection, before: float) -> bool:
    """Takes away some of what only calls that ended before had in common; returns whether there may be more."""
    old = select(series.c.id).where(series.c.at < before - 2 * 86400).order_by(series.c.id).limit(_PIECE)
    ids = connection.execute(old.with_for_update()).scalars().all()
    if ids:
        connection.execute(delete(series_tags).where(series_tags.c.series.in_(ids)))
        connection.execute(delete(series).where(series.c.id.in_(ids)))
    return len(ids) == _PIECE


def _without_nul(record: UsageRecord) -> UsageRecord:
    """``record`` without a character that PostgreSQL cannot hold."""
    texts = CallSeries._make(each.replace("\0", "\ufffd") if isinstance(each, str) else each for each in record.series)
    return record._replace(request_id=record.request_id.replace("\0", "\ufffd"), series=texts)
