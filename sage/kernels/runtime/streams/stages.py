"""The tasks of a pipeline: a thread for each worker of a stage, which takes records, runs them and passes them on."""

from __future__ import annotations

import threading
import time
from _thread import LockType, allocate_lock
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import xxhash

from sage.kernels.runtime.streams.channels import UNKEYED, Channel, StreamRecord, close
from sage.kernels.runtime.streams.error_policy import DeadLetter, Letters, Policy, pause_before
from sage.kernels.runtime.streams.workers import Failure, FunctionKind, Outcome, Worker

if TYPE_CHECKING:
    from sage.kernels.runtime.streams.plan import StageNode
    from sage.kernels.runtime.streams.workers import Callers

_DROPPED: Any = object()


class Aborted(Exception):
    """The job ends without finishing what is under way."""


class JobControl(Protocol):
    """What a task knows of its job."""

    callers: Callers

    def ready(self) -> bool:
        """Says that this task is set up, and waits for the others; false: the job ends instead."""

    def fail(self, error: BaseException, task: Task) -> None: ...

    def sleep(self, seconds: float) -> bool:
        """Whether the job was aborted meanwhile."""

    def left(self, task: Task) -> None:
        """Nothing more comes from ``task``."""


class Output:
    """Where a task's records go: to every stage that reads its stream, to one worker of it by the record's key."""

    def __init__(self, consumers: Sequence[Sequence[Channel]]) -> None:
        self._consumers = consumers
        self.bell: LockType = allocate_lock()
        self.bell.acquire()
        for channels in consumers:
            for channel in channels:
                channel.writers += 1

    def put(self, records: list[StreamRecord]) -> bool:
        """Waits for room; false: the job was aborted."""
        if len(self._consumers) == 1 and len(self._consumers[0]) == 1:
            return self._consumers[0][0].put(records, self.bell)
        self._account(records)
        for channels in self._consumers:
            for channel, mine in _by_key(records, channels):
                if not channel.put(mine, self.bell):
                    return False
        return True

    def push(self, records: list[StreamRecord]) -> bool:
        """As :meth:`put`, at once, also where there is no room."""
        self._account(records)
        return all(channel.push(mine) for channels in self._consumers for channel, mine in _by_key(records, channels))

    def _account(self, records: list[StreamRecord]) -> None:
        """Each consumer of a record is one more thing to be done for it, and none makes it done."""
        if (more := len(self._consumers) - 1) != 0:
            for record in records:
                if record.ticket is not None:
                    record.ticket.add(more)

    def room(self) -> int:
        return min((channel.room() for channels in self._consumers for channel in channels), default=1 << 30)

    def on_room(self, call: Callable[[], object]) -> None:
        for channels in self._consumers:
            for channel in channels:
                channel.on_room(call)

    def close(self) -> None:
        for channels in self._consumers:
            for channel in channels:
                channel.close()


def _by_key(records: list[StreamRecord], channels: Sequence[Channel]) -> Sequence[tuple[Channel, list[StreamRecord]]]:
    if len(channels) == 1:
        return ((channels[0], records),)
    parts: list[list[StreamRecord]] = [[] for _ in channels]
    for record in records:
        parts[place_of(record.key) % len(channels)].append(record)
    return [(channel, part) for channel, part in zip(channels, parts, strict=True) if part]


def place_of(key: Hashable) -> int:
    """A number that is the same for equal keys, and for texts, bytes, numbers and tuples of them in every process."""
    if isinstance(key, str):
        return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))
    if isinstance(key, bytes):
        return xxhash.xxh3_64_intdigest(key)
    if isinstance(key, tuple):
        return xxhash.xxh3_64_intdigest(b"".join((place_of(part) & (1 << 64) - 1).to_bytes(8, "big") for part in key))
    if key is UNKEYED:
        return 0
    return hash(key)


