"""A service as actors of Ray: one for each replica, under a name in the namespace of its environment."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sage.errors import Conflict, InvalidRequest, Unavailable
from sage.kernels.runtime.ray.actor import EXCHANGES, GROUPS, ServiceActor
from sage.kernels.runtime.ray.cluster import RayCluster
from sage.kernels.runtime.ray.package import load_ray
from sage.kernels.runtime.ray.remote_service import Replicas, actor_name, link_replicas
from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.services.calls import ServiceCall
from sage.kernels.runtime.services.host import LifeState
from sage.kernels.runtime.services.spec import Method, ServiceSpec
from sage.processors import contention

_BUSIEST = 5.0
"""Times that an answer may take longer on a busy machine."""
_ANSWER = 2.0
"""Seconds that a replica has to describe itself, on an idle machine."""


class RayHost:
    """Serves ``spec`` with actors: meets :class:`sage.kernels.runtime.services.host.Host`."""

    def __init__(self, spec: ServiceSpec, cluster: RayCluster) -> None:
        self.spec = spec
        self._cluster = cluster
        self._state = LifeState.STOPPED
        self._actors: list[Any] = []
        self._replicas = Replicas(spec.name, [], {})
        self._started = False

    def start(self, callers: Callers) -> None:
        if self._started:
            raise Conflict(f"the service '{self.spec.name}' was started already")
        self._started = True
        self._state = LifeState.SETUP
        try:
            self._start()
        except BaseException:
            self._state = LifeState.FAILED
            self._kill()
            raise
        self._state = LifeState.RUNNING

    def _start(self) -> None:
        ray = load_ray()
        spec, count = self.spec, self.spec.options.replicas
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InvalidRequest(f"the service '{spec.name}' needs a whole number from 1 as replicas, not {count!r}")
        options = self._cluster.actor_options(spec.name, spec.options.placement)
        actor_class: Any = ray.remote(concurrency_groups=GROUPS)(ServiceActor)
        for replica in range(count):
            actor = actor_class.options(
                **{"max_concurrency": EXCHANGES, **options, "name": actor_name(spec.name, replica)}
            ).remote(spec, self._cluster.namespace, self._cluster.environment, count)
            self._actors.append(actor)
        self._replicas = link_replicas(spec.name, self._actors, self._cluster.patience())

    def methods(self) -> Mapping[str, Method]:
        return self._replicas.methods()

    def submit(self, call: ServiceCall) -> None:
        if self._state is not LifeState.RUNNING:
            raise Unavailable(
                f"the service '{self.spec.name}' is {self._state}; it takes no calls", code="service_stopped"
            )
        self._replicas.submit(call)

    def stop(self, grace: float) -> None:
        ray = load_ray()
        if self._state is not LifeState.RUNNING:
            return
        self._state = LifeState.STOPPING
        try:
            if ray.is_initialized():
                end = time.monotonic() + grace
                refs = [actor.stop.options(concurrency_group="control").remote(grace) for actor in self._actors]
                ray.wait(refs, num_returns=len(refs), timeout=grace + _ANSWER)
                while any(link.load for link in self._replicas.links) and time.monotonic() < end:
                    time.sleep(0.01)  # the last results are on their way
        finally:
            self._replicas.close()
            self._kill()
            self._state = LifeState.STOPPED

    def _kill(self) -> None:
        ray = load_ray()
        if ray.is_initialized():
            for actor in self._actors:
                ray.kill(actor, no_restart=True)
        self._actors = []

    def describe(self) -> dict[str, Any]:
        ray = load_ray()
        descriptions: list[dict[str, Any]] = []
        if self._state is LifeState.RUNNING and ray.is_initialized():
            refs = [actor.describe.options(concurrency_group="control").remote() for actor in self._actors]
            for ref in ray.wait(refs, num_returns=len(refs), timeout=_ANSWER * min(contention(), _BUSIEST))[0]:
                try:
                    descriptions.append(ray.get(ref))
                except Exception:  # noqa: S112 - a dead replica has no description
                    continue
        return _summary(self.spec, self._state, descriptions)


def _summary(spec: ServiceSpec, state: LifeState, replicas: list[dict[str, Any]]) -> dict[str, Any]:
    """The descriptions of the replicas as that of one service: sums, and the slowest latency."""
    statistics: dict[str, Any] = {}
    for name in ("calls", "errors", "queue_depth", "queue_size", "workers", "running"):
        statistics[name] = sum(replica["statistics"][name] for replica in replicas)
    latencies: list[dict[str, Any]] = [replica["statistics"]["latency_ms"] for replica in replicas]
    statistics["latency_ms"] = {
        name: max((latency[name] for latency in latencies if latency[name] is not None), default=None)
        for name in ("mean", "p50", "p99")
    }
    are_all_healthy = all(replica["health"].get("healthy", True) for replica in replicas)
    health = dict(replicas[0]["health"]) if replicas else {}
    health |= {
        "healthy": len(replicas) == spec.options.replicas and are_all_healthy,
        "replicas_answering": len(replicas),
    }
    return {
        "name": spec.name,
        "class": replicas[0]["class"] if replicas else getattr(spec.service_class, "__name__", None),
        "host": ", ".join(replica["host"] for replica in replicas) or "ray",
        "state": state.value,
        "replicas": spec.options.replicas,
        "methods": replicas[0]["methods"] if replicas else [],
        "health": health,
        "statistics": statistics,
    }
