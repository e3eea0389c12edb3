"""A PostgreSQL that is down, restarted or frozen: what rooms and a gateway say meanwhile, and how they go on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import requests
import yaml
from postgresql_server import PostgresqlServer, postgresql_server
from running_gateway import LOW_COST, PASSWORD
from sage_process import children, environment, serving
from upstream import Upstream

from sage.errors import Unavailable
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.grants import KeyRequest
from sage.middleware.database.database import Database
from sage.middleware.queue.database import SCHEMA

pytestmark = pytest.mark.slow

COUNT = "SELECT count(*) FROM schedule_runs"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    """One of its own: others are not to wait for it."""
    with postgresql_server() as started:
        yield started


@contextmanager
def frozen(server: PostgresqlServer) -> Iterator[None]:
    """The server and all that it has started say nothing, while the kernel goes on answering for them."""
    pids = [server.process.pid, *children(server.process.pid)]

    def signal_all(number: int) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):  # those of connections come and go
                os.kill(pid, number)

    try:
        signal_all(signal.SIGSTOP)
        yield
    finally:
        signal_all(signal.SIGCONT)


def count(database: Database) -> int:
    with database.reading() as connection:
        return int(connection.exec_driver_sql(COUNT).scalar_one())


def test_a_frozen_server_is_given_up_within_a_bound_and_used_again(server: PostgresqlServer) -> None:
    with server.database() as url, closing(Database(Path("-"), SCHEMA, url=url, busy_seconds=0.5)) as database:
        assert count(database) == 0
        with frozen(server):
            for _ in range(2):  # one on a connection, one that has to connect
                start = time.monotonic()
                with pytest.raises(
                    Unavailable, match="the jobs database cannot be used now: PostgreSQL does not answer"
                ):
                    count(database)
                assert time.monotonic() - start < 6
        wait_until_answered(database)


def wait_until_answered(database: Database) -> None:
    """A server that has not answered is not asked for a second, which a busy machine may not have used up yet."""
    end = time.monotonic() + 10
    while True:
        try:
            assert count(database) == 0
        except Unavailable:
            assert time.monotonic() < end
            time.sleep(0.05)
        else:
            return


def test_a_restarted_server_is_used_again_without_a_failure(server: PostgresqlServer) -> None:
    with server.database() as url, closing(Database(Path("-"), SCHEMA, url=url)) as database:
        seat = database.seat("leader")
        assert seat is not None
        assert seat.try_lead()
        assert count(database) == 0
        server.stop(signal.SIGINT)
        with pytest.raises(Unavailable, match="PostgreSQL does not answer"):
            count(database)
        assert not seat.try_lead()
        server.start()
        wait_until_answered(database)
        assert seat.try_lead()
        server.stop(signal.SIGINT)
        server.start()
        assert count(database) == 0  # what waited in the pool is dead, which is seen before it is used
        seat.resign()


def test_one_process_has_the_seat_until_it_ends(server: PostgresqlServer) -> None:
    with (
        server.database() as url,
        closing(Database(Path("-"), SCHEMA, url=url)) as one,
        closing(Database(Path("-"), SCHEMA, url=url)) as other,
    ):
        first, second = one.seat("leader"), other.seat("leader")
        assert first is not None
        assert second is not None
        assert (first.try_lead(), second.try_lead()) == (True, False)
        first.resign()
        assert (second.try_lead(), first.try_lead()) == (True, False)
        second.resign()


def test_a_gateway_refuses_within_a_bound_and_comes_back_by_itself(server: PostgresqlServer, tmp_path: Path) -> None:
    with server.database() as url, Upstream() as upstream:
        accounts = Accounts(tmp_path / "made", hash_cost=LOW_COST, url=url)
        accounts.users.add("root", PASSWORD, role="admin")
        key = accounts.keys.create_for("root", KeyRequest("tests")).secret
        accounts.close()
        provider = {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream"}
        sections = {"api": {"port": 0}, "database": url.conninfo, "llm": {"providers": {"up": provider}}}
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(sections))
        with serving(["--config", str(config)], environment(tmp_path / "data"), tmp_path, timeout=60) as gateway:

            def chat() -> int:
                body = {"model": "up/m", "messages": [{"role": "user", "content": "hello"}]}
                head = {"Authorization": f"Bearer {key}"}
                return requests.post(
                    f"{gateway.url}/v1/chat/completions", json=body, headers=head, timeout=30
                ).status_code

            assert chat() == 200
            with frozen(server):
                end = time.monotonic() + 15
                while chat() == 200:  # known credentials are good for a second more
                    assert time.monotonic() < end
                    time.sleep(0.01)
                start = time.monotonic()
                assert chat() == 503
                assert time.monotonic() - start < 15
                assert requests.get(f"{gateway.url}/health", timeout=30).status_code == 200
            end = time.monotonic() + 15
            while chat() != 200:
                assert time.monotonic() < end
                time.sleep(0.01)
