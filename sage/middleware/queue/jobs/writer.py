"""One thread writes to the jobs database; what many callers write meanwhile shares one commit, since it costs an fsync.

The callers are tasks of event loops, which go on while they wait.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError

from sage.errors import SageError, Unavailable
from sage.forks import written_after_fork
from sage.middleware.database.database import Database, value_refused
from sage.middleware.database.failures import cause_of, database_failed, is_busy, is_full
from sage.private_files import make_private_dir, sync_directory
from sage.sqlite.group_commit import QueuedWrite, ThreadCommit, WriterClosed, WriterInherited

_log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[["Transaction"], T]

_MOST_WRITES = 256
"""How many go into one commit."""
_GATHER_SECONDS = 0.001
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Transaction:
    """What a write works with: the connection, and files whose bytes are durable before the rows that tell of them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._files: dict[Path, int] = {}

    def append(self, path: Path, data: bytes) -> int:
        """Appends ``data`` to the file, which is made when it is missing; returns where it begins.

        Bytes of a transaction that fails stay in the file, and no row tells of them. Raises :class:`OSError`.
        """
        descriptor = self._files.get(path)
        if descriptor is None:
            descriptor = self._files[path] = _open_to_append(path)
        start = os.fstat(descriptor).st_size
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError:
            os.ftruncate(descriptor, start)
            raise
        return start

    def sync(self) -> None:
        """Has what was appended on the disk."""
        for descriptor in self._files.values():
            os.fsync(descriptor)

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])


def _open_to_append(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        make_private_dir(path.parent)
        descriptor = os.open(path, flags | os.O_CREAT, 0o600)
    for directory in (path.parent, path.parent.parent):  # which may be new too
        sync_directory(directory)
    return descriptor


class _JobWrite(QueuedWrite):
    """A write and the task that waits for it."""

    __slots__ = ("future", "loop", "work")

    def __init__(self, work: Work[Any], weight: int) -> None:
        super().__init__(weight)
        self.work = work
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()

    def answer(self) -> None:
        super().answer()
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self.loop.call_soon_threadsafe(self.settle)

    def settle(self) -> None:
        """On the loop: gives the task its outcome, unless it waits no more."""
        if self.future.done():
            return
        try:
            self.future.set_result(self.outcome())
        except BaseException as exc:
            self.future.set_exception(exc)


class JobWriter:
    """Writes to ``database``. Every write is whole or not at all, and undone alone when it raises."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._has_failed = False
        self._commits: ThreadCommit[_JobWrite] = ThreadCommit(
            self._commit, "jobs writer", max_weight=_MOST_WRITES, gather_seconds=_GATHER_SECONDS
        )

    async def run(self, work: Work[T], *, weight: int = 1) -> T:
        """Returns the result of ``work`` once it is durable, or raises what it raised. A cancelled caller does not
        stop its write.

        Raises :class:`Unavailable` when the database or the disk cannot take it; then nothing of it is written.
        """
        write = _JobWrite(work, weight)
        try:
            self._commits.submit(write)
        except WriterClosed:
            raise Unavailable("the queue is closing; try again when the gateway is up again") from None
        except WriterInherited:
            raise written_after_fork("the queue") from None
        result: T = await write.future
        return result

    def take_failure(self) -> bool:
        """Whether the database failed since the last call of this."""
        has_failed, self._has_failed = self._has_failed, False
        return has_failed

    def close(self) -> None:
        """Returns when all that waits is written."""
        self._commits.close()

    def _commit(self, group: Sequence[_JobWrite]) -> None:
        self._write(group)
        _answer(group)

    def _write(self, group: Sequence[_JobWrite]) -> None:
        try:
            self._transact(group)
        except Exception as exc:
            if len(group) > 1 and not is_busy(_origin(exc)):
                for write in group:  # one that has no room on the disk must not fail the others
                    self._write([write])
                return
            for write in group:
                self._refuse(write, exc)

    def _refuse(self, write: _JobWrite, exc: Exception) -> None:
        refusal = refusal_of(exc)
        self._has_failed |= database_failed(_origin(exc))
        write.set_outcome(None, refusal)

    def _transact(self, group: Sequence[_JobWrite]) -> None:
        with self._database.writing() as connection, closing(Transaction(connection)) as transaction:
            if len(group) == 1:
                group[0].set_outcome(group[0].work(transaction))
                return transaction.sync()
            cursor = connection.connection.cursor()  # SQL of every database, without the cost of a statement's objects
            for write in group:
                cursor.execute("SAVEPOINT one_write")
                try:
                    write.set_outcome(write.work(transaction))
                except Exception as exc:
                    if database_failed(_origin(exc)):
                        raise
                    cursor.execute("ROLLBACK TO one_write")
                    self._refuse(write, exc)
                cursor.execute("RELEASE one_write")
            cursor.close()
            return transaction.sync()


def _answer(group: Sequence[_JobWrite]) -> None:
    """Wakes each loop once for all of its writes."""
    for loop in {write.loop for write in group}:
        mine = [write for write in group if write.loop is loop]
        with suppress(RuntimeError):  # it is closed: nobody waits
            loop.call_soon_threadsafe(_settle, mine)
    for write in group:
        write.is_answered = True


def _settle(writes: Sequence[_JobWrite]) -> None:
    for write in writes:
        write.settle()


def _origin(exc: BaseException) -> BaseException:
    """What the database's own driver raised."""
    while not isinstance(exc, DBAPIError) and isinstance(exc, Unavailable) and exc.__cause__ is not None:
        exc = exc.__cause__
    return exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc


def refusal_of(exc: Exception) -> Exception:
    """The error that the caller gets: a full or failing disk is said in plain words, with what to do."""
    origin = _origin(exc)
    if isinstance(exc, DataError):
        refused = value_refused()
        refused.__cause__ = exc
        return refused
    no_room = is_full(origin) or (isinstance(origin, OSError) and origin.errno in _NO_ROOM)
    if not no_room and (isinstance(exc, SageError) or not (isinstance(exc, OSError) or database_failed(origin))):
        return exc
    cause = "the disk is full; free some space on it, then try again" if no_room else cause_of(origin)
    _log.warning("the queue: a write failed: %s", origin)
    refusal = Unavailable(
        f"the queue cannot be written now: {cause}", code="disk_full" if no_room else None, retry_after=5.0
    )
    refusal.__cause__ = exc
    return refusal
