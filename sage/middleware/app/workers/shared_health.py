"""What one process of a gateway learns of a deployment's health, for the others: keys that cool down or were refused,
and the breaker of all callers.

Each process finds out the rest by itself: the breakers of single callers and tenants, and how far a row of failures has
come. So with several processes a deployment may fail a few times more before all of them leave it alone, and each of
them sends a probe of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

from sage.middleware.app.workers.messages import DeploymentHealth
from sage.middleware.dispatch.deployment import Deployment
from sage.middleware.registry.registry import Registry
from sage.middleware.settings.settings import Routing


class HealthReports:
    """Tells the others what :class:`~sage.middleware.dispatch.dispatch.Dispatch` notes of failures, and takes what they
    tell."""

    def __init__(self, registry: Registry, routing: Routing, tell: Callable[[DeploymentHealth], None]) -> None:
        self._registry = registry
        self._routing = routing
        self._tell = tell
        self._told: WeakKeyDictionary[Deployment, DeploymentHealth] = WeakKeyDictionary()

    def changed(self, deployment: Deployment) -> None:
        """A request at ``deployment`` failed, or its probe was answered."""
        place = self._place(deployment)
        if place is None:
            return
        health = _health(deployment, *place)
        told = self._told.get(deployment)
        if told is None and not _is_news(health):
            return
        if told is None or _facts(told) != _facts(health):
            self._told[deployment] = health
            self._tell(health)

    def heard(self, health: DeploymentHealth) -> None:
        """Another process has learnt that; where it is news, this one goes by it too."""
        model = self._registry.get(health.model)
        if model is None or health.deployment >= len(model.deployments):
            return
        deployment, now = model.deployments[health.deployment], time.monotonic()
        if len(deployment.keys) != len(health.cooling_until):
            return
        for key, until in enumerate(health.cooling_until):
            if until > now:
                deployment.keys.cool_down(key, until)
        deployment.quota.heard_of_refusals(health.refused_until, health.invalid_until)
        deployment.breaker.heard(health.open_until, health.failure, self._routing.breaker_failures)
        self._told[deployment] = _health(deployment, health.model, health.deployment)

    def _place(self, deployment: Deployment) -> tuple[str, int] | None:
        """The name of its model, and its index there."""
        for model in self._registry.known():
            for index, each in enumerate(model.deployments):
                if each is deployment:
                    return model.name, index
        return None


def _health(deployment: Deployment, model: str, index: int) -> DeploymentHealth:
    quota, breaker = deployment.quota, deployment.breaker.all
    return DeploymentHealth(
        model,
        index,
        deployment.keys.all_cooling_until,
        tuple(quota.refused_until),
        tuple(quota.invalid_until),
        breaker.until,
        breaker.last if breaker.until else None,
    )


def _facts(health: DeploymentHealth) -> tuple[object, ...]:
    return health.cooling_until, health.refused_until, health.invalid_until, health.open_until


def _is_news(health: DeploymentHealth) -> bool:
    return bool(health.open_until or any(health.cooling_until) or any(health.refused_until))
