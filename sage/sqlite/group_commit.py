"""Writes of many threads that share commits: those that wait go into the next one together, since it costs an fsync.

:class:`LeaderCommit` lets one of the callers commit for all, without a change of threads.
:class:`ThreadCommit` commits on a thread of its own, so that an interrupt of a caller never breaks a commit.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from sage.forks import forks
from sage.sqlite.failures import database_failed

_IDLE_SECONDS = 10.0
"""A writer's thread ends after this time without a write; the next write starts another."""


class WriterClosed(Exception):
    """The writer takes no more writes."""


class WriterInherited(Exception):
    """This process was forked from the writer's: its thread is not here, and perhaps nobody frees its locks."""


class QueuedWrite:
    """A write that waits for its commit; a subclass carries what is to be written.

    ``weight`` says how much of a group it fills.
    """

    __slots__ = ("_error", "_result", "_wakeup", "is_answered", "weight")

    def __init__(self, weight: int = 1) -> None:
        self.weight = weight
        self.is_answered = False
        """Whether the outcome is final."""
        self._result: Any = None
        self._error: BaseException | None = None
        self._wakeup: threading.Lock | None = None

    def answer(self) -> None:
        """Gives the caller the outcome that it has; only to be called after the commit."""
        self.is_answered = True
        if self._wakeup is not None:
            self._wakeup.release()

    def fail(self, error: BaseException) -> None:
        """Raises ``error`` in the caller."""
        self._error = error
        self.answer()

    def set_outcome(self, result: Any, error: BaseException | None = None) -> None:
        """What :meth:`answer` will give the caller: the error if there is one, else the result."""
        self._result = result
        self._error = error

    def outcome(self) -> Any:
        """Returns the result or raises the error."""
        if self._error is not None:
            raise self._error
        return self._result

    def start_waiting(self) -> None:
        """To be called before another thread takes the write, by a caller that will :meth:`wait`."""
        self._wakeup = threading.Lock()  # much cheaper than an Event or a Future
        self._wakeup.acquire()

    def wait(self) -> Any:
        """Waits for :meth:`answer`; then returns the result or raises the error."""
        assert self._wakeup is not None
        self._wakeup.acquire()
        return self.outcome()


W = TypeVar("W", bound=QueuedWrite)


def run_each(connection: sqlite3.Connection, group: Iterable[W], work: Callable[[W], Any]) -> None:
    """Runs the writes of a group within an open transaction and sets their outcomes; callers get them with
    :meth:`QueuedWrite.answer`, after the commit.

    An error in one write undoes that one alone. When the database itself fails, that error is raised: the whole
    transaction is lost then.
    """
    for write in group:
        connection.execute("SAVEPOINT one_write")
        try:
            write.set_outcome(work(write))
        except Exception as exc:
            if database_failed(exc):
                raise
            connection.execute("ROLLBACK TO one_write")
            write.set_outcome(None, exc)
        connection.execute("RELEASE one_write")


Commit = Callable[[list[W]], None]
"""Writes a group in one transaction and answers each of its writes."""


def _commit_or_fail(commit: Commit[W], group: list[W]) -> None:
    """No error leaves a caller without an answer."""
    try:
        commit(group)
    except BaseException as exc:
        for write in group:
            if not write.is_answered:
                write.fail(exc)
        raise


class LeaderCommit(Generic[W]):
    """One caller leads and commits for all that wait by then; the others wait for it."""

    def __init__(self, commit: Commit[W]) -> None:
        self._commit = commit
        self._waiting: list[W] = []
        self._waiting_lock = threading.Lock()
        self._group: list[W] = []
        """The newest group; only the leader uses it."""
        self._leading = threading.Lock()
        self._forks = forks.count

    def run(self, write: W) -> Any:
        """Returns the result of ``write`` once it is committed, or raises its error.

        Raises :class:`WriterInherited` in a forked process.
        """
        self._refuse_if_inherited()
        with self._waiting_lock:
            self._waiting.append(write)
        with self._leading:
            if not write.is_answered:
                _commit_or_fail(self._commit, self._next_group())
        return write.outcome()

    def _next_group(self) -> list[W]:
        """What waits now; before it the writes of a leader that was interrupted before it answered them."""
        with self._waiting_lock:
            unanswered = [write for write in self._group if not write.is_answered]
            self._group, self._waiting = [*unanswered, *self._waiting], []
            return self._group

    def run_between(self, task: Callable[[], Any]) -> Any:
        """Calls ``task`` between two commits; returns its result or raises its error. Raises as :meth:`run`."""
        self._refuse_if_inherited()
        with self._leading:
            return task()

    def _refuse_if_inherited(self) -> None:
        if self._forks != forks.count:
            raise WriterInherited

    @property
    def waiting(self) -> int:
        """How many writes wait for the next commit."""
        return len(self._waiting)


