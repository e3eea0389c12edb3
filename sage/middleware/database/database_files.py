"""The table of the small files that gateways of one PostgreSQL database share."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from sqlalchemy import Column, LargeBinary, MetaData, String, Table, delete, select, update

from sage.middleware.database.database import Database
from sage.middleware.database.schema import Schema
from sage.middleware.database.shared_files import Change, SharedFiles
from sage.middleware.database.statements import insert_into
from sage.middleware.database.types import Whole
from sage.middleware.settings.database import DatabaseUrl

_metadata = MetaData()
FILES = Table(
    "shared_files",
    _metadata,
    Column("name", String(255), primary_key=True),
    Column("data", LargeBinary, nullable=False),
    Column("version", Whole, nullable=False),  # when it was written, in nanoseconds
)
_VERSIONS = Path(__file__).parent / "shared_files_migrations"
SCHEMA = Schema("the database of shared files", _VERSIONS, ("0001",), _metadata, name="shared_files")


class DatabaseFiles(SharedFiles):
    """In the PostgreSQL database at ``url``, under ``folder``; a connection is made with the first use."""

    def __init__(self, url: DatabaseUrl, folder: str) -> None:
        self._url = url
        self._folder = folder

    @cached_property
    def _database(self) -> Database:
        return Database(Path(), SCHEMA, url=self._url)

    def _name(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def place(self, name: str) -> str:
        return f"{self._name(name)} in the table {FILES.name} of {self._url.shown}"

    def names(self, pattern: str) -> list[str]:
        with self._database.reading() as connection:
            found = connection.scalars(select(FILES.c.name)).all()
        return sorted(name.partition("/")[2] for name in found if fnmatchcase(name, self._name(pattern)))

    def read(self, name: str) -> bytes | None:
        with self._database.reading() as connection:
            return connection.scalar(select(FILES.c.data).where(FILES.c.name == self._name(name)))

    def check_private(self, name: str) -> None:
        return  # whoever may read the table may read the accounts too

    def version(self, name: str) -> int:
        with self._database.reading() as connection:
            return connection.scalar(select(FILES.c.version).where(FILES.c.name == self._name(name))) or 0

    def add(self, name: str, data: bytes) -> bool:
        row = {"name": self._name(name), "data": data, "version": time.time_ns()}
        with self._database.writing(alone=False) as connection:
            added = insert_into(connection, FILES).values(row).on_conflict_do_nothing()
            return bool(connection.execute(added).rowcount)

    def change(self, name: str, change: Change) -> None:
        this = FILES.c.name == self._name(name)
        with self._database.writing() as connection:
            data = connection.scalar(select(FILES.c.data).where(this))
            values = {"data": change(data), "version": time.time_ns()}
            if data is None:
                connection.execute(FILES.insert().values(name=self._name(name), **values))
            else:
                connection.execute(update(FILES).where(this).values(values))

    def remove(self, name: str) -> None:
        with self._database.writing() as connection:
            connection.execute(delete(FILES).where(FILES.c.name == self._name(name)))

    def close(self) -> None:
        opened: Database | None = self.__dict__.pop("_database", None)
        if opened is not None:
            opened.close()
