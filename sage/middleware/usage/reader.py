"""What the ledger says: sums by whatever a question names, and single calls, the newest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Table, and_, func, select

from sage.errors import InvalidRequest
from sage.middleware.database.database import Database
from sage.middleware.usage.entries import first_id, time_of
from sage.middleware.usage.erasure import erase_user
from sage.middleware.usage.models import (
    QUARTERS_A_DAY,
    SUMS,
    days,
    quarters,
    requests,
    series,
    series_tags,
    tag_quarters,
    tenant_quarters,
)
from sage.middleware.usage.periods import UsagePeriod
from sage.middleware.usage.records import usd

_SHOWN = tuple(
    (series.c if name in series.c and name != "id" else requests.c)[name]
    for name in (
        *("id", "request_id", "tenant", "user", "key", "model", "provider", "deployment", "upstream_model"),
        *("operation", "stream", "attempts", "status", "prompt_tokens", "cached_tokens", "completion_tokens"),
        *("reasoning_tokens", "estimated", "cost", "ms", "first_token_ms", "admitted_ms", "steps", "tags"),
    )
)
_COLUMNS = tuple(f"{column.name}" for column in _SHOWN)
_FEW = 32
"""Up to so many series are asked one by one for their newest calls; of more, calls are looked at in their order."""
GROUPS = ("key", "user", "tenant", "model", "provider", "day", "tag")
MOST_ROWS = 10_000
"""Groups in one answer."""


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which calls count; ``None`` means any."""

    tenant: str | None = None
    user: str | None = None
    key: str | None = None
    model: str | None = None
    provider: str | None = None
    tag: str | None = None
    statuses: tuple[int, int] | None = None
    """The least and the greatest status."""
    id: str | None = None
    """An ``x-request-id``, for single calls only."""

    def conditions(self, table: Table) -> list[ColumnElement[bool]]:
        """As conditions on ``table``; raises :class:`InvalidRequest` for what it has not."""
        found = []
        for name in ("tenant", "user", "key", "model", "provider"):
            value = getattr(self, name)
            if value is not None:
                if name not in table.c:
                    raise InvalidRequest(f"calls by tag are not summed by '{name}'; leave it out", param=name)
                found.append(table.c[name] == value)
        if self.tag is not None and table is tag_quarters:
            found.append(table.c.tag == self.tag)
        return found


