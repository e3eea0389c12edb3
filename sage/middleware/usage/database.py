"""The usage database: SQLite at ``data_dir/usage.db``, or PostgreSQL."""

from __future__ import annotations

import threading
from pathlib import Path

from sage.middleware.database.database import Database
from sage.middleware.database.schema import Schema
from sage.middleware.settings.database import DatabaseUrl
from sage.middleware.usage.models import metadata
from sage.private_files import make_private_dir

REVISIONS = ("0001", "0002", "0003")
"""Every schema this code knows, oldest first; the last is the one it works on."""

SCHEMA = Schema("the usage database", Path(__file__).parent / "migrations", REVISIONS, metadata, name="usage")


class UsageDatabase:
    """The database, opened when it is first needed. Safe to use from several threads."""

    def __init__(self, data_dir: Path, url: DatabaseUrl | None = None) -> None:
        self._data_dir = data_dir
        self._url = url
        self._lock = threading.Lock()
        self._database: Database | None = None

    def open(self) -> Database:
        """Raises :class:`sage.errors.ConfigError` and :class:`sage.errors.Unavailable`."""
        with self._lock:
            if self._database is None:
                self._database = open_usage_database(self._data_dir, url=self._url)
            return self._database

    def close(self) -> None:
        """Closes it; it may be opened again."""
        with self._lock:
            database, self._database = self._database, None
        if database is not None:
            database.close()


def open_usage_database(data_dir: Path, *, url: DatabaseUrl | None = None, busy_seconds: float = 5.0) -> Database:
    """The database in ``data_dir``, which is made when it is missing, or with ``url`` in PostgreSQL.

    What is committed survives the end of the process, however that comes; the last moments before a power failure may
    be lost. Raises :class:`sage.errors.ConfigError` when it cannot be used.
    """
    make_private_dir(data_dir)
    pragmas = ("PRAGMA synchronous = NORMAL", "PRAGMA wal_autocheckpoint = 4000")
    return Database(data_dir / "usage.db", SCHEMA, *pragmas, url=url, busy_seconds=busy_seconds)