class Counts:
    """What one task has done; only it writes them."""

    __slots__ = ("begun", "dead_letters", "errors", "put", "retried", "seconds", "skipped", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self.put = 0
        self.errors = 0
        self.skipped = 0
        self.retried = 0
        self.dead_letters = 0
        self.seconds = 0.0
        self.begun: float | None = None
        """When it began with what it does now, by :func:`time.monotonic`."""


class Task(threading.Thread):
    """One thread of a job. ``stage``: the name of what it belongs to."""

    def __init__(self, stage: str, job: JobControl, name: str) -> None:
        super().__init__(name=f"sage-{name}", daemon=True)
        self.stage = stage
        self.job = job
        self.counts = Counts()
        self.over = False
        """Nothing more comes from it, though it may still run."""

    def run(self) -> None:
        try:
            self.work()
        except Aborted:
            pass
        except BaseException as exc:
            self.job.fail(exc, self)
        finally:
            self.counts.begun = None
            self.job.left(self)

    def work(self) -> None:
        raise NotImplementedError

    def doing(self) -> str | None:
        """What it is at, if it is at something."""
        begun = self.counts.begun
        if begun is None:
            return None
        return f"'{self.stage}' has been in its function for {time.monotonic() - begun:.1f} s"


class StageTask(Task):
    """One worker of one stage."""

    def __init__(
        self,
        node: StageNode,
        worker: Worker,
        source: Channel,
        output: Output,
        letters: Letters | None,
        job: JobControl,
        name: str,
    ) -> None:
        super().__init__(node.name, job, name)
        self._kind = node.kind
        self._policy = node.policy
        self._largest = node.largest
        self._with_keys = node.with_keys
        self._worker = worker
        self._input = source
        self._output = output
        self._letters = letters
        source.readers += 1

    def work(self) -> None:
        try:
            try:
                self.counts.begun = time.monotonic()
                self._worker.start(self.job.callers)
                self.counts.begun = None
                if self.job.ready():
                    self._process_all()
            except BaseException as exc:
                if not isinstance(exc, Aborted):
                    self.job.fail(exc, self)  # before the cleanup, whose own error is not the cause
            finally:
                self.counts.begun = time.monotonic()
                self._worker.stop()
        finally:
            self._output.close()

    def _process_all(self) -> None:
        bell, size = allocate_lock(), 1
        bell.acquire()
        while (batch := self._input.take(size, bell)) is not None:
            done = self._process(batch)
            if done == len(batch):
                size = min(2 * size, self._largest)
                continue
            size = max(1, done)  # it is slow: fewer at a time, and let others have the rest
            rest = batch[done:]
            if self._input.readers > 1:
                self._input.give_back(rest)
                continue
            while rest:
                rest = rest[self._process(rest) :]

    def _process(self, batch: list[StreamRecord]) -> int:
        """How many of ``batch``, from its start, are done."""
        counts = self.counts
        begun = time.perf_counter()
        counts.begun = time.monotonic()
        outcomes = self._run_on(batch)
        counts.begun = None
        counts.seconds += time.perf_counter() - begun
        counts.taken += len(outcomes)
        records: list[StreamRecord] = []
        try:
            self._collect(batch, outcomes, records)
        finally:
            counts.put += len(records)
            if records and not self._output.put(records):
                raise Aborted
        return len(outcomes)

    def _run_on(self, batch: list[StreamRecord]) -> list[Outcome]:
        if self._with_keys:
            return self._worker.process([(record.key, record.value) for record in batch])
        return self._worker.process([record.value for record in batch])

    def _collect(self, batch: list[StreamRecord], outcomes: list[Outcome], records: list[StreamRecord]) -> None:
        """Puts what goes on into ``records``."""
        kind, append = self._kind, records.append
        for record, outcome in zip(batch, outcomes, strict=False):
            if type(outcome) is Failure:
                outcome = self._settled(record, outcome)
                if outcome is _DROPPED:
                    close(record.ticket)
                    continue
            if kind is FunctionKind.MAP:
                append(StreamRecord(outcome, record.key, record.ticket))
            elif kind is FunctionKind.FLATMAP:
                _spread(record, outcome, records)
            elif kind is FunctionKind.KEY:
                append(StreamRecord(record.value, outcome, record.ticket))
            elif kind is FunctionKind.FILTER and outcome:
                append(record)
            else:
                close(record.ticket)

    def _settled(self, record: StreamRecord, failure: Failure) -> Outcome:
        """What came of a record that raised, after all that its policy does; :data:`_DROPPED` if nothing."""
        counts, retry = self.counts, self._policy.retry
        attempt = 1
        while retry is not None and attempt <= retry.times:
            counts.errors += 1
            counts.retried += 1
            if self.job.sleep(pause_before(retry, attempt)):
                raise Aborted
            counts.begun = time.monotonic()
            outcome = self._run_on([record])[0]
            counts.begun = None
            if type(outcome) is not Failure:
                return outcome
            failure = outcome
            attempt += 1
        counts.errors += 1
        return give_up(self, self._policy, self._letters, record.value, failure.error, attempt)


def _spread(record: StreamRecord, values: list[Any], records: list[StreamRecord]) -> None:
    if record.ticket is not None:
        record.ticket.add(len(values) - 1)
    records.extend(StreamRecord(value, record.key, record.ticket) for value in values)


def give_up(
    task: Task, policy: Policy, letters: Letters | None, value: Any, error: BaseException, attempts: int
) -> Any:
    """Skips the record and counts it, hands it over as a dead letter, or fails the job by raising ``error``."""
    if letters is not None:
        letters(DeadLetter(value, error, task.stage, attempts))
        task.counts.dead_letters += 1
        return _DROPPED
    if policy.skips:
        task.counts.skipped += 1
        return _DROPPED
    tries = f" in {attempts} attempts" if attempts > 1 else ""
    error.add_note(f"raised by '{task.stage}'{tries} for the record {_shown(value)}")
    raise error


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 200 else f"{text[:200]}…"
