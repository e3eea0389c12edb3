"""What the failures of a database mean, of whichever it is: by SQLite's result code or PostgreSQL's SQLSTATE, never by
message. No driver is imported for that."""

from __future__ import annotations

from sage.sqlite import failures as sqlite_failures

_DRIVER = "psycopg"
_FAILED = frozenset({"OperationalError", "InternalError"})
"""The classes of PEP 249 for a database that failed; a transaction is lost then."""

_BUSY = frozenset({"40001", "40P01", "55P03", "57014"})
"""Serialization failure, deadlock, lock not available, a statement that took too long (it mostly waited for a lock)."""
_FULL = frozenset({"53100"})
_PASSING = _BUSY | {"53300", "57P01", "57P02", "57P03"}
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_CAUSES = {
    "53100": "the disk of PostgreSQL is full; free some space on it, then try again",
    "53300": "PostgreSQL has no connection left; raise its max_connections, or end what uses them",
    "25006": "PostgreSQL takes no writes; see that 'database' names the primary server, not a standby",
    "57P01": "PostgreSQL is shutting down; try again when it is up",
    "57P02": "PostgreSQL is shutting down; try again when it is up",
    "57P03": "PostgreSQL is starting; try again in a moment",
    "28P01": "PostgreSQL refuses the password; see the setting 'database'",
    "28000": "PostgreSQL refuses the user; see the setting 'database' and the server's pg_hba.conf",
    "3D000": "the database does not exist; make it with CREATE DATABASE, or see the setting 'database'",
    "42501": "the user of the setting 'database' may not do that; give it CREATE and USAGE on the schema",
}


def sqlstate_of(exc: BaseException | None) -> str | None:
    """PostgreSQL's code; ``None`` for errors of others, and for those that did not come from the server."""
    state = getattr(exc, "sqlstate", None) if is_postgresql(exc) else None
    return state if isinstance(state, str) else None


def is_busy(exc: BaseException | None) -> bool:
    """Whether another transaction held a lock for longer than this one may wait, or came before it."""
    return sqlstate_of(exc) in _BUSY if is_postgresql(exc) else sqlite_failures.is_busy(exc)


def is_full(exc: BaseException | None) -> bool:
    """Whether the disk is full."""
    return sqlstate_of(exc) in _FULL if is_postgresql(exc) else sqlite_failures.is_full(exc)


def database_failed(exc: BaseException) -> bool:
    """Whether the database failed rather than the statement: the whole transaction is lost then."""
    if not is_postgresql(exc):
        return sqlite_failures.database_failed(exc)
    return any(kind.__name__ in _FAILED for kind in type(exc).__mro__)


def cause_of(exc: BaseException | None) -> str:
    """The cause of a failure and what to do about it; it reads on after the database's name."""
    if not is_postgresql(exc):
        return sqlite_failures.cause_of(exc)
    state = sqlstate_of(exc)
    if state in _BUSY:
        return "another transaction came first; try again"
    if state is None:
        return f"PostgreSQL does not answer ({_first_line(exc)}); see that it runs and that 'database' names it"
    return _CAUSES.get(state) or f"PostgreSQL failed ({state}: {_first_line(exc)})"


def is_passing(exc: BaseException | None) -> bool:
    """Whether a failure of PostgreSQL is one of the moment: it does not answer, is busy, or starts or ends."""
    return is_postgresql(exc) and (sqlstate_of(exc) or "") in _PASSING | {""}


def is_postgresql(exc: BaseException | None) -> bool:
    """Whether psycopg raised it."""
    return exc is not None and any(kind.__module__.partition(".")[0] == _DRIVER for kind in type(exc).__mro__)


def _first_line(exc: BaseException | None) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0].rstrip(": ") if lines else type(exc).__name__
