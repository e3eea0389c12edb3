"""Entries in one SQLite file: durable once a write has returned, for several processes at a time."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sage.errors import SageError, Unavailable
from sage.service.kv.backends import MISSING, added, decode, encode

_BUSY = 10.0
"""Seconds that a write waits for other processes."""
_SWEEP = 5.0
"""Seconds between two sweeps of what has expired."""
_TOUCHED = 10_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    tenant TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, ends REAL, used INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_end ON entries (ends) WHERE ends IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_use ON entries (tenant, used);
"""
Work = Callable[[sqlite3.Connection], Any]


class _Write:
    """One that waits for its commit, and what came of it."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None


class SqliteBackend:
    """Writers that come while one commits share the next commit. ``max_size`` entries a tenant; the least recently used
    go first, reads counted with the next write."""

    def __init__(self, path: Path, max_size: int | None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._max_size = max_size
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[_Write] = []
        self._touched: dict[tuple[str, str], int] = {}
        self._swept = 0.0
        self._ticks = time.time_ns()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=_BUSY, check_same_thread=False, isolation_level=None)
        try:
            self._prepare()
        except sqlite3.DatabaseError as exc:
            self._connection.close()
            raise _told(path, exc) from exc

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("PRAGMA secure_delete=ON")  # what is deleted is gone from the file
        self._connection.executescript(_SCHEMA)

    def _read(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as exc:
                raise _told(self._path, exc) from exc

    def _write(self, work: Work) -> Any:
        write = _Write(work)
        self._waiting.append(write)
        with self._lock:
            if not write.done:
                writes, self._waiting = self._waiting, []
                self._commit(writes)
        if write.error is not None:
            raise write.error
        return write.result

    def _commit(self, writes: list[_Write]) -> None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._keep_house()
            for write in writes:
                connection.execute("SAVEPOINT one")
                try:
                    write.result = write.work(connection)
                except SageError as exc:
                    write.error = exc
                    connection.execute("ROLLBACK TO one")
                connection.execute("RELEASE one")
            connection.execute("COMMIT")
        except sqlite3.Error as exc:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            for write in writes:
                write.error = _told(self._path, exc)
                write.error.__cause__ = exc
        for write in writes:
            write.done = True

    def _keep_house(self) -> None:
        now = self._clock()
        if abs(now - self._swept) >= _SWEEP:
            self._swept = now
            self._connection.execute("DELETE FROM entries WHERE ends <= ?", (now,))
        touched, self._touched = self._touched, {}
        self._connection.executemany(
            "UPDATE entries SET used = ? WHERE tenant = ? AND key = ?",
            [(used, tenant, key) for (tenant, key), used in touched.items()],
        )

    def _tick(self) -> int:
        self._ticks = max(self._ticks + 1, time.time_ns())  # several processes share the order
        return self._ticks

    def get(self, tenant: str, key: str) -> Any:
        rows = self._read(
            "SELECT value FROM entries WHERE tenant = ? AND key = ? AND (ends IS NULL OR ends > ?)",
            tenant, key, self._clock(),
        )  # fmt: skip
        if not rows:
            return MISSING
        if self._max_size is not None and len(self._touched) < _TOUCHED:
            self._touched[tenant, key] = self._tick()
        return decode(rows[0][0])

    def _found(self, connection: sqlite3.Connection, tenant: str, key: str) -> tuple[Any, float | None]:
        row = connection.execute(
            "SELECT value, ends FROM entries WHERE tenant = ? AND key = ? AND (ends IS NULL OR ends > ?)",
            (tenant, key, self._clock()),
        ).fetchone()
        return (MISSING, None) if row is None else (bytes(row[0]), row[1])

    def _set(self, connection: sqlite3.Connection, tenant: str, key: str, stored: bytes, ends: float | None) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)", (tenant, key, stored, ends, self._tick())
        )
        if self._max_size is not None:
            self._make_room(connection, tenant, self._max_size)

    def _make_room(self, connection: sqlite3.Connection, tenant: str, most: int) -> None:
        (count,) = connection.execute("SELECT count(*) FROM entries WHERE tenant = ?", (tenant,)).fetchone()
        if count <= most:
            return
        connection.execute("DELETE FROM entries WHERE tenant = ? AND ends <= ?", (tenant, self._clock()))
        (count,) = connection.execute("SELECT count(*) FROM entries WHERE tenant = ?", (tenant,)).fetchone()
        connection.execute(
            "DELETE FROM entries WHERE tenant = ? AND key IN "
            "(SELECT key FROM entries WHERE tenant = ? ORDER BY used LIMIT ?)",
            (tenant, tenant, max(0, count - most)),
        )

    def _end(self, ttl: float | None) -> float | None:
        return None if ttl is None else self._clock() + ttl

    def put(self, tenant: str, key: str, value: Any, ttl: float | None) -> None:
        stored, ends = encode(value), self._end(ttl)
        self._write(lambda connection: self._set(connection, tenant, key, stored, ends))

    def delete(self, tenant: str, key: str) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            there = self._found(connection, tenant, key)[0] is not MISSING
            connection.execute("DELETE FROM entries WHERE tenant = ? AND key = ?", (tenant, key))
            return there

        deleted: bool = self._write(work)
        return deleted

    def keys(self, tenant: str, prefix: str, after: str | None, limit: int | None) -> list[str]:
        rows = self._read(
            "SELECT key FROM entries WHERE tenant = ? AND substr(key, 1, ?) = ? AND (ends IS NULL OR ends > ?) "
            "AND key >= ? AND (? IS NULL OR key > ?) ORDER BY key LIMIT ?",
            tenant, len(prefix), prefix, self._clock(), prefix, after, after, -1 if limit is None else limit,
        )  # fmt: skip
        return [row[0] for row in rows]

    def clear(self, tenant: str, prefix: str) -> int:
        def work(connection: sqlite3.Connection) -> int:
            now = self._clock()
            connection.execute("DELETE FROM entries WHERE tenant = ? AND ends <= ?", (tenant, now))
            return connection.execute(
                "DELETE FROM entries WHERE tenant = ? AND substr(key, 1, ?) = ?", (tenant, len(prefix), prefix)
            ).rowcount

        deleted: int = self._write(work)
        return deleted

    def size(self, tenant: str) -> int:
        ((count,),) = self._read(
            "SELECT count(*) FROM entries WHERE tenant = ? AND (ends IS NULL OR ends > ?)", tenant, self._clock()
        )
        return int(count)

    def exists(self, tenant: str, key: str) -> bool:
        return self.get(tenant, key) is not MISSING

    def incr(self, tenant: str, key: str, amount: int, ttl: float | None) -> int:
        def work(connection: sqlite3.Connection) -> int:
            stored, ends = self._found(connection, tenant, key)
            if stored is MISSING:
                ends = self._end(ttl)
            total = added(key, stored if stored is MISSING else decode(stored), amount)
            self._set(connection, tenant, key, encode(total), ends)
            return total

        total: int = self._write(work)
        return total

    def compare_and_set(self, tenant: str, key: str, expected: Any, value: Any, ttl: float | None) -> bool:
        wanted = MISSING if expected is MISSING else encode(expected)
        stored = encode(value)

        def work(connection: sqlite3.Connection) -> bool:
            found = self._found(connection, tenant, key)[0]
            if found is not wanted and (found is MISSING or wanted is MISSING or found != wanted):
                return False
            self._set(connection, tenant, key, stored, self._end(ttl))
            return True

        done: bool = self._write(work)
        return done

    def health(self) -> dict[str, Any]:
        return {"backend": "sqlite", "path": str(self._path)}

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def _told(path: Path, exc: sqlite3.Error) -> Unavailable:
    if isinstance(exc, sqlite3.OperationalError):
        return Unavailable(
            f"the key-value store '{path.name}' cannot be used now: {exc}; try again", code="kv_unavailable"
        )
    return Unavailable(
        f"the key-value store '{path.name}' is damaged or no database ({exc}); move the file away and start again, "
        "or put back a copy of it",
        code="kv_damaged",
        retry_after=None,
    )
