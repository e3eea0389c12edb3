"""What SQLite's failures mean: by result code, never by message."""

from __future__ import annotations

import sqlite3

_LOCKED = "another process keeps its database locked; try again"
_CAUSES = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space on it, then try again",
    sqlite3.SQLITE_READONLY: "its files cannot be written; see that the file system is mounted for writing and that "
    "the directory belongs to this user",
    sqlite3.SQLITE_PERM: "this user may not use its files; see to whom its directory belongs",
    sqlite3.SQLITE_CANTOPEN: "its files cannot be opened; see that its directory exists, belongs to this user and "
    "is mounted for writing, and that not too many files are open",
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
}


def result_code(exc: BaseException | None) -> int:
    """SQLite's primary result code; 0 when the error did not come from SQLite itself."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF


def result_name(exc: BaseException | None) -> str:
    """SQLite's name of the result code, such as ``SQLITE_CORRUPT``; the message when there is none."""
    return getattr(exc, "sqlite_errorname", None) or str(exc)


def is_busy(exc: BaseException | None) -> bool:
    """Whether another connection held a lock for longer than this one may wait."""
    return result_code(exc) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_full(exc: BaseException | None) -> bool:
    """Whether the disk is full."""
    return result_code(exc) == sqlite3.SQLITE_FULL


def is_damaged(exc: BaseException | None) -> bool:
    """Whether the file is damaged, or no database at all."""
    return result_code(exc) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def database_failed(exc: BaseException) -> bool:
    """Whether the database failed rather than the statement: the whole transaction is lost then."""
    return isinstance(exc, sqlite3.OperationalError | sqlite3.InternalError) or type(exc) is sqlite3.DatabaseError


def cause_of(exc: BaseException | None) -> str:
    """The cause, and what to do about it, of a failure that is no damage; it reads on after the database's name."""
    if not result_code(exc):
        return str(exc) or type(exc).__name__
    cause = _CAUSES.get(result_code(exc))
    return cause or f"its database failed ({result_name(exc)}: {exc}); look for disk errors in the system's log"
