"""The accounts database: SQLite at ``data_dir/sage.db`` or PostgreSQL, its sessions, and the revision of all rights."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import update
from sqlalchemy.orm import Session

from sage.forks import forks
from sage.middleware.auth.models import Base, RevisionRow
from sage.middleware.database.database import Database
from sage.middleware.database.schema import Schema
from sage.middleware.settings.database import DatabaseUrl

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
"""Every schema this code knows, oldest first; the last is the one it works on."""

SCHEMA = Schema(
    "the accounts database", Path(__file__).parent / "migrations", REVISIONS, Base.metadata, name="accounts"
)


class AccountsDatabase(Database):
    """The database in ``data_dir``, or with ``url`` in PostgreSQL, made and migrated when needed. Safe to use from
    several threads and processes.

    ``revision`` is the newest revision of rights that this process has written or read; :meth:`read_revision` sees what
    other processes write. Raises as :class:`Database`.
    """

    def __init__(self, data_dir: Path, *, url: DatabaseUrl | None = None, busy_seconds: float = 5.0) -> None:
        self._revision_lock = threading.Lock()
        super().__init__(data_dir / "sage.db", SCHEMA, url=url, busy_seconds=busy_seconds)
        try:
            self.revision = self.read_revision()
        except BaseException:
            self.close()
            raise

    def leave_inherited(self) -> None:
        if self._forks != forks.count:
            self._revision_lock = threading.Lock()
        super().leave_inherited()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that reads one consistent state."""
        self.leave_inherited()
        with self.unavailable_on_failure(), Session(self._backend.reader) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that holds the write lock from its start; an error undoes everything, else it commits."""
        self.leave_inherited()
        with self.unavailable_on_failure(), Session(self._backend.writer, expire_on_commit=False) as session:
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
        with self.unavailable_on_failure(), self._backend.reader.connect() as connection:
            return int(connection.exec_driver_sql("SELECT value FROM revision").scalar_one())
