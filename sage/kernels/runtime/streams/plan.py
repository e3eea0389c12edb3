"""What a pipeline shall be, before it runs: its sources and stages, and how a job is made of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sage.kernels.runtime.streams.channels import Channel
from sage.kernels.runtime.streams.error_policy import DeadLetter, Letters, Policy
from sage.kernels.runtime.streams.job import Job
from sage.kernels.runtime.streams.source_task import Source, SourceTask
from sage.kernels.runtime.streams.stages import Output, StageTask, Task
from sage.kernels.runtime.streams.workers import (
    Failure,
    FunctionKind,
    LocalWorker,
    SharedInstances,
    StageFunction,
    Worker,
)

if TYPE_CHECKING:
    from sage.kernels.runtime.streams.workers import Callers

MakeWorker = Callable[[StageFunction, int], Worker]


@dataclass(eq=False)
class SourceNode:
    """Where records come from; ``make`` gives a new reading of it for each job."""

    name: str
    make: Callable[[], Source]
    policy: Policy
    keyed: bool = False


@dataclass(eq=False)
class StageNode:
    """What is done with the records of ``inputs``. ``make_worker``: what makes its workers, where that is not for the
    platform to do; ``largest``: records that a worker gets at most at a time."""

    name: str
    kind: FunctionKind
    function: StageFunction | None
    inputs: Sequence[SourceNode | StageNode]
    policy: Policy
    parallelism: int = 1
    make_worker: Callable[[int], Worker] | None = None
    largest: int = 256
    with_keys: bool = False
    """Its workers get pairs of key and value."""
    keyed: bool = field(init=False)
    """Its records have keys, and those of one key go to one worker."""

    def __post_init__(self) -> None:
        self.keyed = self.kind is FunctionKind.KEY or self.by_key

    @property
    def by_key(self) -> bool:
        return any(node.keyed for node in self.inputs)


class DeadLetterSink:
    """Hands dead letters to their sink, one at a time, whoever they come from."""

    def __init__(self, function: StageFunction, lives: SharedInstances) -> None:
        self._worker = LocalWorker(function, lives)
        self._lock = threading.Lock()

    def start(self, callers: Callers) -> None:
        self._worker.start(callers)

    def __call__(self, letter: DeadLetter) -> None:
        with self._lock:
            outcome = self._worker.process([letter])[0]
        if isinstance(outcome, Failure):
            outcome.error.add_note(
                f"raised by the sink of dead letters of '{letter.stage}', which got {letter.error!r}"
            )
            raise outcome.error

    def stop(self) -> None:
        self._worker.stop()


class JobBuilder:
    """Makes the tasks of one job of a plan."""

    def __init__(
        self, nodes: Sequence[SourceNode | StageNode], make_worker: MakeWorker, lives: SharedInstances, limit: int
    ) -> None:
        self._nodes = nodes
        self._make_worker = make_worker
        self._lives = lives
        self._channels: dict[StageNode, list[Channel]] = {}
        self._desks: dict[int, DeadLetterSink] = {}
        for node in nodes:
            if isinstance(node, StageNode):
                lanes = node.parallelism if node.by_key else 1
                self._channels[node] = [Channel(limit) for _ in range(lanes)]

    def start(self, job: Job) -> None:
        tasks: list[Task] = []
        for node in self._nodes:
            tasks += [self._feed(node, job)] if isinstance(node, SourceNode) else self._stage(node, job)
        try:
            for desk in self._desks.values():
                desk.start(job.callers)
        except BaseException:
            self.stop()
            raise
        channels = {node.name: channels for node, channels in self._channels.items()}
        read = {source for node in self._channels for source in node.inputs}
        job.start(tasks, channels, frozenset(node.name for node in self._channels if node not in read))

    def _output(self, node: SourceNode | StageNode) -> Output:
        return Output(
            [channels for other, channels in self._channels.items() for source in other.inputs if source is node]
        )

    def _letters(self, policy: Policy) -> Letters | None:
        if policy.letters is None:
            return None
        found = id(policy.letters.function)
        if found not in self._desks:
            self._desks[found] = DeadLetterSink(policy.letters, self._lives)
        return self._desks[found]

    def _feed(self, node: SourceNode, job: Job) -> SourceTask:
        letters = self._letters(node.policy)
        return SourceTask(
            node.make(), self._output(node), node.policy, letters, job, node.name, f"{job.name}-{node.name}"
        )

    def _stage(self, node: StageNode, job: Job) -> list[Task]:
        channels, letters = self._channels[node], self._letters(node.policy)
        tasks: list[Task] = []
        for index in range(node.parallelism):
            channel = channels[index % len(channels)]
            name = f"{job.name}-{node.name}" + (f"-{index}" if node.parallelism > 1 else "")
            worker = self._worker(node, index)
            output = self._output(node)
            tasks.append(StageTask(node, worker, channel, output, letters, job, name))
        return tasks

    def _worker(self, node: StageNode, index: int) -> Worker:
        if node.make_worker is not None:
            return node.make_worker(index)
        assert node.function is not None, "a stage has a function, or says what makes its workers"
        return self._make_worker(node.function, index)

    def stop(self) -> None:
        """After the tasks: cleans up the sinks of dead letters."""
        with ExitStack() as stack:  # all of them, also when one raises
            for desk in self._desks.values():
                stack.callback(desk.stop)
