"""An environment: services under names of its own, and pipelines whose functions call them."""

from __future__ import annotations

import difflib
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import platformdirs

from sage.api.sources import IterableSource, check_source
from sage.api.stream import Stream
from sage.errors import InvalidRequest
from sage.kernels.runtime.discovery.discovery import Announcement, Heartbeat, open_board
from sage.kernels.runtime.services.callers import AsyncServiceCaller, ServiceCaller
from sage.kernels.runtime.services.host import Host
from sage.kernels.runtime.services.local_host import LocalHost
from sage.kernels.runtime.services.registry import Services
from sage.kernels.runtime.services.spec import ServiceSpec
from sage.kernels.runtime.streams.error_policy import Policy, policy_of
from sage.kernels.runtime.streams.job import Job, StillRunning
from sage.kernels.runtime.streams.plan import JobBuilder, SourceNode, StageNode
from sage.kernels.runtime.streams.workers import LocalWorker, Platform, SharedInstances, StageFunction, Worker
from sage.kernels.runtime.upstream import warn_of_upstream

_DEFAULTS: dict[str, Any] = {
    "discovery": "",  # the file of this machine
    "queue_size": 1000,
    "on_error": "fail",
    "grace": 10.0,
    "ray": {},
}


class LocalPlatform:
    """Threads of this process."""

    def __init__(self, lives: SharedInstances) -> None:
        self._lives = lives

    def start(self) -> None:
        pass

    def make_host(self, spec: ServiceSpec) -> Host:
        return LocalHost(spec)

    def make_worker(self, function: StageFunction, index: int) -> Worker:
        return LocalWorker(function, self._lives)

    def stop(self) -> None:
        pass


