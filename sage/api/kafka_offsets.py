"""The offsets of Kafka records that are in the pipeline, and those that may be committed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any


class PartitionProgress:
    """Which records of one partition are in the pipeline and which are done. They may be done in any order, on any
    thread."""

    def __init__(self) -> None:
        self._pending: deque[int] = deque()
        """Offsets in rising order, from the lowest one that is not done."""
        self._done: set[int] = set()
        self._lock = threading.Lock()
        self._next: int | None = None
        self.committed: int | None = None

    def add(self, offset: int) -> None:
        """A record enters the pipeline; offsets come in rising order."""
        with self._lock:
            self._pending.append(offset)

    def done(self, offset: int) -> None:
        with self._lock:
            self._done.add(offset)
            while self._pending and self._pending[0] in self._done:
                last = self._pending.popleft()
                self._done.remove(last)
                self._next = last + 1

    @property
    def pending(self) -> int:
        """Records from the lowest one that is not done."""
        return len(self._pending)

    def to_commit(self) -> int | None:
        """The offset below which all records are done. ``None`` means that it is committed already."""
        return self._next if self._next != self.committed else None


class KafkaOffsets:
    """The progress of all partitions that one consumer reads. Partitions are ``aiokafka.TopicPartition``."""

    def __init__(self) -> None:
        self._partitions: dict[Any, PartitionProgress] = {}

    def add(self, partition: Any, offset: int) -> Callable[[], None]:
        """A record enters the pipeline. Returns what is to be called when it is done."""
        progress = self._partitions.setdefault(partition, PartitionProgress())
        progress.add(offset)
        return partial(progress.done, offset)

    def pending(self) -> int:
        """Records in the pipeline."""
        return sum(progress.pending for progress in list(self._partitions.values()))

    def to_commit(self, assigned: Collection[Any]) -> dict[Any, int]:
        """The offset to commit for each of the ``assigned`` partitions that has a new one."""
        offsets = {partition: progress.to_commit() for partition, progress in self._partitions.items()}
        return {
            partition: offset for partition, offset in offsets.items() if offset is not None and partition in assigned
        }

    def committed(self, offsets: Mapping[Any, int]) -> None:
        """``offsets`` have been committed."""
        for partition, offset in offsets.items():
            if (progress := self._partitions.get(partition)) is not None:
                progress.committed = offset

    def clear(self) -> None:
        """Forgets all partitions: they may belong to another consumer now."""
        self._partitions = {}

    def describe(self) -> dict[str, int | None]:
        """The committed offset of each ``topic/partition``."""
        return {
            f"{partition.topic}/{partition.partition}": progress.committed
            for partition, progress in list(self._partitions.items())
        }
