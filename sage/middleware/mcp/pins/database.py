"""Where pins are kept: beside the accounts."""

from __future__ import annotations

from pathlib import Path

from sage.middleware.database.database import Database
from sage.middleware.database.schema import Schema
from sage.middleware.mcp.pins.tables import metadata
from sage.middleware.settings.database import DatabaseUrl

REVISIONS = ("0001", "0002")
"""Every schema this code knows, oldest first; the last is the one it works on."""

SCHEMA = Schema("the MCP pins", Path(__file__).parent / "migrations", REVISIONS, metadata, name="mcp", beside=True)


def open_pins_database(data_dir: Path, url: DatabaseUrl | None = None, *, busy_seconds: float = 5.0) -> Database:
    """The database of pins in ``data_dir``, or at ``url``.

    Raises :class:`sage.errors.ConfigError` when it cannot be used.
    """
    return Database(data_dir / "sage.db", SCHEMA, url=url, busy_seconds=busy_seconds)
