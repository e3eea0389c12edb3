"""The task of a stage: one worker, which takes records in batches, processes them and passes on the results."""

from __future__ import annotations

import time
from typing import Any

from sage.kernels.runtime.streams.channels import Channel, new_wakeup
from sage.kernels.runtime.streams.dead_letters import DeadLetterSink
from sage.kernels.runtime.streams.nodes import StageNode
from sage.kernels.runtime.streams.output import Output
from sage.kernels.runtime.streams.records import StreamRecord, finish
from sage.kernels.runtime.streams.stage_function import FunctionKind
from sage.kernels.runtime.streams.task import Aborted, JobControl, Task, ends_job
from sage.kernels.runtime.streams.workers import Failure, Outcome, Worker

_DROPPED: Any = object()
"""In place of the outcome of a record that was skipped or became a dead letter."""


class StageTask(Task):
    """One worker of one stage. All methods run on its own thread."""

    def __init__(
        self,
        node: StageNode,
        worker: Worker,
        channel: Channel,
        output: Output,
        dead_letters: DeadLetterSink | None,
        job: JobControl,
        name: str,
    ) -> None:
        super().__init__(node.name, node.policy, dead_letters, job, name)
        self._kind = node.kind
        self._largest_batch = node.largest_batch
        self._fills_batches, self._fill_seconds = node.fills_batches, node.fill_seconds
        self._with_keys = node.with_keys
        self._tagged = node.tagged
        self._worker = worker
        self._input = channel
        self._output = output
        channel.readers += 1

    def work(self) -> None:
        try:
            try:
                self.counts.busy_since = time.monotonic()
                self._worker.start(self.job.callers)
                self.counts.busy_since = None
                if self.job.ready():
                    self._process_all()
            except BaseException as exc:
                self._input.abort()  # those that write to it end, too
                if not isinstance(exc, Aborted):
                    self.job.fail(exc, self)  # before the cleanup, whose own error is not the cause
            finally:
                self.counts.busy_since = time.monotonic()
                self._worker.stop()
        finally:
            self._output.close()

    def _process_all(self) -> None:
        """Takes larger batches as long as the worker does whole batches at once."""
        wakeup, size = new_wakeup(), self._largest_batch if self._fills_batches else 1
        while (batch := self._input.take(size, wakeup)) is not None:
            if self._fills_batches:
                self._input.take_more(batch, size, self._fill_seconds, wakeup)
            done = self._process(batch)
            if done == len(batch):
                size = min(2 * size, self._largest_batch)
                continue
            size = max(1, done)  # it is slow: take fewer, and leave the others to the other workers
            remaining = batch[done:]
            if self._input.readers > 1:
                self._input.give_back(remaining)
                continue
            while remaining:
                remaining = remaining[self._process(remaining) :]

    def _process(self, batch: list[StreamRecord]) -> int:
        """Returns how many records of ``batch``, from its start, are done."""
        counts = self.counts
        begin = time.perf_counter()
        outcomes = self._call_worker(batch)
        counts.seconds += time.perf_counter() - begin
        counts.taken += len(outcomes)
        results: list[StreamRecord] = []
        try:
            self._collect(batch, outcomes, results)
        finally:
            counts.put += len(results)
            if results and not self._output.put(results):
                raise Aborted
        return len(outcomes)

    def _call_worker(self, batch: list[StreamRecord]) -> list[Outcome]:
        self.counts.busy_since = time.monotonic()
        if self._with_keys:
            outcomes = self._worker.process([(record.key, record.value) for record in batch])
        else:
            outcomes = self._worker.process([record.value for record in batch])
        self.counts.busy_since = None
        return outcomes

    def _collect(self, batch: list[StreamRecord], outcomes: list[Outcome], results: list[StreamRecord]) -> None:
        """Appends what goes on to the next stages to ``results``, which is right also when it raises."""
        kind, append = self._kind, results.append
        for record, outcome in zip(batch, outcomes, strict=False):
            if type(outcome) is Failure:
                outcome = self._after_failure(record, outcome)
                if outcome is _DROPPED:
                    finish(record.ticket)
                    continue
            if kind is FunctionKind.MAP:
                append(StreamRecord(outcome, record.key, record.ticket))
            elif kind is FunctionKind.FLATMAP or kind is FunctionKind.JOIN:
                results.extend(_spread(record, outcome))
            elif kind is FunctionKind.KEY:
                append(StreamRecord(record.value, outcome, record.ticket))
            elif kind is FunctionKind.FILTER and outcome:
                append(record)
            elif (kind is FunctionKind.MAP_UNLESS_NONE or kind is FunctionKind.COMAP) and outcome is not None:
                append(StreamRecord(outcome, record.key, record.ticket))
            else:
                finish(record.ticket)

    def _after_failure(self, record: StreamRecord, failure: Failure) -> Outcome:
        """The outcome of a retry of the record that worked, or :data:`_DROPPED`. Raises the error when the policy is
        that the job fails."""
        counts, retry = self.counts, self._policy.retry
        attempt = 1
        while retry is not None and attempt <= retry.times and not ends_job(failure.error):
            counts.errors += 1
            counts.retried += 1
            if self.job.sleep(retry.pause_before(attempt)):
                raise Aborted
            outcome = self._call_worker([record])[0]
            if type(outcome) is not Failure:
                return outcome
            failure = outcome
            attempt += 1
        counts.errors += 1
        self.give_up(record.value[1] if self._tagged else record.value, failure.error, attempt)
        return _DROPPED


def _spread(record: StreamRecord, values: list[Any]) -> list[StreamRecord]:
    """One record for each of ``values``, all of which stem from ``record``."""
    if record.ticket is not None:
        record.ticket.add(len(values) - 1)
    return [StreamRecord(value, record.key, record.ticket) for value in values]
