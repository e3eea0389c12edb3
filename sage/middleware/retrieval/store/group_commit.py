"""One thread a process writes to a collection: whatever waits goes into one commit, since a commit costs an fsync."""

from __future__ import annotations

import logging
import secrets
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sage.errors import SageError, Unavailable
from sage.middleware.retrieval.store.connections import Connections
from sage.middleware.retrieval.store.errors import code_of, is_of_the_disk, translated
from sage.middleware.retrieval.store.records import Commit
from sage.middleware.retrieval.store.transaction import (
    RowChanges,
    TransactionState,
    load_state,
    save_state,
    was_committed,
)

_log = logging.getLogger(__name__)

Publish = Callable[[Commit], None]
Work = Callable[[sqlite3.Connection, TransactionState], tuple[TransactionState, RowChanges, Any]]
"""One change within a transaction; an exception undoes it, and it alone."""

_MOST = 8192  # documents to a commit
_IDLE_SECONDS = 10.0
_GATHER_SECONDS = 0.002


@dataclass(slots=True)
class _Job:
    work: Work
    publish: Publish | None
    weight: int
    done: Future[Any] = field(default_factory=Future)
    task: Callable[[], Any] | None = None
    """Called between two commits, in place of ``work``."""


@dataclass(slots=True)
class _Attempt:
    """What came of a group's transaction so far."""

    commit: Commit | None = None
    outcomes: list[tuple[_Job, Any, Exception | None]] = field(default_factory=list)
    token: str = ""
    committing: bool = False
    before: int = 0


def _goes_with(job: _Job, group: Sequence[_Job], weight: int) -> bool:
    return job.task is None and group[0].task is None and weight + job.weight <= _MOST


def _nothing(connection: sqlite3.Connection, state: TransactionState) -> tuple[TransactionState, RowChanges, None]:
    return state, RowChanges(), None


