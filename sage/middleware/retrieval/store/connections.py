"""The connections to a collection's database: one that writes, some that read, and one that sees whether it changed.

In files, readers and the writer work on states of their own (WAL). In memory there is one connection, which one thread
at a time uses.
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
from sage.forks import forks
from sage.middleware.retrieval.store.vector_blocks import PAGE
from sage.sqlite import connection as sqlite

FILE = "truth.db"
BUSY_SECONDS = 15.0
_MAX_IDLE = 8  # connections that wait for the next readers
_CHECKPOINT = 32 * 2**20  # bytes of log after which it is moved into the database and emptied


class Connections(Protocol):
    """Lends connections. One that failed is closed when it comes back, and the next one is new."""

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """One consistent state until the end of the block."""

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """The connection to write with, for one thread at a time. At the end, what is not committed is rolled back."""

    def version(self) -> int:
        """A number that changes with each commit of any process."""

    def checkpoint(self) -> None:
        """Keeps the log short. Called by the writer between commits."""

    def empty_log(self, seconds: float) -> bool:
        """Moves all of the log into the database and empties it. Called by the writer between commits. Waits up to
        ``seconds`` for readers of older states; ``False`` means that one of them is still reading."""

    def close(self) -> None: ...


class InFiles:
    """To ``truth.db`` in a directory, which also has its log and its shared memory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / FILE
        self._inode = os.stat(self._path).st_ino
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None
        self._watcher: sqlite3.Connection | None = None
        self._watcher_lock = threading.Lock()
        self._epoch = 0
        self._unchanging: tuple[int, ...] | None = None
        """What the file was like when it was opened as one that nobody writes to; ``None`` means that it was not."""
        self._checkpoint_at = _CHECKPOINT
        self._forks = forks.count
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
        self._notice_change()
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
            if not self._closed and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        self._check_exists()
        if self._writer is None:
            self._check_open()
            self._close_idle()
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

    def _close_idle(self) -> None:
        """Closes all connections that are not in use. After a failure this makes all of them new: in one process they
        share what SQLite knows of the files, for example that these are read-only."""
        with self._lock:
            closing, self._idle = self._idle, []
        with self._watcher_lock:
            closing += [self._watcher] if self._watcher is not None else []
            self._watcher = None
        for connection in closing:
            connection.close()

    def _notice_change(self) -> None:
        """A file on a file system that is mounted for reading here may be written elsewhere all the same."""
        if self._unchanging is not None and self._unchanging != self._file_state():
            self._unchanging = None
            self._close_idle()

    def _file_state(self) -> tuple[int, ...]:
        stat = os.stat(self._path)
        return stat.st_ino, stat.st_size, stat.st_mtime_ns, int(sqlite.is_immutable(self._path))

    def version(self) -> int:
        self._notice_change()
        with self._watcher_lock:
            if self._watcher is None:
                self._check_open()
                if sqlite.is_immutable(self._path):
                    self._unchanging = self._file_state()
                self._watcher = self._connect("PRAGMA query_only = ON")
                self._epoch += 1 << 40  # a new connection begins to count again
            try:
                (value,) = self._watcher.execute("PRAGMA data_version").fetchone()
            except sqlite3.Error:
                self._watcher.close()
                self._watcher = None
                raise
            return self._epoch + int(value)

    def checkpoint(self) -> None:
        """Moves the log into the database and empties it, once it is large. While a reader needs it, that is not
        possible; it is tried again when the log has grown by as much again."""
        try:
            size = os.stat(f"{self._path}-wal").st_size
        except FileNotFoundError:
            return
        if size < self._checkpoint_at or self._writer is None:
            return
        try:
            # With readers that follow one another without a gap it would never be possible: so it waits a little.
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
        """In a forked process they stay open: closing them there could empty the log of the process above it."""
        if self._forks != forks.count:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._close_idle()
        if self._writer is not None:
            with suppress(sqlite3.Error):
                self._writer.execute("PRAGMA busy_timeout = 0")
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._writer.close()
            self._writer = None

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"collection '{self._name}' is closed")

    def _check_exists(self) -> None:
        """A deleted database could still be written through an open connection, and the data would be lost."""
        try:
            inode = os.stat(self._path).st_ino
        except FileNotFoundError:
            inode = None
        if inode != self._inode:
            raise NotFound(f"collection '{self._name}' was deleted", param="collection", code="collection_not_found")

    def _connect(self, *pragmas: str) -> sqlite3.Connection:
        self._check_exists()
        return connect(self._path, *pragmas)


class InMemory:
    """One connection, and a lock around it: readers and the writer wait for each other."""

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
    """Settings that a database gets once, before it has tables."""
    connection.execute(f"PRAGMA page_size = {PAGE}")
    sqlite.switch_to_wal(connection, BUSY_SECONDS)


def require_database(directory: Path, name: str) -> None:
    """Raises :class:`NotFound` unless there is a database."""
    if not (directory / FILE).is_file():
        raise NotFound(f"there is no collection in '{name}'", param="collection", code="collection_not_found")
