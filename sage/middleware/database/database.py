"""A room's database through SQLAlchemy: an SQLite file, its transactions, and its migrations at the start."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError

from sage.errors import ConfigError, Unavailable
from sage.forks import forks
from sage.middleware.database.schema import Schema, locked
from sage.private_files import make_private
from sage.sqlite.connection import connect, switch_to_wal
from sage.sqlite.failures import cause_of

_WRITE = "sage_write"


class Database:
    """The database in the file ``path``, made and migrated to ``schema`` when needed. Safe to use from several threads
    and processes.

    A transaction waits up to ``busy_seconds`` for a lock of another one. ``pragmas`` are run on each new connection.
    Raises :class:`ConfigError` when the file cannot be used.
    """

    def __init__(self, path: Path, schema: Schema, *pragmas: str, busy_seconds: float = 5.0) -> None:
        self.path = path
        self._schema = schema
        make_private(path)
        self._busy_seconds = busy_seconds
        self._forks = forks.count
        self._engine = _make_engine(path, pragmas, busy_seconds)
        self._writer = self._engine.execution_options(**{_WRITE: True})
        try:
            if not schema.is_current(self._engine, path):
                self._migrate()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes every connection, in a forked process only its own."""
        self.leave_inherited()
        self._engine.dispose()

    def leave_inherited(self) -> None:
        """In a forked process: connects anew, and leaves the connections of the process above it as they are."""
        if self._forks != forks.count:
            self._forks = forks.count
            self._engine.dispose(close=False)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one consistent state."""
        self.leave_inherited()
        with self.unavailable_on_failure(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its start; an error undoes everything, else it commits."""
        self.leave_inherited()
        with self.unavailable_on_failure(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def unavailable_on_failure(self) -> Iterator[None]:
        """Raises :class:`Unavailable` with the cause when the database fails within the block."""
        try:
            yield
        except OperationalError as exc:
            raise Unavailable(f"{self._schema.title} cannot be used now: {cause_of(exc.orig)}") from exc

    def _migrate(self) -> None:
        """Migrates to the newest schema. One process does it; others that open the database wait."""
        with locked(self.path.with_name(f"{self.path.name}.lock")):
            if self._schema.is_current(self._engine, self.path):
                return
            try:
                with closing(connect(self.path, busy_seconds=self._busy_seconds)) as raw:
                    switch_to_wal(raw, self._busy_seconds)
                with self._writer.begin() as connection:
                    self._schema.upgrade(connection)
            except (sqlite3.Error, DatabaseError) as exc:
                raise ConfigError(f"{self.path} cannot be migrated: {exc}") from exc


def _make_engine(path: Path, pragmas: tuple[str, ...], busy_seconds: float) -> Engine:
    def open_file() -> sqlite3.Connection:
        return connect(path, "PRAGMA foreign_keys = ON", *pragmas, busy_seconds=busy_seconds)

    engine = create_engine(URL.create("sqlite+pysqlite", database=str(path)), creator=open_file)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get(_WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine
