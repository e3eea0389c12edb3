"""The nodes of a pipeline: its sources and stages as the user asked for them, before a job runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sage.kernels.runtime.streams.error_policy import Policy
from sage.kernels.runtime.streams.source_task import RecordSource
from sage.kernels.runtime.streams.stage_function import FunctionKind, StageFunction
from sage.kernels.runtime.streams.workers import Worker


@dataclass(eq=False)
class SourceNode:
    """Where records come from; ``make`` returns a new reading of the source for each job."""

    name: str
    make: Callable[[], RecordSource]
    policy: Policy
    keyed: bool = False


@dataclass(eq=False)
class StageNode:
    """What is done with the records of ``inputs``."""

    name: str
    kind: FunctionKind
    function: StageFunction | None
    """``None`` means that ``make_worker`` makes the workers."""
    inputs: Sequence[SourceNode | StageNode]
    policy: Policy
    parallelism: int = 1
    make_worker: Callable[[int], Worker] | None = None
    """Makes the worker with this index. ``None`` means that the platform makes it, from ``function``."""
    largest_batch: int = 256
    """Records that a worker gets at most at a time."""
    fills_batches: bool = False
    """Its workers get ``largest_batch`` records at a time, or those that come within ``fill_seconds``."""
    fill_seconds: float | None = None
    """``None`` means that a batch is always full, but for the last one."""
    with_keys: bool = False
    """Its workers get pairs of key and value."""
    tagged: bool = False
    """Each value is a pair of the number of the input that it comes from, and the value."""
    is_feedback: bool = False
    """Its inputs are stages behind it, so that they are named later and its channel ends in another way
    (:class:`sage.kernels.runtime.streams.feedback.FeedbackChannel`)."""
    keyed: bool = field(init=False)
    """Its records have keys, and all records of a key go to one worker of the next stage."""

    def __post_init__(self) -> None:
        self.keyed = self.kind is FunctionKind.KEY or self.reads_keyed

    @property
    def reads_keyed(self) -> bool:
        return any(node.keyed for node in self.inputs)
