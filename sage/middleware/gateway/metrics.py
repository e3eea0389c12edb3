"""Counts, durations and tokens of requests, for Prometheus. Each request is counted once, at its end."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from sage.middleware.providers.base import Usage

if TYPE_CHECKING:  # a fiftieth of the start, which only who asks for the metrics needs
    from prometheus_client.core import Metric

CLIENT_LEFT = 499
"""The status under which a request is counted whose client went away (nginx's number for it)."""

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds in seconds."""


class Durations:
    """A histogram over :data:`BUCKETS`."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def add(self, other: Durations) -> None:
        """Adds what another process has measured."""
        self.counts = [own + others for own, others in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def cumulative(self) -> list[tuple[str, float]]:
        """Of each bucket its upper bound, as Prometheus writes it, and the number of durations within that bound."""
        buckets, total = [], 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets


class ModelMetrics:
    """The metrics of one model: plain numbers, since they change on one event loop only."""

    __slots__ = (
        *("completion_tokens", "duration", "in_flight", "limited", "prompt_tokens", "statuses", "time_to_first_token"),
    )

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.duration = Durations()
        self.time_to_first_token = Durations()
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.in_flight = 0
        self.limited: Counter[tuple[str, str]] = Counter()
        """Requests that a rate limit has refused, by the kinds of its subject and of the limit."""

    def settle(self, status: int, seconds: float, usage: Usage | None) -> None:
        """Counts one finished request that began with :meth:`Metrics.begin`; ``usage=None`` means that the upstream has
        not sent any."""
        self.in_flight -= 1
        self.statuses[status] += 1
        durations = self.duration  # as `observe`, without a call
        durations.counts[bisect_left(BUCKETS, seconds)] += 1
        durations.total += seconds
        if usage is not None:
            self.prompt_tokens += usage.prompt_tokens
            self.completion_tokens += usage.completion_tokens

    def add(self, other: ModelMetrics) -> None:
        """Adds what another process has counted."""
        self.statuses.update(other.statuses)
        self.duration.add(other.duration)
        self.time_to_first_token.add(other.time_to_first_token)
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.in_flight += other.in_flight
        self.limited.update(other.limited)


class RetrievalMetrics:
    """The metrics of collections: plain numbers, since they change on one event loop only."""

    __slots__ = ("deleted", "duration", "searches", "written")

    def __init__(self) -> None:
        self.searches: Counter[int] = Counter()
        self.duration = Durations()
        self.written = 0
        self.deleted = 0

    def searched(self, status: int, seconds: float, searches: int) -> None:
        """Counts one request and the searches in it."""
        self.searches[status] += searches
        self.duration.observe(seconds)

    def add(self, other: RetrievalMetrics) -> None:
        """Adds what another process has counted."""
        self.searches.update(other.searches)
        self.duration.add(other.duration)
        self.written += other.written
        self.deleted += other.deleted


class ServiceMetrics:
    """The metrics of the gateway's services: plain numbers, since they change on one event loop only."""

    __slots__ = ("calls", "durations")

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, int]] = Counter()
        """By service and status."""
        self.durations: dict[str, Durations] = {}

    def called(self, service: str, status: int, seconds: float) -> None:
        self.calls[service, status] += 1
        durations = self.durations.get(service)
        if durations is None:
            durations = self.durations[service] = Durations()
        durations.observe(seconds)


class LowPriorityCounts(Protocol):
    """What is counted of the calls that live ones go before."""

    in_progress: int
    started: int
    refused: int

    @property
    def waiting(self) -> int: ...


class LedgerCounts(Protocol):
    """What is counted of the usage ledger."""

    written: int
    dropped: int

    @property
    def waiting(self) -> int: ...


class ToolMetrics(Protocol):
    """What is counted of tools of MCP servers."""

    def metrics(self) -> Iterable[Metric]: ...


class Metrics:
    """All metrics of the gateway; :mod:`~sage.middleware.gateway.exposition` writes them for Prometheus. ``model`` is a
    label from the configuration.

    They are plain numbers: prometheus_client's own counters take a lock for each change, 6 µs a request.
    """

    def __init__(self) -> None:
        self.by_model: dict[str, ModelMetrics] = {}
        """Of the calls of this process."""
        self.with_others: Callable[[Mapping[str, ModelMetrics]], Mapping[str, ModelMetrics]] = _alone
        """Adds what the gateway's other processes have counted, where it has some."""
        self.ask_others: Callable[[], Awaitable[object]] = _nobody
        """Lets :attr:`with_others` know the newest counts."""
        self.retrieval = RetrievalMetrics()
        """Of the collections as this process was asked for them."""
        self.retrieval_of_others: Callable[[], Iterable[RetrievalMetrics]] = tuple
        """What the gateway's other processes have counted, where it has some."""
        self.services = ServiceMetrics()
        self.low_priority: LowPriorityCounts | None = None
        self.ledger: LedgerCounts | None = None
        self.tools: ToolMetrics | None = None
        self.jobs: Sequence[Metric] = ()
        """The metrics of jobs, as they were when they were last asked for."""

    def count_in_flight(self) -> int:
        """How many calls of models are in progress."""
        return sum(metrics.in_flight for metrics in self.by_model.values())

    def begin(self, model: str) -> ModelMetrics:
        """A request for ``model`` begins; it is counted there at its end."""
        metrics = self.by_model.get(model)
        if metrics is None:
            metrics = self.by_model[model] = ModelMetrics()
        metrics.in_flight += 1
        return metrics

    def limited(self, model: str, subject: str, kind: str) -> None:
        """A rate limit has refused a request for ``model``: one of that kind, of a subject of that kind."""
        metrics = self.by_model.get(model)
        if metrics is None:
            metrics = self.by_model[model] = ModelMetrics()
        metrics.limited[subject, kind] += 1


def _alone(by_model: Mapping[str, ModelMetrics]) -> Mapping[str, ModelMetrics]:
    return by_model


async def _nobody() -> None:
    pass
