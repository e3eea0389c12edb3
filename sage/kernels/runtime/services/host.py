"""What runs a service, wherever that is, as its environment sees it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.services.spec import CallTarget, ServiceSpec


class LifeState(StrEnum):
    """Where a service is in its life."""

    SETUP = "setup"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class Host(CallTarget, Protocol):
    """Runs one service."""

    spec: ServiceSpec

    def start(self, callers: Callers) -> None:
        """Makes the service, hands it ``callers``, sets it up and serves. Raises what its making or setup raised."""

    def stop(self, grace: float) -> None:
        """Refuses new calls, lets those that wait or run end within ``grace`` seconds, fails the rest, cleans up.
        Only the first call does this; further ones do no harm."""

    def describe(self) -> dict[str, Any]:
        """``{name, class, host, state, replicas, methods, health, statistics}``, as JSON; never raises."""
