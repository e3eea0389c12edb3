"""In each process one thread writes to a collection. All waiting changes go into one commit, since a commit costs an
fsync."""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sage.errors import SageError, Unavailable
from sage.forks import written_after_fork
from sage.middleware.retrieval.store.connections import Connections
from sage.middleware.retrieval.store.errors import faults_of, translated
from sage.middleware.retrieval.store.records import Commit
from sage.middleware.retrieval.store.transaction import (
    RowChanges,
    TransactionState,
    load_state,
    save_state,
    was_committed,
)
from sage.sqlite.connection import write_transaction
from sage.sqlite.failures import is_busy
from sage.sqlite.group_commit import QueuedWrite, ThreadCommit, WriterClosed, WriterInherited, run_each
from sage.thread_pool import ThreadPool

_log = logging.getLogger(__name__)

Publish = Callable[[Commit], None]
Work = Callable[[sqlite3.Connection, TransactionState], tuple[TransactionState, RowChanges, Any]]
"""Makes one change within a transaction; when it raises, this change alone is rolled back."""

_MAX_DOCUMENTS = 8192
"""How many documents go into one commit, unless a single write has more."""
_GATHER_SECONDS = 0.002
_WORTH_A_THREAD = 2048
"""Characters of text from which on they are analysed while the disk writes, on a thread of their own: that takes longer
than to wake it."""


class _StoreWrite(QueuedWrite):
    """A change, and what is called with its commit."""

    __slots__ = ("publish", "work")

    def __init__(self, work: Work, publish: Publish | None, weight: int) -> None:
        super().__init__(weight)
        self.work = work
        self.publish = publish


@dataclass(slots=True)
class _Attempt:
    """How far a group's transaction has come."""

    commit: Commit | None = None
    token: str = ""
    committing: bool = False
    before: int = 0


