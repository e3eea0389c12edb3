"""Makes the tasks of one job from the nodes of a pipeline, and the channels between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from sage.kernels.runtime.streams.channels import Channel
from sage.kernels.runtime.streams.dead_letters import DeadLetterSink
from sage.kernels.runtime.streams.error_policy import Policy
from sage.kernels.runtime.streams.feedback import FeedbackChannel, RecordsUnderWay
from sage.kernels.runtime.streams.job import Job
from sage.kernels.runtime.streams.nodes import SourceNode, StageNode
from sage.kernels.runtime.streams.output import Output
from sage.kernels.runtime.streams.shared_instances import SharedInstances
from sage.kernels.runtime.streams.source_task import SourceTask
from sage.kernels.runtime.streams.stage_function import StageFunction
from sage.kernels.runtime.streams.stages import StageTask
from sage.kernels.runtime.streams.task import Task
from sage.kernels.runtime.streams.workers import Worker

MakeWorker = Callable[[StageFunction, int], Worker]


class JobBuilder:
    """``limit``: the records that wait at most before each worker or stage."""

    def __init__(
        self, nodes: Sequence[SourceNode | StageNode], make_worker: MakeWorker, shared: SharedInstances, limit: int
    ) -> None:
        self._nodes = nodes
        self._make_worker = make_worker
        self._shared = shared
        self._channels: dict[StageNode, list[Channel]] = {}
        self._dead_letter_sinks: dict[int, DeadLetterSink] = {}
        """By the ``id`` of the user's function: stages that name the same one share its sink."""
        for node in nodes:
            if isinstance(node, StageNode):
                count = node.parallelism if node.reads_keyed else 1
                self._channels[node] = [FeedbackChannel() if node.is_feedback else Channel(limit) for _ in range(count)]
        loops = [channel for channel in self._all_channels() if isinstance(channel, FeedbackChannel)]
        self._under_way = RecordsUnderWay(loops) if loops else None

    def _all_channels(self) -> Iterator[Channel]:
        return (channel for channels in self._channels.values() for channel in channels)

    def start(self, job: Job) -> None:
        """Starts the sinks of dead letters, then the tasks of ``job``."""
        tasks: list[Task] = []
        for node in self._nodes:
            tasks += [self._source_task(node, job)] if isinstance(node, SourceNode) else self._stage_tasks(node, job)
        if self._under_way is not None:
            self._under_way.all_sources_counted()
        try:
            for sink in self._dead_letter_sinks.values():
                sink.start(job.callers)
        except BaseException:
            self.stop()
            raise
        channels = {node.name: channels for node, channels in self._channels.items()}
        inputs = {source for node in self._channels for source in node.inputs}
        last_stages = frozenset(node.name for node in self._channels if node not in inputs)
        job.start(tasks, channels, last_stages)

    def stop(self) -> None:
        """After the tasks: cleans up the sinks of dead letters."""
        with ExitStack() as stack:  # all of them, also when one raises
            for sink in self._dead_letter_sinks.values():
                stack.callback(sink.stop)

    def _source_task(self, node: SourceNode, job: Job) -> SourceTask:
        sink, name = self._dead_letter_sink(node.policy), f"{job.name}-{node.name}"
        if self._under_way is not None:
            self._under_way.source_starts()
        output = self._output(node)
        return SourceTask(node.make(), output, node.policy, sink, job, node.name, name, self._under_way)

    def _stage_tasks(self, node: StageNode, job: Job) -> list[Task]:
        channels, sink = self._channels[node], self._dead_letter_sink(node.policy)
        tasks: list[Task] = []
        for index in range(node.parallelism):
            channel = channels[index % len(channels)]
            name = f"{job.name}-{node.name}" + (f"-{index}" if node.parallelism > 1 else "")
            tasks.append(StageTask(node, self._worker(node, index), channel, self._output(node), sink, job, name))
        return tasks

    def _worker(self, node: StageNode, index: int) -> Worker:
        if node.make_worker is not None:
            return node.make_worker(index)
        assert node.function is not None, "a stage has a function, or makes its workers itself"
        return self._make_worker(node.function, index)

    def _output(self, node: SourceNode | StageNode) -> Output:
        readers, tags = [], []
        for reader, channels in self._channels.items():
            for number, source in enumerate(reader.inputs):
                if source is node:
                    readers.append(channels)
                    tags.append(number if reader.tagged else None)
        return Output(readers, tags)

    def _dead_letter_sink(self, policy: Policy) -> DeadLetterSink | None:
        if policy.dead_letters is None:
            return None
        key = id(policy.dead_letters.function)
        if key not in self._dead_letter_sinks:
            self._dead_letter_sinks[key] = DeadLetterSink(policy.dead_letters, self._shared)
        return self._dead_letter_sinks[key]
