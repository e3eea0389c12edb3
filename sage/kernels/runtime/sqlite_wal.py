"""Leading a SQLite file into WAL mode where several processes may do so at once."""

from __future__ import annotations

import sqlite3
import time

_PAUSE = 0.01
"""Seconds between two attempts."""


def to_wal(connection: sqlite3.Connection, patience: float) -> None:
    """SQLite's own busy time-out does not wait here for another process that does the same: this waits ``patience``
    seconds, then raises what SQLite raises."""
    end = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
        time.sleep(_PAUSE)
