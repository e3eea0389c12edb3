"""Moves what SQLite files hold into an empty PostgreSQL database: all of it, or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, StaticPool, Table, create_engine, delete, func, insert, select, text
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError

from sage.errors import Conflict
from sage.middleware.database.database import Database, open_postgresql, unusable
from sage.middleware.database.database_files import FILES
from sage.middleware.database.database_files import SCHEMA as SHARED_FILES
from sage.middleware.database.installation import PATTERNS, row_folder
from sage.middleware.database.schema import Schema
from sage.middleware.database.shared_files import DirectoryFiles
from sage.middleware.settings.database import DatabaseUrl
from sage.sqlite.connection import connect
from sage.sqlite.failures import is_busy

_ROWS_AT_ONCE = 500
_BUSY_SECONDS = 0.5

Show = Callable[[Mapping[str, Any]], None]
"""Takes one step: its ``status``, and ``completed`` of ``total`` rows."""


@dataclass(frozen=True)
class RoomFile:
    """Where a room's tables lie on SQLite."""

    schema: Schema
    path: Path


def copy_rooms(rooms: Sequence[RoomFile], data_dir: Path, url: DatabaseUrl, show: Show) -> dict[str, int]:
    """Copies the rooms whose file exists, and the shared files below ``data_dir``, into the database at ``url``;
    returns how many rows each table has now.

    The files are locked meanwhile, and only migrated. Raises :class:`Conflict` when somebody uses one of them, when
    the database has tables of ours already, and for a row that PostgreSQL cannot hold; then nothing is copied.
    """
    found = [room for room in rooms if room.path.exists() and room.path.stat().st_size]
    target = open_postgresql(url, "copy", 60.0)
    counts: dict[str, int] = {}
    try:
        with ExitStack() as stack:
            sources = [(room, source) for room, source in _opened(found, stack)]
            with target.migrating() as connection:
                for schema in (*(room.schema for room in rooms), SHARED_FILES):
                    _refuse_tables(connection, schema, url)
                for room, source in sources:
                    room.schema.create(connection)
                    for table in room.schema.metadata.sorted_tables:
                        counts[table.name] = copy_table(table, source, connection, show)
                SHARED_FILES.create(connection)
                counts[FILES.name] = _copy_files(data_dir, connection)
    except DatabaseError as exc:
        raise unusable(f"{target.place} cannot be filled", exc) from exc
    finally:
        target.dispose(close=True)
    return counts


def _opened(rooms: Sequence[RoomFile], stack: ExitStack) -> Iterator[tuple[RoomFile, Connection]]:
    """Each room with a connection to its file, which nobody else can use meanwhile."""
    for path, those in groupby(sorted(rooms, key=attrgetter("path")), key=attrgetter("path")):
        beside = list(those)
        with _refusing_others(path):
            pass
        for room in beside:
            Database(path, room.schema).close()  # migrates it
        source = stack.enter_context(connected(stack.enter_context(_refusing_others(path))))
        for room in beside:
            yield room, source


@contextmanager
def _refusing_others(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that is alone on the file: in WAL mode every other one, reading or not, stands in its way."""
    with closing(connect(path, "PRAGMA locking_mode = EXCLUSIVE", busy_seconds=_BUSY_SECONDS)) as raw:
        try:
            raw.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as exc:
            if not is_busy(exc):
                raise
            raise Conflict(
                f"{path} is in use; end the gateway and the commands that use it, then try again", code="in_use"
            ) from exc
        yield raw


@contextmanager
def connected(raw: sqlite3.Connection) -> Iterator[Connection]:
    """SQLAlchemy's connection over ``raw``, whose transactions are begun by hand."""
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def _refuse_tables(connection: Connection, schema: Schema, url: DatabaseUrl) -> None:
    present = schema.present_tables(connection)
    if present:
        raise Conflict(
            f"{url.shown} is not empty: it has the table '{present[0]}'; name an empty database (CREATE DATABASE)",
            code="not_empty",
        )


def copy_table(table: Table, source: Connection, target: Connection, show: Show) -> int:
    """Copies all rows, and takes away what the creation of the table brought; returns how many there are. Raises
    :class:`Conflict` for a row that the other database cannot hold."""
    total = source.scalar(select(func.count()).select_from(table)) or 0
    if target.scalar(select(func.count()).select_from(table)):
        target.execute(delete(table))  # what the creation of the tables brings
    copied = 0
    found = source.execution_options(yield_per=_ROWS_AT_ONCE).execute(select(table).order_by(_order_of(table, source)))
    for rows in found.mappings().partitions():
        try:
            target.execute(insert(table), [dict(row) for row in rows])
        except (DataError, IntegrityError) as exc:
            raise Conflict(
                f"a row of '{table.name}' does not fit into the other database: {str(exc.orig).splitlines()[0]}; "
                "nothing was copied",
                code="row_refused",
            ) from exc
        copied += len(rows)
        show({"status": table.name, "completed": copied, "total": total})
    _check_count(table, total, target)
    _go_on_counting(table, target)
    return total


def _order_of(table: Table, source: Connection) -> Any:
    """The order in which rows were made, where the source knows it: those that others refer to come first."""
    if source.dialect.name == "sqlite" and table.dialect_options["sqlite"]["with_rowid"]:
        return text("rowid")
    return text(", ".join(f'"{column.name}"' for column in table.primary_key))


def _check_count(table: Table, total: int, target: Connection) -> None:
    count = target.scalar(select(func.count()).select_from(table))
    if count != total:
        raise Conflict(f"'{table.name}' has {count} rows instead of {total}; nothing was copied", code="count_differs")


def _go_on_counting(table: Table, target: Connection) -> None:
    """The next row gets the number after the highest."""
    column = table.autoincrement_column
    if column is None or target.dialect.name == "sqlite":
        return
    sequence = target.scalar(select(func.pg_get_serial_sequence(f'"{table.name}"', column.name)))
    highest = target.scalar(select(func.max(column)))
    if sequence is not None and highest is not None:
        target.execute(select(func.setval(sequence, highest)))


def _copy_files(data_dir: Path, target: Connection) -> int:
    rows = []
    for folder, pattern in PATTERNS:
        files = DirectoryFiles(data_dir / folder)
        for name in files.names(pattern):
            key = f"{row_folder(folder)}/{name}"
            rows.append({"name": key, "data": files.read(name), "version": files.version(name)})
    if rows:
        target.execute(insert(FILES), rows)
    return len(rows)
