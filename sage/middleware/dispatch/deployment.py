"""Public models, their deployments, and the leases of requests on them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from sage.errors import DeadlineExceeded, RateLimited, SageError, Unavailable, UpstreamFailed
from sage.middleware.dispatch.api_keys import Keys, ProviderQuota
from sage.middleware.dispatch.caller_breakers import Breakers, Caller
from sage.middleware.dispatch.circuit_breaker import Breaker
from sage.middleware.dispatch.retry_budget import RetryBudget
from sage.middleware.engines.lease import ModelLease
from sage.middleware.engines.managed_model import ManagedModel
from sage.middleware.engines.process import EngineFailed
from sage.middleware.providers.base import Endpoint, Provider, UpstreamModel
from sage.middleware.providers.wire.errors import CREDENTIAL_REFUSED
from sage.middleware.settings.budgets import BudgetSettings
from sage.middleware.settings.limits import SubjectLimits
from sage.middleware.settings.providers import Timeouts
from sage.middleware.settings.settings import Routing
from sage.middleware.settings.usage import PriceSettings

_PASSING = ("connect_failed", "connect_timeout", "upstream_broken")
"""Codes of failures without an answer that may be over in a moment."""


class Deployment:
    """One model at one provider: how busy it is, and its health."""

    __slots__ = (
        "__weakref__",
        "breaker",
        "header",
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
        "opens",
        "price",
        "priority",
        "provider",
        "quota",
        "retries",
        "target",
        "timeouts",
        "unconstrained",
        "weight",
    )

    def __init__(
        self,
        provider: Provider,
        target: UpstreamModel,
        timeouts: Timeouts,
        managed: ManagedModel | None,
        quota: ProviderQuota,
        *,
        weight: float = 1.0,
        priority: int = 0,
        max_concurrency: int | None = None,
        retries: int = 2,
        price: PriceSettings | None = None,
    ) -> None:
        self.provider = provider
        self.target = target
        self.model = target.model
        self.name = f"{provider.name}/{target.model}"
        # Models may be named in any script; a header's value is ASCII.
        self.header = b"x-sage-deployment", quote(self.name, safe="/:@+,;=()!$&'*~ ").encode()
        """Names it in answers."""
        self.timeouts = timeouts
        self.managed = managed
        self.opens = managed is not None or provider.can_sleep
        """Whether something may have to be loaded or woken before it is asked."""
        self.quota = quota
        """What it shares with the other deployments of its provider."""
        self.weight = weight
        self.priority = priority
        self.max_concurrency = max_concurrency
        self.retries = min(retries, provider.retries)
        self.price = price
        """What it costs; ``None`` means as its model does elsewhere."""
        self.in_flight = 0
        self.last_used: float | None = None
        self.hosted_state: str | None = None
        """For a model that its own server loads: the last state that the server reported; ``None`` means unknown."""
        self.hosted_error: dict[str, Any] | None = None
        self.hosted_memory: int | None = None
        self.breaker = Breakers()
        self.keys = Keys(quota)
        bounds = (max_concurrency, quota.limit, self.slots)
        self.unconstrained = all(bound is None for bound in bounds) and len(self.keys) == 1
        """One key and no bound: only its health decides whether it can be asked."""

    @property
    def full(self) -> bool:
        """Whether it or its provider has reached ``max_concurrency``."""
        return self.quota.full or (self.max_concurrency is not None and self.in_flight >= self.max_concurrency)

    @property
    def bounds(self) -> tuple[object, ...]:
        """The owners of what it may lack: what other deployments share with it, or itself."""
        shared: list[object] = [self.quota] if self.quota.limit is not None else []
        if self.slots is not None:
            shared.append(self.managed)
        return tuple(shared) if shared and self.max_concurrency is None else (*shared, self)

    @property
    def slots(self) -> int | None:
        """How many requests its engine computes at a time; ``None`` means that this is its server's own matter."""
        return self.managed.slots if self.managed is not None else None

    @property
    def slots_taken(self) -> bool:
        """Whether its engine has no slot left."""
        managed = self.managed
        return managed is not None and managed.slots is not None and managed.slots_in_use >= managed.slots

    @property
    def state(self) -> str:
        """``unknown`` for a model whose own server has not reported it yet."""
        if self.managed is not None:
            return str(self.managed.state)
        return (self.hosted_state or "unknown") if self.provider.host is not None else "ready"

    @property
    def memory(self) -> int | None:
        """Bytes that it takes once loaded, here or at its own server; ``None`` means unknown."""
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
            "loadable": self.managed is not None or self.provider.host is not None,
            "memory": self.memory,
            "in_flight": self.in_flight,
            "max_concurrency": self.max_concurrency,
            **self.health(now),
        }

    def health(self, now: float) -> dict[str, Any]:
        """Its breaker, and for how many seconds it and each of its keys is not asked."""
        breaker = self.breaker.shown(now)
        until = breaker.until
        return {
            "breaker": {
                "state": breaker.state(now),
                "failures": breaker.failures,
                "opens_for": round(max(0.0, until - now), 3) if until else None,
                "last_failure": breaker.last.message if breaker.last is not None else None,
            },
            "cooling_for": round(max(0.0, self.keys.available_at(now) - now), 3),
            "keys": self.keys.describe(now),
        }


