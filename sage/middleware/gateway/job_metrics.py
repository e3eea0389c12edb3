"""The numbers of jobs, for Prometheus and ``/ready``: what waits and runs, how jobs ended, and how long they took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage.middleware.gateway.metrics import Durations
from sage.middleware.queue.records import QueueDepth, StoredJob
from sage.middleware.queue.states import ENDED, RUNNING

if TYPE_CHECKING:  # a fiftieth of the start, which only who asks for the metrics needs
    from prometheus_client.core import Metric

_REMEMBERED = 4096
"""Jobs whose end was counted, so that a further change of theirs is not."""


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """How the queue stands. ``workers`` are those heard of lately, ``places`` what they run at a time; ``broker_error``
    says why the broker takes no messages, ``None`` that it does as far as is known."""

    depth: QueueDepth
    workers: int
    places: int
    broker_error: str | None

    @property
    def oldest_seconds(self) -> float | None:
        """How long the job waits that waits longest; ``None`` means that none waits."""
        return None if self.depth.oldest is None else max(0.0, time.time() - self.depth.oldest)


class JobMetrics:
    """Counts what becomes of the jobs of one gateway since it has started. Belongs to its event loop."""

    def __init__(self) -> None:
        self._submitted: Counter[str] = Counter()
        self._ended: Counter[tuple[str, str]] = Counter()
        """By kind and state."""
        self._deliveries: Counter[str] = Counter()
        self._to_start: dict[str, Durations] = {}
        self._running: dict[str, Durations] = {}
        self._delivered: dict[str, int] = {}
        """Jobs that run, and their deliveries so far."""
        self._finished: dict[str, float] = {}
        """When jobs had ended whose end was counted lately."""

    def submitted(self, kind: str) -> None:
        """A new job was accepted."""
        self._submitted[kind] += 1

    def changed(self, job: StoredJob) -> None:
        """A job has changed; it may have been told of the same change before."""
        if job.state in ENDED:
            self._note_end(job)
        elif job.state == RUNNING:
            self._note_delivery(job)

    def _note_delivery(self, job: StoredJob) -> None:
        if self._delivered.get(job.id, 0) >= job.deliveries:
            return
        self._delivered[job.id] = job.deliveries
        self._deliveries[job.kind] += 1
        if job.deliveries == 1 and job.started_at is not None:
            self._to_start.setdefault(job.kind, Durations()).observe(job.started_at - job.created_at)

    def _note_end(self, job: StoredJob) -> None:
        self._delivered.pop(job.id, None)
        if job.finished_at is None or self._finished.get(job.id) == job.finished_at:
            return
        self._finished[job.id] = job.finished_at
        if len(self._finished) > _REMEMBERED:
            del self._finished[next(iter(self._finished))]
        self._ended[job.kind, job.state] += 1
        if job.started_at is not None:
            self._running.setdefault(job.kind, Durations()).observe(job.finished_at - job.started_at)

    def collect(self, status: QueueStatus) -> Iterator[Metric]:
        """All of them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        depth = status.depth
        jobs = GaugeMetricFamily("sage_jobs", "Jobs that have not ended, by their state.", labels=("state",))
        for state in ("queued", "running", "cancelling"):
            jobs.add_metric((state,), getattr(depth, state))
        yield jobs
        for name, text, value in (
            ("sage_jobs_oldest_seconds", "For how long the job waits that waits longest.", status.oldest_seconds or 0),
            ("sage_job_workers", "Workers that were heard of lately.", status.workers),
            ("sage_job_worker_places", "Jobs that workers run at a time.", status.places),
            ("sage_job_broker_up", "Whether the broker takes messages.", int(status.broker_error is None)),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))
        yield _by_kind("sage_jobs_submitted", "Jobs that were accepted.", self._submitted)
        yield _by_kind("sage_job_deliveries", "How often workers took a job.", self._deliveries)
        ended = CounterMetricFamily(
            "sage_jobs_ended", "Jobs that have ended (dead: given up after three deliveries).", labels=("kind", "state")
        )
        for (kind, state), count in sorted(self._ended.items()):
            ended.add_metric((kind, state), count)
        yield ended
        yield _durations("sage_job_start_seconds", "From a job's acceptance to its first start.", self._to_start)
        yield _durations("sage_job_run_seconds", "From a job's first start to its end.", self._running)


def _by_kind(name: str, text: str, counts: Counter[str]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(name, text, labels=("kind",))
    for kind, count in sorted(counts.items()):
        family.add_metric((kind,), count)
    return family


def _durations(name: str, text: str, found: dict[str, Durations]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(name, text, labels=("kind",))
    for kind, durations in sorted(found.items()):
        family.add_metric((kind,), durations.cumulative(), durations.total)
    return family
