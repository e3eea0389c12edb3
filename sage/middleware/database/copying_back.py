"""Moves what a PostgreSQL database holds into SQLite files of a new directory: all of it, or nothing."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DatabaseError

from sage.errors import Conflict, NotFound
from sage.middleware.database.copying import RoomFile, Show, connected, copy_table
from sage.middleware.database.database import Database, open_postgresql, unusable
from sage.middleware.database.database_files import FILES, DatabaseFiles
from sage.middleware.database.database_files import SCHEMA as SHARED_FILES
from sage.middleware.database.installation import PATTERNS, row_folder
from sage.middleware.database.shared_files import DirectoryFiles
from sage.middleware.settings.database import DatabaseUrl
from sage.private_files import make_private_dir
from sage.sqlite.connection import connect

_UNFINISHED = ".unfinished"
"""In a directory that a copy puts together."""
_OURS = 2
"""Sessions of a copy on the database: one for its lock, and one that reads."""


def copy_back(rooms: Sequence[RoomFile], data_dir: Path, url: DatabaseUrl, show: Show) -> dict[str, int]:
    """Copies the tables and the shared files of the database at ``url`` into ``data_dir``, which is made, or is empty;
    the rooms' paths lie in it. Returns how many rows each table has.

    It is put together beside, and takes its place in one step. Nobody else writes to the tables meanwhile. Raises
    :class:`Conflict` when a gateway uses them or the directory holds something, :class:`NotFound` for a database
    without tables of ours.
    """
    _require_empty(data_dir)
    source = open_postgresql(url, "copy", 60.0)
    try:
        with _made_beside(data_dir) as made:
            with source.migrating() as connection:
                _refuse_users(connection, url)
                there = [room for room in rooms if room.schema.present_tables(connection)]
            if not there:
                raise NotFound(f"{url.shown} has no tables of a gateway", code="nothing_to_copy")
            for room in there:
                Database(Path(), room.schema, url=url).close()  # migrates them
            with source.migrating() as connection:
                counts = _copy_rooms([_moved(room, data_dir, made) for room in there], connection, show)
                counts[FILES.name] = _copy_files(made, url, connection)
    except DatabaseError as exc:
        raise unusable(f"{source.place} cannot be copied", exc) from exc
    finally:
        source.dispose(close=True)
    return counts


def _require_empty(data_dir: Path) -> None:
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise Conflict(f"{data_dir} is not empty; name a directory that is not there yet", code="not_empty")


@contextmanager
def _made_beside(data_dir: Path) -> Iterator[Path]:
    """A directory that becomes ``data_dir`` at the end; nothing is left of it after an error."""
    parent = data_dir.absolute().parent
    make_private_dir(parent)
    _remove_unfinished(data_dir)
    made = Path(tempfile.mkdtemp(prefix=f".{data_dir.name}-", dir=parent))
    try:
        with (made / _UNFINISHED).open("w") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX)  # the kernel releases it when this process ends
            yield made
            (made / _UNFINISHED).unlink()
        os.rename(made, data_dir.absolute())
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _remove_unfinished(data_dir: Path) -> None:
    """Removes what copies to that directory have left that were killed."""
    for mark in data_dir.absolute().parent.glob(f".{glob.escape(data_dir.name)}-*/{_UNFINISHED}"):
        with contextlib.suppress(OSError), mark.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process lives
            shutil.rmtree(mark.parent)


def _refuse_users(connection: Connection, url: DatabaseUrl) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sage'"
    if connection.exec_driver_sql(query).scalar_one() > _OURS:
        raise Conflict(
            f"{url.shown} is in use; end the gateways and the commands that use it, then try again", code="in_use"
        )


def _moved(room: RoomFile, data_dir: Path, made: Path) -> RoomFile:
    return RoomFile(room.schema, made / room.path.relative_to(data_dir))


def _copy_rooms(rooms: Sequence[RoomFile], connection: Connection, show: Show) -> dict[str, int]:
    names = [f'"{table.name}"' for room in rooms for table in room.schema.metadata.sorted_tables]
    connection.exec_driver_sql(f"LOCK TABLE {', '.join(names)} IN SHARE MODE")
    counts: dict[str, int] = {}
    for room in rooms:
        make_private_dir(room.path.parent)
        Database(room.path, room.schema).close()
        with ExitStack() as stack:
            raw = stack.enter_context(closing(connect(room.path, busy_seconds=5.0)))
            target = stack.enter_context(connected(raw))
            raw.execute("BEGIN IMMEDIATE")
            for table in room.schema.metadata.sorted_tables:
                counts[table.name] = copy_table(table, connection, target, show)
            raw.execute("COMMIT")
    return counts


def _copy_files(made: Path, url: DatabaseUrl, connection: Connection) -> int:
    if not SHARED_FILES.present_tables(connection):
        return 0
    for folder, pattern in PATTERNS:
        with closing(DatabaseFiles(url, row_folder(folder))) as files:
            for name in files.names(pattern):
                DirectoryFiles(made / folder).add(name, files.read(name) or b"")
    return int(connection.scalar(select(func.count()).select_from(FILES)) or 0)
