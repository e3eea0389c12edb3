"""A room's database through SQLAlchemy: its transactions, and its migrations at the start, on SQLite or PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, DataError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection

from sage.errors import ConfigError, InvalidRequest, MissingExtra, SageError, Unavailable
from sage.forks import forks
from sage.middleware.database.backend import Backend, Seat
from sage.middleware.database.failures import cause_of, is_passing, is_postgresql
from sage.middleware.database.schema import Schema
from sage.middleware.database.sqlite_file import SqliteFile
from sage.middleware.settings.database import DatabaseUrl


class Database:
    """The tables of ``schema`` in the SQLite file ``path``, or with ``url`` in that PostgreSQL database; made and
    migrated when needed. Safe to use from several threads and processes.

    A transaction waits up to ``busy_seconds`` for a lock of another one. ``pragmas`` are run on each new connection to
    SQLite. Raises :class:`ConfigError` when the database cannot be used, :class:`Unavailable` when PostgreSQL does not
    answer now.
    """

    def __init__(
        self, path: Path, schema: Schema, *pragmas: str, url: DatabaseUrl | None = None, busy_seconds: float = 5.0
    ) -> None:
        self.path = path
        self._schema = schema
        self._forks = forks.count
        self._backend = _open(path, schema, pragmas, url, busy_seconds)
        try:
            if not self._is_current():
                self._migrate()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes every connection, in a forked process only its own."""
        self.leave_inherited()
        self._backend.dispose(close=True)

    def leave_inherited(self) -> None:
        """In a forked process: connects anew, and leaves the connections of the process above it as they are."""
        if self._forks != forks.count:
            self._forks = forks.count
            self._backend.dispose(close=False)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one consistent state."""
        self.leave_inherited()
        with self.unavailable_on_failure(), self._backend.reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, *, alone: bool = True) -> Iterator[Connection]:
        """A transaction; an error undoes everything, else it commits.

        It is alone among the writers of its room from its start, and sees all that others have committed before. Only
        a transaction whose statements are safe by themselves (they add rows, change them by a condition of their own,
        or lock them first, in an order that all keep) may go without: PostgreSQL then runs several at a time.
        """
        self.leave_inherited()
        engine = self._backend.writer if alone else self._backend.sharer
        with self.unavailable_on_failure(), engine.begin() as connection:
            yield connection

    def seat(self, name: str) -> Seat | None:
        """A seat for one process among all on this database; ``None`` on SQLite, whose rooms use lock files."""
        return self._backend.seat(name)

    @contextmanager
    def unavailable_on_failure(self) -> Iterator[None]:
        """Raises :class:`Unavailable` with the cause when the database fails within the block, and
        :class:`InvalidRequest` for values that it cannot hold."""
        try:
            yield
        except (OperationalError, InternalError, InterfaceError) as exc:
            raise Unavailable(f"{self._schema.title} cannot be used now: {cause_of(exc.orig)}") from exc
        except NoConnection as exc:
            raise Unavailable(f"{self._schema.title} cannot be used now: all its connections are busy") from exc
        except DataError as exc:
            raise value_refused() from exc

    def _is_current(self) -> bool:
        if self._backend.is_empty:
            return False
        try:
            with self._backend.reader.connect() as connection:
                return self._schema.is_current(connection, self._backend.place)
        except DatabaseError as exc:
            raise unusable(f"{self._backend.place} cannot be read as {self._schema.title}", exc) from exc

    def _migrate(self) -> None:
        """Migrates to the newest schema. One process does it; others that open the database wait."""
        try:
            with self._backend.migrating() as connection:
                if not self._schema.is_current(connection, self._backend.place):
                    self._schema.upgrade(connection)
        except (sqlite3.Error, DatabaseError) as exc:
            raise unusable(f"{self._backend.place} cannot be migrated", exc) from exc


def unusable(fault: str, exc: Exception) -> SageError:
    """``fault`` and its cause, for a database that cannot even be opened: :class:`Unavailable` where it may answer
    soon."""
    origin = exc.orig if isinstance(exc, DatabaseError) else exc
    if not is_postgresql(origin):
        return ConfigError(f"{fault}: {origin}")
    message = f"{fault}: {cause_of(origin)}"
    return Unavailable(message) if is_passing(origin) else ConfigError(message)


def value_refused() -> InvalidRequest:
    """For a :class:`~sqlalchemy.exc.DataError`: SQLite takes any text and length, PostgreSQL does not."""
    return InvalidRequest(
        "a value does not fit into the database: a text that is too long or has the character NUL, or a number that is "
        "too large"
    )


def _open(
    path: Path, schema: Schema, pragmas: tuple[str, ...], url: DatabaseUrl | None, busy_seconds: float
) -> Backend:
    if url is None:
        return SqliteFile(path, pragmas, busy_seconds)
    return open_postgresql(url, schema.name, busy_seconds)


def open_postgresql(url: DatabaseUrl, name: str, busy_seconds: float) -> Backend:
    """The room ``name`` in the database at ``url``; nothing is connected yet. Raises :class:`MissingExtra`."""
    try:
        from sage.middleware.database.postgresql import PostgresqlRoom
    except ImportError as exc:
        raise MissingExtra("the setting 'database'", "postgres") from exc
    return PostgresqlRoom(url, name, busy_seconds)
