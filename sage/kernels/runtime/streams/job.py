"""A pipeline that runs: its tasks, and the handle of it that ``submit`` returns."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any

from sage.errors import Conflict, DeadlineExceeded
from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.streams.channels import Channel
from sage.kernels.runtime.streams.feedback import FeedbackChannel
from sage.kernels.runtime.streams.metrics import StageChannels, metrics_of, progress_of
from sage.kernels.runtime.streams.source_task import SourceTask
from sage.kernels.runtime.streams.task import Task

_log = logging.getLogger(__name__)
_SOURCE_GRACE = 1.0
"""Seconds that a source of a job that stops has to end, before its stream is ended without it."""
_FINISHING = 1.0
"""Seconds that a failed job has to finish the records that it has read."""


class JobState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FINISHED = "finished"
    """Its sources ended, and all records are done."""
    STOPPED = "stopped"
    FAILED = "failed"


class StillRunning(DeadlineExceeded, TimeoutError):
    """Something of the job still runs."""

    default_code = "job_running"


class Job:
    """What ``submit`` returns. ``state``, ``progress``, ``metrics`` and ``error`` may be read at any time.

    Each task calls the methods of :class:`sage.kernels.runtime.streams.task.JobControl` on its own thread. A thread of
    the job waits for the end of all tasks, calls ``on_end`` and sets the last state. ``grace``: the seconds that tasks
    have to end once the job is aborted. ``is_awaited`` tells that its maker will call :meth:`wait`.
    """

    def __init__(
        self, name: str, callers: Callers, grace: float, on_end: Callable[[], object], is_awaited: bool = False
    ) -> None:
        self.name = name
        self.callers = callers
        self.state = JobState.STARTING
        self.error: BaseException | None = None
        self._failed_at = 0.0
        self._grace = grace
        self._on_end = on_end
        self._tasks: list[Task] = []
        self._channels: StageChannels = {}
        self._last_stages: frozenset[str] = frozenset()
        self._changed = threading.Condition()
        """Guards the state, the error and the next three."""
        self._waiting = int(is_awaited)
        """Threads in :meth:`wait`, or about to be."""
        self._setting_up = 0
        """Tasks that are not ready yet."""
        self._ended_tasks: set[Task] = set()
        self._all_ready = threading.Event()
        """Also set when the job is aborted before that."""
        self._aborted = threading.Event()
        self._ended = threading.Event()

    def start(self, tasks: Sequence[Task], channels: StageChannels, last_stages: frozenset[str]) -> None:
        """``last_stages``: the names of the stages that no other stage reads."""
        self._tasks = list(tasks)
        self._setting_up = len(self._tasks)
        self._channels = channels
        self._last_stages = last_stages
        if not tasks:
            self.state = JobState.RUNNING
        try:
            for task in self._tasks:
                task.start()
        except BaseException:  # no more threads can be started: the tasks that run end again
            self._abort()
            raise
        threading.Thread(target=self._supervise, name=f"sage-{self.name}-job", daemon=True).start()
        atexit.register(self._warn_of_program_end)

    # Called on the threads of the tasks

    def ready(self) -> bool:
        with self._changed:
            self._setting_up -= 1
            is_last = self._setting_up == 0
            if is_last and self.state is JobState.STARTING:
                self.state = JobState.RUNNING
        if is_last:
            self._all_ready.set()
        self._all_ready.wait()
        return not self._aborted.is_set()

    def fail(self, error: BaseException, task: Task) -> None:
        with self._changed:
            is_first = self.error is None and not self._ended.is_set()
            if is_first:
                self.error, self._failed_at = error, time.monotonic()
        if not is_first:
            _log.warning("'%s' of the job '%s' raised while the job ended: %r", task.stage, self.name, error)
        elif self._all_ready.is_set():
            self._finish_records()
        else:
            self._abort()

    def sleep(self, seconds: float) -> bool:
        return self._aborted.wait(seconds)

    def task_ended(self, task: Task) -> None:
        with self._changed:
            self._ended_tasks.add(task)
            self._changed.notify_all()

    def _finish_records(self) -> None:
        """After an error: reads no more, and lets the stages finish what has reached them, so that what precedes the
        failed record is printed and stored."""
        for source_task in self._source_tasks():
            source_task.stop(abort=True)
        for channel in self._all_channels():
            if isinstance(channel, FeedbackChannel):  # its writers wait for its reader, which is to end first
                channel.end()
        with self._changed:
            self._changed.notify_all()

    def _all_channels(self) -> list[Channel]:
        return [channel for channels in self._channels.values() for channel in channels]

    def _abort(self) -> None:
        self._aborted.set()
        for source_task in self._source_tasks():
            source_task.stop(abort=True)
        for channel in self._all_channels():
            channel.abort()
        self._all_ready.set()
        with self._changed:
            self._changed.notify_all()

    # Called on the job's own thread

    def _supervise(self) -> None:
        """Waits for the end of all tasks. A job that stops does not wait for sources that are stuck, a failed one is
        aborted after a while, and an aborted one waits no longer than the grace for the others."""
        with self._changed:
            self._changed.wait_for(lambda: self._all_ended() or self._is_stopping() or self.error is not None)
            self._changed.wait_for(self._all_ended, _SOURCE_GRACE)
        self._detach_stuck_sources()
        with self._changed:
            self._changed.wait_for(lambda: self._all_ended() or self._aborted.is_set() or self.error is not None)
            if self.error is not None:
                remaining = self._failed_at + _FINISHING - time.monotonic()
                self._changed.wait_for(lambda: self._all_ended() or self._aborted.is_set(), remaining)
            is_late = not self._all_ended() and not self._aborted.is_set()
        if is_late:
            self._abort()
        with self._changed:
            self._changed.wait_for(self._all_ended, self._grace)
        self._conclude()

    def _detach_stuck_sources(self) -> None:
        for source_task in self._source_tasks():
            if source_task not in self._ended_tasks and source_task.detach():
                self.task_ended(source_task)

    def _conclude(self) -> None:
        if running := self._running():
            _log.warning("the job '%s' ended without %s", self.name, "; ".join(running))
        try:
            self._on_end()
        except BaseException as exc:
            if self.error is None:
                self.error = exc
        with self._changed:
            if self.error is not None:
                self.state = JobState.FAILED
            else:
                self.state = JobState.STOPPED if self._is_stopping() else JobState.FINISHED
        if self.error is not None:
            self._log_failure(self.error)
        self._ended.set()
        atexit.unregister(self._warn_of_program_end)

    def _warn_of_program_end(self) -> None:
        if not self._ended.is_set():
            _log.warning(
                "the program ended while the job '%s' was running; job.wait() and env.execute() wait for its end",
                self.name,
            )

    def _log_failure(self, error: BaseException) -> None:
        """Once, and with its traceback unless a thread waits for the job, which is to raise it."""
        _log.error("the job '%s' failed: %s", self.name, _in_one_line(error), exc_info=None if self._waiting else error)

    def _is_stopping(self) -> bool:
        return self.state is JobState.STOPPING or self._aborted.is_set()

    def _all_ended(self) -> bool:
        return len(self._ended_tasks) == len(self._tasks)

    def _source_tasks(self) -> list[SourceTask]:
        return [task for task in self._tasks if isinstance(task, SourceTask)]

    def _running(self) -> list[str]:
        return [task.activity() or f"'{task.stage}' runs" for task in self._tasks if task not in self._ended_tasks]

    # The handle, for any thread

    def wait(self, timeout: float | None = None) -> JobState:
        """Waits for the end, and returns the last state.

        Raises what the job failed with; :class:`StillRunning` after ``timeout`` seconds, and the job goes on;
        :class:`Conflict` when a function of the job itself waits.
        """
        if self._is_own_thread():
            raise Conflict(f"a function of the job '{self.name}' waits for the job's end, and so for itself")
        with self._changed:
            self._waiting += 1
        try:
            has_ended = self._ended.wait(timeout)
        finally:
            with self._changed:
                self._waiting -= 1
        if not has_ended:
            raise self._still_running(f"has not ended after {timeout:g} s")
        if self.error is not None:
            raise self.error
        return self.state

    def stop(self, drain: bool = True, timeout: float = 30.0) -> None:
        """Stops reading, and returns when all records that were read are done. With ``drain=False`` it returns when the
        running functions have ended, and drops the other records; a Kafka source gives them to the next job again.

        Raises :class:`StillRunning` after ``timeout`` seconds, with the names of what still runs. It does not raise
        what the job failed with: :meth:`wait` does. In a function of the job itself it returns at once.
        """
        with self._changed:
            if self.state in (JobState.STARTING, JobState.RUNNING):
                self.state = JobState.STOPPING
            self._changed.notify_all()
        if drain:
            for source_task in self._source_tasks():
                source_task.stop()
        else:
            self._abort()
        if not self._is_own_thread() and not self._ended.wait(timeout):
            raise self._still_running(f"has not stopped after {timeout:g} s")

    def end(self) -> None:
        """Stops within the grace: finishes the records that were read, and drops those that take longer."""
        try:
            self.stop(timeout=self._grace)
        except StillRunning:
            _log.warning("the job '%s' drops records that it has read: %s", self.name, "; ".join(self._running()))
            with suppress(StillRunning):
                self.stop(drain=False, timeout=self._grace + _SOURCE_GRACE)

    def _is_own_thread(self) -> bool:
        return threading.current_thread() in self._tasks

    def _still_running(self, what: str) -> StillRunning:
        running = "; ".join(self._running()) or "its services stop"
        return StillRunning(f"the job '{self.name}' {what}: {running} (job.stop(drain=False) drops what is left)")

    def __repr__(self) -> str:
        error = "" if self.error is None else f", {_in_one_line(self.error)}"
        return f"<Job '{self.name}': {self.state}{error}>"

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more; services that nobody else uses have stopped too."""
        return self._ended.is_set()

    @property
    def progress(self) -> dict[str, int]:
        """Records: ``read`` from sources, ``done`` by the last stages, ``waiting`` in queues, ``skipped``,
        ``dead_letters``."""
        return progress_of(self._tasks, self._channels, self._last_stages)

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Of each stage ``{workers, in, out, errors, skipped, retried, dead_letters, seconds, waiting}``. Sources have
        no ``in``, ``seconds`` and ``waiting``, but what they report themselves."""
        return metrics_of(self._tasks, self._channels)


def _in_one_line(error: BaseException) -> str:
    """Its class, its message and its notes."""
    message, *notes = (line.strip() for line in traceback.format_exception_only(error))
    return f"{message} ({'; '.join(notes)})" if notes else message
