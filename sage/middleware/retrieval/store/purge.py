"""Hard deletion: nothing of what was deleted stays in a collection's database.

``secure_delete`` alone is not enough. ``FAST`` leaves free pages as they are. Even with ``ON``, a page whose rows were
moved together keeps second copies of some (seen with SQLite 3.40, after ids of several lengths were added and deleted).
``VACUUM`` writes every page again from the existing rows.
"""

from __future__ import annotations

import sqlite3

import orjson

from sage.errors import Unavailable
from sage.middleware.retrieval.store.connections import Connections
from sage.middleware.retrieval.store.transaction import LAST_DELETION, load_state

_PURGED = "purged"
"""The key for the sequence number at which the database was last purged; absent when it never was."""
_IN_MEMORY = 128 * 2**20  # bytes of a database whose copy is made in memory; larger ones go through a nameless file


def purge(connections: Connections, name: str, seconds: float) -> None:
    """Called by the writer between commits. Rewrites the database, unless nothing was deleted since the last purge, and
    empties its log in any case. Raises :class:`Unavailable` when a reader keeps the log for longer than
    ``seconds``."""
    with connections.writing() as connection:
        sequence = load_state(connection).sequence
        if _is_due(connection):
            _vacuum(connection)
            connection.execute("REPLACE INTO states VALUES (?, ?)", (_PURGED, str(sequence)))
    if not connections.empty_log(seconds):
        raise Unavailable(
            f"collection '{name}' is not yet purged: a process still reads an older state of it, so that its log "
            "cannot be emptied; purge it again when long reads, such as snapshots, have ended",
            code="not_yet_purged",
        )


def _is_due(connection: sqlite3.Connection) -> bool:
    rows = connection.execute("SELECT key, value FROM states WHERE key IN (?, ?)", (LAST_DELETION, _PURGED))
    states = dict(rows.fetchall())
    if _PURGED not in states:
        return True
    return int(orjson.loads(states.get(LAST_DELETION, "0"))) > int(orjson.loads(states[_PURGED]))


def _vacuum(connection: sqlite3.Connection) -> None:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute(f"PRAGMA temp_store = {'MEMORY' if pages * size <= _IN_MEMORY else 'FILE'}")
    try:
        connection.execute("VACUUM")
    finally:
        connection.execute("PRAGMA temp_store = MEMORY")
