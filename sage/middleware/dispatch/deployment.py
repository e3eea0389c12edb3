"""What answers for a public model: its deployments, and the leases under which they answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from sage.errors import DeadlineExceeded, RateLimited, SageError, Unavailable, UpstreamFailed
from sage.middleware.dispatch.api_keys import Keys, ProviderQuota
from sage.middleware.dispatch.circuit_breaker import Breaker
from sage.middleware.dispatch.retry_budget import RetryBudget
from sage.middleware.engines.lease import ModelLease
from sage.middleware.engines.managed_model import ManagedModel
from sage.middleware.engines.process import EngineFailed
from sage.middleware.providers.base import Endpoint, Provider, UpstreamModel
from sage.middleware.providers.wire.errors import CREDENTIAL_REFUSED
from sage.middleware.settings.providers import Timeouts
from sage.middleware.settings.settings import Routing


class Deployment:
    """One place that answers for a model, how busy it is and how well."""

    __slots__ = (
        "breaker",
        "hosted_error",
        "hosted_memory",
        "hosted_state",
        "in_flight",
        "keys",
        "last_used",
        "managed",
        "max_concurrency",
        "model",
        "name",
        "name_in_headers",
        "plain",
        "priority",
        "provider",
        "retries",
        "share",
        "target",
        "timeouts",
        "weight",
    )

    def __init__(
        self,
        provider: Provider,
        target: UpstreamModel,
        timeouts: Timeouts,
        managed: ManagedModel | None,
        share: ProviderQuota,
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
        self.share = share
        """What it has in common with its provider's other deployments."""
        self.weight = weight
        self.priority = priority
        self.max_concurrency = max_concurrency
        self.retries = min(retries, provider.retries)
        self.in_flight = 0
        self.last_used: float | None = None
        self.hosted_state: str | None = None
        """Of a model that its server loads itself: what was last heard; none if nothing was."""
        self.hosted_error: dict[str, Any] | None = None
        self.hosted_memory: int | None = None
        self.breaker = Breaker()
        self.keys = Keys(share)
        self.plain = max_concurrency is None and share.limit is None and len(self.keys) == 1
        """It has one key and no bound, so that nothing has to be looked at but its health."""

    @property
    def full(self) -> bool:
        """It, or its provider, has all the requests running that it may have."""
        return self.share.full or (self.max_concurrency is not None and self.in_flight >= self.max_concurrency)

    @property
    def state(self) -> str:
        """``unknown`` for a model whose own server was not heard."""
        if self.managed is not None:
            return str(self.managed.state)
        return (self.hosted_state or "unknown") if self.provider.host is not None else "ready"

    @property
    def memory(self) -> int | None:
        """Bytes that it takes once it is loaded, or takes at its own server, where that is known."""
        return (self.managed.size or None) if self.managed is not None else self.hosted_memory

    def describe(self) -> dict[str, Any]:
        """Its part of ``GET /models/{name}``; times are Unix seconds."""
        now = time.monotonic()
        return {
            "provider": self.provider.name,
            "model": self.model,
            "kind": self.provider.kind,
            "weight": self.weight,
            "priority": self.priority,
            "state": self.state,
            "memory": self.memory,
            "in_flight": self.in_flight,
            "max_concurrency": self.max_concurrency,
            **self.health(now),
        }

    def health(self, now: float) -> dict[str, Any]:
        """Its breaker, and for how many seconds it and each of its keys is left alone."""
        until = self.breaker.until
        return {
            "breaker": {
                "state": self.breaker.state(now),
                "failures": self.breaker.failures,
                "opens_for": round(max(0.0, until - now), 3) if until else None,
                "last_failure": self.breaker.last.message if self.breaker.last is not None else None,
            },
            "cooling_for": round(max(0.0, self.keys.free_at(now) - now), 3),
            "keys": self.keys.describe(now),
        }


