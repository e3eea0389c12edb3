"""`sage db copy` with a real PostgreSQL: everything that SQLite files hold, or nothing."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from postgresql_server import PostgresqlServer
from running_gateway import LOW_COST, PASSWORD
from sage_process import environment, sage

from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.grants import KeyRequest
from sage.middleware.database.shared_files import DirectoryFiles
from sage.middleware.queue.database import open_jobs_database
from sage.middleware.queue.files import FileLimits, FileStore
from sage.middleware.queue.records import NewJob
from sage.middleware.queue.store import JobStore
from sage.middleware.registry.runtime_models import RuntimeModels
from sage.middleware.settings.database import DatabaseUrl
from sage.middleware.settings.settings import DeploymentSettings, Model

pytestmark = pytest.mark.slow

MODEL = Model(deployments=(DeploymentSettings(provider="openai", model="gpt"),))


@pytest.fixture
def empty(postgresql: PostgresqlServer) -> Iterator[DatabaseUrl]:
    with postgresql.database() as url:
        yield url


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def secret(data: Path) -> str:
    """Fills the data directory; the text of a key of root's, which another key made."""
    accounts = Accounts(data, hash_cost=LOW_COST)
    for name in ("root", "名字"):
        accounts.users.add(name, PASSWORD, role="admin")
    parent = accounts.keys.create_for("root", KeyRequest("parent"))
    secret = accounts.keys.create(accounts.verifier.verify(parent.secret).principal, KeyRequest("child")).secret
    accounts.sessions.login("root", PASSWORD)
    accounts.close()
    RuntimeModels(DirectoryFiles(data)).put("made", MODEL)
    asyncio.run(add_jobs(data / "queue", None, 3))
    return secret


async def add_jobs(directory: Path, url: DatabaseUrl | None, count: int) -> list[int]:
    """The numbers that they get."""
    database = open_jobs_database(directory, url=url)
    store = JobStore(database, directory, FileStore(database, directory / "files", FileLimits(10, 10)))
    params = {"prompt": "\u0000 of JSON"}
    new = NewJob(kind="generate", tenant="t", user="u", params=params, input=b"{}\n")
    numbers = [(await store.add(new))[0].sequence for _ in range(count)]
    await store.close()
    database.close()
    return numbers


def copy(data: Path, *arguments: str) -> tuple[int, str, str]:
    done = sage(["db", "copy", *arguments], environment(data), cwd=data.parent)
    return done.returncode, done.stdout, done.stderr


def tables(url: DatabaseUrl) -> set[str]:
    with closing(psycopg.connect(url.conninfo)) as connection:
        return {name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def test_an_installation_goes_on_in_postgresql(data: Path, secret: str, empty: DatabaseUrl) -> None:
    before = DirectoryFiles(data / "keys").read("0001.pem")
    status, out, err = copy(data, "--to", empty.conninfo, "--json")
    assert status == 0, err
    counts = json.loads(out)["tables"]
    assert (counts["users"], counts["api_keys"], counts["sessions"], counts["jobs"]) == (2, 2, 1, 3)
    assert counts["shared_files"] == 3  # the signing key, that of jobs, the models
    accounts = Accounts(data.parent / "other", hash_cost=LOW_COST, url=empty)
    assert accounts.verifier.verify(secret).principal.user == "root"
    assert [user.name for user in accounts.users.list()] == ["root", "名字"]
    assert accounts.users.add("third", PASSWORD).name == "third"  # its number is the next one
    assert accounts.tokens is not None
    accounts.close()
    with closing(psycopg.connect(empty.conninfo)) as connection:
        stored = dict(connection.execute("SELECT name, data FROM shared_files").fetchall())
    assert stored["keys/0001.pem"] == before
    assert set(json.loads(stored["gateway/models.json"])["models"]) == {"made"}
    assert asyncio.run(add_jobs(data.parent / "other" / "queue", empty, 1)) == [4]
    with closing(sqlite3.connect(data / "sage.db")) as raw:
        assert raw.execute("SELECT count(*) FROM users").fetchone() == (2,)
    status, out, err = copy(data, "--to", empty.conninfo)
    assert (status, out) == (1, "")
    assert "is not empty: it has the table" in err


def test_files_in_use_are_not_copied(data: Path, secret: str, empty: DatabaseUrl) -> None:
    with closing(Accounts(data)) as accounts:
        accounts.database.read_revision()
        status, _, err = copy(data, "--to", empty.conninfo)
    assert status == 1
    assert "sage.db is in use; end the gateway" in err
    assert tables(empty) == set()


def test_a_row_that_does_not_fit_leaves_nothing_behind(data: Path, secret: str, empty: DatabaseUrl) -> None:
    with closing(sqlite3.connect(data / "sage.db")) as raw:
        raw.execute("UPDATE api_keys SET name = ? WHERE name = 'child'", ["n" * 101])
        raw.commit()
    status, _, err = copy(data, "--to", empty.conninfo)
    assert status == 1
    assert "a row of 'api_keys' does not fit into PostgreSQL" in err
    assert tables(empty) == set()


def test_a_server_that_is_not_there_is_named_without_its_password(data: Path, secret: str, tmp_path: Path) -> None:
    status, _, err = copy(data, "--to", f"postgresql://sage:s3cret@/sage?host={tmp_path}")
    assert status == 1
    assert "PostgreSQL does not answer" in err
    assert "s3cret" not in err
    status, _, err = copy(data)
    assert (status, err) == (
        1,
        "sage: which database? name it with the setting 'database', or with --to postgresql://…\n",
    )
