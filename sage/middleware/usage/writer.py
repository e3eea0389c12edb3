"""What a batch of settled calls changes in the database, in one transaction: its calls, and their sums.

The statements are written out, since SQLAlchemy's own handling of parameters takes longer than all the rest.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, Table

from sage.middleware.usage.entries import LateCost, LedgerEntry
from sage.middleware.usage.models import (
    QUARTER,
    QUARTERS_A_DAY,
    SUMS,
    days,
    quarters,
    request_tags,
    requests,
    tag_quarters,
    tenant_quarters,
)
from sage.middleware.usage.records import UsageRecord

_FAILED = 400


class BatchWriter:
    """Writes numbered batches. Belongs to one thread."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(8)
        """This process among those that write to the database."""
        self._statements: dict[tuple[str, str], str] = {}

    def write(self, connection: Connection, number: int, batch: Sequence[LedgerEntry | LateCost]) -> None:
        """Writes the batch ``number``, unless it was written before."""
        if not self._is_new(connection, number):
            return
        entries = [each for each in batch if isinstance(each, LedgerEntry)]
        late = [each for each in batch if isinstance(each, LateCost)]
        self._insert(connection, requests, [_row(entry) for entry in entries])
        tags = [(tag, entry.id) for entry in entries for tag in entry.record.tags]
        if tags:
            self._insert(connection, request_tags, tags)
        if late:
            sql = self._sql(connection, "late", "UPDATE usage_requests SET cost = ? WHERE id = ?")
            connection.exec_driver_sql(sql, [(each.cost, each.entry.id) for each in late])
        by_key, by_tag = _sums(entries, late)
        self._add(connection, quarters, by_key)
        self._add(connection, days, _merged(by_key, lambda key: (key[0] // QUARTERS_A_DAY, *key[1:])))
        self._add(connection, tenant_quarters, _merged(by_key, lambda key: key[:2]))
        self._add(connection, tag_quarters, by_tag)

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

    def _insert(self, connection: Connection, table: Table, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            columns = ", ".join(f'"{column.name}"' for column in table.columns)
            marks = ", ".join("?" * len(table.columns))
            sql = self._sql(connection, table.name, f"INSERT INTO {table.name} ({columns}) VALUES ({marks})")  # noqa: S608
            connection.exec_driver_sql(sql, rows)

    def _add(self, connection: Connection, table: Table, sums: dict[tuple[Any, ...], list[int]]) -> None:
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


def _row(entry: LedgerEntry) -> tuple[Any, ...]:
    record = entry.record
    tags = record.tags
    return (entry.id, *record[1:21], orjson.dumps(tags).decode() if tags else "[]")


Sums = dict[tuple[Any, ...], list[int]]


def _sums(entries: Sequence[LedgerEntry], late: Sequence[LateCost]) -> tuple[Sums, Sums]:
    """What is added to :data:`quarters` and to :data:`tag_quarters`, by their keys."""
    by_key: Sums = {}
    by_tag: Sums = {}
    for entry in entries:
        r = entry.record
        key = (int(r.time) // QUARTER, r.tenant, r.user, r.key, r.model, r.provider)
        sums = by_key.get(key)
        if sums is None:
            sums = by_key[key] = [0] * 10
        _add_call(sums, r)
        for tag in r.tags:
            _add_call(by_tag.setdefault((key[0], r.tenant, r.user, tag), [0] * 10), r)
    for each in late:
        r, cost = each.entry.record, each.cost or 0
        quarter = int(r.time) // QUARTER
        _add_cost(by_key.setdefault((quarter, r.tenant, r.user, r.key, r.model, r.provider), [0] * 10), cost)
        for tag in r.tags:
            _add_cost(by_tag.setdefault((quarter, r.tenant, r.user, tag), [0] * 10), cost)
    return by_key, by_tag


def _merged(sums: Sums, key_of: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Sums:
    """``sums`` under the coarser keys that ``key_of`` makes of theirs."""
    merged: Sums = {}
    for key, values in sums.items():
        coarse = key_of(key)
        known = merged.get(coarse)
        merged[coarse] = values if known is None else [a + b for a, b in zip(known, values, strict=True)]
    return merged


def _add_call(sums: list[int], r: UsageRecord) -> None:
    """Adds a call to sums in the order of :data:`SUMS`."""
    sums[0] += 1
    sums[1] += r.status >= _FAILED
    sums[2] += r.prompt_tokens
    sums[3] += r.cached_tokens
    sums[4] += r.completion_tokens
    sums[5] += r.reasoning_tokens
    sums[6] += r.estimated
    if r.cost is None:
        sums[8] += 1
    else:
        sums[7] += r.cost
    sums[9] += int(r.ms + 0.5)


def _add_cost(sums: list[int], cost: int) -> None:
    """Adds the cost of a call that had none."""
    sums[7] += cost
    sums[8] -= 1
