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
from sage.kernels.runtime.discovery import SILENCE, Announcement, decoded

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
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute(_SCHEMA)
            except sqlite3.Error:
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
            self._connection.execute(
                "INSERT OR REPLACE INTO announcements VALUES (?, ?, ?, ?, ?)",
                (announcement.node, announcement.encoded(), announcement.host, announcement.pid, time.time()),
            )

    def withdraw(self, node: str) -> None:
        with self._told(), self._lock:
            self._connection.execute("DELETE FROM announcements WHERE node = ?", (node,))

    def living(self) -> list[Announcement]:
        heard = time.time() - SILENCE
        with self._told(), self._lock:
            rows = self._connection.execute(
                "SELECT node, said, host, pid, at FROM announcements WHERE at > ? ORDER BY rowid",
                (heard,),
            ).fetchall()
            with suppress(sqlite3.OperationalError):  # a full disk: reading goes on
                self._connection.execute("DELETE FROM announcements WHERE at <= ?", (heard,))
        here = socket.gethostname()
        found = [(decoded(said), at) for _, said, host, pid, at in rows if host != here or _runs(pid)]
        living = [replace(announcement, at=at) for announcement, at in found if announcement is not None]
        return sorted(living, key=lambda announcement: announcement.started_at)

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
