"""The accounts' database: schema, migrations, file modes, transactions."""

from __future__ import annotations

import contextlib
import multiprocessing
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from running_gateway import LOW_COST, PASSWORD
from sqlalchemy import Connection, create_engine, text

import sage.middleware.auth.database as room
from sage.errors import ConfigError, Conflict, Unavailable
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.database import REVISIONS, SCHEMA, AccountsDatabase
from sage.middleware.auth.models import Base
from sage.middleware.database.database import Database
from sage.middleware.database.schema import Schema
from sage.middleware.settings.database import DatabaseUrl

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


def test_a_fresh_database_is_migrated_to_the_tables_of_the_models(accounts: Accounts) -> None:
    engine = create_engine(f"sqlite:///{accounts.database.path}")
    with engine.connect() as connection:
        own = {
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, _: kind != "table" or name in Base.metadata.tables,
        }
        context = MigrationContext.configure(connection, opts=own)
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == REVISIONS[-1]
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    engine.dispose()


def test_the_revisions_in_the_code_are_those_of_the_migrations() -> None:
    script = ScriptDirectory(str(Path(room.__file__).parent / "migrations"))
    assert tuple(reversed([step.revision for step in script.walk_revisions()])) == REVISIONS


def test_stored_users_survive_a_restart(accounts: Accounts, root: str, data_dir: Path) -> None:
    again = Accounts(data_dir)
    assert [user.name for user in again.users.list()] == [root]
    again.close()


def test_an_older_database_is_migrated_without_loss(accounts: Accounts, root: str, data_dir: Path) -> None:
    accounts.close()
    with closing(sqlite3.connect(data_dir / "sage.db")) as raw:  # as one that was made before any migration ran
        raw.execute("DELETE FROM alembic_version")
        for table in ("refresh_tokens", "sessions", "api_keys", "users", "tenants", "revision"):
            raw.execute(f"DROP TABLE {table}")
        raw.execute("CREATE TABLE kept (x)")
        raw.commit()
    again = Accounts(data_dir)
    assert again.users.list() == []
    again.close()
    with closing(sqlite3.connect(data_dir / "sage.db")) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [(REVISIONS[-1],)]
        assert raw.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_a_database_newer_than_the_code_is_refused_unchanged(accounts: Accounts, data_dir: Path) -> None:
    with closing(sqlite3.connect(data_dir / "sage.db")) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
        raw.commit()
    with pytest.raises(ConfigError, match="schema '9999', which is newer than this version of sage") as caught:
        Accounts(data_dir)
    assert str(data_dir / "sage.db") in str(caught.value)
    with closing(sqlite3.connect(data_dir / "sage.db")) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


def test_a_file_that_is_no_database_is_refused(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "sage.db").write_text("not a database, but longer than a header of one hundred bytes " * 4)
    with pytest.raises(ConfigError, match=r"sage\.db cannot be read as the accounts database"):
        Accounts(data_dir)


def test_a_data_directory_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made: Not a directory; set data_dir"):
        Accounts(tmp_path / "file" / "data")


def test_the_directory_and_all_files_are_the_owners_alone(accounts: Accounts, root: str, data_dir: Path) -> None:
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in data_dir.iterdir() if file.is_file()}
    assert {"sage.db", "sage.db-wal", "sage.db-shm"} <= set(files)
    assert set(files.values()) == {0o600}


def test_a_database_that_others_could_read_is_made_private(accounts: Accounts, data_dir: Path) -> None:
    accounts.close()
    (data_dir / "sage.db").chmod(0o644)
    Accounts(data_dir).close()
    assert stat.S_IMODE((data_dir / "sage.db").stat().st_mode) == 0o600


def _open(data_dir: Path) -> int:
    accounts = Accounts(data_dir)
    try:
        return accounts.database.revision
    finally:
        accounts.close()


