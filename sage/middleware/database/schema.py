"""The schema of a database, and its migrations: which revisions this code knows, and how an older file gets there."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Column, Connection, Engine, MetaData, PrimaryKeyConstraint, String, Table
from sqlalchemy.exc import DatabaseError

from sage.errors import ConfigError
from sage.private_files import make_private

_ENVIRONMENT = Path(__file__).parent / "migrations"
_VERSIONS = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""As Alembic makes it."""


@dataclass(frozen=True)
class Schema:
    """What a room keeps in its database.

    ``title`` names the database in errors ("the accounts database"). ``migrations`` is the folder of the scripts,
    ``revisions`` what they are called, oldest first; the last is the one that this code works on, and arrives at the
    tables of ``metadata`` and the rows that their creation brings.
    """

    title: str
    migrations: Path
    revisions: tuple[str, ...]
    metadata: MetaData

    def is_current(self, engine: Engine, path: Path) -> bool:
        """Whether the database is up to date; ``False`` also for an empty file.

        Raises :class:`ConfigError` for a newer one, and for a file that is no database.
        """
        if path.stat().st_size == 0:
            return False
        try:
            with engine.connect() as connection:
                revision = _revision_of(connection)
        except DatabaseError as exc:
            raise ConfigError(f"{path} cannot be read as {self.title}: {exc.orig}") from exc
        if revision is not None and revision not in self.revisions:
            raise ConfigError(
                f"{path} has the schema '{revision}', which is newer than this version of sage (it knows up to "
                f"'{self.revisions[-1]}'); upgrade sage, or point data_dir elsewhere"
            )
        return revision == self.revisions[-1]

    def upgrade(self, connection: Connection) -> None:
        """Migrates to the newest revision, in the transaction of ``connection``.

        A new database gets the tables at once, which are those that the migrations arrive at.
        """
        if connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar() == 0:
            self.metadata.create_all(connection)
            _VERSIONS.create(connection)
            connection.execute(_VERSIONS.insert().values(version_num=self.revisions[-1]))
            return
        from alembic import command  # takes a quarter of a second and 10 MiB, so only for an old database
        from alembic.config import Config

        config = Config(attributes={"connection": connection, "metadata": self.metadata})
        config.set_main_option("script_location", _escaped(_ENVIRONMENT))
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", _escaped(self.migrations / "versions"))
        command.upgrade(config, self.revisions[-1])


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")


def _revision_of(connection: Connection) -> str | None:
    table = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").scalar()
    if table is None:
        return None
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if revision is None else str(revision)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock among processes; it ends when the process ends, however that happens."""
    make_private(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
