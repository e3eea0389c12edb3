"""The metrics of all processes of a gateway as one: the owner adds what its fronts have counted to its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from sage.middleware.gateway.metrics import ModelMetrics, RetrievalMetrics

Counts = Mapping[str, ModelMetrics]
"""By model."""


class FamilyMetrics:
    """What fronts have counted. A front that has ended stays counted, so that no counter ever goes down."""

    def __init__(self, running: Callable[[], Iterable[Counts]]) -> None:
        """``running`` gives the newest counts of each front that runs."""
        self._running = running
        self._ended: dict[str, ModelMetrics] = {}
        self.searches_ended = RetrievalMetrics()
        """Of the searches of fronts that have ended."""

    def front_ended(self, counts: Counts, retrieval: RetrievalMetrics) -> None:
        """The last that a front has told before it ended. What it was doing then ended with it."""
        self.searches_ended.add(retrieval)
        _add(self._ended, counts)
        for metrics in self._ended.values():
            metrics.in_flight = 0

    def with_fronts(self, own: Counts) -> Counts:
        """``own`` and what all fronts have counted."""
        total: dict[str, ModelMetrics] = {}
        for counts in (own, self._ended, *self._running()):
            _add(total, counts)
        return total


def _add(total: dict[str, ModelMetrics], counts: Counts) -> None:
    for model, metrics in counts.items():
        if model not in total:
            total[model] = ModelMetrics()
        total[model].add(metrics)
