"""A room's database: its transactions among threads and processes, and its migrations wherever it lies."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from postgresql_server import PostgresqlServer
from sqlalchemy import Connection, text

from sage.errors import ConfigError, InvalidRequest, Unavailable
from sage.middleware.audit.database import SCHEMA as AUDIT
from sage.middleware.auth.database import SCHEMA as ACCOUNTS
from sage.middleware.budgets.database import SCHEMA as BUDGETS
from sage.middleware.database.database import Database
from sage.middleware.database.postgresql import PostgresqlRoom
from sage.middleware.database.schema import Schema
from sage.middleware.queue.database import SCHEMA, open_jobs_database
from sage.middleware.responses.database import SCHEMA as RESPONSES
from sage.middleware.settings.database import DatabaseUrl
from sage.middleware.usage.database import SCHEMA as USAGE
from sage.middleware.vector_stores.database import SCHEMA as VECTOR_STORES

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

COUNT = "SELECT count(*) FROM schedule_runs"
INSERT = "INSERT INTO schedule_runs (name, due_at, created_at) VALUES ('n', 1, 1)"

both = pytest.mark.both_databases
SCHEMAS = pytest.mark.parametrize(
    "schema", [ACCOUNTS, SCHEMA, USAGE, VECTOR_STORES], ids=["accounts", "jobs", "usage", "vector_stores"]
)


@pytest.fixture
def jobs(tmp_path: Path, database_url: DatabaseUrl | None) -> Iterator[Database]:
    with closing(open_jobs_database(tmp_path, url=database_url)) as database:
        yield database


def test_a_path_of_any_name_is_migrated_once(tmp_path: Path) -> None:
    directory = tmp_path / "100% of a; path\nwith #? signs"
    for _ in range(2):
        with closing(open_jobs_database(directory)) as database, database.reading() as connection:
            assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").all() == [("0001",)]
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def contents(path: Path) -> tuple[set[Any], list[Any]]:
    """Columns, foreign keys and indexes as SQLite knows them, and the rows that a new database has by their columns."""
    with closing(sqlite3.connect(path)) as raw:
        raw.row_factory = sqlite3.Row
        names = [row["name"] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        names = sorted(set(names) - {"kept"})
        parts: set[Any] = set()
        for pragma in ("table_info", "foreign_key_list"):
            parts |= {
                (name, pragma, *tuple(row)[1:]) for name in names for row in raw.execute(f"PRAGMA {pragma}({name})")
            }
        parts |= {
            tuple(row) for row in raw.execute("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index'")
        }
        return parts, [(name, dict(row)) for name in names for row in raw.execute(f'SELECT * FROM "{name}"')]


@SCHEMAS
def test_a_new_database_is_what_the_migrations_arrive_at(schema: Schema, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "migrated.db")) as raw:  # not new: the migrations run
        raw.execute("CREATE TABLE kept (x)")
        raw.commit()
    for name in ("new.db", "migrated.db"):
        Database(tmp_path / name, schema).close()
    tables, rows = contents(tmp_path / "new.db")
    assert len(tables) > 20
    assert ("alembic_version", {"version_num": schema.revisions[-1]}) in rows
    assert (tables, rows) == contents(tmp_path / "migrated.db")


_PG_COLUMNS = (
    "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default "
    "FROM information_schema.columns WHERE table_schema = 'public'"
)
_PG_INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"


def postgresql_contents(connection: Connection, schema: Schema) -> tuple[set[Any], set[Any], list[Any]]:
    tables = [*schema.metadata.tables, schema.version_table(connection)]
    rows = [
        (name, dict(row)) for name in tables for row in connection.execute(text(f'SELECT * FROM "{name}"')).mappings()
    ]
    return set(connection.execute(text(_PG_COLUMNS))), set(connection.execute(text(_PG_INDEXES))), rows


@pytest.mark.parametrize(
    "schema",
    [ACCOUNTS, SCHEMA, USAGE, BUDGETS, AUDIT, RESPONSES, VECTOR_STORES],
    ids=["accounts", "jobs", "usage", "budgets", "audit", "responses", "vector_stores"],
)
def test_a_new_postgresql_database_is_what_the_migrations_arrive_at(
    schema: Schema, postgresql: PostgresqlServer
) -> None:
    versions = f"alembic_version_{schema.name}"
    with postgresql.database() as new, postgresql.database() as migrated:
        room = PostgresqlRoom(migrated, schema.name, 5.0)
        with room.migrating() as connection:
            schema.migrate(connection)
        with (
            closing(Database(Path("-"), schema, url=new)) as database,
            database.reading() as fresh,
            room.reader.connect() as connection,
        ):
            columns, indexes, rows = postgresql_contents(fresh, schema)
            assert len(columns) > 10
            assert len(indexes) > 5
            assert (versions, {"version_num": schema.revisions[-1]}) in rows
            assert (columns, indexes, rows) == postgresql_contents(connection, schema)
            context = MigrationContext.configure(connection, opts={"version_table": versions})
            assert compare_metadata(context, schema.metadata) == []
        room.dispose(close=True)


@both
def test_a_write_is_whole_or_not_at_all_and_waits_for_no_reader(jobs: Database) -> None:
    with jobs.reading() as reader:
        assert reader.exec_driver_sql(COUNT).scalar() == 0
        with suppress(ZeroDivisionError), jobs.writing() as writer:
            writer.exec_driver_sql(INSERT)
            raise ZeroDivisionError
        with jobs.writing() as writer:
            writer.exec_driver_sql(INSERT)
        assert reader.exec_driver_sql(COUNT).scalar() == 0  # its state is that of its start
        with jobs.reading() as later:
            assert later.exec_driver_sql(COUNT).scalar() == 1


@both
def test_a_writer_that_is_alone_sees_all_that_others_have_committed(jobs: Database) -> None:
    with jobs.writing() as connection:
        connection.exec_driver_sql(INSERT)

    def add_one() -> None:
        for _ in range(25):
            with jobs.writing() as connection:
                value = connection.exec_driver_sql("SELECT created_at FROM schedule_runs").scalar_one()
                connection.execute(text("UPDATE schedule_runs SET created_at = :next"), {"next": value + 1})

    threads = [threading.Thread(target=add_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    with jobs.reading() as connection:
        assert connection.exec_driver_sql("SELECT created_at FROM schedule_runs").scalar() == 101


@both
def test_a_writer_that_waits_too_long_is_told_to_try_again(
    jobs: Database, tmp_path: Path, database_url: DatabaseUrl | None
) -> None:
    with (
        closing(open_jobs_database(tmp_path, url=database_url, busy_seconds=0.05)) as other,
        jobs.writing(),
        pytest.raises(Unavailable, match=r"the jobs database cannot be used now: another .*; try again"),
        other.writing(),
    ):
        raise AssertionError("two transactions write at once")


def test_writers_that_need_not_be_alone_write_at_once_on_postgresql(postgresql: PostgresqlServer) -> None:
    with postgresql.database() as url, closing(open_jobs_database(Path("-"), url=url, busy_seconds=0.2)) as jobs:
        with jobs.writing() as first, jobs.writing(alone=False) as second:
            first.exec_driver_sql(INSERT)
            second.exec_driver_sql(INSERT.replace("'n'", "'m'"))
        with jobs.reading() as connection:
            assert connection.exec_driver_sql(COUNT).scalar() == 2


@both
def test_a_database_that_is_newer_is_refused(jobs: Database, tmp_path: Path, database_url: DatabaseUrl | None) -> None:
    with jobs.writing() as connection:
        connection.exec_driver_sql(f"UPDATE {SCHEMA.version_table(connection)} SET version_num = '9999'")
    with pytest.raises(ConfigError, match="has the schema '9999', which is newer than this version of sage") as caught:
        open_jobs_database(tmp_path, url=database_url)
    named = "jobs.db" if database_url is None else database_url.shown
    assert named in str(caught.value)


def test_what_postgresql_cannot_hold_is_the_callers_fault(postgresql: PostgresqlServer) -> None:
    statement = text("INSERT INTO schedule_runs (name, due_at, created_at) VALUES (:name, 1, 1)")
    with postgresql.database() as url, closing(open_jobs_database(Path("-"), url=url)) as jobs:
        for name in ("a\0b", "n" * 65):
            with (
                pytest.raises(InvalidRequest, match="a value does not fit into the database"),
                jobs.writing() as connection,
            ):
                connection.execute(statement, {"name": name})


def test_rooms_share_a_database_with_their_own_revisions(postgresql: PostgresqlServer) -> None:
    with postgresql.database() as url:
        for _ in range(2):
            for schema in (ACCOUNTS, SCHEMA):
                Database(Path("-"), schema, url=url).close()
        with closing(Database(Path("-"), SCHEMA, url=url)) as jobs, jobs.reading() as connection:
            for schema in (ACCOUNTS, SCHEMA):
                found = connection.exec_driver_sql(f"SELECT version_num FROM alembic_version_{schema.name}").all()
                assert found == [(schema.revisions[-1],)]


def test_a_schema_beside_another_has_its_own_revisions_in_the_file(tmp_path: Path) -> None:
    guest = Schema("the guest", SCHEMA.migrations, SCHEMA.revisions, SCHEMA.metadata, name="guest", beside=True)
    for _ in range(2):
        for schema in (ACCOUNTS, guest):
            Database(tmp_path / "sage.db", schema).close()
    tables, rows = contents(tmp_path / "sage.db")
    assert {"users", "jobs"} <= {part[0] for part in tables}
    assert ("alembic_version", {"version_num": ACCOUNTS.revisions[-1]}) in rows
    assert ("alembic_version_guest", {"version_num": SCHEMA.revisions[-1]}) in rows
