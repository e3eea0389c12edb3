"""The usage ledger over all processes: a front records its calls, and the owner prices and stores them with its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage.middleware.app.workers.messages import SettledCalls
from sage.middleware.providers.base import Provider
from sage.middleware.registry.registry import Registry
from sage.middleware.settings.usage import PriceSettings
from sage.middleware.usage.prices import Price
from sage.middleware.usage.records import PricedDeployment, UsageRecord
from sage.middleware.usage.settled_calls import CallRecorder, SettledCall

if TYPE_CHECKING:  # brings SQLAlchemy, which fronts do not load
    from sage.middleware.usage.ledger import Ledger

_MOST_AT_ONCE = 1000
"""Calls in one message."""


class FrontRecords:
    """What a front has settled and not told yet. ``add`` is :attr:`sage.middleware.gateway.gateway.Gateway.settled`."""

    def __init__(self) -> None:
        self._calls: list[SettledCall] = []
        self.add: Callable[[SettledCall], None] = self._calls.append
        self._recorder = CallRecorder(_by_the_owner)

    def take(self) -> SettledCalls | None:
        """Some of it, the oldest; ``None`` means that there is nothing."""
        calls = self._calls[:_MOST_AT_ONCE]
        if not calls:
            return None
        del self._calls[: len(calls)]
        offset = time.time() - time.perf_counter()
        return SettledCalls.of(self._recorder.record(call, offset)[0] for call in calls)


def _by_the_owner(deployment: PricedDeployment) -> tuple[bool, Price | None]:
    return False, None


@dataclass(frozen=True, slots=True)
class NamedDeployment:
    """A deployment that the owner knows by the names in a record only."""

    name: str
    model: str
    provider: Provider
    price: PriceSettings | None = None


def take_over(ledger: Ledger, registry: Registry, calls: SettledCalls) -> None:
    """Adds to ``ledger`` what a front has settled."""
    for record in calls.records:
        ledger.add((record, None if record.cost is not None else _deployment_of(registry, record)))


def _deployment_of(registry: Registry, record: UsageRecord) -> PricedDeployment | None:
    series = record.series
    model = registry.get(series.model)
    for deployment in model.deployments if model is not None else ():
        if deployment.name == series.deployment:
            return deployment
    provider = registry.providers.get(series.provider)
    return None if provider is None else NamedDeployment(series.deployment, series.upstream_model, provider)
