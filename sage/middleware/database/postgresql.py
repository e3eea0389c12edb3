"""A room's tables in PostgreSQL, through psycopg 3 (the extra ``postgres``).

All rooms share one database. SQLite lets one transaction write at a time, and rooms rely on that: they read, decide and
write within one, and number rows in the order of their commits. Here the same is had by an advisory lock of the room
that a transaction takes first (https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS): its later
statements then see all that earlier ones have committed. Rooms whose statements are safe by themselves go without it.
"""

from __future__ import annotations

import hashlib
import select
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from sage.middleware.database.backend import ALONE, Seat
from sage.middleware.settings.database import DatabaseUrl

_CONNECT_SECONDS = 3
_SILENCE_SECONDS = 1.0
"""After a server has not answered, nobody else asks it for so long."""
_ANSWER_SECONDS = 2.0
"""How much longer than the server may take for a statement the client waits for an answer: it may be frozen, or gone
without a word."""
_IDLE_SECONDS = 10
"""Within a transaction; then the server ends it, so that a frozen gateway holds no lock against the others."""
_KEEP_ALIVE = {"tcp_keepalives_idle": 5, "tcp_keepalives_interval": 2, "tcp_keepalives_count": 4}
"""Seconds, and how often: the server ends the sessions of a machine that is gone without a word, with their locks."""
_MIGRATION_SECONDS = 60.0
"""How long one process waits for another's migration."""
_LOOK_SECONDS = 0.05
_CONNECTIONS = 2
"""Each room keeps so many open: a server has a hundred by default, for all rooms of all gateways."""
_MORE_CONNECTIONS = 10
"""While all are busy."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed, with an ``OperationalError``, when the server says nothing for ``seconds``."""

    seconds: float | None = None
    """``None`` means that it may take as long as it takes."""

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        # All that goes over the wire passes here, as a generator that says what it waits for.
        return super().wait(gen if self.seconds is None else self._bounded(gen, self.seconds), *args, **kwargs)

    def _bounded(self, gen: Any, seconds: float) -> Generator[Any, Any, Any]:
        end = time.monotonic() + seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() >= end:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer within {seconds:g} seconds")
                wanted = gen.send(ready)
        except StopIteration as done:
            return done.value


class PostgresqlRoom:
    """The tables of the room ``name`` in the database at ``url``. A statement that takes, or waits for a lock, longer
    than ``busy_seconds`` fails."""

    def __init__(self, url: DatabaseUrl, name: str, busy_seconds: float) -> None:
        self.place = url.shown
        self._name = name
        engine = _make_engine(url, name, busy_seconds)
        self.reader: Engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self.sharer = engine
        self.writer: Engine = engine.execution_options(**{ALONE: True})

    @property
    def is_empty(self) -> bool:
        return False

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        with self.sharer.connect() as keeper:
            _take_lock(keeper, key_of("migration", self._name))
            keeper.commit()  # the lock is the session's: it outlives this transaction, but not the connection
            try:
                with self.writer.begin() as connection:
                    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                    bounded = connection.connection.dbapi_connection
                    assert isinstance(bounded, BoundedConnection)
                    seconds, bounded.seconds = bounded.seconds, None
                    try:
                        yield connection
                    finally:
                        bounded.seconds = seconds
            finally:
                keeper.invalidate()

    def seat(self, name: str) -> Seat | None:
        engine = self.sharer.execution_options(isolation_level="AUTOCOMMIT")
        return AdvisorySeat(engine, key_of(f"seat {name}", self._name))

    def dispose(self, *, close: bool) -> None:
        self.sharer.dispose(close=close)


