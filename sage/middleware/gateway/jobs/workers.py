"""The workers that have said hello lately, and how many jobs they have room for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

SILENCE = 8.0
"""Seconds after which a worker that sends no heartbeat is not counted any more."""
_WITHOUT_WORKERS = 4
"""Messages of one queue that may wait for workers that nobody has heard of yet."""


@dataclass(slots=True)
class WorkerState:
    """A worker by its name; ``seen_at`` is a time of ``time.monotonic``."""

    name: str
    concurrency: int
    queues: tuple[str, ...]
    version: str
    seen_at: float


class Workers:
    """Who runs jobs. Belongs to the event loop."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._workers: dict[str, WorkerState] = {}

    def heard(self, name: str, concurrency: int, queues: tuple[str, ...], version: str) -> bool:
        """Notes a heartbeat; returns whether the worker is a new one."""
        is_new = name not in self._workers
        self._workers[name] = WorkerState(name, concurrency, queues, version, self._monotonic())
        return is_new

    def left(self, name: str) -> None:
        """Notes that a worker has ended."""
        self._workers.pop(name, None)

    def alive(self) -> list[WorkerState]:
        """Those that were heard of lately."""
        oldest = self._monotonic() - SILENCE
        for name in [name for name, worker in self._workers.items() if worker.seen_at < oldest]:
            del self._workers[name]
        return list(self._workers.values())

    def concurrency(self, queue: str) -> int:
        """How many jobs of ``queue`` may run at a time; one at least, since a worker may not have been heard yet."""
        return max(1, sum(worker.concurrency for worker in self.alive() if queue in worker.queues))

    def room(self, queue: str) -> int:
        """How many messages of ``queue`` may wait at the broker: twice what its workers do at a time."""
        return max(2 * self.concurrency(queue), _WITHOUT_WORKERS)
