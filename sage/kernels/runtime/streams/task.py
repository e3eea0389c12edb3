"""A task: one thread of a job, for one source or for one worker of a stage."""

from __future__ import annotations

import threading
import time
from typing import Any, Protocol

from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.streams.dead_letters import DeadLetterSink
from sage.kernels.runtime.streams.error_policy import DeadLetter, Policy

_LONGEST_REPR = 200


class Aborted(Exception):
    """The job ends without finishing the records that it has read."""


class TaskCounts:
    """What one task has done. Only its own thread writes them; any thread reads them."""

    __slots__ = ("busy_since", "dead_letters", "errors", "put", "retried", "seconds", "skipped", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self.put = 0
        self.errors = 0
        self.skipped = 0
        self.retried = 0
        self.dead_letters = 0
        self.seconds = 0.0
        self.busy_since: float | None = None
        """When its function was called, by :func:`time.monotonic`; ``None`` means that it is not in its function."""


class JobControl(Protocol):
    """What a task needs of its job."""

    callers: Callers

    def ready(self) -> bool:
        """Reports that this task is set up, and waits for all others. ``False`` means that the job ends instead."""

    def fail(self, error: BaseException, task: Task) -> None: ...

    def sleep(self, seconds: float) -> bool:
        """Whether the job was aborted meanwhile."""

    def task_ended(self, task: Task) -> None:
        """No more records come from ``task``."""


class Task(threading.Thread):
    """``stage`` is the name of the source or stage that it belongs to; ``policy`` and ``dead_letters`` say what happens
    to records that raise."""

    def __init__(
        self, stage: str, policy: Policy, dead_letters: DeadLetterSink | None, job: JobControl, name: str
    ) -> None:
        super().__init__(name=f"sage-{name}", daemon=True)
        self.stage = stage
        self.job = job
        self.counts = TaskCounts()
        self._policy = policy
        self._dead_letters = dead_letters

    def run(self) -> None:
        try:
            self.work()
        except Aborted:
            pass
        except BaseException as exc:
            self.job.fail(exc, self)
        finally:
            self.counts.busy_since = None
            self.job.task_ended(self)

    def work(self) -> None:
        raise NotImplementedError

    def give_up(self, value: Any, error: BaseException, attempts: int) -> None:
        """Drops a record after ``attempts`` attempts: as a dead letter, or skipped and counted. Raises ``error`` when
        the policy is that the job fails, and when it means that the program is to end."""
        if not ends_job(error) and self._dead_letters is not None:
            self._dead_letters.put(DeadLetter(value, error, self.stage, attempts))
            self.counts.dead_letters += 1
        elif not ends_job(error) and self._policy.skips:
            self.counts.skipped += 1
        else:
            suffix = f" in {attempts} attempts" if attempts > 1 else ""
            error.add_note(f"raised by '{self.stage}'{suffix} for the record {_short_repr(value)}")
            raise error

    def activity(self) -> str | None:
        """What it is busy with, for a message; ``None`` means that it is not in its function."""
        since = self.counts.busy_since
        if since is None:
            return None
        return f"'{self.stage}' has been in its function for {time.monotonic() - since:.1f} s"


def ends_job(error: BaseException) -> bool:
    """Whether no error policy applies to it: it says that the program is to end, not what is wrong with a record."""
    return isinstance(error, SystemExit | KeyboardInterrupt)


def _short_repr(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST_REPR else f"{text[:_LONGEST_REPR]}…"
