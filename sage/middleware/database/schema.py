"""The schema of a database, and its migrations: which revisions this code knows, and how an older one gets there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    TextClause,
)

from sage.errors import ConfigError

_ENVIRONMENT = Path(__file__).parent / "migrations"
_VERSION_TABLE = "alembic_version"
_ROWS = "rows"


def of_rows(condition: ColumnElement[bool] | TextClause) -> dict[str, Any]:
    """Arguments of an :class:`~sqlalchemy.Index` that has only the rows of ``condition``.

    What PostgreSQL needs for it :meth:`Schema.create` adds: for its name alone SQLAlchemy would load its dialect with
    all drivers, 15 ms of each start.
    """
    return {"sqlite_where": condition, "info": {_ROWS: condition}}


@dataclass(frozen=True)
class Schema:
    """What a room keeps in its database.

    ``title`` names the database in errors ("the accounts database"). ``migrations`` is the folder of the scripts,
    ``revisions`` what they are called, oldest first; the last is the one that this code works on, and arrives at the
    tables of ``metadata`` and the rows that their creation brings. ``name`` is the room's among those that share a
    PostgreSQL database; one that is ``beside`` another room lies in that one's file on SQLite too.
    """

    title: str
    migrations: Path
    revisions: tuple[str, ...]
    metadata: MetaData
    name: str
    beside: bool = False

    def is_current(self, connection: Connection, place: str) -> bool:
        """Whether the database is up to date. Raises :class:`ConfigError` for a newer one; ``place`` names it."""
        revision = self._revision_of(connection)
        if revision is not None and revision not in self.revisions:
            raise ConfigError(
                f"{place} has the schema '{revision}', which is newer than this version of sage (it knows up to "
                f"'{self.revisions[-1]}'); upgrade sage, or point {_setting_of(connection)} elsewhere"
            )
        return revision == self.revisions[-1]

    def upgrade(self, connection: Connection) -> None:
        """Migrates to the newest revision, in the transaction of ``connection``.

        A new database gets the tables at once, which are those that the migrations arrive at.
        """
        if self._is_new(connection):
            self.create(connection)
        else:
            self.migrate(connection)

    def create(self, connection: Connection) -> None:
        """Makes all tables, which are not there, in the transaction of ``connection``."""
        if connection.dialect.name == "postgresql":
            for table in self.metadata.tables.values():
                for index in table.indexes:
                    if _ROWS in index.info:
                        index.dialect_kwargs["postgresql_where"] = index.info[_ROWS]
        self.metadata.create_all(connection)
        versions = _versions(self.version_table(connection))
        versions.create(connection)
        connection.execute(versions.insert().values(version_num=self.revisions[-1]))

    def present_tables(self, connection: Connection) -> list[str]:
        """Those of its tables that are there."""
        names = (*self.metadata.tables, self.version_table(connection))
        return [name for name in names if _has_table(connection, name)]

    def migrate(self, connection: Connection) -> None:
        """Runs the migrations that the database has not had, in the transaction of ``connection``."""
        from alembic import command  # takes a quarter of a second and 10 MiB, so only for an old database
        from alembic.config import Config

        table = self.version_table(connection)
        config = Config(attributes={"connection": connection, "metadata": self.metadata, "version_table": table})
        config.set_main_option("script_location", _escaped(_ENVIRONMENT))
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", _escaped(self.migrations / "versions"))
        command.upgrade(config, self.revisions[-1])

    def version_table(self, connection: Connection) -> str:
        """The table with the revision: Alembic's own in a room's own file, else one with the room's name."""
        is_shared = self.beside or connection.dialect.name == "postgresql"
        return f"{_VERSION_TABLE}_{self.name}" if is_shared else _VERSION_TABLE

    def _is_new(self, connection: Connection) -> bool:
        if connection.dialect.name == "sqlite" and not self.beside:
            return connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar() == 0
        return not any(_has_table(connection, table) for table in self.metadata.tables)

    def _revision_of(self, connection: Connection) -> str | None:
        table = self.version_table(connection)
        if not _has_table(connection, table):
            return None
        revision = connection.exec_driver_sql(f"SELECT version_num FROM {table}").scalar()  # noqa: S608 (a name of ours)
        return None if revision is None else str(revision)


def _setting_of(connection: Connection) -> str:
    return "data_dir" if connection.dialect.name == "sqlite" else "database"


def _has_table(connection: Connection, name: str) -> bool:
    # Not SQLAlchemy's inspector, which takes a millisecond of each start.
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,))
    else:
        found = connection.exec_driver_sql("SELECT to_regclass(%s)", (f'"{name}"',))
    return found.scalar() is not None


def _versions(name: str) -> Table:
    """As Alembic makes it."""
    return Table(
        name,
        MetaData(),
        Column("version_num", String(32), nullable=False),
        PrimaryKeyConstraint("version_num", name=f"{name}_pkc"),
    )


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")
