"""A ledger that an older version has written: its calls and its sums are there after an upgrade."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, text

from sage.middleware.database.database import open_postgresql
from sage.middleware.database.sqlite_file import SqliteFile
from sage.middleware.settings.database import DatabaseUrl
from sage.middleware.usage.database import SCHEMA, open_usage_database
from sage.middleware.usage.entries import first_id
from sage.middleware.usage.periods import read_period
from sage.middleware.usage.reader import UsageFilter, UsageReader

FIRST = replace(SCHEMA, revisions=("0001",), metadata=MetaData())
NOON = 1_796_040_000  # 2026-11-30T12:00:00Z


def old_call(number: int, **fields: Any) -> dict[str, Any]:
    call = {
        **{"id": first_id(NOON + number), "request_id": f"r{number}", "tenant": "t", "user": "u", "key": "k"},
        **{"model": "m", "provider": "p", "deployment": "p/m", "upstream_model": "m", "operation": "embeddings"},
        **{"stream": False, "attempts": 1, "status": 200, "prompt_tokens": number, "cached_tokens": 0},
        **{"completion_tokens": 1, "reasoning_tokens": 0, "estimated": False, "cost": None, "ms": 1.5},
        **{"first_token_ms": None, "tags": "[]"},
    }
    return call | fields


@pytest.mark.both_databases
def test_calls_of_the_first_schema_are_there_after_the_migration(
    tmp_path: Path, database_url: DatabaseUrl | None
) -> None:
    path = tmp_path / "usage.db"
    room = SqliteFile(path, (), 5.0) if database_url is None else open_postgresql(database_url, "usage", 5.0)
    calls = [
        old_call(1, tags='["x","y"]', stream=True, first_token_ms=0.5),
        old_call(2, status=502, cost=7),
        old_call(3, user="v", tags='["x"]'),
    ]
    with room.migrating() as connection:
        FIRST.migrate(connection)
        names = ", ".join(f'"{name}"' for name in calls[0])
        marks = ", ".join(f":{name}" for name in calls[0])
        connection.execute(text(f"INSERT INTO usage_requests ({names}) VALUES ({marks})"), calls)
    room.dispose(close=True)
    with closing(open_usage_database(tmp_path, url=database_url)) as database:
        reader = UsageReader(lambda: database)

        def page(**wanted: Any) -> list[dict[str, Any]]:
            return reader.page(read_period("2026-11-30", "2026-11-30", None), UsageFilter(**wanted), None, 10)[0]

        assert [row["id"] for row in page()] == ["r3", "r2", "r1"]
        assert [row["id"] for row in page(tag="x")] == ["r3", "r1"]
        assert [row["id"] for row in page(user="u", statuses=(500, 599))] == ["r2"]
        (first,) = page(tag="y")
        expected = {
            **{"id": "r1", "time": NOON + 1.0, "tenant": "t", "user": "u", "key": "k", "model": "m", "provider": "p"},
            **{"deployment": "p/m", "upstream_model": "m", "operation": "embeddings", "stream": True, "attempts": 1},
            **{"status": 200, "prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1, "reasoning_tokens": 0},
            **{"estimated": False, "cost": None, "ms": 1.5, "first_token_ms": 0.5, "tags": ["x", "y"], "priced": False},
            **{"admitted_ms": None, "steps": []},
        }
        assert first == expected