class LocalEnvironment:
    """``config`` may hold ``discovery`` (the path of a SQLite file or a Redis URL under which its services are
    announced; ``None``: nowhere), ``queue_size`` (records that wait before each stage), ``on_error`` (the policy of
    stages that name none), ``grace`` (seconds that what runs has to end) and ``ray`` (for ``platform="ray"``).

    Its services live while ``with env:``, between :meth:`start` and :meth:`stop`, or while a job runs.
    """

    def __init__(self, name: str, config: Mapping[str, Any] | None = None, *, platform: str = "local") -> None:
        warn_of_upstream()
        self.name = _check_text(name)
        self.config = _DEFAULTS | _checked(config or {})
        self._lives = SharedInstances()
        self._platform = self._make_platform(platform)
        self._services = Services(name, self._platform.make_host)
        self._nodes: list[SourceNode | StageNode] = []
        self._names: set[str] = set()
        self._jobs: list[Job] = []
        self._users = 0
        """Starts, and jobs that run."""
        self._starts = 0
        self._lock = threading.RLock()
        self._heartbeat: Heartbeat | None = None
        self._node = secrets.token_hex(8)
        self._started_at = 0.0

    def _make_platform(self, platform: str) -> Platform:
        if platform == "local":
            return LocalPlatform(self._lives)
        if platform == "ray":
            from sage.kernels.runtime.ray.platform import RayPlatform

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
        """As :attr:`call_service`; gives futures that can be awaited."""
        return self._services.call_async

    def services(self) -> list[dict[str, Any]]:
        """Of each service that runs: ``{name, class, host, state, replicas, methods, health, statistics}``."""
        return self._services.describe()

    def discover(self) -> list[dict[str, Any]]:
        """What runs on the board of this environment, its own services and those of others: as :meth:`services`, with
        ``environment``, ``node``, ``kind`` and ``seen_at``."""
        if (address := self._board_address()) is None:
            return [{**found, **self._labels()} for found in self.services()]
        board = open_board(address)
        try:
            living = board.living()
        finally:
            board.close()
        return [
            {**service, "environment": one.environment, "node": one.node, "kind": one.kind, "seen_at": one.at}
            for one in living
            for service in (self.services() if one.node == self._node else one.services)
        ]

    def _labels(self) -> dict[str, Any]:
        return {"environment": self.name, "node": self._node, "kind": "environment", "seen_at": time.time()}

    def _board_address(self) -> str | None:
        address = self.config["discovery"]
        if address != "":
            return None if address is None else str(address)
        place = os.environ.get("SAGE_DATA_DIR") or platformdirs.user_data_dir("sage", appauthor=False)
        return str(Path(place) / "services.sqlite")

    def start(self) -> None:
        """Starts the services, for this one user more; :meth:`stop` once for each start."""
        with self._lock:
            self._use()
            self._starts += 1

    def _use(self) -> None:
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
            if self._users == 1:
                self._announce()

    def stop(self) -> None:
        """Once for each start: with the last, what still runs of its jobs ends within its grace, then the services."""
        with self._lock:
            started = self._starts > 0
            self._starts -= started
            jobs = list(self._jobs) if self._starts == 0 else []
        for job in jobs:
            job.end()
        if started:
            self._release()

    def _release(self) -> None:
        with self._lock:
            if self._users == 0:
                return
            if self._users > 1:
                self._users -= 1
                self._services.stop(self.config["grace"])
                return
            if self._heartbeat is not None:
                self._heartbeat.stop()
                self._heartbeat = None
            self._users = 0
            try:
                self._services.stop(self.config["grace"])
            finally:
                self._platform.stop()

    def _announce(self) -> None:
        if not self._services.names() or (address := self._board_address()) is None:
            return
        self._started_at = time.time()
        self._heartbeat = Heartbeat(address, self._announcement)
        self._heartbeat.start()

    def _announcement(self) -> Announcement:
        return Announcement(
            node=self._node,
            environment=self.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            services=self.services(),
            started_at=self._started_at,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Streams

    def from_batch(self, records: Iterable[Any], *, name: str | None = None) -> Stream:
        """The records of ``records``, once for each job."""
        if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
            raise InvalidRequest(f"from_batch takes many records (a list, a generator), not {records!r}")
        return self._source(name or "batch", name is not None, lambda: IterableSource(lambda: records, self._lives))

    def from_source(self, source: Any, *args: Any, name: str | None = None, **kwargs: Any) -> Stream:
        """The records of ``source``: an iterable; a function that gives one (``async`` generators too); an object or a
        class (made with ``args`` and ``kwargs`` for each job) with ``run`` or ``__iter__`` that gives one, or with
        ``process`` or ``execute`` that gives a record each time, at last ``None``."""
        make = check_source(source, args, kwargs)
        return self._source(name or "source", name is not None, lambda: IterableSource(make, self._lives))

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
        """Records ``{value, key, topic, partition, offset, timestamp}`` of Kafka
        (:class:`sage.api.kafka_records.KafkaRecord`), a value that is JSON decoded; for ever, until the job is stopped.

        At least once: an offset is committed when the last stages are done with all records below it, and a group that
        has none begins with the ``earliest``. ``on_error``: what becomes of records that cannot be decoded.
        ``options``: those of :class:`sage.api.kafka_source.KafkaOptions`, and of ``aiokafka.AIOKafkaConsumer``.
        Extra: ``kafka``.
        """
        from sage.api.kafka_source import KafkaSource, kafka_options

        found = kafka_options(bootstrap_servers, topic, group_id, options)
        return self._source(name or "kafka", name is not None, lambda: KafkaSource(found), on_error)

    def _source(self, name: str, own: bool, make: Any, on_error: Any = None) -> Stream:
        name = self._free_name(name, own)
        return self._add(SourceNode(name, make, self._policy(on_error, name)))

    def _add(self, node: SourceNode | StageNode) -> Stream:
        with self._lock:
            self._nodes.append(node)
        return Stream(self, (node,))

    def _free_name(self, name: str, own: bool = False) -> str:
        """``name``, numbered when it is taken; a name that the user gave (``own``) is refused then."""
        with self._lock:
            if own and name in self._names:
                raise InvalidRequest(f"the environment '{self.name}' has a stage '{name}' already", param="name")
            free, number = name, 1
            while free in self._names:
                number += 1
                free = f"{name}-{number}"
            self._names.add(free)
            return free

    def _policy(self, on_error: Any, stage: str) -> Policy:
        return policy_of(self.config["on_error"] if on_error is None else on_error, stage)

    # Jobs

    def submit(self) -> Job:
        """Starts the services, then the pipeline; gives its handle. The services end after it, unless others use them.

        Raises what keeps the services from starting.
        """
        with self._lock:
            nodes = list(self._nodes)
            if not nodes and not self._services.names():
                raise InvalidRequest(f"the environment '{self.name}' has neither streams nor services to run")
            self._use()
            launch = JobBuilder(nodes, self._platform.make_worker, self._lives, self.config["queue_size"])
            callers = (self.call_service, self.call_service_async)
            job = Job(self.name, callers, self.config["grace"], lambda: self._job_ended(job, launch))
            try:
                launch.start(job)
            except BaseException:
                self._release()
                raise
            self._jobs.append(job)
        return job

    def _job_ended(self, job: Job, launch: JobBuilder) -> None:
        try:
            launch.stop()
        finally:
            with self._lock:
                if job in self._jobs:
                    self._jobs.remove(job)
            self._release()

    def execute(self) -> Job:
        """:meth:`submit`, and waits for the end; raises what the job fails with. Ctrl-C stops it, finishing what was
        read."""
        job = self.submit()
        try:
            job.wait()
        except KeyboardInterrupt:
            job.end()
            raise
        return job


def _check_text(name: object) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > 200:
        raise InvalidRequest(f"an environment's name must be a text of up to 200 characters, not {name!r}")
    return name


def _checked(config: Mapping[str, Any]) -> dict[str, Any]:
    for word in config:
        if word not in _DEFAULTS:
            near = difflib.get_close_matches(str(word), _DEFAULTS, 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; there are: {', '.join(_DEFAULTS)}"
            raise InvalidRequest(f"an environment has no setting '{word}'{hint}", param=str(word))
    size, grace = config.get("queue_size", 1), config.get("grace", 0.0)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InvalidRequest(f"queue_size must be a whole number from 1, not {size!r}", param="queue_size")
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace < float("inf"):
        raise InvalidRequest(f"grace must be seconds from 0, not {grace!r}", param="grace")
    policy_of(config.get("on_error", "fail"), "the environment")
    return dict(config)


__all__ = ["Job", "LocalEnvironment", "LocalPlatform", "StillRunning"]
