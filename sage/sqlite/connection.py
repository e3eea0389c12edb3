"""Connections to SQLite files: hardened, in WAL mode, with transactions that are begun by hand.

While a process has a database open, nothing but SQLite may open that file there: closing it again would drop all
POSIX locks that the process has on it, SQLite's too.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_WAL_RETRY_SECONDS = 0.01
_PRAGMAS = (
    "PRAGMA trusted_schema = OFF",  # a file from elsewhere may call no function with side effects
    "PRAGMA cell_size_check = ON",  # damage is noticed when a page is read
    "PRAGMA temp_store = MEMORY",
)


def connect(path: Path | None, *pragmas: str, busy_seconds: float, create: bool = False) -> sqlite3.Connection:
    """Connects to the database in ``path``, or to a new one in memory (``None``), for any thread, and runs ``pragmas``.

    Waits up to ``busy_seconds`` for locks of other connections. Makes a missing file only with ``create``. A file that
    :func:`is_immutable` can only be read; writes raise what SQLite raises (``SQLITE_READONLY``).
    """
    target = ":memory:"
    if path is not None:
        mode = "rwc" if create else "ro&immutable=1" if is_immutable(path) else "rw"
        target = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(
        target, timeout=busy_seconds, isolation_level=None, check_same_thread=False, uri=path is not None
    )
    try:
        for pragma in (*_PRAGMAS, *pragmas):
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def is_immutable(path: Path) -> bool:
    """Whether a database in WAL mode is complete in its file and nobody can write to it here, as on a file system that
    is mounted for reading: SQLite opens it only when it is told so, since it cannot make the files beside it."""
    if os.access(path.parent, os.W_OK):
        return False
    log, shared = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    return not shared.exists() and (not log.exists() or not log.stat().st_size)


def open_wal(path: Path, *pragmas: str, busy_seconds: float) -> sqlite3.Connection:
    """Connects to a database in WAL mode. Makes the file when it is missing, and its directory with mode 0700.

    Raises :class:`sqlite3.Error` and :class:`OSError`.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = connect(path, busy_seconds=busy_seconds, create=True)
    try:
        switch_to_wal(connection, busy_seconds)
        for pragma in pragmas:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def make_private_file(path: Path) -> None:
    """Makes an empty database of mode 0600 when it is missing, and its directory with mode 0700.

    SQLite gives the log and the shared memory beside it the same mode. Raises :class:`OSError`.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def switch_to_wal(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Puts the file into WAL mode, in which readers and the writer do not block each other; the file stays in it.

    SQLite's own time-out does not wait for another process that switches at the same time: this waits for it up to
    ``busy_seconds``, then raises what SQLite raises.
    """
    end = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
        time.sleep(_WAL_RETRY_SECONDS)


@contextmanager
def write_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction with the write lock from its start, for which it waits as long as the connection may wait.

    Commits at the end of the block; an error undoes everything.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite has undone it already, or cannot any more
            connection.execute("ROLLBACK")
        raise
