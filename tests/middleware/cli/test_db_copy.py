"""`sage db copy` with a real PostgreSQL: everything that SQLite files hold, or nothing."""

from __future__ import annotations

import asyncio
import fcntl
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgresql_server import PostgresqlServer
from running_gateway import LOW_COST, PASSWORD
from sage_process import environment, sage
from sqlalchemy import insert

from sage.middleware.audit.event import AuditEvent
from sage.middleware.audit.log import AuditFilter, AuditLog
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.grants import KeyRequest
from sage.middleware.budgets.counters import BudgetCounters
from sage.middleware.budgets.database import open_budgets_database
from sage.middleware.budgets.periods import period_at
from sage.middleware.budgets.reader import BudgetReader
from sage.middleware.budgets.spending import Spending, WindowKey
from sage.middleware.budgets.store import BudgetStore
from sage.middleware.budgets.subjects import members_of
from sage.middleware.budgets.tables import events as budget_events
from sage.middleware.database.shared_files import DirectoryFiles
from sage.middleware.queue.database import open_jobs_database
from sage.middleware.queue.files import FileLimits, FileStore
from sage.middleware.queue.records import NewJob
from sage.middleware.queue.store import JobStore
from sage.middleware.registry.runtime_models import RuntimeModels
from sage.middleware.settings.budgets import BudgetSettings, BudgetsSettings
from sage.middleware.settings.database import DatabaseUrl
from sage.middleware.settings.limits import Limits
from sage.middleware.settings.settings import DeploymentSettings, Model
from sage.middleware.usage.database import open_usage_database
from sage.middleware.usage.entries import Identities, LedgerEntry
from sage.middleware.usage.periods import read_period
from sage.middleware.usage.reader import UsageFilter, UsageReader
from sage.middleware.usage.records import CallSeries, UsageRecord
from sage.middleware.usage.store import UsageStore

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


@pytest.fixture
def busy(data: Path, secret: str) -> dict[str, int]:
    """Adds what a gateway has after a day's work; how many rows each table has then."""
    accounts = Accounts(data, hash_cost=LOW_COST)
    accounts.teams.add("acme", limits=Limits(rpm=5))
    accounts.teams.change("acme", note="名字 of a\nteam")
    with closing(open_budgets_database(data)) as database:
        budgets = BudgetStore(database)
        budgets.audit = accounts.audit
        budgets.put("tenant:acme", BudgetSettings(usd=Decimal("12.5")), "acme")
        budgets.put("user:root", BudgetSettings(tokens=10**15, window="total", hard=False), "default")
        budgets.remove("user:root", "default")
        budgets.put(members_of("acme"), BudgetSettings(tokens=9, window="day"), "acme")
        period = period_at("month", time.time())
        key = WindowKey("tenant:acme", "usd", period.name)
        BudgetCounters(database).settle("holder", [Spending(key, period.ends, 2_500_000_000, 0)], lives=False)
        with database.writing() as connection:
            event = {"id": "e1", "body": b'{"type": "budget.threshold"}', "attempts": 1, "next_at": 5.5}
            connection.execute(insert(budget_events).values(event))
    accounts.close()
    with closing(open_usage_database(data)) as database:
        identities, begin = Identities(), datetime(2026, 11, 1, tzinfo=UTC).timestamp()
        records = [made(begin + 977 * number, number) for number in range(1200)]  # more than two rounds of rows
        UsageStore(database).write([LedgerEntry(identities.next(record.time), record) for record in records])
    counts: dict[str, int] = {}
    for path in (data / "sage.db", data / "usage.db"):
        with closing(sqlite3.connect(path)) as raw:
            names = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            counts |= {name: raw.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}
    return counts


def made(moment: float, number: int) -> UsageRecord:
    """One call of a day's work."""
    tags = ("night",) if number % 3 else ()
    series = CallSeries("acme", f"user-{number % 7}", f"key-{number % 5}", "m", "p", "p/m", "m", "chat", stream=False)
    cost = number * 10 if number % 11 else None
    return UsageRecord(
        moment, f"r{number}", series._replace(tags=tags), 1, 200, number, 0, 1, 0, False, cost, 5.0, None
    )


def sums(data: Path, url: DatabaseUrl | None) -> list[Any]:
    period = read_period("2026-11-01", "2026-11-30", "Asia/Kolkata")
    with closing(open_usage_database(data, url=url)) as database:
        reader = UsageReader(lambda: database)
        page = reader.page(period, UsageFilter(), None, 50)
        return [*(reader.sums(by, period, UsageFilter()) for by in ("day", "user", "key", "tag")), page]


