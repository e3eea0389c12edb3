"""The gateway's metrics in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sage.middleware.gateway.metrics import (
    Durations,
    LedgerCounts,
    LowPriorityCounts,
    Metrics,
    ModelMetrics,
    RetrievalMetrics,
    ServiceMetrics,
)


def exposition(metrics: Metrics) -> bytes:
    """All of ``metrics``, as they are now."""
    registry = CollectorRegistry()
    registry.register(_Numbers(metrics))
    return generate_latest(registry)


class _Numbers(Collector):
    """Makes metrics of plain numbers."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        metrics = self._metrics
        requests = CounterMetricFamily(
            "sage_requests", "Requests, by their answer's status (499: the client left).", labels=("model", "status")
        )
        tokens = CounterMetricFamily("sage_tokens", "Tokens, as the upstream counted them.", labels=("model", "type"))
        running = GaugeMetricFamily("sage_requests_in_flight", "Requests in progress.", labels=("model",))
        limited = CounterMetricFamily(
            "sage_rate_limited",
            "Requests that a rate limit has refused, by whose limit it was (subject) and of what.",
            labels=("model", "subject", "limit"),
        )
        by_model = metrics.with_others(metrics.by_model)
        for model, of_model in by_model.items():
            for status, count in sorted(of_model.statuses.items()):
                requests.add_metric((model, str(status)), count)
            tokens.add_metric((model, "prompt"), of_model.prompt_tokens)
            tokens.add_metric((model, "completion"), of_model.completion_tokens)
            running.add_metric((model,), of_model.in_flight)
            for (subject, kind), count in sorted(of_model.limited.items()):
                limited.add_metric((model, subject, kind), count)
        yield from (requests, tokens, running, limited)
        yield _histogram(
            "sage_request_duration_seconds",
            "From the request to the last byte of its answer.",
            by_model,
            lambda m: m.duration,
        )
        yield _histogram(
            "sage_time_to_first_token_seconds",
            "From the request to the first event of its stream.",
            by_model,
            lambda m: m.time_to_first_token,
        )
        if metrics.low_priority is not None:
            yield from _low_priority_metrics(metrics.low_priority)
        if metrics.ledger is not None:
            yield from _ledger_metrics(metrics.ledger)
        if metrics.tools is not None:
            yield from metrics.tools.metrics()
        yield from metrics.jobs
        yield from _retrieval_metrics(metrics)
        yield from _service_metrics(metrics.services)


def _retrieval_metrics(metrics: Metrics) -> Iterator[Metric]:
    retrieval = RetrievalMetrics()
    for counted in (metrics.retrieval, *metrics.retrieval_of_others()):
        retrieval.add(counted)
    searches = CounterMetricFamily("sage_searches", "Searches, by their answer's status.", labels=("status",))
    for status, count in sorted(retrieval.searches.items()):
        searches.add_metric((str(status),), count)
    documents = CounterMetricFamily("sage_documents", "Documents that requests changed.", labels=("operation",))
    documents.add_metric(("write",), retrieval.written)
    documents.add_metric(("delete",), retrieval.deleted)
    duration = HistogramMetricFamily("sage_search_duration_seconds", "From a request for searches to its answer.")
    duration.add_metric((), retrieval.duration.cumulative(), retrieval.duration.total)
    yield from (searches, documents, duration)


def _service_metrics(services: ServiceMetrics) -> Iterator[Metric]:
    calls = CounterMetricFamily(
        "sage_service_calls", "Calls of the gateway's services, by their status.", labels=("service", "status")
    )
    for (service, status), count in sorted(services.calls.items()):
        calls.add_metric((service, str(status)), count)
    duration = HistogramMetricFamily(
        "sage_service_call_duration_seconds", "From a call of a service to its result.", labels=("service",)
    )
    for service, durations in services.durations.items():
        duration.add_metric((service,), durations.cumulative(), durations.total)
    yield from (calls, duration)


def _ledger_metrics(counts: LedgerCounts) -> Iterator[Metric]:
    written = CounterMetricFamily("sage_usage_written", "Calls that were written into the usage ledger.")
    written.add_metric((), counts.written)
    dropped = CounterMetricFamily(
        "sage_usage_dropped", "Calls that are lost to the ledger, as its database was away and memory full."
    )
    dropped.add_metric((), counts.dropped)
    waiting = GaugeMetricFamily("sage_usage_waiting", "Calls that wait to be written into the usage ledger.")
    waiting.add_metric((), counts.waiting)
    yield from (written, dropped, waiting)


def _low_priority_metrics(counts: LowPriorityCounts) -> Iterator[Metric]:
    waiting = GaugeMetricFamily("sage_low_priority_waiting", "Calls of low priority that wait for live ones.")
    waiting.add_metric((), counts.waiting)
    running = GaugeMetricFamily("sage_low_priority_in_flight", "Calls of low priority that run.")
    running.add_metric((), max(0, counts.in_progress - counts.waiting))
    started = CounterMetricFamily("sage_low_priority_started", "Calls of low priority that were sent upstream.")
    started.add_metric((), counts.started)
    refused = CounterMetricFamily(
        "sage_low_priority_refused", "Calls of low priority that were refused since live ones left no place in time."
    )
    refused.add_metric((), counts.refused)
    yield from (waiting, running, started, refused)


def _histogram(
    name: str, text: str, by_model: Mapping[str, ModelMetrics], part: Callable[[ModelMetrics], Durations]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=("model",))
    for model, metrics in by_model.items():
        durations = part(metrics)
        family.add_metric((model,), durations.cumulative(), durations.total)
    return family
