"""The accounts database: SQLite at ``data_dir/sage.db``, its transactions and its migrations."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, update
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import Session

from sage.errors import ConfigError, Unavailable
from sage.forks import forks
from sage.middleware.auth.models import RevisionRow
from sage.middleware.auth.private_files import make_private
from sage.sqlite.connection import connect, switch_to_wal
from sage.sqlite.failures import cause_of

REVISIONS = ("0001",)
"""Every schema this code knows, oldest first; the last is the one it works on."""

_WRITE = "sage_write"


class Database:
    """The database in ``data_dir``, made and migrated when needed. Safe to use from several threads and processes.

    ``revision`` is the newest revision of rights that this process has written or read; :meth:`read_revision` sees what
    other processes write. A transaction waits up to ``busy_seconds`` for a lock of another one. Raises
    :class:`ConfigError` when the file cannot be used.
    """

    def __init__(self, data_dir: Path, *, busy_seconds: float = 5.0) -> None:
        self.path = data_dir / "sage.db"
        self._revision_lock = threading.Lock()
        make_private(self.path)
        self._busy_seconds = busy_seconds
        self._forks = forks.count
        self._engine = _make_engine(self.path, busy_seconds)
        self._writer = self._engine.execution_options(**{_WRITE: True})
        try:
            if not self._is_current():
                self._migrate()
            self.revision = self.read_revision()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes every connection, in a forked process only its own."""
        self._leave_inherited()
        self._engine.dispose()

    def _leave_inherited(self) -> None:
        """In a forked process: connects anew, and leaves the connections of the process above it as they are."""
        if self._forks != forks.count:
            self._forks = forks.count
            self._revision_lock = threading.Lock()
            self._engine.dispose(close=False)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that reads one consistent state."""
        self._leave_inherited()
        with self._unavailable_on_failure(), Session(self._engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that holds the write lock from its start; an error undoes everything, else it commits."""
        self._leave_inherited()
        with self._unavailable_on_failure(), Session(self._writer, expire_on_commit=False) as session:
            with session.begin():
                session.connection()  # begins here, not at the first statement
                yield session
            self.advance(session.info.get("revision", 0))

    def bump(self, session: Session) -> None:
        """Increases the revision. To be called in every transaction that can take a right away."""
        increased = update(RevisionRow).values(value=RevisionRow.value + 1).returning(RevisionRow.value)
        session.info["revision"] = session.execute(increased).scalar_one()

    def advance(self, revision: int) -> None:
        """Notes a revision that was written or read; an older one changes nothing."""
        with self._revision_lock:
            self.revision = max(self.revision, revision)

    def read_revision(self) -> int:
        """The revision that is in the database now."""
        # Called four times a second: without the cost of a session.
        with self._unavailable_on_failure(), self._engine.connect() as connection:
            return int(connection.exec_driver_sql("SELECT value FROM revision").scalar_one())

    @contextmanager
    def _unavailable_on_failure(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as exc:
            raise Unavailable(f"the accounts database cannot be used now: {cause_of(exc.orig)}") from exc

    def _is_current(self) -> bool:
        """Whether the schema is up to date. Raises :class:`ConfigError` for a newer one, and for no database."""
        if self.path.stat().st_size == 0:
            return False
        try:
            with self._engine.connect() as connection:
                revision = _schema_revision(connection)
        except DatabaseError as exc:
            raise ConfigError(f"{self.path} cannot be read as the accounts database: {exc.orig}") from exc
        if revision is not None and revision not in REVISIONS:
            raise ConfigError(
                f"{self.path} has the schema '{revision}', which is newer than this version of sage (it knows up to "
                f"'{REVISIONS[-1]}'); upgrade sage, or point data_dir elsewhere"
            )
        return revision == REVISIONS[-1]

    def _migrate(self) -> None:
        """Migrates to the newest schema. One process does it; others that open the database wait."""
        with _locked(self.path.with_name("sage.db.lock")):
            if self._is_current():
                return
            try:
                with closing(connect(self.path, busy_seconds=self._busy_seconds)) as raw:
                    switch_to_wal(raw, self._busy_seconds)
                with self._writer.begin() as connection:
                    _upgrade(connection)
            except (sqlite3.Error, DatabaseError) as exc:
                raise ConfigError(f"{self.path} cannot be migrated: {exc}") from exc


def _make_engine(path: Path, busy_seconds: float) -> Engine:
    url = URL.create("sqlite+pysqlite", database=str(path))
    engine = create_engine(url, creator=lambda: connect(path, "PRAGMA foreign_keys = ON", busy_seconds=busy_seconds))

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get(_WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _schema_revision(connection: Connection) -> str | None:
    table = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").scalar()
    if table is None:
        return None
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if revision is None else str(revision)


def _upgrade(connection: Connection) -> None:
    from alembic import command  # takes a quarter of a second, so only for a new or old database
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    command.upgrade(config, REVISIONS[-1])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock among processes; it ends when the process ends, however that happens."""
    make_private(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
