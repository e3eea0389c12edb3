"""An environment: services under names of its own, and pipelines whose functions call them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from sage.api.environment_config import environment_config
from sage.api.kafka_options import kafka_options
from sage.api.kafka_source import KafkaSource
from sage.api.service_discovery import ServiceDiscovery
from sage.api.sources import (
    IterableSource,
    SourceOfJobs,
    check_delay,
    check_source,
    is_source_object,
    takes_argument,
)
from sage.api.stream import Stream
from sage.api.upstream_environment import UpstreamEnvironment
from sage.api.upstream_names import warn_of_name
from sage.errors import InvalidRequest
from sage.kernels.runtime.platform import LocalPlatform, Platform
from sage.kernels.runtime.services.callers import AsyncServiceCaller, ServiceCaller
from sage.kernels.runtime.services.registry import Services
from sage.kernels.runtime.streams.feedback import PassingWorker
from sage.kernels.runtime.streams.job import Job, StillRunning
from sage.kernels.runtime.streams.job_builder import JobBuilder
from sage.kernels.runtime.streams.nodes import SourceNode, StageNode
from sage.kernels.runtime.streams.plan import PipelinePlan
from sage.kernels.runtime.streams.shared_instances import SharedInstances
from sage.kernels.runtime.streams.source_task import RecordSource
from sage.kernels.runtime.streams.stage_function import FunctionKind
from sage.kernels.runtime.upstream import warn_of_upstream


class LocalEnvironment(UpstreamEnvironment):
    """Services under names of their own, and pipelines of streams.

    ``config`` may hold ``discovery`` (the path of a SQLite file or a Redis URL, where its services are announced;
    ``None`` means nowhere), ``queue_size`` (records that wait at most before each stage), ``on_error`` (the policy of
    stages that name none), ``grace`` (seconds that running work has to end), ``jobs`` (who takes the jobs of
    ``stream.enqueue``) and ``ray`` (for ``platform="ray"``).

    The services run inside ``with env:``, between :meth:`start` and :meth:`stop`, and while a job runs.
    """

    def __init__(
        self, name: str = "environment", config: Mapping[str, Any] | None = None, *, platform: str = "local"
    ) -> None:
        warn_of_upstream()
        self.name = _checked_name(name)
        self.config = environment_config(config or {})
        self._shared = SharedInstances()
        self._platform = self._make_platform(platform)
        self._services = Services(name, self._platform.make_host)
        self._discovery = ServiceDiscovery(name, self.config["discovery"], self.services)
        self._plan = PipelinePlan(name, self.config["on_error"])
        self._jobs: list[Job] = []
        self._users = 0
        """Starts without their stop, and jobs that run; the services run while it is above 0."""
        self._starts = 0
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        services, stages = ", ".join(self._services.names()) or "none", len(self._plan.nodes)
        state = "running" if self._users else "not running"
        return f"<{type(self).__name__} '{self.name}': {state}, services: {services}, {stages} stages>"

    def _make_platform(self, platform: str) -> Platform:
        if platform == "local":
            return LocalPlatform(self._shared)
        if platform == "remote":
            warn_of_name('platform="remote"', 'platform="ray"', level=4)
            platform = "ray"
        if platform == "ray":
            from sage.kernels.runtime.ray.platform import RayPlatform  # late: the extra 'ray' is optional

            return RayPlatform(self.name, self.config["ray"])
        raise InvalidRequest(f"platform must be 'local' or 'ray', not {platform!r}", param="platform")

    # Services

    def register_service(self, name: str, service: Any, /, *args: Any, **kwargs: Any) -> None:
        """``(name, Class, factory)``, ``(name, factory)`` or ``(name, Class, *args, **kwargs)``; with ``max_workers``,
        ``queue_size``, ``replicas`` and ``placement`` where the class has no parameters of these names."""
        self._services.register(name, service, *args, **kwargs)

    @property
    def call_service(self) -> ServiceCaller:
        """``env.call_service["name"].method(…)``, while its services run."""
        return self._services.call

    @property
    def call_service_async(self) -> AsyncServiceCaller:
        """As :attr:`call_service`; returns futures that can be awaited."""
        return self._services.call_async

    def services(self) -> list[dict[str, Any]]:
        """Each service that runs, as ``{name, class, host, state, replicas, methods, health, statistics}``."""
        return self._services.describe()

    def discover(self) -> list[dict[str, Any]]:
        """The services on the board of this environment, its own and those of others: as :meth:`services`, with
        ``environment``, ``node``, ``kind`` and ``seen_at``."""
        return self._discovery.discover()

    def start(self) -> None:
        """Starts the services, unless they run already. Call :meth:`stop` once for each start."""
        with self._lock:
            self._add_user()
            self._starts += 1

    def stop(self) -> None:
        """Ends one :meth:`start`. With the last one, the jobs that still run end within the grace, then the services
        stop."""
        with self._lock:
            was_started = self._starts > 0
            self._starts -= was_started
            jobs = list(self._jobs) if self._starts == 0 else []
        for job in jobs:
            job.end()
        if was_started:
            self._remove_user()

    def close(self) -> None:
        """Ends all jobs within the grace and stops the services, however often they were started."""
        self.stop()
        while self._starts:
            self.stop()

    def _add_user(self) -> None:
        with self._lock:
            if self._users == 0:
                self._platform.start()
            try:
                self._services.start()
            except BaseException:
                if self._users == 0:
                    self._platform.stop()
                raise
            self._users += 1
            if self._users == 1 and self._services.names():
                self._discovery.start()

    def _remove_user(self) -> None:
        with self._lock:
            if self._users == 0:
                return
            if self._users > 1:
                self._users -= 1
                self._services.stop(self.config["grace"])
                return
            self._discovery.stop()
            self._users = 0
            try:
                self._services.stop(self.config["grace"])
            finally:
                self._platform.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Streams

    def from_batch(
        self, records: Any, *args: Any, name: str | None = None, delay: float | None = None, **kwargs: Any
    ) -> Stream:
        """The records of ``records``, once for each job. An iterator or a generator can be read by one job only: the
        next one fails with :class:`sage.errors.InvalidRequest`.

        A class or an object that gives records is read as :meth:`from_source` reads it; ``delay`` as there.
        """
        if "progress_log_interval" in kwargs and not takes_argument(records, "progress_log_interval"):
            warn_of_name("progress_log_interval", "job.progress, which counts the records")
            del kwargs["progress_log_interval"]
        if is_source_object(records):
            return self._from_object(records, args, kwargs, name, delay, "batch")
        if args or kwargs:
            raise InvalidRequest("from_batch takes further arguments only for a class that they make")
        if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
            raise InvalidRequest(f"from_batch takes many records (a list, a generator), not {records!r}")
        return self._from_object(records, (), {}, name, delay, "batch")

    def from_source(
        self, source: Any, *args: Any, name: str | None = None, delay: float | None = None, **kwargs: Any
    ) -> Stream:
        """The records of ``source``, which is one of:

        - an iterable, or a function that returns one (also an ``async`` generator);
        - an object with ``run`` or ``__iter__`` that returns one;
        - an object with ``process`` or ``execute`` that returns a record at each call, and at the end ``None`` or a
          :class:`sage.api.function.kinds.StopSignal`;
        - a class of such objects, made with ``args`` and ``kwargs`` for each job.

        ``delay``: seconds to wait after each record, unless the class has an argument of this name itself.
        """
        return self._from_object(source, args, kwargs, name, delay, "source")

    def from_future(self, name: str | None = None) -> Stream:
        """A stream whose records come from a stage that is added later: ``stream.fill_future(future)``."""
        node_name = self._plan.reserve_name(name, "future")
        policy = self._plan.policy(None, node_name)
        node = StageNode(
            node_name, FunctionKind.MAP, None, (), policy, make_worker=lambda _: PassingWorker(), is_feedback=True
        )
        self._plan.add(node)
        return Stream(self, (node,))

    def from_kafka_source(
        self,
        bootstrap_servers: str | Sequence[str],
        topic: str | Sequence[str],
        group_id: str,
        *,
        on_error: Any = None,
        name: str | None = None,
        **options: Any,
    ) -> Stream:
        """The records of Kafka topics, until the job is stopped: ``{value, key, topic, partition, offset, timestamp}``
        (:class:`sage.api.kafka_records.KafkaRecord`), with a value that is JSON decoded.

        At least once: an offset is committed when the last stages are done with all records below it. A group without
        offsets begins with the ``earliest`` record. ``on_error`` is the policy for records that cannot be decoded.
        ``options``: those of :class:`sage.api.kafka_options.KafkaOptions`, and of ``aiokafka.AIOKafkaConsumer``.
        Extra: ``kafka``.
        """
        checked = kafka_options(bootstrap_servers, topic, group_id, options)
        return self._add_source(lambda: KafkaSource(checked), name, "kafka", on_error)

    def _from_object(
        self, source: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None, delay: Any, kind: str
    ) -> Stream:
        if delay is not None and takes_argument(source, "delay"):
            kwargs, delay = {**kwargs, "delay": delay}, None
        pause = 0.0 if delay is None else check_delay(delay)
        checked = SourceOfJobs(check_source(source, args, kwargs))
        return self._add_source(lambda: IterableSource(checked, self._shared, pause), name, kind)

    def _add_source(
        self, make: Callable[[], RecordSource], name: str | None, default_name: str, on_error: Any = None
    ) -> Stream:
        name = self._plan.reserve_name(name, default_name)
        node = SourceNode(name, make, self._plan.policy(on_error, name))
        self._plan.add(node)
        return Stream(self, (node,))

    # Jobs

    def submit(self, autostop: bool = False) -> Job:
        """Starts the services, then the pipelines, and returns the job. The services stop after it, unless they have
        other users. Raises what keeps the services from starting. ``autostop=True`` is upstream SAGE's name of
        :meth:`execute`."""
        if autostop:
            warn_of_name("submit(autostop=True)", "env.execute()")
            return self.execute()
        return self._start_job(is_awaited=False)

    def _start_job(self, *, is_awaited: bool) -> Job:
        with self._lock:
            self._plan.check()
            nodes = self._plan.nodes
            if not nodes and not self._services.names():
                raise InvalidRequest(f"the environment '{self.name}' has neither streams nor services to run")
            self._add_user()
            builder = JobBuilder(nodes, self._platform.make_worker, self._shared, self.config["queue_size"])
            callers = (self.call_service, self.call_service_async)
            job = Job(self.name, callers, self.config["grace"], lambda: self._after_job(job, builder), is_awaited)
            try:
                builder.start(job)
            except BaseException:
                self._remove_user()
                raise
            self._jobs.append(job)
        return job

    def _after_job(self, job: Job, builder: JobBuilder) -> None:
        try:
            builder.stop()
        finally:
            with self._lock:
                if job in self._jobs:
                    self._jobs.remove(job)
            self._remove_user()

    def execute(self) -> Job:
        """Submits a job, waits for its end and returns it. Raises what the job failed with. Ctrl-C stops the job once
        the records that it has read are done."""
        job = self._start_job(is_awaited=True)
        try:
            job.wait()
        except KeyboardInterrupt:
            job.end()
            raise
        return job


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > 200:
        raise InvalidRequest(f"an environment's name must be a text of up to 200 characters, not {name!r}")
    return name


__all__ = ["Job", "LocalEnvironment", "LocalPlatform", "StillRunning"]
