"""A data directory with accounts, and a clock that tests set."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_gateway import LOW_COST, PASSWORD

from sage.middleware.app.gateway_server import bind
from sage.middleware.app.main import create_app
from sage.middleware.app.server import make_server
from sage.middleware.auth.accounts import Accounts
from sage.middleware.settings.database import DatabaseUrl
from sage.middleware.settings.settings import Settings


class Clock:
    """Unix seconds that move only when a test sets them."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def accounts(data_dir: Path, clock: Clock, database_url: DatabaseUrl | None) -> Iterator[Accounts]:
    accounts = Accounts(data_dir, clock=clock, hash_cost=LOW_COST, url=database_url)
    yield accounts
    accounts.close()


@pytest.fixture
def password() -> str:
    return PASSWORD


@pytest.fixture
def root(accounts: Accounts) -> str:
    """The name of an admin."""
    return accounts.users.add("root", PASSWORD, role="admin").name


@pytest.fixture
def fresh_gateway(data_dir: Path) -> Iterator[tuple[str, Path]]:
    """The address and data directory of a running gateway that has no users yet."""
    settings = Settings.model_validate({"data_dir": data_dir, "api": {"port": 0, "access_log": False}})
    sock = bind(settings.api.host, settings.api.port)
    ready = threading.Event()
    server = make_server(create_app(settings, hash_cost=LOW_COST), settings, ready.set)
    thread = threading.Thread(target=asyncio.run, args=[server.serve(sockets=[sock])])
    thread.start()
    try:
        assert ready.wait(30)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}", data_dir
    finally:
        server.should_exit = True
        thread.join(30)
        sock.close()
    assert not thread.is_alive()
