"""A data directory with accounts, and a clock that tests set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fresh_gateway import run_fresh_gateway
from running_gateway import LOW_COST, PASSWORD

from sage.middleware.auth.accounts import Accounts
from sage.middleware.settings.database import DatabaseUrl


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
    with run_fresh_gateway(data_dir) as url:
        yield url, data_dir