class GroupCommit:
    """The writer of one collection. Its thread starts with the first write and ends when there is none for a while."""

    def __init__(self, connections: Connections, name: str) -> None:
        self._connections = connections
        self._name = name
        self._writer = ThreadCommit(
            self._commit, f"writer of {name}", max_weight=_MAX_DOCUMENTS, gather_seconds=_GATHER_SECONDS
        )
        self.analyse: Callable[[Commit], None] | None = None
        """Does ahead what of publishing a commit changes nothing. Called on a thread of its own while the disk takes
        the commit, which may fail yet."""
        self._threads = ThreadPool(1, f"analysis for {name}")
        self._token = secrets.token_hex(8)
        self._commits = 0

    def run(self, work: Work, publish: Publish | None = None, *, weight: int = 1) -> Any:
        """Returns the result of ``work`` once it is durable and published; raises what ``work`` raised.

        Raises :class:`Unavailable` when the database cannot be written.
        """
        with self._open():
            return self._writer.run(_StoreWrite(work, publish, weight))

    def run_between(self, task: Callable[[], Any]) -> Any:
        """Calls ``task`` on the writer's thread between two commits; returns its result, or raises what it raised."""
        with self._open(), faults_of(self._name):
            return self._writer.run_between(task)

    @property
    def waiting(self) -> int:
        """How many writes wait for a commit."""
        return self._writer.waiting

    @contextmanager
    def _open(self) -> Iterator[None]:
        try:
            yield
        except WriterClosed:
            raise Unavailable(f"collection '{self._name}' is closed") from None
        except WriterInherited:
            raise written_after_fork(f"collection '{self._name}'") from None

    def close(self) -> None:
        """Returns when all waiting changes are written."""
        self._writer.close()
        self._threads.shutdown(wait=False)

    def _commit(self, group: Sequence[_StoreWrite]) -> None:
        self._write(group)
        self._checkpoint()

    def _write(self, group: Sequence[_StoreWrite]) -> None:
        attempt = _Attempt()
        try:
            self._transact(group, attempt)
        except sqlite3.Error as exc:
            if not self._took_place(attempt, group, exc):
                return
        except Exception as exc:
            if not isinstance(exc, SageError):
                _log.exception("collection '%s': a write failed", self._name)
            for write in group:
                write.fail(exc)
            return
        self._publish(group, attempt.commit)
        for write in group:
            write.answer()

    def _took_place(self, attempt: _Attempt, group: Sequence[_StoreWrite], exc: sqlite3.Error) -> bool:
        """Whether a transaction that failed is in the database all the same. If not, its changes have their answers:
        they were tried one by one, or failed."""
        committed = self._is_committed(attempt) if attempt.committing else False
        if committed is None:
            self._refuse(group, exc, certain=False)
        elif not committed:
            if attempt.committing:
                self._overwrite()
            if len(group) > 1 and not is_busy(exc):
                for write in group:  # one that is too large for the disk must not fail the others
                    self._write([write])
            else:
                self._refuse(group, exc, certain=True)
        return bool(committed)

    def _transact(self, group: Sequence[_StoreWrite], attempt: _Attempt) -> None:
        with self._connections.writing() as connection:
            connection.execute("BEGIN IMMEDIATE")
            changes = connection.total_changes
            state = load_state(connection)
            attempt.before, changed = state.sequence, RowChanges()

            def work(write: _StoreWrite) -> Any:
                nonlocal state
                state, rows, result = write.work(connection, state)
                changed.add(rows)
                return result

            run_each(connection, group, work)
            if connection.total_changes == changes:
                return
            self._commits += 1
            attempt.token = f"{self._token}:{self._commits}"
            save_state(connection, state, attempt.token)
            if state.sequence > attempt.before:
                rows = list(changed.added.values())
                attempt.commit = Commit(attempt.before, state.sequence, rows, changed.deleted)
            attempt.committing = True
            with self._analysing(attempt.commit):
                connection.execute("COMMIT")

    @contextmanager
    def _analysing(self, commit: Commit | None) -> Iterator[None]:
        """Has a commit analysed during the block, in which this thread waits for the disk."""
        analyse = self.analyse
        if analyse is None or commit is None or sum(len(row.text) for row in commit.rows) < _WORTH_A_THREAD:
            yield
            return
        try:
            analysis = self._threads.submit(analyse, commit)
        except RuntimeError:  # no more threads can be started now
            yield
            return
        try:
            yield
        finally:
            if not analysis.cancel():  # it has begun; publishing meets its error again, and says it
                analysis.exception()

    def _is_committed(self, attempt: _Attempt) -> bool | None:
        """Whether a commit that failed took place all the same; ``None`` means that this cannot be found out now."""
        try:
            with self._connections.reading() as connection:
                return was_committed(connection, attempt.token, attempt.before, attempt.commit)
        except (sqlite3.Error, Unavailable):
            return None

    def _overwrite(self) -> None:
        """Writes an empty commit over one that failed at its very end, and that may be complete in the log. Without
        this, the failed commit would take effect if the machine stopped now."""
        self._commits += 1
        with (
            suppress(sqlite3.Error, SageError),
            self._connections.writing() as connection,
            write_transaction(connection),
        ):
            save_state(connection, load_state(connection), f"{self._token}:{self._commits}")

    def _publish(self, group: Sequence[_StoreWrite], commit: Commit | None) -> None:
        if commit is None:
            return
        for publish in dict.fromkeys(write.publish for write in group if write.publish is not None):
            try:
                publish(commit)
            except Exception:  # it is durable, and the index catches up later
                _log.exception("collection '%s': what was written could not be indexed at once", self._name)

    def _refuse(self, group: Sequence[_StoreWrite], exc: sqlite3.Error, *, certain: bool) -> None:
        """``certain`` says whether it is certain that nothing was written."""
        _log.warning("collection '%s': a write failed: %s", self._name, exc)
        for write in group:
            refusal: Exception = translated(exc, self._name, writing=True)
            if not certain:
                refusal = Unavailable(
                    f"collection '{self._name}': its database failed during a write ({exc}) and does not answer, so "
                    "it is not known whether the write is stored; when the disk works again, look for it, or repeat it"
                )
            refusal.__cause__ = exc
            write.fail(refusal)

    def _checkpoint(self) -> None:
        try:
            self._connections.checkpoint()
        except (sqlite3.Error, OSError) as exc:  # nothing is lost: it is in the log
            _log.warning("collection '%s': its log could not be moved into the database: %s", self._name, exc)
