"""Entries in one SQLite file, which several processes may use: a write is durable once it has returned."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from sage.errors import Unavailable
from sage.forks import written_after_fork
from sage.service.kv.backends import MISSING, add, decode, encode, end_of_prefix
from sage.sqlite.connection import connect, is_immutable, open_wal, write_transaction
from sage.sqlite.failures import cause_of, is_damaged
from sage.sqlite.group_commit import LeaderCommit, QueuedWrite, WriterInherited, run_each

_BUSY_SECONDS = 10.0
"""How long a write waits for other processes."""
_SWEEP_SECONDS = 5.0
"""Time between two sweeps of expired entries."""
_MAX_TOUCHED = 10_000
"""How many reads between two writes count for the order of use."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    tenant TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, ends REAL, used INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_end ON entries (ends) WHERE ends IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_use ON entries (tenant, used);
CREATE TABLE IF NOT EXISTS counts (tenant TEXT PRIMARY KEY, entries INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS one_more AFTER INSERT ON entries BEGIN
    INSERT INTO counts VALUES (new.tenant, 1) ON CONFLICT DO UPDATE SET entries = entries + 1; END;
CREATE TRIGGER IF NOT EXISTS one_less AFTER DELETE ON entries BEGIN
    UPDATE counts SET entries = entries - 1 WHERE tenant = old.tenant;
    DELETE FROM counts WHERE tenant = old.tenant AND entries = 0; END;
"""
Work = Callable[[sqlite3.Connection], Any]


class _KVWrite(QueuedWrite):
    """A write as a function of the connection."""

    __slots__ = ("work",)

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work


class SqliteBackend:
    """Writes that wait while one commits share the next commit; reads wait for no write.

    At most ``max_size`` entries a tenant; the least recently used go first. The next write notes which were read.
    """

    def __init__(self, path: Path, max_size: int | None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._max_size = max_size
        self._clock = clock
        self._reading = threading.Lock()
        self._usage_lock = threading.Lock()
        """Guards ``_touched`` and ``_ticks``; held for moments only."""
        self._touched: dict[tuple[str, str], int] = {}
        self._swept = 0.0
        self._ticks = time.time_ns()
        self._connection, self._reader = self._open()
        self._writer = LeaderCommit(self._commit)

    def _open(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """The connection that writes, and the one that reads."""
        with ExitStack() as stack:
            try:
                # What is deleted is gone from the file.
                pragmas = ("PRAGMA synchronous = FULL", "PRAGMA secure_delete = ON")
                if self._path.is_file() and is_immutable(self._path):  # it is opened for reading
                    writer = stack.enter_context(closing(connect(self._path, busy_seconds=_BUSY_SECONDS)))
                else:
                    writer = stack.enter_context(closing(open_wal(self._path, *pragmas, busy_seconds=_BUSY_SECONDS)))
                    writer.executescript(_SCHEMA)
                reader = connect(self._path, "PRAGMA query_only = ON", busy_seconds=_BUSY_SECONDS)
            except (sqlite3.Error, OSError) as exc:
                raise _translated(self._path, exc) from exc
            stack.pop_all()
        return writer, reader

    def _read(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._reading:
            try:
                return self._reader.execute(statement, values).fetchall()
            except sqlite3.Error as exc:
                raise _translated(self._path, exc) from exc

    def _write(self, work: Work) -> Any:
        try:
            return self._writer.run(_KVWrite(work))
        except WriterInherited:
            raise written_after_fork(f"the key-value store '{self._path.name}'") from None

    def _commit(self, group: list[_KVWrite]) -> None:
        connection = self._connection
        try:
            with write_transaction(connection):
                self._clean_up()
                run_each(connection, group, lambda write: write.work(connection))
        except BaseException as exc:
            for write in group:
                error = _translated(self._path, exc)
                error.__cause__ = exc
                write.fail(error)
            if not isinstance(exc, sqlite3.Error):
                raise
        else:
            for write in group:
                write.answer()

    def _clean_up(self) -> None:
        """Within each commit: deletes expired entries when it is time, and notes which entries were read."""
        now = self._clock()
        if abs(now - self._swept) >= _SWEEP_SECONDS:
            self._swept = now
            self._connection.execute("DELETE FROM entries WHERE ends <= ?", (now,))
        with self._usage_lock:
            touched, self._touched = self._touched, {}
        self._connection.executemany(
            "UPDATE entries SET used = max(used, ?) WHERE tenant = ? AND key = ?",
            [(used, tenant, key) for (tenant, key), used in touched.items()],
        )

    def _tick(self) -> int:
        """A number greater than all before it; to be called under ``_usage_lock``."""
        self._ticks = max(self._ticks + 1, time.time_ns())  # several processes share the order
        return self._ticks

    def get(self, tenant: str, key: str) -> Any:
        rows = self._read(
            "SELECT value FROM entries WHERE tenant = ? AND key = ? AND (ends IS NULL OR ends > ?)",
            tenant, key, self._clock(),
        )  # fmt: skip
        if not rows:
            return MISSING
        if self._max_size is not None:
            with self._usage_lock:
                if len(self._touched) < _MAX_TOUCHED:
                    self._touched[tenant, key] = self._tick()
        return decode(rows[0][0])

    def _current(self, connection: sqlite3.Connection, tenant: str, key: str) -> tuple[Any, float | None]:
        row = connection.execute(
            "SELECT value, ends FROM entries WHERE tenant = ? AND key = ? AND (ends IS NULL OR ends > ?)",
            (tenant, key, self._clock()),
        ).fetchone()
        return (MISSING, None) if row is None else (bytes(row[0]), row[1])

    def _set(
        self, connection: sqlite3.Connection, tenant: str, key: str, stored: bytes, expires_at: float | None
    ) -> None:
        with self._usage_lock:
            tick = self._tick()
        connection.execute(  # not OR REPLACE, which does not run the triggers that count
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET value = excluded.value, ends = excluded.ends, used = excluded.used",
            (tenant, key, stored, expires_at, tick),
        )
        if self._max_size is not None:
            self._make_room(connection, tenant, self._max_size)

    def _make_room(self, connection: sqlite3.Connection, tenant: str, limit: int) -> None:
        counted = "SELECT entries FROM counts WHERE tenant = ?"
        if connection.execute(counted, (tenant,)).fetchone()[0] <= limit:
            return
        connection.execute("DELETE FROM entries WHERE ends <= ?", (self._clock(),))
        remaining = connection.execute(counted, (tenant,)).fetchone()  # ``None`` when all had expired
        connection.execute(
            "DELETE FROM entries WHERE tenant = ? AND key IN "
            "(SELECT key FROM entries WHERE tenant = ? ORDER BY used LIMIT ?)",
            (tenant, tenant, 0 if remaining is None else max(0, remaining[0] - limit)),
        )

    def _expiry(self, ttl: float | None) -> float | None:
        return None if ttl is None else self._clock() + ttl

    def put(self, tenant: str, key: str, value: Any, ttl: float | None) -> None:
        stored, expires_at = encode(value), self._expiry(ttl)
        self._write(lambda connection: self._set(connection, tenant, key, stored, expires_at))

    def put_many(self, tenant: str, entries: Mapping[str, Any], ttl: float | None) -> None:
        stored, expires_at = {key: encode(value) for key, value in entries.items()}, self._expiry(ttl)

        def work(connection: sqlite3.Connection) -> None:
            for key, value in stored.items():
                self._set(connection, tenant, key, value, expires_at)

        self._write(work)

    def delete(self, tenant: str, key: str) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            existed = self._current(connection, tenant, key)[0] is not MISSING
            connection.execute("DELETE FROM entries WHERE tenant = ? AND key = ?", (tenant, key))
            return existed

        deleted: bool = self._write(work)
        return deleted

    def keys(self, tenant: str, prefix: str, after: str | None, limit: int | None) -> list[str]:
        rows = self._read(
            "SELECT key FROM entries WHERE tenant = ? AND key >= ? AND key < ? AND key > ? "
            "AND (ends IS NULL OR ends > ?) ORDER BY key LIMIT ?",
            tenant, prefix, end_of_prefix(prefix), after or "", self._clock(), -1 if limit is None else limit,
        )  # fmt: skip
        return [row[0] for row in rows]

    def clear(self, tenant: str, prefix: str) -> int:
        def work(connection: sqlite3.Connection) -> int:
            connection.execute("DELETE FROM entries WHERE ends <= ?", (self._clock(),))
            return connection.execute(
                "DELETE FROM entries WHERE tenant = ? AND key >= ? AND key < ?", (tenant, prefix, end_of_prefix(prefix))
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
            stored, expires_at = self._current(connection, tenant, key)
            if stored is MISSING:
                expires_at = self._expiry(ttl)
            total = add(key, stored if stored is MISSING else decode(stored), amount)
            self._set(connection, tenant, key, encode(total), expires_at)
            return total

        total: int = self._write(work)
        return total

    def compare_and_set(self, tenant: str, key: str, expected: Any, value: Any, ttl: float | None) -> bool:
        required = MISSING if expected is MISSING else encode(expected)
        stored = encode(value)

        def work(connection: sqlite3.Connection) -> bool:
            current = self._current(connection, tenant, key)[0]
            if current is not required and (current is MISSING or required is MISSING or current != required):
                return False
            self._set(connection, tenant, key, stored, self._expiry(ttl))
            return True

        swapped: bool = self._write(work)
        return swapped

    def health(self) -> dict[str, Any]:
        return {"backend": "sqlite", "path": str(self._path)}

    def close(self) -> None:
        with suppress(WriterInherited):  # the process above goes on with them
            self._writer.run_between(self._connection.close)
            with self._reading:
                self._reader.close()


def _translated(path: Path, exc: BaseException) -> Unavailable:
    if is_damaged(exc):
        return Unavailable(
            f"the key-value store '{path.name}' is damaged or no database ({exc}); move the file away and start again, "
            "or put back a copy of it",
            code="kv_damaged",
            retry_after=None,
        )
    return Unavailable(
        f"the key-value store '{path.name}' cannot be used now: {cause_of(exc)}",
        code="kv_unavailable",
    )
