"""What a service counts of its calls: each worker in a record of its own, so that counting takes no lock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sage.kernels.runtime.services.calls import ServiceCall

_BUCKETS = 40
"""Powers of two of a microsecond: the last is over six days."""


class WorkerStatistics:
    """The counts of one worker. Only that worker writes them."""

    __slots__ = ("call", "calls", "durations", "errors", "seconds")

    def __init__(self) -> None:
        self.call: ServiceCall | None = None
        """What it does now."""
        self.calls = 0
        self.errors = 0
        self.seconds = 0.0
        self.durations = [0] * _BUCKETS

    def count(self, seconds: float, failed: bool, calls: int = 1) -> None:
        """``seconds`` are of all ``calls`` together."""
        self.calls += calls
        self.seconds += seconds
        if failed:
            self.errors += 1
        self.durations[min(int(seconds * 1e6 / calls).bit_length(), _BUCKETS - 1)] += calls


def summed(tallies: Iterable[WorkerStatistics]) -> dict[str, Any]:
    """``{calls, errors, latency_ms: {mean, p50, p99}}``; percentiles within a factor of √2, ``None`` without calls."""
    tallies = list(tallies)
    calls = sum(tally.calls for tally in tallies)
    seconds = sum(tally.seconds for tally in tallies)
    durations = [sum(counts) for counts in zip(*(tally.durations for tally in tallies), strict=True)]
    return {
        "calls": calls,
        "errors": sum(tally.errors for tally in tallies),
        "latency_ms": {
            "mean": seconds / calls * 1e3 if calls else None,
            "p50": _percentile(durations, 0.5),
            "p99": _percentile(durations, 0.99),
        },
    }


def _percentile(durations: Sequence[int], share: float) -> float | None:
    wanted = share * sum(durations)
    passed = 0
    for bucket, count in enumerate(durations):
        passed += count
        if count and passed >= wanted:
            return float(2 ** (bucket - 0.5) / 1e3)
    return None
