"""A room's tables in an SQLite file of their own."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event

from sage.middleware.database.backend import ALONE, Seat
from sage.private_files import make_private
from sage.sqlite.connection import connect, switch_to_wal


class SqliteFile:
    """The file ``path``, private to its owner. ``pragmas`` are run on each new connection, which waits up to
    ``busy_seconds`` for a lock of another one."""

    def __init__(self, path: Path, pragmas: tuple[str, ...], busy_seconds: float) -> None:
        make_private(path)
        self.place = str(path)
        self._path = path
        self._busy_seconds = busy_seconds
        self.reader = _make_engine(path, pragmas, busy_seconds)
        self.writer: Engine = self.reader.execution_options(**{ALONE: True})
        self.sharer: Engine = self.writer

    @property
    def is_empty(self) -> bool:
        return self._path.stat().st_size == 0

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        with locked(self._path.with_name(f"{self._path.name}.lock")):
            with closing(connect(self._path, busy_seconds=self._busy_seconds)) as raw:
                switch_to_wal(raw, self._busy_seconds)
            with self.writer.begin() as connection:
                yield connection

    def seat(self, name: str) -> Seat | None:
        return None

    def dispose(self, *, close: bool) -> None:
        self.reader.dispose(close=close)


def _make_engine(path: Path, pragmas: tuple[str, ...], busy_seconds: float) -> Engine:
    def open_file() -> sqlite3.Connection:
        return connect(path, "PRAGMA foreign_keys = ON", *pragmas, busy_seconds=busy_seconds)

    engine = create_engine(URL.create("sqlite+pysqlite", database=str(path)), creator=open_file)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        is_alone = connection.get_execution_options().get(ALONE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_alone else "BEGIN")

    return engine


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock among processes; it ends when the process ends, however that happens."""
    make_private(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
