"""A board for one machine: a small SQLite file."""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from sage.errors import Unavailable
from sage.kernels.runtime.discovery.discovery import SILENCE, Announcement, decoded
from sage.kernels.runtime.sqlite_wal import to_wal

_BUSY = 2.0
"""Seconds that it waits for other processes."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS announcements (
    node TEXT PRIMARY KEY, said BLOB NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL, at REAL NOT NULL)
"""


class SqliteBoard:
    """Processes of this machine that are gone count as gone at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._told():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=_BUSY, check_same_thread=False, isolation_level=None)
            try:
                to_wal(self._connection, _BUSY)
                self._connection.execute("PRAGMA synchronous=NORMAL")  # the next heartbeat says it again
                self._connection.execute(_SCHEMA)
                self._inode = path.stat().st_ino
            except (sqlite3.Error, OSError):
                self._connection.close()
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise Unavailable(f"the board '{self._path.name}' for discovery cannot be used: {exc}") from exc

    def announce(self, announcement: Announcement) -> None:
        with self._told(), self._lock:
            if self._path.stat().st_ino != self._inode:
                raise OSError("its file was replaced by another one")
            self._connection.execute(
                "INSERT OR REPLACE INTO announcements VALUES (?, ?, ?, ?, ?)",
                (announcement.node, announcement.encoded(), announcement.host, announcement.pid, time.time()),
            )

    def withdraw(self, node: str) -> None:
        with self._told(), self._lock:
            self._connection.execute("DELETE FROM announcements WHERE node = ?", (node,))

    def living(self) -> list[Announcement]:
        now, here = time.time(), socket.gethostname()
        living, dead = [], []
        with self._told(), self._lock:
            for node, said, host, pid, at in self._connection.execute(
                "SELECT node, said, host, pid, at FROM announcements"
            ).fetchall():
                silent = abs(now - at) >= SILENCE  # also in the future: the clock was put back
                if silent or (host == here and not _runs(pid)):
                    dead.append((node, at))
                elif (announcement := decoded(said)) is not None:
                    living.append(replace(announcement, at=at))
            if dead:
                with suppress(sqlite3.OperationalError):  # a full disk: reading goes on
                    self._connection.executemany("DELETE FROM announcements WHERE node = ? AND at = ?", dead)
        return sorted(living, key=lambda announcement: announcement.started_at)

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
