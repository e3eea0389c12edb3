"""What answers for a public model: its deployments, and the leases under which they answer."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import quote

from sage.errors import Unavailable
from sage.middleware.provider_settings import Timeouts
from sage.middleware.providers.base import Endpoint, Provider, Target
from sage.middleware.providers.lifecycle import ManagedModel


class Deployment:
    """One place that answers for a model, and how busy it is."""

    __slots__ = (
        "in_flight",
        "last_used",
        "managed",
        "max_concurrency",
        "model",
        "name",
        "name_in_headers",
        "priority",
        "provider",
        "retries",
        "target",
        "timeouts",
        "weight",
    )

    def __init__(
        self,
        provider: Provider,
        target: Target,
        timeouts: Timeouts,
        managed: ManagedModel | None,
        *,
        weight: float = 1.0,
        priority: int = 0,
        max_concurrency: int | None = None,
        retries: int = 2,
    ) -> None:
        self.provider = provider
        self.target = target
        self.model = target.model
        self.name = f"{provider.name}/{target.model}"
        # Models may be named in any script; a header's value is ASCII.
        self.name_in_headers = quote(self.name, safe="/:@+,;=()!$&'*~ ").encode()
        self.timeouts = timeouts
        self.managed = managed
        self.weight = weight
        self.priority = priority
        self.max_concurrency = max_concurrency
        self.retries = min(retries, provider.retries)
        self.in_flight = 0
        self.last_used: float | None = None

    def describe(self) -> dict[str, Any]:
        """Its part of ``GET /models/{name}``; times are Unix seconds."""
        return {
            "provider": self.provider.name,
            "model": self.model,
            "kind": self.provider.kind,
            "weight": self.weight,
            "priority": self.priority,
            "state": str(self.managed.state) if self.managed else "ready",
            "in_flight": self.in_flight,
        }


class Lease:
    """``async with`` it: the deployment is ready and counted as busy until the block ends."""

    __slots__ = ("_busy", "_deployment", "_lease")

    def __init__(self, busy: Counter[str], deployment: Deployment) -> None:
        """``busy`` counts the requests that run at each provider."""
        self._busy = busy
        self._deployment = deployment
        self._lease: Any = None

    async def __aenter__(self) -> Endpoint:
        deployment, busy = self._deployment, self._busy
        provider = deployment.provider
        running = busy[provider.name]
        if provider.max_concurrency is not None and running >= provider.max_concurrency:
            raise Unavailable(
                f"the provider '{provider.name}' has its {provider.max_concurrency} requests running "
                f"(llm.providers.{provider.name}.max_concurrency); try again soon",
                code="overloaded",
            )
        if deployment.max_concurrency is not None and deployment.in_flight >= deployment.max_concurrency:
            raise Unavailable(
                f"'{deployment.name}' has its {deployment.max_concurrency} requests running (max_concurrency of its "
                "model); try again soon",
                code="overloaded",
            )
        busy[provider.name] = running + 1
        deployment.in_flight += 1
        try:
            if deployment.managed is not None:
                self._lease = deployment.managed.lease()
                endpoint = await self._lease.__aenter__()
                assert isinstance(endpoint, Endpoint)
                return endpoint
            fixed = provider.endpoints[0]
        except BaseException:
            self._release()
            raise
        return fixed

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._lease is not None:
                await self._lease.__aexit__(kind, exc, trace)
        finally:
            self._release()

    def _release(self) -> None:
        self._deployment.in_flight -= 1
        self._deployment.last_used = time.time()
        self._busy[self._deployment.provider.name] -= 1


@dataclass(slots=True)
class PublicModel:
    """A name that callers use. ``registered`` tells whether the configuration or the program gave it."""

    name: str
    deployments: list[Deployment]
    fallbacks: tuple[str, ...] = ()
    registered: bool = True
    faults: list[str] = field(default_factory=list)
    """Why deployments that were asked for are not there."""

    @property
    def label(self) -> str:
        """The name in metrics: made from the configuration, never from a request's text."""
        return self.name if self.registered else f"{self.deployments[0].provider.name}/*"

    def describe(self) -> dict[str, Any]:
        """The answer of ``GET /models/{name}``."""
        managed = next((d.managed for d in self.deployments if d.managed), None)
        used = [d.last_used for d in self.deployments if d.last_used is not None]
        state = str(managed.state) if managed and len(self.deployments) == 1 else "ready"
        return {
            "name": self.name,
            "state": state if self.deployments else "failed",
            "provider": self.deployments[0].provider.name if self.deployments else None,
            "deployments": [d.describe() for d in self.deployments],
            "fallbacks": list(self.fallbacks),
            "loaded_at": managed.loaded_at if managed else None,
            "last_used": max(used, default=None),
            "in_flight": sum(d.in_flight for d in self.deployments),
            "error": (managed.error if managed else None)
            or ({"message": "; ".join(self.faults)} if self.faults else None),
        }
