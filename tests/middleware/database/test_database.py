"""A room's database: its transactions among threads and processes, and its migrations wherever it lies."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from sage.errors import ConfigError, Unavailable
from sage.middleware.auth.database import SCHEMA as ACCOUNTS
from sage.middleware.database.database import Database
from sage.middleware.database.schema import Schema
from sage.middleware.queue.database import SCHEMA, open_jobs_database

COUNT = "SELECT count(*) FROM schedule_runs"
INSERT = "INSERT INTO schedule_runs (name, due_at, created_at) VALUES ('n', 1, 1)"


def test_a_path_of_any_name_is_migrated_once(tmp_path: Path) -> None:
    directory = tmp_path / "100% of a; path\nwith #? signs"
    for _ in range(2):
        with closing(open_jobs_database(directory)) as database, database.reading() as connection:
            assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").all() == [("0001",)]
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def contents(path: Path) -> tuple[set[Any], list[Any]]:
    """Tables and indexes as SQLite knows them, and the rows that a new database has."""
    with closing(sqlite3.connect(path)) as raw:
        tables = set(raw.execute("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name != 'kept'"))
        names = sorted(name for kind, name, _, _ in tables if kind == "table")
        return tables, [(name, row) for name in names for row in raw.execute(f'SELECT * FROM "{name}"')]


@pytest.mark.parametrize("schema", [ACCOUNTS, SCHEMA], ids=["accounts", "jobs"])
def test_a_new_database_is_what_the_migrations_arrive_at(schema: Schema, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "migrated.db")) as raw:  # not new: the migrations run
        raw.execute("CREATE TABLE kept (x)")
        raw.commit()
    for name in ("new.db", "migrated.db"):
        Database(tmp_path / name, schema).close()
    tables, rows = contents(tmp_path / "new.db")
    assert len(tables) > 5
    assert ("alembic_version", (schema.revisions[-1],)) in rows
    assert (tables, rows) == contents(tmp_path / "migrated.db")


def test_a_write_is_whole_or_not_at_all_and_waits_for_no_reader(tmp_path: Path) -> None:
    with closing(open_jobs_database(tmp_path)) as database, database.reading() as reader:
        assert reader.exec_driver_sql(COUNT).scalar() == 0
        with suppress(ZeroDivisionError), database.writing() as writer:
            writer.exec_driver_sql(INSERT)
            raise ZeroDivisionError
        with database.writing() as writer:
            writer.exec_driver_sql(INSERT)
        assert reader.exec_driver_sql(COUNT).scalar() == 0  # its state is that of its start
        with database.reading() as later:
            assert later.exec_driver_sql(COUNT).scalar() == 1


def test_failures_name_the_database(tmp_path: Path) -> None:
    with closing(open_jobs_database(tmp_path, busy_seconds=0.05)) as database:
        other = Database(database.path, SCHEMA, busy_seconds=0.05)
        with (
            closing(other),
            database.writing(),
            pytest.raises(Unavailable, match="the jobs database cannot be used now"),
            other.writing(),
        ):
            raise AssertionError("two transactions write at once")
        with database.writing() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match=r"jobs\.db has the schema '9999', which is newer than this version of sage"):
        open_jobs_database(tmp_path)
