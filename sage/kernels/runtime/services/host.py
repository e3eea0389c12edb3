"""What runs a service, wherever that is, as the environment and its callers see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from sage.kernels.runtime.service.base_service_task import Method, ServiceOptions
from sage.kernels.runtime.services.calls import ServiceCall

if TYPE_CHECKING:
    from sage.kernels.runtime.services.callers import AsyncServiceCaller, ServiceCaller


class LifeState(StrEnum):
    """Where a service is in its life."""

    SETUP = "setup"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class ServiceSpec:
    """One registered service: all that a host needs to make it, here or elsewhere."""

    name: str
    service_class: type | None
    """``None``: known once the factory has made one."""
    make: Callable[[], Any]
    needs: tuple[str, ...] = ()
    options: ServiceOptions = field(default_factory=ServiceOptions)


class Host(Protocol):
    """Runs one service."""

    spec: ServiceSpec

    def start(self, callers: tuple[ServiceCaller, AsyncServiceCaller]) -> None:
        """Makes the service, hands it ``callers``, sets it up and serves. Raises what its making or setup raised."""

    def stop(self, grace: float) -> None:
        """Refuses new calls, ends those that stand in line or run within ``grace`` seconds, fails the rest, cleans up.
        Once only; harmless again."""

    def methods(self) -> Mapping[str, Method]: ...

    def submit(self, call: ServiceCall) -> None:
        """Puts ``call`` in line. Raises :class:`sage.errors.Unavailable` when the line is full or the service is not
        running; whatever happens later settles the call."""

    def describe(self) -> dict[str, Any]:
        """``{name, class, host, state, replicas, methods, health, statistics}``, as JSON; never raises."""