class UsageReader:
    """Blocks; for threads. Raises :class:`sage.errors.Unavailable` when the database cannot be read."""

    def __init__(self, open_database: Callable[[], Database]) -> None:
        self._open = open_database

    def sums(self, by: str, period: UsagePeriod, wanted: UsageFilter) -> list[dict[str, Any]]:
        """One row for each value of ``by``: the dearest first, days in their order."""
        by_tag = by == "tag" or wanted.tag is not None
        if by == "day":
            of_all = not by_tag and wanted == UsageFilter(tenant=wanted.tenant)
            table = tag_quarters if by_tag else tenant_quarters if of_all else quarters
            return _by_day(self._summed(table, "quarter", period.quarters, wanted), period)
        rows = []
        for table, first, after in _parts(period, by_tag=by_tag):
            if by not in table.c:
                raise InvalidRequest(f"calls by tag are not summed by '{by}'", param="by")
            rows += self._summed(table, by, (first, after), wanted)
        merged: dict[str, list[int]] = {}
        for name, *values in rows:
            known = merged.setdefault(str(name), [0] * len(SUMS))
            for index, value in enumerate(values):
                known[index] += int(value)
        sums = sorted(merged.items(), key=lambda each: (-each[1][SUMS.index("cost")], -each[1][0], each[0]))
        return [_sum_row(by, name, values) for name, values in sums[:MOST_ROWS]]

    def _summed(self, table: Table, group: str, times: tuple[int, int], wanted: UsageFilter) -> list[tuple[Any, ...]]:
        column, time = table.c[group], table.c.day if table is days else table.c.quarter
        added = [func.sum(table.c[name]) for name in SUMS]
        conditions = [time >= times[0], time < times[1], *wanted.conditions(table)]
        with self._open().reading() as connection:
            found = connection.execute(select(column, *added).where(and_(*conditions)).group_by(column))
            return [tuple(row) for row in found]

    def connection(self) -> AbstractContextManager[Connection]:
        """For questions of other modules."""
        return self._open().reading()

    def erase(self, user: str, tenant: str | None = None) -> int:
        """As :func:`sage.middleware.usage.erasure.erase_user`."""
        return erase_user(self._open(), user, tenant)

    def page(
        self, period: UsagePeriod, wanted: UsageFilter, before: int | None, limit: int
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Up to ``limit`` calls, the newest first, from those before the cursor ``before``; and the next cursor."""
        times = [requests.c.id >= first_id(period.begin), requests.c.id < first_id(period.end)]
        if before is not None:
            times.append(requests.c.id < before)
        if wanted.statuses is not None:
            times.append(requests.c.status.between(*wanted.statuses))
        if wanted.id is not None:
            times.append(requests.c.request_id == wanted.id)
        with self._open().reading() as connection:
            ids = _newest_ids(connection, times, wanted, limit + 1)
            statement = select(*_SHOWN).join(series, requests.c.series == series.c.id).where(requests.c.id.in_(ids))
            rows = connection.execute(statement.order_by(requests.c.id.desc())).all() if ids else []
        shown = [_request_row(dict(zip(_COLUMNS, row, strict=True))) for row in rows[:limit]]
        return shown, str(rows[limit - 1][0]) if len(rows) > limit else None


def series_conditions(wanted: UsageFilter) -> list[ColumnElement[bool]]:
    """Conditions on what calls have in common."""
    named = wanted.conditions(series)
    if wanted.tag is not None:
        named.append(series.c.id.in_(select(series_tags.c.series).where(series_tags.c.tag == wanted.tag)))
    return named


def _newest_ids(
    connection: Connection, conditions: Sequence[ColumnElement[bool]], wanted: UsageFilter, limit: int
) -> Sequence[int]:
    """The ids of the newest calls among those that ``conditions`` hold for and that are ``wanted``."""
    newest = select(requests.c.id).order_by(requests.c.id.desc()).limit(limit)
    named = series_conditions(wanted)
    if not named:
        return connection.execute(newest.where(*conditions)).scalars().all()
    theirs = select(series.c.id).where(*named)
    few = connection.execute(theirs.limit(_FEW + 1)).scalars().all()
    if len(few) > _FEW:
        in_order = requests.c.series + 0  # an index on it would bring all of their calls, to be sorted then
        return connection.execute(newest.where(*conditions, in_order.in_(theirs))).scalars().all()
    ids: list[int] = []
    for number in few:
        ids += connection.execute(newest.where(requests.c.series == number, *conditions)).scalars()
    return sorted(ids, reverse=True)[:limit]


def _parts(period: UsagePeriod, *, by_tag: bool) -> list[tuple[Table, int, int]]:
    """The tables that hold a period's sums, each with the first time and the one after the last: whole days where the
    period has some, and quarters at its ends."""
    begin, end = period.quarters
    if by_tag:
        return [(tag_quarters, begin, end)]
    first_day, last_day = -(-begin // QUARTERS_A_DAY), end // QUARTERS_A_DAY
    if first_day >= last_day:
        return [(quarters, begin, end)]
    return [
        (quarters, begin, first_day * QUARTERS_A_DAY),
        (days, first_day, last_day),
        (quarters, last_day * QUARTERS_A_DAY, end),
    ]


def _by_day(rows: Sequence[Sequence[Any]], period: UsagePeriod) -> list[dict[str, Any]]:
    days: dict[str, list[int]] = {}
    for row in rows:
        day = days.setdefault(period.day_of(row[0]), [0] * len(SUMS))
        for index, value in enumerate(row[1:]):
            day[index] += int(value)
    return [_sum_row("day", day, values) for day, values in sorted(days.items())]


def _sum_row(by: str, name: Any, values: Sequence[int]) -> dict[str, Any]:
    row: dict[str, Any] = {by: name, **dict(zip(SUMS, values, strict=True))}
    unpriced = row["unpriced"]
    row["cost"] = None if unpriced and unpriced == row["requests"] else usd(row["cost"])
    row["priced"] = not unpriced
    return row


def _request_row(shown: dict[str, Any]) -> dict[str, Any]:
    shown["time"] = time_of(shown.pop("id"))
    shown["id"] = shown.pop("request_id")
    shown["tags"] = orjson.loads(shown["tags"])
    shown["priced"] = shown["cost"] is not None
    shown["cost"] = usd(shown["cost"])
    shown["ms"] = round(shown["ms"], 3)
    for name in ("first_token_ms", "admitted_ms"):
        if shown[name] is not None:
            shown[name] = round(shown[name], 3)
    shown["steps"] = [] if shown["steps"] is None else orjson.loads(shown["steps"])
    first = ("id", "time")
    return {name: shown[name] for name in (*first, *(each for each in shown if each not in first))}
