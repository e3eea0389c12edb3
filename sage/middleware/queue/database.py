"""The jobs database: SQLite at ``data_dir/queue/jobs.db``, or PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from sage.middleware.database.database import Database
from sage.middleware.database.schema import Schema
from sage.middleware.queue.models import metadata
from sage.middleware.settings.database import DatabaseUrl
from sage.private_files import make_private_dir

REVISIONS = ("0001",)
"""Every schema this code knows, oldest first; the last is the one it works on."""

SCHEMA = Schema("the jobs database", Path(__file__).parent / "migrations", REVISIONS, metadata, name="jobs")


def open_jobs_database(directory: Path, *, url: DatabaseUrl | None = None, busy_seconds: float = 5.0) -> Database:
    """The database in ``directory`` (``data_dir/queue``), which is made when it is missing, or with ``url`` in
    PostgreSQL.

    What is committed survives a power failure. Raises :class:`sage.errors.ConfigError` when it cannot be used.
    """
    make_private_dir(directory)
    return Database(directory / "jobs.db", SCHEMA, "PRAGMA synchronous = FULL", url=url, busy_seconds=busy_seconds)