class DeploymentLease:
    """What one request holds of a deployment while it runs: its slot, a key, its engine, and perhaps the probe.

    Made when the deployment was found to be usable. One of :meth:`succeeded` and :meth:`failed` tells what became of
    the request, neither that nothing was learnt; :meth:`close` must follow.
    """

    __slots__ = ("_engine_lease", "deployment", "key", "model", "probe", "why")

    def __init__(self, deployment: Deployment, key: int = 0, model: PublicModel | None = None, why: str = "") -> None:
        deployment.in_flight += 1
        deployment.share.in_flight += 1
        self.deployment = deployment
        self.key = key
        """Which of the provider's endpoints it asks."""
        self.model = model
        """The model that it answers for, where a choice was made."""
        self.why = why
        self.probe = deployment.breaker.take() if deployment.breaker.until else False
        self._engine_lease: ModelLease | None = None

    async def open(self) -> Endpoint:
        """Where to send the request; of a managed model, once its engine is ready."""
        managed = self.deployment.managed
        if managed is None:
            provider = self.deployment.provider
            if provider.asleep:
                await provider.wake()
            return provider.endpoints[self.key]
        lease = managed.lease()
        endpoint = await lease.__aenter__()
        self._engine_lease = lease
        return endpoint

    async def lost(self, within: float) -> SageError | None:
        """Why the engine that it asked is gone; none if it lives, which takes ``within`` seconds to say."""
        return await self._engine_lease.lost(within) if self._engine_lease is not None else None

    def answered(self, routing: Routing) -> None:
        """The first byte of the answer is there."""
        if self.probe:
            self.probe = False
            self.deployment.breaker.answered(routing.breaker_failures)

    def succeeded(self) -> None:
        """The whole answer is there."""
        breaker = self.deployment.breaker
        if breaker.failures:
            breaker.succeed()

    def failed(self, failure: SageError, now: float, routing: Routing) -> None:
        """Notes what ``failure`` says of the deployment or of the key."""
        deployment = self.deployment
        if isinstance(failure, RateLimited):
            deployment.keys.cool_down(self.key, now + (failure.retry_after or 0.0))
        elif failure.code == CREDENTIAL_REFUSED:
            deployment.keys.refused(self.key, now)
        elif not isinstance(failure, EngineFailed) and isinstance(
            failure, UpstreamFailed | DeadlineExceeded | Unavailable
        ):
            deployment.breaker.fail(now, failure, self.probe, routing)
            self.probe = False

    def close(self) -> None:
        """Lets everything go."""
        deployment = self.deployment
        if self.probe:
            deployment.breaker.give_back()
        deployment.in_flight -= 1
        deployment.share.in_flight -= 1
        deployment.last_used = time.time()
        if self._engine_lease is not None:
            self._engine_lease.release()


@dataclass(slots=True)
class PublicModel:
    """A name that callers use. ``registered`` tells whether the configuration or the program gave it."""

    name: str
    deployments: list[Deployment]
    fallbacks: tuple[str, ...] = ()
    registered: bool = True
    faults: list[str] = field(default_factory=list)
    """Why deployments that were asked for are not there."""
    source: str = "config"
    """Who gave it: ``config``, ``provider``, ``program`` or ``runtime``."""
    shadows: bool = False
    """One of the same name was registered at run time, and waits until this one is gone."""
    preload: bool = False
    pin: bool = False
    waiting: int = 0
    """Requests that wait for one of its deployments."""
    budget: RetryBudget = field(default_factory=RetryBudget)

    @property
    def label(self) -> str:
        """The name in metrics: made from the configuration, never from a request's text."""
        return self.name if self.registered else f"{self.deployments[0].provider.name}/*"

    def describe(self) -> dict[str, Any]:
        """The answer of ``GET /models/{name}``."""
        managed = next((d.managed for d in self.deployments if d.managed), None)
        used = [d.last_used for d in self.deployments if d.last_used is not None]
        states = [d.state for d in self.deployments]
        sizes = {id(d.managed or d): d.memory or 0 for d in self.deployments}
        return {
            "name": self.name,
            "state": "ready" if "ready" in states else next(iter(states), "failed"),
            "provider": self.deployments[0].provider.name if self.deployments else None,
            "deployments": [{**d.describe(), "waiting": self.waiting} for d in self.deployments],
            "fallbacks": list(self.fallbacks),
            "loaded_at": managed.loaded_at if managed else None,
            "last_used": max(used, default=None),
            "in_flight": sum(d.in_flight for d in self.deployments),
            "source": self.source,
            "shadows": self.shadows,
            "pin": self.pin,
            "preload": self.preload,
            "memory": sum(sizes.values()) or None,
            "error": (managed.error if managed else None)
            or next((d.hosted_error for d in self.deployments if d.hosted_error is not None), None)
            or ({"message": "; ".join(self.faults)} if self.faults else None),
        }
