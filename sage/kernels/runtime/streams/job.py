"""A pipeline that runs: its tasks, and the handle of whoever submitted it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sage.errors import Conflict, DeadlineExceeded
from sage.kernels.runtime.streams.channels import Channel
from sage.kernels.runtime.streams.source_task import SourceTask
from sage.kernels.runtime.streams.stages import StageTask, Task

if TYPE_CHECKING:
    from sage.kernels.runtime.streams.workers import Callers

_log = logging.getLogger(__name__)
_LAST_WORD = 1.0
"""Seconds that a source has to end by itself before its stream is ended without it."""


class JobState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FINISHED = "finished"
    """Its sources ended and all is done."""
    STOPPED = "stopped"
    FAILED = "failed"


class StillRunning(DeadlineExceeded, TimeoutError):
    """Something of the job still runs."""

    default_code = "job_running"


class Job:
    """What ``submit`` gives. ``state``, ``progress``, ``metrics`` and ``error`` may be read at any time."""

    def __init__(self, name: str, callers: Callers, grace: float, on_end: Callable[[], object]) -> None:
        self.name = name
        self.callers = callers
        self.state = JobState.STARTING
        self.error: BaseException | None = None
        self._grace = grace
        self._on_end = on_end
        self._tasks: list[Task] = []
        self._over: set[Task] = set()
        self._unready = 0
        self._channels: dict[str, list[Channel]] = {}
        self._last_stages: frozenset[str] = frozenset()
        self._changed = threading.Condition()
        self._begin = threading.Event()
        self._aborted = threading.Event()
        self._ended = threading.Event()

    def start(self, tasks: Sequence[Task], channels: dict[str, list[Channel]], last_stages: frozenset[str]) -> None:
        """``channels``: of each stage; ``last_stages``: those that no other reads."""
        self._tasks = list(tasks)
        self._unready = len(self._tasks)
        self._channels = channels
        self._last_stages = last_stages
        if not tasks:
            self.state = JobState.RUNNING
        try:
            for task in self._tasks:
                task.start()
        except BaseException:  # no more threads: those that began end again
            self._abort()
            raise
        threading.Thread(target=self._supervise, name=f"sage-{self.name}-job", daemon=True).start()

    # The tasks' side

    def ready(self) -> bool:
        with self._changed:
            self._unready -= 1
            if self._unready == 0 and self.state is JobState.STARTING:
                self.state = JobState.RUNNING
            last = self._unready == 0
        if last:
            self._begin.set()
        self._begin.wait()
        return not self._aborted.is_set()

    def fail(self, error: BaseException, task: Task) -> None:
        with self._changed:
            first = self.error is None and not self._ended.is_set()
            if first:
                self.error = error
        if first:
            self._abort()
        else:
            _log.warning("'%s' of the job '%s' raised while it ended: %r", task.stage, self.name, error)

    def sleep(self, seconds: float) -> bool:
        return self._aborted.wait(seconds)

    def left(self, task: Task) -> None:
        with self._changed:
            self._over.add(task)
            self._changed.notify_all()

    def _abort(self) -> None:
        self._aborted.set()
        for feed in self._feeds():
            feed.stop(abort=True)
        for channels in self._channels.values():
            for channel in channels:
                channel.abort()
        self._begin.set()
        with self._changed:
            self._changed.notify_all()

    def _feeds(self) -> list[SourceTask]:
        return [task for task in self._tasks if isinstance(task, SourceTask)]

    def _supervise(self) -> None:
        """Waits for all tasks, once it was aborted no longer than its grace; then ends what was begun for it."""
        with self._changed:
            self._changed.wait_for(lambda: self._all_over() or self._winds_down())
            self._changed.wait_for(self._all_over, _LAST_WORD)
        for feed in self._feeds():
            if feed not in self._over and feed.detach():
                self.left(feed)
        with self._changed:
            self._changed.wait_for(lambda: self._all_over() or self._aborted.is_set())
            self._changed.wait_for(self._all_over, self._grace)
        self._conclude()

    def _winds_down(self) -> bool:
        return self.state is JobState.STOPPING or self._aborted.is_set()

    def _conclude(self) -> None:
        if left := self._running():
            _log.warning("the job '%s' ended without %s", self.name, "; ".join(left))
        try:
            self._on_end()
        except BaseException as exc:
            if self.error is None:
                self.error = exc
        with self._changed:
            if self.error is not None:
                self.state = JobState.FAILED
            else:
                self.state = JobState.STOPPED if self._winds_down() else JobState.FINISHED
        self._ended.set()

    def _all_over(self) -> bool:
        return len(self._over) == len(self._tasks)

    def _running(self) -> list[str]:
        return [task.doing() or f"'{task.stage}' runs" for task in self._tasks if task not in self._over]

    # The handle

    def wait(self, timeout: float | None = None) -> JobState:
        """Waits for the end; raises what the job failed with, :class:`StillRunning` when ``timeout`` seconds were not
        enough (it goes on), :class:`Conflict` in a function of the job itself."""
        if self._is_mine():
            raise Conflict(f"a function of the job '{self.name}' waits for the job's end, and so for itself")
        if not self._ended.wait(timeout):
            raise self._still_running(f"has not ended after {timeout:g} s")
        if self.error is not None:
            raise self.error
        return self.state

    def stop(self, drain: bool = True, timeout: float = 30.0) -> None:
        """Reads no further, and returns once what was read is done; ``drain=False``: once what runs now has ended, and
        the rest is dropped (a Kafka source gives it again to the next job). Raises :class:`StillRunning` with the names
        of what still runs after ``timeout`` seconds; what the job failed with, :meth:`wait` raises. In a function of
        the job itself it returns at once."""
        with self._changed:
            if self.state in (JobState.STARTING, JobState.RUNNING):
                self.state = JobState.STOPPING
            self._changed.notify_all()
        if drain:
            for feed in self._feeds():
                feed.stop()
        else:
            self._abort()
        if not self._is_mine() and not self._ended.wait(timeout):
            raise self._still_running(f"has not stopped after {timeout:g} s")

    def _is_mine(self) -> bool:
        return threading.current_thread() in self._tasks

    def end(self) -> None:
        """Stops it within its grace: finishes what was read, and drops what that leaves."""
        try:
            self.stop(timeout=self._grace)
        except StillRunning:
            _log.warning("the job '%s' drops what it has read: %s", self.name, "; ".join(self._running()))
            with suppress(StillRunning):
                self.stop(drain=False, timeout=self._grace + _LAST_WORD)

    @property
    def ended(self) -> bool:
        """Nothing of it runs any more, and its services have ended where no one else uses them."""
        return self._ended.is_set()

    def _still_running(self, what: str) -> StillRunning:
        left = "; ".join(self._running()) or "its services stop"
        return StillRunning(f"the job '{self.name}' {what}: {left} (job.stop(drain=False) drops what is left)")

    @property
    def progress(self) -> dict[str, int]:
        """Records: ``read`` from sources, ``done`` by the last stages, ``waiting`` in queues, ``skipped``,
        ``dead_letters``."""
        counts = [(task.stage, task.counts) for task in self._tasks]
        return {
            "read": sum(feed.counts.put for feed in self._feeds()),
            "done": sum(
                found.taken - found.skipped - found.dead_letters
                for stage, found in counts
                if stage in self._last_stages
            ),
            "waiting": sum(len(channel) for channels in self._channels.values() for channel in channels),
            "skipped": sum(found.skipped for _, found in counts),
            "dead_letters": sum(found.dead_letters for _, found in counts),
        }

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Of each stage ``{workers, in, out, errors, skipped, retried, dead_letters, seconds, waiting}``; sources have
        no ``in``, ``seconds`` and ``waiting``, and what they say of themselves."""
        found: dict[str, dict[str, Any]] = {}
        for task in self._tasks:
            one, counts = found.setdefault(task.stage, {"workers": 0}), task.counts
            figures: dict[str, Any] = {"workers": 1, "out": counts.put, "errors": counts.errors}
            figures |= {"skipped": counts.skipped, "retried": counts.retried, "dead_letters": counts.dead_letters}
            if isinstance(task, StageTask):
                figures |= {"in": counts.taken, "seconds": counts.seconds}
            for word, figure in figures.items():
                one[word] = one.get(word, 0) + figure
            if isinstance(task, SourceTask):
                one |= task.source.describe()
        for stage, channels in self._channels.items():
            found[stage]["waiting"] = sum(len(channel) for channel in channels)
        return found