class DeploymentLease:
    """What one request holds of a deployment while it runs: its slot, a key, its engine, and perhaps probes.

    Made when the deployment can be asked; :meth:`close` must follow.
    """

    __slots__ = ("_engine_lease", "_slot_of", "caller", "deployment", "key", "model", "probes")

    def __init__(
        self,
        deployment: Deployment,
        key: int,
        model: PublicModel | None,
        caller: Caller,
        slot_of: ManagedModel | None = None,
    ) -> None:
        """``slot_of``: whose slot it takes."""
        deployment.in_flight += 1
        deployment.quota.in_flight += 1
        self._slot_of = slot_of
        if slot_of is not None:
            slot_of.slots_in_use += 1
        self.deployment = deployment
        self.key = key
        """The index of the provider's endpoint that it asks."""
        self.model = model
        """The model that it answers for; ``None`` where there was no choice."""
        self.caller = caller
        self.probes: tuple[Breaker, ...] = deployment.breaker.take(caller) if deployment.breaker.is_open else ()
        """The breakers whose probe it is."""
        self._engine_lease: ModelLease | None = None

    async def open(self) -> Endpoint:
        """Where to send the request. Makes the engine of a managed model ready first."""
        managed = self.deployment.managed
        if managed is None:
            provider = self.deployment.provider
            if provider.asleep:
                await provider.wake()
            return provider.endpoints[self.key]
        lease = managed.lease(self.caller[0])
        endpoint = await lease.__aenter__()
        self._engine_lease = lease
        return endpoint

    async def engine_death(self, within: float) -> SageError | None:
        """Why its engine ended; ``None`` if the engine lives, which takes ``within`` seconds to find out."""
        return await self._engine_lease.engine_death(within) if self._engine_lease is not None else None

    def answered(self, routing: Routing) -> None:
        """The first byte of the answer came."""
        if self.probes:
            self.deployment.breaker.answered(self.probes, routing.breaker_failures)
            self.probes = ()

    def failed(self, failure: SageError, now: float, routing: Routing) -> None:
        """Records what ``failure`` shows of the deployment or of the key."""
        deployment = self.deployment
        if isinstance(failure, RateLimited):
            deployment.keys.cool_down(self.key, now + (failure.retry_after or 0.0))
        elif failure.code == CREDENTIAL_REFUSED:
            deployment.keys.mark_refused(self.key, now, is_invalid=failure.upstream_status == 401)
        elif is_deployments_fault(failure):
            deployment.breaker.fail(self.caller, now, failure, self.probes, routing)
            self.probes = ()

    def close(self) -> None:
        """Gives everything back."""
        deployment = self.deployment
        if self.probes:
            deployment.breaker.give_back(self.probes)
        deployment.in_flight -= 1
        if self._slot_of is not None:
            self._slot_of.slots_in_use -= 1
        deployment.quota.in_flight -= 1
        deployment.last_used = time.time()
        if self._engine_lease is not None:
            self._engine_lease.release()


def is_deployments_fault(failure: SageError) -> bool:
    """Whether ``failure`` may be the deployment's own: a 4xx is about the request, or about our account."""
    if isinstance(failure, EngineFailed) or failure.code == "upstream_closed":
        return False
    if not isinstance(failure, UpstreamFailed | DeadlineExceeded | Unavailable):
        return False
    status = failure.upstream_status
    return status is None or status >= 500 or status == 408 or status < 400


def may_pass(failure: SageError) -> bool:
    """Whether the same deployment may answer if it is asked once more: it failed, and not by being slow."""
    if not is_deployments_fault(failure):
        return False
    if failure.upstream_status is not None:
        return failure.upstream_status == 408 or (failure.upstream_status >= 500 and failure.upstream_status != 501)
    return failure.code in _PASSING


@dataclass(slots=True)
class PublicModel:
    """A name that callers use, with what answers for it."""

    name: str
    deployments: list[Deployment]
    fallbacks: tuple[str, ...] = ()
    registered: bool = True
    """Whether it was registered, rather than made of a provider's name and a model of it."""
    faults: list[str] = field(default_factory=list)
    """Why deployments that are configured for it cannot be used."""
    source: str = "config"
    """Where it was registered: ``config``, ``provider``, ``program`` or ``runtime``."""
    shadows: bool = False
    """A model of the same name that was registered at run time waits until this one is removed."""
    preload: bool = False
    pin: bool = False
    waiting: int = 0
    """Requests that wait for one of its deployments."""
    limits: tuple[SubjectLimits, ...] = ()
    """Its own, of all its callers together."""
    budget: RetryBudget = field(default_factory=RetryBudget)
    spending: BudgetSettings | None = None
    """What all its callers together may spend on it."""

    label: str = field(init=False)
    """The name in metrics: from the configuration, never the text of a request."""

    def __post_init__(self) -> None:
        self.label = self.name if self.registered else f"{self.deployments[0].provider.name}/*"

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
