"""Where an environment on Ray runs: its services and the functions of its pipelines are actors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.kernels.runtime.ray.cluster import RayCluster
from sage.kernels.runtime.ray.host import RayHost
from sage.kernels.runtime.ray.worker import RayWorker
from sage.kernels.runtime.services.host import Host
from sage.kernels.runtime.services.spec import ServiceSpec
from sage.kernels.runtime.streams.shared_instances import SharedInstances
from sage.kernels.runtime.streams.stage_function import FunctionKind, StageFunction
from sage.kernels.runtime.streams.workers import LocalWorker, Worker


class RayPlatform:
    """``config``: see :class:`sage.kernels.runtime.ray.cluster.RayCluster`.

    Sinks run in the process of the environment, where their effects can be seen: what they fill, print or close.
    """

    def __init__(self, environment: str, config: Mapping[str, Any]) -> None:
        self._cluster = RayCluster(environment, config)
        self._instances = SharedInstances()

    def start(self) -> None:
        self._cluster.open()

    def make_host(self, spec: ServiceSpec) -> Host:
        return RayHost(spec, self._cluster)

    def make_worker(self, function: StageFunction, index: int) -> Worker:
        if function.kind is FunctionKind.SINK:
            return LocalWorker(function, self._instances)
        return RayWorker(function, index, self._cluster)

    def stop(self) -> None:
        self._cluster.close()
