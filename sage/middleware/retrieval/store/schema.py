"""The schema of a collection's database: how it is made, recognised and brought up to date."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence

import orjson

from sage.errors import Conflict, NotFound, SageError
from sage.middleware.retrieval.store import vector_blocks
from sage.middleware.retrieval.store.records import VectorGeneration
from sage.middleware.settings.retrieval import CollectionOptions
from sage.sqlite.connection import write_transaction

APPLICATION_ID = 0x53414745
"""``SAGE``, at byte 68 of the file, where SQLite and ``file`` look for the program that a database belongs to."""

FIRST_GENERATION = 0
AUTOMATIC = "automatic_embedder"
"""The key of :meth:`Reading.state` for whether the embedder of the first generation was chosen by ``auto``."""

_SCHEMA = (
    """CREATE TABLE collection (
        id INTEGER PRIMARY KEY CHECK (id = 1), uuid TEXT NOT NULL, name TEXT NOT NULL, options TEXT NOT NULL,
        created_at REAL NOT NULL, generation INTEGER NOT NULL, sequence INTEGER NOT NULL, documents INTEGER NOT NULL,
        writer TEXT NOT NULL)""",
    """CREATE TABLE generations (
        number INTEGER PRIMARY KEY, embedder TEXT, languages TEXT, dimension INTEGER, block INTEGER NOT NULL,
        reached INTEGER NOT NULL)""",
    """CREATE TABLE documents (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL, text TEXT NOT NULL, metadata BLOB NOT NULL)""",
    "CREATE UNIQUE INDEX documents_id ON documents (id)",
    "CREATE TABLE vectors (key INTEGER PRIMARY KEY, mask INTEGER NOT NULL, vectors BLOB NOT NULL)",
    "CREATE TABLE deletions (sequence INTEGER PRIMARY KEY, number INTEGER NOT NULL)",
    """CREATE TABLE segments (
        name TEXT PRIMARY KEY, low INTEGER NOT NULL, high INTEGER NOT NULL, size INTEGER NOT NULL, file TEXT NOT NULL,
        file_bytes INTEGER NOT NULL, checksum TEXT NOT NULL, vector_file TEXT, vector_bytes INTEGER NOT NULL,
        vector_checksum TEXT NOT NULL, vector_kind TEXT NOT NULL, generation INTEGER NOT NULL)""",
    "CREATE TABLE states (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
)


def _first(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)


Migration = Callable[[sqlite3.Connection], None]
MIGRATIONS: tuple[Migration, ...] = (_first,)
"""The steps from each version of the schema to the next, the first one from an empty database. ``user_version`` counts
those that were done."""


def create(
    connection: sqlite3.Connection,
    name: str,
    options: CollectionOptions,
    embedder: str | None,
    languages: frozenset[str] | None,
    dimension: int | None,
    *,
    automatic: bool = False,
) -> None:
    """Makes a collection in an empty database, in one transaction. Raises :class:`Conflict` when it has one.
    ``automatic`` is that of its :class:`Identity`."""
    with write_transaction(connection):
        if _pragma(connection, "application_id") or _pragma(connection, "schema_version"):
            raise Conflict(f"collection '{name}' exists already", param="name", code="collection_exists")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for migration in MIGRATIONS:
            migration(connection)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute(
            "INSERT INTO collection VALUES (1, ?, ?, ?, ?, 0, 0, 0, '')",
            (str(uuid.uuid4()), name, options.model_dump_json(), time.time()),
        )
        block = vector_blocks.block_size(dimension) if dimension else 0
        add_generation(connection, VectorGeneration(FIRST_GENERATION, embedder, languages, dimension, block, 0))
        if automatic:
            connection.execute("INSERT INTO states VALUES (?, 'true')", (AUTOMATIC,))


def check(connection: sqlite3.Connection, name: str, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Brings an older schema up to date. ``name`` is that of the collection in errors.

    Raises :class:`NotFound` for an empty database, whose creation was interrupted, and :class:`SageError` for one that
    is newer or of another program. Nothing is changed then.
    """
    application = _pragma(connection, "application_id")
    if not application and not _pragma(connection, "schema_version"):
        raise NotFound(f"there is no collection in '{name}'", param="collection", code="collection_not_found")
    if application != APPLICATION_ID:
        raise SageError(
            f"'{name}' contains the database of another program (application id {application:#x}); move it away",
            code="collection_foreign",
        )
    if _version(connection, name, migrations) < len(migrations):
        _migrate(connection, name, migrations)


def _version(connection: sqlite3.Connection, name: str, migrations: Sequence[Migration]) -> int:
    version = _pragma(connection, "user_version")
    if version > len(migrations):
        raise SageError(
            f"collection '{name}' was written by a newer release (schema {version}; this one reads up to "
            f"{len(migrations)}); update SAGE Middleware",
            code="collection_newer",
        )
    return version


def _migrate(connection: sqlite3.Connection, name: str, migrations: Sequence[Migration]) -> None:
    with write_transaction(connection):
        for migration in migrations[_version(connection, name, migrations) :]:  # another process may have done it
            migration(connection)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def add_generation(connection: sqlite3.Connection, generation: VectorGeneration) -> None:
    """Stores a generation, in place of one of the same number."""
    languages = None if generation.languages is None else orjson.dumps(sorted(generation.languages)).decode()
    connection.execute(
        "REPLACE INTO generations VALUES (?, ?, ?, ?, ?, ?)",
        (
            generation.number,
            generation.embedder,
            languages,
            generation.dimension,
            generation.block,
            generation.reached,
        ),
    )


def generations(connection: sqlite3.Connection) -> dict[int, VectorGeneration]:
    """By number: the one that serves, and any that is being filled or deleted."""
    return {
        number: VectorGeneration(
            number,
            embedder,
            None if languages is None else frozenset(orjson.loads(languages)),
            dimension,
            block,
            reached,
        )
        for number, embedder, languages, dimension, block, reached in connection.execute("SELECT * FROM generations")
    }
