"""Small private files that all gateways of an installation have in common: its keys, and the models registered while it
runs.

Gateways on one ``data_dir`` share the files there. Those that share a PostgreSQL database have them in a table of it:
the database is as secret as ``data_dir`` is.
"""

from __future__ import annotations

import fcntl
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from sqlalchemy import Column, LargeBinary, MetaData, String, Table, delete, select, update

from sage.errors import ConfigError
from sage.middleware.database.database import Database
from sage.middleware.database.schema import Schema
from sage.middleware.database.statements import insert_into
from sage.middleware.database.types import Whole
from sage.middleware.settings.database import DatabaseUrl
from sage.private_files import make_private_dir, write_private

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

Change = Callable[[bytes | None], bytes]
"""What a file is to hold, from what it holds; ``None`` means that there is none."""


class SharedFiles(ABC):
    """The files of one folder. Calls block. Raise :class:`ConfigError` for what cannot be read or written, and
    :class:`sage.errors.Unavailable` when PostgreSQL does not answer."""

    @abstractmethod
    def place(self, name: str) -> str:
        """What messages call the file."""

    @abstractmethod
    def names(self, pattern: str) -> list[str]:
        """The names that match ``pattern``, in order."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The content; ``None`` means that there is no such file."""

    @abstractmethod
    def check_private(self, name: str) -> None:
        """Raises :class:`ConfigError` for a file that others may read."""

    @abstractmethod
    def version(self, name: str) -> int:
        """Another number after each change; 0 where there is no such file."""

    @abstractmethod
    def add(self, name: str, data: bytes) -> bool:
        """Writes a new file, durably; one that is there stays. Of several processes at once, one gets ``True``."""

    @abstractmethod
    def change(self, name: str, change: Change) -> None:
        """Replaces the content by what ``change`` makes of it, while nobody else changes it."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Removes the file, if it is there."""

    def close(self) -> None:
        """Ends its connections; it can be used again."""
        return


class DirectoryFiles(SharedFiles):
    """In the directory ``path``, readable for their owner alone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, name: str) -> str:
        return str(self.path / name)

    def names(self, pattern: str) -> list[str]:
        return sorted(path.name for path in self.path.glob(pattern))

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise ConfigError(f"{self.place(name)} cannot be read: {exc.strerror}") from exc

    def check_private(self, name: str) -> None:
        try:
            mode = (self.path / name).stat().st_mode
        except OSError as exc:
            raise ConfigError(f"{self.place(name)} cannot be read: {exc.strerror}") from exc
        if mode & 0o077:
            raise ConfigError(
                f"{self.place(name)} may be read by others (mode {mode & 0o777:04o}); take it back with chmod 600"
            )

    def version(self, name: str) -> int:
        try:
            return (self.path / name).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def add(self, name: str, data: bytes) -> bool:
        make_private_dir(self.path)
        return write_private(self.path / name, data, replace=False)

    def change(self, name: str, change: Change) -> None:
        make_private_dir(self.path)
        try:
            lock = os.open(self.path / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise ConfigError(f"{self.place(name)} cannot be written: {exc.strerror}") from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_private(self.path / name, change(self.read(name)), replace=True)
        finally:
            os.close(lock)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


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


PATTERNS = (("keys", "*.pem"), ("keys", "jobs.key"), ("queue", "key"), ("", "models.json"))
"""Where the shared files of a gateway are: their folder below ``data_dir``, and their names."""


def row_folder(folder: str) -> str:
    """What a folder is called in the table."""
    return folder or "gateway"


def open_shared_files(data_dir: Path, folder: str, url: DatabaseUrl | None) -> SharedFiles:
    """The files of ``folder``: below ``data_dir``, or with ``url`` in PostgreSQL."""
    return DirectoryFiles(data_dir / folder) if url is None else DatabaseFiles(url, row_folder(folder))