def test_audit_budgets_and_usage_go_along_and_the_chain_verifies(
    data: Path, busy: dict[str, int], empty: DatabaseUrl
) -> None:
    status, out, err = copy(data, "--to", empty.conninfo, "--json")
    assert status == 0, err
    counts = json.loads(out)["tables"]
    for table in ("audit_events", "audit_head", "budgets", "budget_counters", "budget_events", "usage_requests"):
        assert counts[table] == busy[table] > 0, table
    assert {name: busy[name] for name in counts if name in busy} == {
        name: counts[name] for name in counts if name in busy
    }
    elsewhere = data.parent / "other"
    environ = {**environment(elsewhere), "DATABASE": empty.conninfo, "SAGE_DATABASE": empty.conninfo}
    with closing(AuditLog(data)) as old, closing(AuditLog(elsewhere, empty)) as new:
        assert new.head() == old.head() == (busy["audit_events"], old.head()[1])
        assert new.page(AuditFilter(), None, 100) == old.page(AuditFilter(), None, 100)
        new.append(AuditEvent("key.create", "key:x", "operator"))  # the chain goes on
    verified = sage(["audit", "verify"], environ, cwd=data.parent)
    assert verified.returncode == 0, verified.stderr
    assert sums(elsewhere, empty) == sums(data, None)
    with closing(open_budgets_database(elsewhere, empty)) as database:
        (team,) = BudgetReader(database, BudgetsSettings()).beside("tenant", [{"name": "acme"}])
        assert [team["budget"][name] for name in ("usd", "spent", "reserved")] == [12.5, 2.5, 0]
        assert team["member_budget"] == {"tokens": 9, "window": "day", "hard": True}
    with closing(psycopg.connect(empty.conninfo)) as connection, pytest.raises(psycopg.Error, match="append-only"):
        connection.execute("DELETE FROM audit_events")


def test_an_installation_comes_back_out_of_postgresql(
    data: Path, secret: str, busy: dict[str, int], empty: DatabaseUrl
) -> None:
    assert copy(data, "--to", empty.conninfo)[0] == 0
    back, env = data.parent / "back", environment(data)
    accounts = Accounts(data.parent / "other", hash_cost=LOW_COST, url=empty)
    accounts.users.add("later", PASSWORD)
    busy_now = sage(["db", "export", str(back), "--from", empty.conninfo], env, cwd=data.parent)
    accounts.close()
    assert (busy_now.returncode, back.exists()) == (1, False)
    assert "is in use; end the gateways" in busy_now.stderr
    # What a copy leaves that is killed, what one that runs has made so far, and what is none of ours.
    killed, running, theirs = (data.parent / f".back-{name}" for name in ("killed", "running", "theirs"))
    for left in (killed, running, theirs):
        left.mkdir()
        (left / "sage.db").write_bytes(b"half of it")
    (killed / ".unfinished").touch()
    with (running / ".unfinished").open("w") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        done = sage(["db", "export", str(back), "--from", empty.conninfo, "--json"], env, cwd=data.parent)
    assert [left.exists() for left in (killed, running, theirs)] == [False, True, True]
    assert not (back / ".unfinished").exists()
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["tables"]
    assert (counts["users"], counts["usage_requests"], counts["shared_files"]) == (3, busy["usage_requests"], 3)
    assert sums(back, None) == sums(data, None)
    with closing(Accounts(back, hash_cost=LOW_COST)) as again:
        assert again.verifier.verify(secret).principal.user == "root"
        assert again.users.get("later").name == "later"
        assert again.users.add("next", PASSWORD).name == "next"
    assert (back / "keys" / "0001.pem").read_bytes() == (data / "keys" / "0001.pem").read_bytes()
    assert (back / "sage.db").stat().st_mode & 0o077 == 0
    assert asyncio.run(add_jobs(back / "queue", None, 1)) == [4]
    verified = sage(["audit", "verify"], environment(back), cwd=data.parent)
    assert verified.returncode == 0, verified.stderr
    twice = sage(["db", "export", str(back), "--from", empty.conninfo], env, cwd=data.parent)
    assert (twice.returncode, "is not empty" in twice.stderr) == (1, True)
    assert {path for path in data.parent.iterdir() if path.name.startswith(".")} <= {running, theirs}


def test_a_copy_that_is_killed_leaves_nothing_behind(data: Path, busy: dict[str, int], empty: DatabaseUrl) -> None:
    with closing(sqlite3.connect(data / "usage.db")) as raw:  # enough to be killed in the midst of
        names = [name for (_, name, *_) in raw.execute("PRAGMA table_info(usage_requests)") if name != "id"]
        columns = ", ".join(f'"{name}"' for name in names)
        rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)"
        raw.execute(
            f"INSERT INTO usage_requests (id, {columns}) {rows} SELECT u.id + i * 100000000, {columns} "
            "FROM usage_requests u, n WHERE u.id IN (SELECT id FROM usage_requests LIMIT 500)"
        )
        raw.commit()
    command = [sys.executable, "-m", "sage.middleware.cli.main", "db", "copy", "--to", empty.conninfo]
    with subprocess.Popen(command, env=environment(data), cwd=data.parent, stdout=subprocess.PIPE) as copying:
        deadline = time.monotonic() + 60
        while not writes(empty) and copying.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        assert copying.poll() is None, "it ended before it could be killed"
        copying.kill()
    end = time.monotonic() + 30
    while writes(empty) and time.monotonic() < end:
        time.sleep(0.05)
    assert tables(empty) == set()
    with closing(sqlite3.connect(data / "usage.db")) as raw:
        raw.execute("DELETE FROM usage_requests WHERE id > (SELECT min(id) + 50000000 FROM usage_requests)")
        raw.commit()
    status, _, err = copy(data, "--to", empty.conninfo, "--json")
    assert status == 0, err  # and the next one goes through


def writes(url: DatabaseUrl) -> bool:
    """Whether a session is in a transaction that has written."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_xid IS NOT NULL"
    )
    with closing(psycopg.connect(url.conninfo)) as connection:
        found = connection.execute(query).fetchone()
    return found is not None and found[0] > 0


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
    assert "a row of 'api_keys' does not fit into the other database" in err
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
