"""Where records come into a pipeline: a source, and the task that reads it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from sage.kernels.runtime.streams.channels import StreamRecord
from sage.kernels.runtime.streams.error_policy import Letters, Policy
from sage.kernels.runtime.streams.stages import Aborted, JobControl, Output, Task, give_up

if TYPE_CHECKING:
    from sage.kernels.runtime.streams.workers import Callers

_log = logging.getLogger(__name__)


class Source(Protocol):
    """One reading of a source, on a thread of its own. ``may_block``: for ever, in code that knows no ``stopping``."""

    may_block: bool

    def open(self, callers: Callers) -> None:
        """Makes ready; raises what fails the job."""

    def read(self, feed: SourceTask) -> None:
        """Puts records into ``feed`` until there are no more or ``feed.stopping``."""

    def finish(self, feed: SourceTask) -> None:
        """After the last record was put: waits, while the job lives, until what was read is done where that matters."""

    def close(self) -> None:
        """Lets go, also when the opening failed."""

    def describe(self) -> dict[str, Any]:
        """What else is to be known of it, as JSON; from any thread."""


class SourceTask(Task):
    """The task of a source, and what the source puts its records into."""

    def __init__(
        self, source: Source, output: Output, policy: Policy, letters: Letters | None, job: JobControl,
        stage: str, name: str,
    ) -> None:  # fmt: skip
        super().__init__(stage, job, name)
        self.source = source
        self.stopping = False
        """It shall read no further; what it holds it still puts."""
        self.aborted = False
        self._output = output
        self._policy = policy
        self._letters = letters
        self._gate = threading.Lock()
        self._detached = False
        self._on_stop: list[Callable[[], object]] = []

    def work(self) -> None:
        try:
            try:
                self.source.open(self.job.callers)
                if self.job.ready():
                    self.source.read(self)
            finally:
                self._close_output()
            if not self.aborted:
                self.source.finish(self)
        finally:
            self.source.close()

    def _close_output(self) -> None:
        with self._gate:
            self._end_output()

    def _end_output(self) -> None:
        if not self._detached:
            self._detached = True
            self._output.close()

    def put(self, values: Sequence[Any]) -> None:
        """Waits for room. Raises :class:`Aborted` when nothing more is taken."""
        with self._gate:
            if self._detached:
                _log.warning("'%s' gave %d records after its job had stopped: dropped", self.stage, len(values))
                raise Aborted
            self.counts.put += len(values)
            if not self._output.put([StreamRecord(value) for value in values]):
                raise Aborted

    def push(self, records: list[StreamRecord]) -> None:
        """At once; look at :meth:`room` first."""
        self.counts.put += len(records)
        if not self._output.push(records):
            raise Aborted

    def refuse(self, value: Any, error: BaseException) -> None:
        """Does with a record that could not be read what the policy of the source says; raises when that is to fail."""
        self.counts.errors += 1
        give_up(self, self._policy, self._letters, value, error, 1)

    def room(self) -> int:
        return self._output.room()

    def on_room(self, call: Callable[[], object]) -> None:
        self._output.on_room(call)

    def on_stop(self, call: Callable[[], object]) -> None:
        """``call()`` when it shall stop, on another thread; at once if it shall already."""
        self._on_stop.append(call)
        if self.stopping:
            call()

    def stop(self, abort: bool = False) -> None:
        self.stopping = True
        self.aborted = self.aborted or abort
        for call in list(self._on_stop):
            with suppress(RuntimeError):  # its loop is closed: it has ended
                call()

    def detach(self) -> bool:
        """Ends the stream without its thread, which is stuck in the source; false: it is not stuck there."""
        if not self.source.may_block or not self._gate.acquire(blocking=False):
            return False
        try:
            if self._detached:
                return False  # it ends by itself
            self._end_output()
            return True
        finally:
            self._gate.release()

    def doing(self) -> str | None:
        return f"'{self.stage}' waits for its source" if self.is_alive() and not self._detached else None
