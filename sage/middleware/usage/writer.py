"""What a batch of settled calls changes in the database, in one transaction: its calls, and their sums.

The statements are written out, since SQLAlchemy's own handling of parameters takes longer than all the rest.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, Table

from sage.middleware.usage.batch_sums import BatchSums, SeriesNumbers, Sums, by_day, by_tenant
from sage.middleware.usage.entries import LateCost, LedgerEntry
from sage.middleware.usage.models import SUMS, days, quarters, requests, series, tag_quarters, tenant_quarters
from sage.middleware.usage.records import CallSeries

_DAY = 86400
_NOTHING = -1
_COLUMNS = tuple(column.name for column in requests.columns)
_INSERT = f"INSERT INTO usage_requests ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_MARKS = ", ".join("NULLIF(?, -1)" if column.nullable else "?" for column in requests.columns)
_INSERT_NUMBERS = f"INSERT INTO usage_requests ({', '.join(_COLUMNS)}) VALUES ({_MARKS})"  # noqa: S608
"""Without truth values and ``None``: Python's sqlite3 looks for an adapter of each, which costs more than the rest."""


class BatchWriter:
    """Writes numbered batches. Belongs to one thread."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(8)
        """This process among those that write to the database."""
        self._numbers = SeriesNumbers()
        self._statements: dict[tuple[str, str], str] = {}

    def write(self, connection: Connection, number: int, batch: Sequence[LedgerEntry | LateCost]) -> None:
        """Writes the batch ``number``, unless it was written before."""
        if not self._is_new(connection, number):
            return
        calls = BatchSums(self._numbers)
        is_sqlite = connection.dialect.name == "sqlite"
        rows = calls.add([each for each in batch if isinstance(each, LedgerEntry)], _NOTHING if is_sqlite else None)
        late = [each for each in batch if isinstance(each, LateCost)]
        if rows:
            self._name_series(connection, calls.series)
            sql = _INSERT_NUMBERS if is_sqlite else self._sql(connection, "requests", _INSERT)
            connection.exec_driver_sql(sql, rows)
        if late:
            calls.add_late(late)
            sql = self._sql(connection, "late", "UPDATE usage_requests SET cost = ? WHERE id = ?")
            connection.exec_driver_sql(sql, [(each.cost, each.entry.id) for each in late])
        by_key = calls.by_key()
        self._add(connection, quarters, by_key)
        self._add(connection, days, by_day(by_key))
        self._add(connection, tenant_quarters, by_tenant(by_key))
        self._add(connection, tag_quarters, calls.by_tag())

    def _name_series(self, connection: Connection, named: Mapping[CallSeries, int]) -> None:
        """Writes what calls have in common, unless it is there. PostgreSQL locks what is there, so that nobody who is
        just being erased gets a call."""
        marks = ", ".join("?" * len(series.columns))
        sql = self._sql(
            connection,
            "series",
            f"INSERT INTO usage_series VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET "  # noqa: S608
            "at = excluded.at WHERE usage_series.at < excluded.at",
        )
        today = int(time.time()) // _DAY * _DAY
        # In one order, so that processes wait for each other and never in a circle.
        ordered = sorted((number, each) for each, number in named.items())
        rows = [(number, *each[:9], orjson.dumps(each.tags).decode(), today) for number, each in ordered]
        connection.exec_driver_sql(sql, rows)
        tags = [(tag, number) for number, each in ordered for tag in each.tags]
        if tags:
            sql = "INSERT INTO usage_series_tags (tag, series) VALUES (?, ?) ON CONFLICT DO NOTHING"
            connection.exec_driver_sql(self._sql(connection, "tags", sql), sorted(tags))

    def add_sums(self, connection: Connection, table: Table, rows: Iterable[tuple[Any, ...]]) -> None:
        """Adds ``rows``, in the order of the table's columns, to what it holds under their keys."""
        keys = len(table.primary_key.columns)
        self._add(connection, table, {row[:keys]: list(row[keys:]) for row in rows})

    def _is_new(self, connection: Connection, number: int) -> bool:
        sql = self._sql(
            connection,
            "writers",
            "INSERT INTO usage_writers (writer, batch, at) VALUES (?, ?, ?) ON CONFLICT (writer) DO UPDATE SET "
            "batch = excluded.batch, at = excluded.at WHERE usage_writers.batch < excluded.batch",
        )
        return connection.exec_driver_sql(sql, (self.name, number, int(time.time()))).rowcount > 0

    def _add(self, connection: Connection, table: Table, sums: Sums) -> None:
        if not sums:
            return
        keys = ", ".join(f'"{column.name}"' for column in table.primary_key.columns)
        added = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in SUMS)
        marks = ", ".join("?" * len(table.columns))
        sql = self._sql(
            connection,
            table.name,
            f"INSERT INTO {table.name} ({keys}, {', '.join(SUMS)}) VALUES ({marks}) "  # noqa: S608
            f"ON CONFLICT ({keys}) DO UPDATE SET {added}",
        )
        # In one order, so that processes which add to the same rows wait for each other and never in a circle.
        connection.exec_driver_sql(sql, [(*key, *sums[key]) for key in sorted(sums)])

    def _sql(self, connection: Connection, name: str, sql: str) -> str:
        if connection.dialect.name == "sqlite":
            return sql
        known = self._statements.get((name, sql))
        if known is None:
            known = self._statements[name, sql] = sql.replace("?", "%s")
        return known