class _QueuedTask(QueuedWrite):
    """Something to call between two commits."""

    __slots__ = ("_task",)

    def __init__(self, task: Callable[[], Any]) -> None:
        super().__init__()
        self._task = task

    def call(self) -> None:
        try:
            result = self._task()
        except BaseException as exc:
            self.fail(exc)
        else:
            self.set_outcome(result)
            self.answer()


class ThreadCommit(Generic[W]):
    """One thread commits for all. It starts with the first write and ends when there was none for a while.

    The weights of a group add up to ``max_weight`` at most, unless one write alone has more. Callers that have just got
    an answer mostly write again at once. So before a commit the thread waits for as many writes as were under way at
    once during the one before, but no longer than ``gather_seconds``, or a fifth of what that commit took: without
    this, half of the callers would wait for a commit of the other half, and each disk's turn would serve half as many.
    """

    def __init__(self, commit: Commit[W], thread_name: str, *, max_weight: int, gather_seconds: float) -> None:
        self._commit = commit
        self._thread_name = thread_name
        self._max_weight = max_weight
        self._gather_seconds = gather_seconds
        self._waiting: deque[W | _QueuedTask] = deque()
        self._changed = threading.Condition()
        """Guards all that follows and what waits."""
        self._thread: threading.Thread | None = None
        self._closed = False
        self._group: list[W] = []
        """What was committed last, or is being committed."""
        self._under_way = 1
        """How many writes were waiting or in a commit at once since that group was formed."""
        self._took = 0.0
        """Seconds of the last commit."""
        self._forks = forks.count

    def run(self, write: W) -> Any:
        """Returns the result of ``write`` once it is committed, or raises its error.

        Raises :class:`WriterClosed` after :meth:`close`, and :class:`WriterInherited` in a forked process.
        """
        return self._run(write)

    def run_between(self, task: Callable[[], Any]) -> Any:
        """Calls ``task`` on the writer's thread between two commits; returns its result or raises its error. Raises as
        :meth:`run`."""
        return self._run(_QueuedTask(task))

    @property
    def waiting(self) -> int:
        """How many writes and tasks wait for their turn."""
        return len(self._waiting)

    def _run(self, write: W | _QueuedTask) -> Any:
        write.start_waiting()
        self._submit(write)
        return write.wait()

    def submit(self, write: W) -> None:
        """Hands over ``write`` without waiting: its :meth:`~QueuedWrite.answer` is called on the writer's thread.

        Raises as :meth:`run`.
        """
        self._submit(write)

    def _submit(self, write: W | _QueuedTask) -> None:
        if self._forks != forks.count:
            raise WriterInherited
        with self._changed:
            if self._closed:
                raise WriterClosed
            if self._thread is None:
                self._start_thread()
            self._waiting.append(write)
            unanswered = len(self._group) if self._group and not self._group[-1].is_answered else 0
            self._under_way = max(self._under_way, unanswered + len(self._waiting))
            self._changed.notify()

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._serve, name=self._thread_name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads can be started now; the next write tries again
            self._thread = None
            raise

    def close(self) -> None:
        """Takes no more writes, and returns when everything that waited is written. In a forked process it does
        nothing."""
        if self._forks != forks.count:
            return
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _serve(self) -> None:
        while group := self._next_group():
            if isinstance(group, _QueuedTask):
                group.call()
            else:
                started = time.perf_counter()
                with suppress(BaseException):  # its callers got it
                    _commit_or_fail(self._commit, group)
                self._took = time.perf_counter() - started

    def _next_group(self) -> list[W] | _QueuedTask | None:
        """What is done next; ``None`` means that the thread may end."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting or self._closed, _IDLE_SECONDS) or not self._waiting:
                self._thread = None
                return None
            expected = self._under_way
            if len(self._waiting) < expected and not self._closed:
                patience = max(self._gather_seconds, self._took / 5)
                self._changed.wait_for(lambda: len(self._waiting) >= expected or self._closed, patience)
            first = self._waiting.popleft()
            self._group = [] if isinstance(first, _QueuedTask) else self._group_of(first)
            self._under_way = len(self._group) + len(self._waiting)
            return first if isinstance(first, _QueuedTask) else self._group

    def _group_of(self, first: W) -> list[W]:
        """``first``, and the writes behind it that fit into its commit."""
        group, weight = [first], first.weight
        while self._waiting:
            write = self._waiting[0]
            if isinstance(write, _QueuedTask) or weight + write.weight > self._max_weight:
                break
            self._waiting.popleft()
            group.append(write)
            weight += write.weight
        return group
