"""What every request leaves behind: counts, durations and tokens, for Prometheus. Settled once a request."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sage.middleware.providers.base import Usage

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """The application's metrics, in a registry of its own. ``model`` is a label from the configuration."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "sage_requests", "Requests for a model, by the status of their answer (499: the client left).",
            ("model", "status"), registry=self.registry,
        )  # fmt: skip
        self._duration = Histogram(
            "sage_request_duration_seconds", "From the request to the last byte of its answer.",
            ("model",), buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._first_token = Histogram(
            "sage_time_to_first_token_seconds", "From the request to the first event of its stream.",
            ("model",), buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._tokens = Counter(
            "sage_tokens", "Tokens, as the upstream counted them.", ("model", "type"), registry=self.registry
        )
        self._in_flight = Gauge("sage_requests_in_flight", "Requests that run now.", ("model",), registry=self.registry)
        self._by_model: dict[str, ModelMetrics] = {}

    def of(self, model: str) -> ModelMetrics:
        """The metrics of one model; looked up once, since finding labels costs more than counting."""
        found = self._by_model.get(model)
        if found is None:
            found = self._by_model[model] = ModelMetrics(
                self._requests, self._duration, self._first_token, self._tokens, self._in_flight, model
            )
        return found

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


class ModelMetrics:
    """The metrics of one model."""

    __slots__ = ("_completion", "_duration", "_first", "_flight", "_prompt", "_requests", "_statuses", "model")

    def __init__(
        self, requests: Counter, duration: Histogram, first_token: Histogram, tokens: Counter, flight: Gauge, model: str
    ) -> None:
        self.model = model
        self._requests = requests
        self._statuses: dict[int, Counter] = {}
        self._duration = duration.labels(model)
        self._first = first_token.labels(model)
        self._prompt = tokens.labels(model, "prompt")
        self._completion = tokens.labels(model, "completion")
        self._flight = flight.labels(model)

    def begin(self) -> None:
        self._flight.inc()

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def settle(self, status: int, seconds: float, usage: Usage | None) -> None:
        """Counts one ended request; ``usage`` is none when the upstream told none."""
        self._flight.dec()
        counter = self._statuses.get(status)
        if counter is None:
            counter = self._statuses[status] = self._requests.labels(self.model, str(status))
        counter.inc()
        self._duration.observe(seconds)
        if usage is not None:
            self._prompt.inc(usage.prompt_tokens)
            self._completion.inc(usage.completion_tokens)
