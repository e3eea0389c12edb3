"""The connections to a collection's database: one that writes, some that read, one that tells whether it changed.

In files, readers and the writer each see a state of their own (WAL). In memory there is one connection, and one thread
at a time uses it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from sage.errors import NotFound, Unavailable
from sage.middleware.retrieval.store.vector_blocks import PAGE
from sage.sqlite import connection as sqlite

FILE = "truth.db"
BUSY_SECONDS = 15.0
_IDLE = 8  # connections kept for the next readers
_CHECKPOINT = 32 * 2**20  # bytes of log after which it is brought into the database and emptied


class Connections(Protocol):
    """Whoever borrows a connection gives it back; one that failed is closed then, and the next is new."""

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """One consistent state until the end of the block."""

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """The connection to write with; one thread at a time. What is not committed at the end is undone."""

    def version(self) -> int:
        """Changes with each commit of any process."""

    def checkpoint(self) -> None:
        """Called by the writer between commits: keeps the log short."""

    def empty_log(self, seconds: float) -> bool:
        """Brings all of the log into the database and leaves nothing in it; called by the writer between commits. Waits
        so long for readers of older states; ``False``: one of them stays."""

    def close(self) -> None: ...


class InFiles:
    """``directory`` holds ``truth.db``, its log and its shared memory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / FILE
        self._inode = os.stat(self._path).st_ino
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None
        self._clock: sqlite3.Connection | None = None
        self._clock_lock = threading.Lock()
        self._epoch = 0
        self._checkpoint_at = _CHECKPOINT
        self._closed = False

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        connection = self._borrow()
        try:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error:
            connection.close()
            raise
        except BaseException:
            self._give_back(connection)
            raise
        self._give_back(connection)

    def _borrow(self) -> sqlite3.Connection:
        with self._lock:
            self._check_open()
            if self._idle:
                return self._idle.pop()
        return self._connect("PRAGMA query_only = ON")

    def _give_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()
            return
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE:
                self._idle.append(connection)
                return
        connection.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        self._check_place()
        if self._writer is None:
            self._check_open()
            self._let_go()
            self._writer = self._connect("PRAGMA synchronous = FULL", "PRAGMA wal_autocheckpoint = 0")
        connection = self._writer
        try:
            yield connection
        except sqlite3.Error:
            self._writer = None
            connection.close()  # undoes what was not committed
            raise
        except BaseException:
            connection.rollback()
            raise
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def _let_go(self) -> None:
        """Closes what nobody uses. After a failure all connections are made anew: they share what SQLite knows of the
        files, such as that they may only be read."""
        with self._lock:
            found, self._idle = self._idle, []
        with self._clock_lock:
            found += [self._clock] if self._clock is not None else []
            self._clock = None
        for connection in found:
            connection.close()

    def version(self) -> int:
        with self._clock_lock:
            if self._clock is None:
                self._check_open()
                self._clock = self._connect("PRAGMA query_only = ON")
                self._epoch += 1 << 40  # a new connection counts from anew
            try:
                (value,) = self._clock.execute("PRAGMA data_version").fetchone()
            except sqlite3.Error:
                self._clock.close()
                self._clock = None
                raise
            return self._epoch + int(value)

    def checkpoint(self) -> None:
        """Brings the log into the database and empties it. A reader that stays keeps it: then it is tried again when
        it has grown by as much again."""
        try:
            size = os.stat(f"{self._path}-wal").st_size
        except FileNotFoundError:
            return
        if size < self._checkpoint_at or self._writer is None:
            return
        try:
            # Readers that follow one another without a gap would keep the log for ever: they are waited for a little.
            self._writer.execute("PRAGMA busy_timeout = 250")
            (busy, _, _) = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._writer.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        except sqlite3.Error:
            self._checkpoint_at = size + _CHECKPOINT
            self._writer.close()
            self._writer = None
            raise
        self._checkpoint_at = size + _CHECKPOINT if busy else _CHECKPOINT

    def empty_log(self, seconds: float) -> bool:
        with self.writing() as connection:
            connection.execute(f"PRAGMA busy_timeout = {max(0, int(seconds * 1000))}")
            try:
                (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        return not busy

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._let_go()
        if self._writer is not None:
            with suppress(sqlite3.Error):
                self._writer.execute("PRAGMA busy_timeout = 0")
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._writer.close()
            self._writer = None

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"collection '{self._name}' is closed")

    def _check_place(self) -> None:
        """A database that was deleted could still be written, and nobody would ever find it again."""
        try:
            inode = os.stat(self._path).st_ino
        except FileNotFoundError:
            inode = None
        if inode != self._inode:
            raise NotFound(
                f"collection '{self._name}' was deleted meanwhile", param="collection", code="collection_not_found"
            )

    def _connect(self, *pragmas: str) -> sqlite3.Connection:
        self._check_place()
        return connect(self._path, *pragmas)


class InMemory:
    """One connection, and a lock around it: a reader keeps the writer waiting."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._lock = threading.RLock()
        self._writes = 0
        self._closed = False

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._check_open()
            yield self._connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._check_open()
            try:
                yield self._connection
            finally:
                self._writes += 1
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def version(self) -> int:
        self._check_open()
        return self._writes

    def checkpoint(self) -> None:
        """There is no log."""

    def empty_log(self, seconds: float) -> bool:
        return True

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"collection '{self._name}' is closed")


def connect(path: Path | None, *pragmas: str) -> sqlite3.Connection:
    """A connection to the database in a file that exists, or to a new one in memory."""
    return sqlite.connect(
        path, "PRAGMA cache_size = -8192", "PRAGMA secure_delete = FAST", *pragmas, busy_seconds=BUSY_SECONDS
    )


def make_file(directory: Path, name: str) -> None:
    """An empty database that only its owner may read, unless there is one.

    Raises :class:`sage.errors.Unavailable` when it cannot be made.
    """
    try:
        sqlite.make_private_file(directory / FILE)
    except OSError as exc:
        raise Unavailable(f"collection '{name}' cannot be made: {exc.strerror}: {directory.name}") from exc


def set_up_file(connection: sqlite3.Connection) -> None:
    """What a database is told once, before it has tables."""
    connection.execute(f"PRAGMA page_size = {PAGE}")
    sqlite.switch_to_wal(connection, BUSY_SECONDS)


def sync_directory(directory: Path) -> None:
    """Puts the names in it on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exists(directory: Path, name: str) -> None:
    """Raises :class:`NotFound` unless there is a database."""
    if not (directory / FILE).is_file():
        raise NotFound(f"there is no collection in '{name}'", param="collection", code="collection_not_found")
