"""What SQLite's failures mean to a caller: by result code, never by message."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sage.errors import SageError, Unavailable

_CAUSES = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space on it, then try again",
    sqlite3.SQLITE_READONLY: "its files cannot be written; see that the file system is mounted for writing and that "
    "the directory belongs to this user",
    sqlite3.SQLITE_PERM: "its files may not be used by this user; see to whom its directory belongs",
    sqlite3.SQLITE_CANTOPEN: "its files cannot be opened; see that its directory is there, belongs to this user and "
    "is mounted for writing, and that not too many files are open",
    sqlite3.SQLITE_BUSY: "another process keeps its database locked; try again",
    sqlite3.SQLITE_LOCKED: "another process keeps its database locked; try again",
}
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def code_of(exc: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 when the error did not come from SQLite itself."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF


def is_of_the_disk(exc: BaseException) -> bool:
    """The database failed, not the statement: the whole transaction is lost with it."""
    return isinstance(exc, sqlite3.OperationalError | sqlite3.InternalError) or type(exc) is sqlite3.DatabaseError


def translated(exc: sqlite3.Error, place: str, *, writing: bool = False) -> SageError:
    """The error that tells a caller what happened to the collection ``place``, and what to do."""
    code = code_of(exc)
    lost = "nothing was written: " if writing else ""
    if code in _DAMAGE:
        return SageError(
            f"collection '{place}': {lost}its database truth.db is damaged ({_name(exc)}); restore the collection from "
            "a snapshot (sage collections restore)",
            code="collection_damaged",
        )
    cause = _CAUSES.get(code) or f"its database failed ({_name(exc)}); look for disk errors in the system's log"
    return Unavailable(
        f"collection '{place}': {lost}{cause}", code="disk_full" if code == sqlite3.SQLITE_FULL else None
    )


def _name(exc: sqlite3.Error) -> str:
    return getattr(exc, "sqlite_errorname", None) or str(exc)


@contextmanager
def faults_of(place: str) -> Iterator[None]:
    """Errors of SQLite leave it as ours."""
    try:
        yield
    except sqlite3.Error as exc:
        raise translated(exc, place) from exc
