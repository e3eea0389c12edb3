"""The task of a source, which puts the source's records into a pipeline."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.streams.dead_letters import DeadLetterSink
from sage.kernels.runtime.streams.error_policy import Policy
from sage.kernels.runtime.streams.feedback import RecordsUnderWay
from sage.kernels.runtime.streams.output import Output
from sage.kernels.runtime.streams.records import StreamRecord
from sage.kernels.runtime.streams.task import Aborted, JobControl, Task

_log = logging.getLogger(__name__)


class RecordSource(Protocol):
    """One reading of a source, on the thread of its task. ``may_block`` means that reading may wait for ever without
    looking at ``task.stopping``."""

    may_block: bool

    def open(self, callers: Callers) -> None:
        """Prepares the reading. What it raises fails the job."""

    def read(self, task: SourceTask) -> None:
        """Puts records into ``task`` until there are no more or ``task.stopping``."""

    def finish(self, task: SourceTask) -> None:
        """After the last record was put: a source to which that matters waits until all its records are done, unless
        the job is aborted."""

    def close(self) -> None:
        """Ends the reading, also when the opening failed."""

    def describe(self) -> dict[str, Any]:
        """What its metrics show besides the counts, as JSON. Any thread may ask."""


class SourceTask(Task):
    """Its own thread calls :meth:`work` and, through the source, the methods that put; the job's threads call
    :meth:`stop` and :meth:`detach`."""

    def __init__(
        self,
        source: RecordSource,
        output: Output,
        policy: Policy,
        dead_letters: DeadLetterSink | None,
        job: JobControl,
        stage: str,
        name: str,
        under_way: RecordsUnderWay | None = None,
    ) -> None:
        super().__init__(stage, policy, dead_letters, job, name)
        self.source = source
        self.stopping = False
        """The source must not read further; records that it has read already it may still put."""
        self.aborted = False
        self._output = output
        self._under_way = under_way
        """Counts the records of a job with loops. ``None`` means that the job has none."""
        self._gate = threading.Lock()
        """Held while records are put, so that the stream does not end in the middle of them."""
        self._is_closed = False
        self._stop_listeners: list[Callable[[], object]] = []

    def work(self) -> None:
        try:
            try:
                self.source.open(self.job.callers)
                if self.job.ready():
                    self.source.read(self)
            finally:
                with self._gate:
                    self._close_output()
            if not self.aborted:
                self.source.finish(self)
        finally:
            self.source.close()

    def _close_output(self) -> None:
        """Under the gate."""
        if not self._is_closed:
            self._is_closed = True
            self._output.close()
            if self._under_way is not None:
                self._under_way.source_ends()

    # For the source

    def put(self, values: Sequence[Any]) -> None:
        """Waits for room. Raises :class:`Aborted` when nothing is taken any more."""
        with self._gate:
            if self._is_closed:
                _log.warning("'%s' gave %d records after its job had stopped: dropped", self.stage, len(values))
                raise Aborted
            self.counts.put += len(values)
            records = [StreamRecord(value) for value in values]
            if self._under_way is not None:
                records = self._under_way.count(records)
            if not self._output.put(records):
                raise Aborted

    def put_now(self, records: list[StreamRecord]) -> None:
        """Puts without waiting; look at :meth:`room` first."""
        self.counts.put += len(records)
        if self._under_way is not None:
            records = self._under_way.count(records)
        if not self._output.put_now(records):
            raise Aborted

    def refuse(self, value: Any, error: BaseException) -> None:
        """Applies the error policy of the source to a record that could not be read; raises ``error`` when that is to
        fail."""
        self.counts.errors += 1
        self.give_up(value, error, 1)

    def room(self) -> int:
        return self._output.room()

    def on_room(self, listener: Callable[[], object]) -> None:
        self._output.on_room(listener)

    def on_stop(self, listener: Callable[[], object]) -> None:
        """Calls ``listener()`` on another thread when the source must stop; at once if it must already."""
        self._stop_listeners.append(listener)
        if self.stopping:
            listener()

    # For the job

    def stop(self, abort: bool = False) -> None:
        self.stopping = True
        self.aborted = self.aborted or abort
        for listener in list(self._stop_listeners):
            with suppress(RuntimeError):  # the listener's event loop is closed: the source has ended
                listener()

    def detach(self) -> bool:
        """Ends the stream without the thread, which is stuck in the source. ``False`` means that it is not stuck."""
        if not self.source.may_block or not self._gate.acquire(blocking=False):
            return False
        try:
            if self._is_closed:
                return False  # the thread ends by itself
            self._close_output()
            return True
        finally:
            self._gate.release()

    def activity(self) -> str | None:
        return f"'{self.stage}' waits for its source" if self.is_alive() and not self._is_closed else None
