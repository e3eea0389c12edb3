"""A room's database: its transactions among threads and processes, and its migrations wherever it lies."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path

import pytest

from sage.errors import ConfigError, Unavailable
from sage.middleware.database.database import Database
from sage.middleware.queue.database import SCHEMA, open_jobs_database

COUNT = "SELECT count(*) FROM schedule_runs"
INSERT = "INSERT INTO schedule_runs (name, due_at, created_at) VALUES ('n', 1, 1)"


def test_a_path_of_any_name_is_migrated_once(tmp_path: Path) -> None:
    directory = tmp_path / "100% of a; path\nwith #? signs"
    for _ in range(2):
        with closing(open_jobs_database(directory)) as database, database.reading() as connection:
            assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").all() == [("0001",)]
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


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
