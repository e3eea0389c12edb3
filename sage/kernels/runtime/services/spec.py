"""A service as its registry, its hosts and its callers see it: how it is made and hosted, and what can be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sage.kernels.runtime.services.calls import ServiceCall


@dataclass(frozen=True, slots=True)
class Method:
    """What a caller must know of a public method."""

    name: str
    is_async: bool
    takes_timeout: bool
    """It has a parameter ``timeout`` of its own, which a call's ``timeout=`` then goes to."""


@dataclass(frozen=True)
class ServiceOptions:
    """How a service is hosted; ``None`` means as its class says."""

    max_workers: int | None = None
    queue_size: int | None = None
    replicas: int = 1
    """On Ray, the number of actors that share its calls."""
    placement: Mapping[str, Any] = field(default_factory=dict)
    """On Ray, the options of its actors (``num_cpus``, ``resources``, ``scheduling_strategy``, …)."""


@dataclass(frozen=True)
class ServiceSpec:
    """One registered service: all that a host needs to make it, here or elsewhere."""

    name: str
    service_class: type | None
    """``None`` means unknown until the factory has made an instance."""
    make: Callable[[], Any]
    needs: tuple[str, ...] = ()
    options: ServiceOptions = field(default_factory=ServiceOptions)
    uses: tuple[str, ...] = ()
    """Services that start before it where they are registered."""


class CallTarget(Protocol):
    """Takes the calls of one service, which runs in this process or elsewhere."""

    def methods(self) -> Mapping[str, Method]: ...

    def submit(self, call: ServiceCall) -> None:
        """Queues ``call``. Raises :class:`sage.errors.Unavailable` when the queue is full or the service is not
        running; whatever happens later settles the call."""
