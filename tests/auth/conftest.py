"""A data directory with accounts, and a clock that tests set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sage.middleware.auth.accounts import Accounts

PASSWORD = "correct horse battery staple"


class Clock:
    """Unix seconds that only move when told to."""

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
def accounts(data_dir: Path, clock: Clock) -> Iterator[Accounts]:
    accounts = Accounts(data_dir, clock=clock)
    yield accounts
    accounts.close()


@pytest.fixture
def password() -> str:
    return PASSWORD


@pytest.fixture
def root(accounts: Accounts) -> str:
    """The name of an admin."""
    return accounts.users.add("root", PASSWORD, role="admin").name