@pytest.mark.slow
def test_processes_that_open_a_fresh_directory_at_once_do_not_collide(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        for turn in range(3):
            assert pool.map(_open, [tmp_path / str(turn)] * 4, chunksize=1) == [1] * 4


@pytest.mark.slow
def test_only_an_old_database_pays_for_alembic(data_dir: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from sage.middleware.auth.accounts import Accounts; "
        "Accounts(pathlib.Path(sys.argv[1])).close(); print('alembic' in sys.modules)"
    )
    old = tmp_path / "old"
    old.mkdir()
    with closing(sqlite3.connect(old / "sage.db")) as raw:
        raw.execute("CREATE TABLE kept (x)")
        raw.commit()
    for directory, imported in ((data_dir, "False"), (data_dir, "False"), (old, "True")):
        ran = subprocess.run([sys.executable, "-c", code, str(directory)], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == imported


def _add_user(data_dir: Path, name: str) -> None:
    accounts = Accounts(data_dir, hash_cost=LOW_COST)
    accounts.users.add(name, PASSWORD)
    accounts.close()


@pytest.mark.slow
def test_writes_of_another_process_reach_all_open_accounts(accounts: Accounts, data_dir: Path) -> None:
    beside = Accounts(data_dir)  # opening a second time must not drop the locks of the first
    assert accounts.users.list() == beside.users.list() == []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for names in (["ann"], ["ann", "bob"]):  # had they been, the first to leave would have deleted the log
            pool.apply(_add_user, [data_dir, names[-1]])
            assert [user.name for user in accounts.users.list()] == names
            assert [user.name for user in beside.users.list()] == names
    beside.close()


def test_a_write_that_finds_the_lock_taken_is_an_error_to_try_again(accounts: Accounts, data_dir: Path) -> None:
    database = AccountsDatabase(data_dir, busy_seconds=0.05)
    with closing(sqlite3.connect(data_dir / "sage.db", isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked; try again"), database.write():
            raise AssertionError("the lock was not asked for at the start")
    with database.write() as session:
        database.bump(session)
    assert database.revision == 2
    database.close()


def test_a_failed_transaction_changes_nothing(accounts: Accounts) -> None:
    with contextlib.suppress(ZeroDivisionError), accounts.database.write() as session:
        accounts.database.bump(session)
        raise ZeroDivisionError
    assert accounts.database.read_revision() == accounts.database.revision == 1


class FirstSchema(Schema):
    """The schema that the first release had, made by its migration."""

    def upgrade(self, connection: Connection) -> None:
        self.migrate(connection)


@pytest.mark.both_databases
def test_a_database_of_the_first_schema_keeps_its_accounts(data_dir: Path, database_url: DatabaseUrl | None) -> None:
    data_dir.mkdir()
    if database_url is not None:  # which has the tables of today
        today = Database(data_dir / "sage.db", SCHEMA, url=database_url)
        with today.writing() as connection:
            SCHEMA.metadata.drop_all(connection)
            connection.execute(text(f"DROP TABLE {SCHEMA.version_table(connection)}"))
        today.close()
    first = FirstSchema(SCHEMA.title, SCHEMA.migrations, ("0001",), SCHEMA.metadata, name=SCHEMA.name)
    database = Database(data_dir / "sage.db", first, url=database_url)
    with database.writing() as connection:
        for id, name, tenant, created_at in (
            *((1, "Ann", "lab", 20), (2, "Éva", "default", 10)),
            (3, "bob", "lab", 15),
        ):
            row = {"id": id, "name": name, "tenant": tenant, "created_at": created_at, "disabled": False}
            connection.execute(
                text(
                    "INSERT INTO users (id, name, role, tenant, disabled, created_at) "
                    "VALUES (:id, :name, 'user', :tenant, :disabled, :created_at)"
                ),
                row,
            )
        connection.execute(
            text(
                "INSERT INTO api_keys (id, user_id, name, secret_hash, last4, scopes, models, tenant, created_at) "
                "VALUES ('k', 1, '', :hash, 'abcd', '[]', '[]', 'shop', 5)"
            ),
            {"hash": bytes(32)},
        )
    database.close()
    again = Accounts(data_dir, hash_cost=LOW_COST, url=database_url)
    assert [(user.name, user.tenant) for user in again.users.list()] == [
        *(("Ann", "lab"), ("bob", "lab"), ("Éva", "default")),
    ]
    for name in ("ANN", "éva", "ВОВ"):
        with pytest.raises(Conflict, match="is taken"):
            again.users.add(name, PASSWORD)
    assert [(team.name, team.models, team.members, team.keys, team.created_at) for team in again.teams.list()] == [
        ("default", ("*",), 1, 0, 10),
        ("lab", ("*",), 2, 0, 15),
        ("shop", ("*",), 0, 1, 5),
    ]
    assert (again.keys.get("k").tags, again.keys.get("k").note, again.keys.get("k").limits) == ((), "", None)
    again.close()
