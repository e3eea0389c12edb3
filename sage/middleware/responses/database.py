"""The database of kept responses: SQLite at ``data_dir/responses.db``, or PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from sage.middleware.database.database import Database
from sage.middleware.database.schema import Schema
from sage.middleware.responses.tables import metadata
from sage.middleware.settings.database import DatabaseUrl
from sage.private_files import make_private_dir

REVISIONS = ("0001", "0002")
"""Every schema this code knows, oldest first; the last is the one it works on."""

SCHEMA = Schema("the responses", Path(__file__).parent / "migrations", REVISIONS, metadata, name="responses")


def open_responses_database(data_dir: Path, url: DatabaseUrl | None = None, *, busy_seconds: float = 5.0) -> Database:
    """The database in ``data_dir``, or at ``url``; made when it is missing. What is deleted is overwritten in a file.

    Raises :class:`sage.errors.ConfigError` when it cannot be used.
    """
    make_private_dir(data_dir)
    pragmas = ("PRAGMA synchronous = NORMAL", "PRAGMA secure_delete = ON")
    return Database(data_dir / "responses.db", SCHEMA, *pragmas, url=url, busy_seconds=busy_seconds)
