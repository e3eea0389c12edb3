"""A store of jobs in a directory of its own, with a clock that a test moves."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sage.middleware.database.database import Database
from sage.middleware.queue.database import open_jobs_database
from sage.middleware.queue.files import FileLimits, FileStore
from sage.middleware.queue.store import JobStore
from sage.middleware.settings.database import DatabaseUrl

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]


class Clock:
    """Unix seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def pass_time(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that is migrated already, to be copied: migrations cost a quarter of a second."""
    directory = tmp_path_factory.mktemp("empty") / "queue"
    open_jobs_database(directory).close()
    return directory / "jobs.db"


@pytest.fixture
def run() -> Iterator[Run[Any]]:
    """Runs a coroutine to its end, all of a test on one event loop."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def directory(tmp_path: Path, empty_database: Path, database_url: DatabaseUrl | None) -> Path:
    directory = tmp_path / "queue"
    directory.mkdir(mode=0o700)
    if database_url is None:
        shutil.copy(empty_database, directory / "jobs.db")
    return directory


@pytest.fixture
def database(directory: Path, database_url: DatabaseUrl | None) -> Iterator[Database]:
    database = open_jobs_database(directory, url=database_url)
    yield database
    database.close()


@pytest.fixture
def files(database: Database, directory: Path) -> FileStore:
    return FileStore(database, directory / "files", FileLimits(2**30, 2**30))


@pytest.fixture
def store(database: Database, directory: Path, files: FileStore, clock: Clock, run: Run[None]) -> Iterator[JobStore]:
    store = JobStore(database, directory, files, clock=clock)
    yield store
    run(store.close())
