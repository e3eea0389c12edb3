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
from sage.kernels.runtime.discovery.board import SILENCE, Announcement
from sage.sqlite.connection import open_wal
from sage.sqlite.failures import cause_of

_BUSY_SECONDS = 2.0
"""How long a write waits for other processes."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS announcements (
    node TEXT PRIMARY KEY, said BLOB NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL, at REAL NOT NULL)
"""


class SqliteBoard:
    """The announcement of a process of this machine that has died is left out at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._unavailable_on_failure():
            # What a power failure loses, the next heartbeat writes again.
            self._connection = open_wal(path, "PRAGMA synchronous = NORMAL", busy_seconds=_BUSY_SECONDS)
            try:
                self._connection.execute(_SCHEMA)
                self._inode = path.stat().st_ino
            except (sqlite3.Error, OSError):
                self._connection.close()
                raise

    @contextmanager
    def _unavailable_on_failure(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise Unavailable(f"the board '{self._path.name}' for discovery cannot be used: {cause_of(exc)}") from exc

    def announce(self, announcement: Announcement) -> None:
        with self._unavailable_on_failure(), self._lock:
            if self._path.stat().st_ino != self._inode:
                raise OSError("its file was replaced by another one")
            self._connection.execute(
                "INSERT OR REPLACE INTO announcements VALUES (?, ?, ?, ?, ?)",
                (announcement.node, announcement.encoded(), announcement.host, announcement.pid, time.time()),
            )

    def withdraw(self, node: str) -> None:
        with self._unavailable_on_failure(), self._lock:
            self._connection.execute("DELETE FROM announcements WHERE node = ?", (node,))

    def announcements(self) -> list[Announcement]:
        now, this_host = time.time(), socket.gethostname()
        announcements, dead = [], []
        with self._unavailable_on_failure(), self._lock:
            for node, stored, host, pid, at in self._connection.execute(
                "SELECT node, said, host, pid, at FROM announcements"
            ).fetchall():
                is_silent = abs(now - at) >= SILENCE  # also in the future: the clock was put back
                if is_silent or (host == this_host and not _is_running(pid)):
                    dead.append((node, at))
                elif (announcement := Announcement.decoded(stored)) is not None:
                    announcements.append(replace(announcement, at=at))
            if dead:
                with suppress(sqlite3.OperationalError):  # the disk is full: reading still works
                    self._connection.executemany("DELETE FROM announcements WHERE node = ? AND at = ?", dead)
        return sorted(announcements, key=lambda announcement: announcement.started_at)

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
