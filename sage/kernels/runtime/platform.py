"""Where the services and the functions of an environment run: on threads of this process, or elsewhere."""

from __future__ import annotations

from typing import Protocol

from sage.kernels.runtime.services.host import Host
from sage.kernels.runtime.services.local_host import LocalHost
from sage.kernels.runtime.services.spec import ServiceSpec
from sage.kernels.runtime.streams.shared_instances import SharedInstances
from sage.kernels.runtime.streams.stage_function import StageFunction
from sage.kernels.runtime.streams.workers import LocalWorker, Worker


class Platform(Protocol):
    """Makes what runs services and functions: :class:`LocalPlatform`, or on Ray
    :class:`sage.kernels.runtime.ray.platform.RayPlatform`.

    An environment starts it for its first user, before its services, and stops it after them; then it may be started
    again.
    """

    def start(self) -> None: ...

    def make_host(self, spec: ServiceSpec) -> Host: ...

    def make_worker(self, function: StageFunction, index: int) -> Worker:
        """The worker number ``index`` of its stage."""

    def stop(self) -> None: ...


class LocalPlatform:
    """Threads of this process."""

    def __init__(self, shared: SharedInstances) -> None:
        self._shared = shared

    def start(self) -> None:
        pass

    def make_host(self, spec: ServiceSpec) -> Host:
        return LocalHost(spec)

    def make_worker(self, function: StageFunction, index: int) -> Worker:
        return LocalWorker(function, self._shared)

    def stop(self) -> None:
        pass