class GroupCommit:
    """The writer of one collection. Its thread begins with the first write and ends when there was none for a while."""

    def __init__(self, connections: Connections, name: str) -> None:
        self._connections = connections
        self._name = name
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._expected = 1
        self._token = secrets.token_hex(8)
        self._commits = 0

    def run(self, work: Work, publish: Publish | None = None, *, weight: int = 1) -> Any:
        """Returns what ``work`` returned once it is durable and was published; raises what it raised.

        Raises :class:`Unavailable` when the database cannot be written.
        """
        return self._done(_Job(work, publish, weight))

    def run_between(self, task: Callable[[], Any]) -> Any:
        """Returns what ``task`` returned, called by the writer's thread between two commits; raises what it raised."""
        return self._done(_Job(_nothing, None, 1, task=task))

    def _done(self, job: _Job) -> Any:
        with self._changed:
            if self._closed:
                raise Unavailable(f"collection '{self._name}' is closed")
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=f"writer of {self._name}", daemon=True)
                self._thread.start()
            self._changed.notify()
        return job.done.result()

    def close(self) -> None:
        """Returns when everything that waited is written."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _serve(self) -> None:
        while group := self._next_group():
            if group[0].task is not None:
                self._call(group[0], group[0].task)
            else:
                self._write(group)
            self._checkpoint()

    def _next_group(self) -> list[_Job]:
        """Some of what waits; empty: the thread may end."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting or self._closed, _IDLE_SECONDS) or not self._waiting:
                self._thread = None
                return []
            if len(self._waiting) < self._expected and not self._closed:
                # Those of the last commit are just now being told of it: most of them write again at once.
                self._changed.wait_for(lambda: len(self._waiting) >= self._expected or self._closed, _GATHER_SECONDS)
            group: list[_Job] = []
            weight = 0
            while self._waiting and (not group or _goes_with(self._waiting[0], group, weight)):
                group.append(self._waiting.popleft())
                weight += group[-1].weight
            self._expected = len(group)
            return group

    def _call(self, job: _Job, task: Callable[[], Any]) -> None:
        try:
            result = task()
        except Exception as exc:
            failed = exc
            if isinstance(exc, sqlite3.Error):
                failed = translated(exc, self._name)
                failed.__cause__ = exc
            job.done.set_exception(failed)
        else:
            job.done.set_result(result)

    def _write(self, group: Sequence[_Job]) -> None:
        attempt = _Attempt()
        try:
            self._transact(group, attempt)
        except sqlite3.Error as exc:
            there = self._is_there(attempt) if attempt.committing else False
            if attempt.committing and there is False:
                self._overwrite()
            if there is None:
                self._refuse(group, exc, known=False)
            elif not there and len(group) > 1 and code_of(exc) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                for job in group:  # one that is too large for the disk must not spoil the others
                    self._write([job])
            elif not there:
                self._refuse(group, exc, known=True)
            if not there:
                return
        except Exception as exc:
            if not isinstance(exc, SageError):
                _log.exception("collection '%s': a write failed", self._name)
            for job in group:
                job.done.set_exception(exc)
            return
        self._publish(group, attempt.commit)
        for job, result, failed in attempt.outcomes:
            if failed is not None:
                job.done.set_exception(failed)
            else:
                job.done.set_result(result)

    def _transact(self, group: Sequence[_Job], attempt: _Attempt) -> None:
        with self._connections.writing() as connection:
            connection.execute("BEGIN IMMEDIATE")
            changes = connection.total_changes
            state = load_state(connection)
            attempt.before, effects = state.sequence, RowChanges()
            for job in group:
                state = self._try(connection, state, job, effects, attempt)
            if connection.total_changes == changes:
                return
            self._commits += 1
            attempt.token = f"{self._token}:{self._commits}"
            save_state(connection, state, attempt.token)
            if state.sequence > attempt.before:
                rows = list(effects.added.values())
                attempt.commit = Commit(attempt.before, state.sequence, rows, effects.deleted)
            attempt.committing = True
            connection.execute("COMMIT")

    def _try(
        self,
        connection: sqlite3.Connection,
        state: TransactionState,
        job: _Job,
        effects: RowChanges,
        attempt: _Attempt,
    ) -> TransactionState:
        connection.execute("SAVEPOINT change")
        try:
            state, done, result = job.work(connection, state)
        except Exception as exc:
            if is_of_the_disk(exc):
                raise
            connection.execute("ROLLBACK TO change")
            attempt.outcomes.append((job, None, exc))
        else:
            effects.take(done)
            attempt.outcomes.append((job, result, None))
        connection.execute("RELEASE change")
        return state

    def _is_there(self, attempt: _Attempt) -> bool | None:
        """Whether a commit that failed took place all the same; ``None``: that cannot be found out now."""
        try:
            with self._connections.reading() as connection:
                return was_committed(connection, attempt.token, attempt.before, attempt.commit)
        except (sqlite3.Error, Unavailable):
            return None

    def _overwrite(self) -> None:
        """Of a commit that failed at its very end, all may stand in the log: the next one takes its place there. Should
        the machine stop before that, it would come to life again."""
        self._commits += 1
        with suppress(sqlite3.Error, SageError), self._connections.writing() as connection:
            connection.execute("BEGIN IMMEDIATE")
            save_state(connection, load_state(connection), f"{self._token}:{self._commits}")
            connection.execute("COMMIT")

    def _publish(self, group: Sequence[_Job], commit: Commit | None) -> None:
        if commit is None:
            return
        for publish in dict.fromkeys(job.publish for job in group if job.publish is not None):
            try:
                publish(commit)
            except Exception:  # it is durable: the index catches up by itself
                _log.exception("collection '%s': what was written could not be indexed at once", self._name)

    def _refuse(self, group: Sequence[_Job], exc: sqlite3.Error, *, known: bool) -> None:
        """``known``: nothing was written for certain."""
        _log.warning("collection '%s': a write failed: %s", self._name, exc)
        for job in group:
            refusal: Exception = translated(exc, self._name, writing=True)
            if not known:
                refusal = Unavailable(
                    f"collection '{self._name}': its database failed in the midst of a write ({exc}) and does not "
                    "answer: whether it is stored is not known; once the disk works again, look for it or send it again"
                )
            refusal.__cause__ = exc
            job.done.set_exception(refusal)

    def _checkpoint(self) -> None:
        try:
            self._connections.checkpoint()
        except (sqlite3.Error, OSError) as exc:  # nothing is lost: the log holds it
            _log.warning("collection '%s': its log could not be brought into the database: %s", self._name, exc)
