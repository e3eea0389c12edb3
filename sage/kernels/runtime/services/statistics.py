"""Counts of a service's calls: each worker has its own, so that counting takes no lock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sage.kernels.runtime.services.calls import ServiceCall

_BUCKETS = 40
"""Durations are counted by powers of two of a microsecond; the last bucket is for more than six days."""


class WorkerStatistics:
    """The counts of one worker. Only that worker writes them."""

    __slots__ = ("call", "calls", "durations", "errors", "seconds")

    def __init__(self) -> None:
        self.call: ServiceCall | None = None
        """The call that it runs now."""
        self.calls = 0
        self.errors = 0
        self.seconds = 0.0
        self.durations = [0] * _BUCKETS

    def count(self, seconds: float, failed: bool, calls: int = 1) -> None:
        """Counts ``calls`` that took ``seconds`` together."""
        self.calls += calls
        self.seconds += seconds
        if failed:
            self.errors += 1
        self.durations[min(int(seconds * 1e6 / calls).bit_length(), _BUCKETS - 1)] += calls


def summed(workers: Iterable[WorkerStatistics]) -> dict[str, Any]:
    """``{calls, errors, latency_ms: {mean, p50, p99}}``; percentiles within a factor of √2, ``None`` without calls."""
    workers = list(workers) or [WorkerStatistics()]
    calls = sum(worker.calls for worker in workers)
    seconds = sum(worker.seconds for worker in workers)
    durations = [sum(counts) for counts in zip(*(worker.durations for worker in workers), strict=True)]
    return {
        "calls": calls,
        "errors": sum(worker.errors for worker in workers),
        "latency_ms": {
            "mean": seconds / calls * 1e3 if calls else None,
            "p50": _percentile(durations, 0.5),
            "p99": _percentile(durations, 0.99),
        },
    }


def _percentile(durations: Sequence[int], share: float) -> float | None:
    rank = share * sum(durations)
    total = 0
    for bucket, count in enumerate(durations):
        total += count
        if count and total >= rank:
            return float(2 ** (bucket - 0.5) / 1e3)
    return None
