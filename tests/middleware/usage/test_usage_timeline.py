"""Calls over time: counts, costs and percentiles, step by step, for whom it concerns."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from running_gateway import Running
from upstream import Upstream

from sage.middleware.database.database import Database
from sage.middleware.settings.database import DatabaseUrl
from sage.middleware.usage.database import open_usage_database
from sage.middleware.usage.entries import Identities, LedgerEntry
from sage.middleware.usage.periods import read_period
from sage.middleware.usage.reader import UsageFilter, UsageReader
from sage.middleware.usage.records import CallSeries, UsageRecord
from sage.middleware.usage.store import UsageStore
from sage.middleware.usage.timeline import step_for, timeline

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
DAY = read_period("2026-11-29", "2026-11-29", None)


@pytest.fixture
def database(tmp_path: Path, database_url: DatabaseUrl | None) -> Iterator[Database]:
    opened = open_usage_database(tmp_path, url=database_url)
    yield opened
    opened.close()


def call(minutes: float, ms: float, **fields: Any) -> UsageRecord:
    series = CallSeries("t", fields.pop("user", "u"), "", "m", "p", "p/m", "m", "chat/completions", stream=False)
    values = {
        **{"request_id": "r", "attempts": 1, "status": 200, "prompt_tokens": 10, "cached_tokens": 0},
        **{"completion_tokens": 1, "reasoning_tokens": 0, "estimated": False, "cost": 1_000_000},
        **{"first_token_ms": None},
    }
    at = (NOON + timedelta(minutes=minutes)).timestamp()
    return UsageRecord(time=at, series=series, ms=ms, **{**values, **fields})


def rows(database: Database, *records: UsageRecord, step: int = 3600, **wanted: Any) -> list[dict[str, Any]]:
    identities = Identities()
    UsageStore(database).write([LedgerEntry(identities.next(record.time), record) for record in records])
    with UsageReader(lambda: database).connection() as connection:
        return timeline(connection, DAY, UsageFilter(**wanted), step)


@pytest.mark.both_databases
def test_percentiles_are_those_of_each_step(database: Database) -> None:
    hundred = [call(number / 10, float(number + 1)) for number in range(100)]  # 1 to 100 ms, in ten minutes
    later = [call(70, 5200.0, first_token_ms=340.0), call(71, 100.0, status=502, cost=None)]
    first, second = rows(database, *hundred, *later)
    assert (first["time"], first["requests"], first["failed"]) == (int(NOON.timestamp()), 100, 0)
    assert first["ms"] == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert first["first_token_ms"] is None
    assert first["cost"] == pytest.approx(0.1)
    assert (second["requests"], second["failed"], second["unpriced"], second["prompt_tokens"]) == (2, 1, 1, 20)
    assert 5200 <= second["ms"]["p99"] <= 5300
    assert 340 <= second["first_token_ms"]["p50"] <= 350


@pytest.mark.both_databases
def test_only_wanted_calls_count(database: Database) -> None:
    (row,) = rows(database, call(0, 20.0), call(1, 900.0, user="v"), user="u")
    assert (row["requests"], row["ms"]["p99"]) == (1, 20.0)


def test_steps_are_as_short_as_the_period_allows() -> None:
    assert [step_for(DAY, wanted) for wanted in (200, 60, 24, 4, 1)] == [900, 3600, 3600, 21600, 86400]
    assert step_for(read_period("2026-01-01", "2026-12-31", None), 10) == 86400


def test_everybody_sees_their_own_over_http(running: Running, up: Upstream) -> None:
    assert running.accounts is not None
    running.accounts.users.add("ann", "a password of hers, long")
    hers = running.post("/auth/keys", {"user": "ann"}).json()["key"]
    for _ in range(2):
        running.chat(key=hers)
    running.chat()
    own, everybody = running.get("/usage/timeline", key=hers).json(), running.get("/usage/timeline?steps=200").json()
    assert (own["step"], everybody["step"]) == (86400, 21600)
    assert sum(row["requests"] for row in own["rows"]) == 2
    assert sum(row["requests"] for row in everybody["rows"]) == 3
    assert own["rows"][0]["ms"]["p50"] > 0
    assert running.get("/usage/timeline?user=root", key=hers).status_code == 403
