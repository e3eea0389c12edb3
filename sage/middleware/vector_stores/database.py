"""Where the records of vector stores are kept: SQLite at ``data_dir/vector_stores.db``, or PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from sage.middleware.database.database import Database
from sage.middleware.database.schema import Schema
from sage.middleware.settings.database import DatabaseUrl
from sage.middleware.vector_stores.records import FILE
from sage.middleware.vector_stores.tables import metadata

REVISIONS = ("0001",)
"""Every schema this code knows, oldest first; the last is the one it works on."""

SCHEMA = Schema(
    "the records of vector stores", Path(__file__).parent / "migrations", REVISIONS, metadata, name="vector_stores"
)


def open_vector_stores_database(data_dir: Path, url: DatabaseUrl | None = None) -> Database:
    """The database in ``data_dir``, or at ``url``. Raises :class:`sage.errors.ConfigError` when it cannot be used."""
    return Database(data_dir / FILE, SCHEMA, "PRAGMA synchronous = FULL", url=url)
