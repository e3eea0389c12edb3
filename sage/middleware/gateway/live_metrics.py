"""What the gateway does right now: the differences of its metrics from one second to the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sage.middleware.gateway.metrics import BUCKETS, Durations, Metrics, ModelMetrics

_INTERVAL = 1.0
"""Seconds between two events."""


@dataclass
class _MetricTotals:
    """The counts of all models together, and of each the requests and failures, at one moment."""

    at: float
    duration: Durations = field(default_factory=Durations)
    first_token: Durations = field(default_factory=Durations)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    models: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """By model: requests that have ended, those of them that failed, and those in flight."""

    def add(self, model: str, metrics: ModelMetrics) -> None:
        self.duration.add(metrics.duration)
        self.first_token.add(metrics.time_to_first_token)
        self.prompt_tokens += metrics.prompt_tokens
        self.completion_tokens += metrics.completion_tokens
        failed = sum(count for status, count in metrics.statuses.items() if status >= 400)
        self.models[model] = (metrics.statuses.total(), failed, metrics.in_flight)


async def live_metrics(metrics: Metrics) -> AsyncIterator[dict[str, Any]]:
    """What has happened in each second, for as long as somebody asks. Costs nothing else."""
    before = await _count(metrics)
    while True:
        await asyncio.sleep(_INTERVAL)
        now = await _count(metrics)
        yield _difference(before, now)
        before = now


async def _count(metrics: Metrics) -> _MetricTotals:
    await metrics.ask_others()
    counts = _MetricTotals(time.time())
    for model, each in metrics.with_others(metrics.by_model).items():
        counts.add(model, each)
    return counts


def _difference(before: _MetricTotals, now: _MetricTotals) -> dict[str, Any]:
    models = {}
    for model, (ended, failed, in_flight) in now.models.items():
        ended_before, failed_before, _ = before.models.get(model, (0, 0, 0))
        if in_flight or ended > ended_before:
            models[model] = {
                "requests": ended - ended_before,
                "failed": failed - failed_before,
                "in_flight": in_flight,
            }
    return {
        "time": now.at,
        "seconds": now.at - before.at,
        "requests": _sum(models, "requests"),
        "failed": _sum(models, "failed"),
        "in_flight": _sum(models, "in_flight"),
        "prompt_tokens": now.prompt_tokens - before.prompt_tokens,
        "completion_tokens": now.completion_tokens - before.completion_tokens,
        "duration": _percentiles(before.duration, now.duration),
        "first_token": _percentiles(before.first_token, now.first_token),
        "models": models,
    }


def _sum(models: Mapping[str, Mapping[str, int]], name: str) -> int:
    return sum(model[name] for model in models.values())


def _percentiles(before: Durations, now: Durations) -> dict[str, float] | None:
    """Half and 95 % of the durations between two moments, in seconds, as good as their histogram tells; ``None`` if
    there was none."""
    counts = [later - earlier for earlier, later in zip(before.counts, now.counts, strict=True)]
    if not any(counts):
        return None
    return {"p50": percentile(counts, 0.5), "p95": percentile(counts, 0.95)}


def percentile(counts: Sequence[int], share: float) -> float:
    """The duration in seconds that ``share`` of those in a histogram over :data:`BUCKETS` are within: in its bucket in
    proportion, as Prometheus' ``histogram_quantile`` has it. Beyond the last bound it is that bound."""
    wanted, passed, low = sum(counts) * share, 0, 0.0
    for bound, count in zip(BUCKETS, counts, strict=False):
        if count and passed + count >= wanted:
            return low + (bound - low) * (wanted - passed) / count
        passed += count
        low = bound
    return BUCKETS[-1]