class AdvisorySeat:
    """An advisory lock of a session: PostgreSQL frees it when it sees the connection end."""

    def __init__(self, engine: Engine, key: int) -> None:
        self._engine = engine
        self._key = key
        self._session: Connection | None = None

    @property
    def is_leader(self) -> bool:
        return self._session is not None

    def try_lead(self) -> bool:
        try:
            return self._holds() or self._take()
        except SQLAlchemyError:
            self.resign()
            return False

    def _holds(self) -> bool:
        if self._session is None:
            return False
        self._session.exec_driver_sql("SELECT 1")  # raises when the session has ended
        return True

    def _take(self) -> bool:
        session = self._engine.connect()
        try:
            is_taken = bool(session.exec_driver_sql(f"SELECT pg_try_advisory_lock({self._key})").scalar())
        except BaseException:
            session.close()
            raise
        if not is_taken:
            session.close()
            return False
        self._session = session
        return True

    def resign(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(SQLAlchemyError):  # it has ended, and the lock with it
                session.exec_driver_sql(f"SELECT pg_advisory_unlock({self._key})")
            session.invalidate()
            session.close()


def key_of(purpose: str, name: str) -> int:
    """The number of an advisory lock."""
    return int.from_bytes(hashlib.sha256(f"sage {purpose} {name}".encode()).digest()[:8], "big", signed=True)


def _take_lock(connection: Connection, key: int) -> None:
    """Waits for it in steps, each of which is short enough for the bounds on a statement."""
    end = time.monotonic() + _MIGRATION_SECONDS
    while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({key})").scalar():
        if time.monotonic() >= end:
            raise psycopg.OperationalError("another process migrates the database and does not end")
        time.sleep(_LOOK_SECONDS)


def _make_engine(url: DatabaseUrl, name: str, busy_seconds: float) -> Engine:
    engine = create_engine(
        "postgresql+psycopg://",
        creator=_Dialer(_parameters(url, busy_seconds), busy_seconds + _ANSWER_SECONDS),
        pool_size=_CONNECTIONS,
        max_overflow=_MORE_CONNECTIONS,
        pool_timeout=busy_seconds,
        pool_use_lifo=True,
    )
    lock = f"SELECT pg_advisory_xact_lock({key_of('writers', name)})"

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get(ALONE):
            connection.exec_driver_sql(lock)

    event.listen(engine, "checkout", _refuse_ended)
    return engine


class _Dialer:
    """Connects. While the server does not even answer that, threads are not kept waiting for it one after the other."""

    def __init__(self, parameters: dict[str, Any], seconds: float) -> None:
        self._parameters = parameters
        self._seconds = seconds
        self._silent_at = -_SILENCE_SECONDS

    def __call__(self) -> BoundedConnection:
        if time.monotonic() - self._silent_at < _SILENCE_SECONDS:
            raise psycopg.OperationalError("it did not answer a moment ago")
        try:
            connection = BoundedConnection.connect(**self._parameters)
        except psycopg.errors.ConnectionTimeout:
            self._silent_at = time.monotonic()
            raise
        connection.seconds = self._seconds
        return connection


def _parameters(url: DatabaseUrl, busy_seconds: float) -> dict[str, Any]:
    """Those of libpq: the URL's, which win, and ours."""
    given = conninfo_to_dict(url.conninfo)
    bounds = {
        "statement_timeout": int(busy_seconds * 1000),
        "idle_in_transaction_session_timeout": _IDLE_SECONDS * 1000,
    }
    settings = [f"-c {name}={value}" for name, value in (bounds | _KEEP_ALIVE).items()]
    options = " ".join([*settings, str(given.get("options") or "")])
    ours = {"connect_timeout": _CONNECT_SECONDS, "application_name": "sage", "client_encoding": "utf8"}
    return {**ours, **given, "options": options}


def _refuse_ended(connection: Any, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
    """A server that was restarted has closed what waits in the pool, which is seen without asking it."""
    if connection.closed or _has_something_to_say(connection.fileno()):
        raise DisconnectionError("the server has closed the connection")


def _has_something_to_say(descriptor: int) -> bool:
    """Whether there is something to be read, though nothing was asked."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
