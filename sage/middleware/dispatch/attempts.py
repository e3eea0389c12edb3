"""One request on its way to an answer: what it may ask, what it has asked, and why it may not ask the rest."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from enum import StrEnum

from sage.errors import DeadlineExceeded, RateLimited, SageError, Unavailable, Unsupported
from sage.middleware.dispatch.balancing import choose
from sage.middleware.dispatch.deployment import Deployment, DeploymentLease, PublicModel
from sage.middleware.dispatch.prefix_affinity import Prefixes
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.settings.settings import Routing

_SHORT = 0.005  # seconds


class Unavailability(StrEnum):
    """What keeps a request from a deployment."""

    TRIED = "it has failed in this request"
    UNSUPPORTED = "its vendor cannot do what the request asks"
    LATE = "the request has had its whole time"
    OPEN = "its breaker is open"
    COOLING = "it was told to wait"
    FULL = "it has all the requests running that it may have"


class AttemptPlan:
    """Of one call; ``models`` are those that may answer it, in order, the one asked for first."""

    __slots__ = (
        "_barred",
        "_call",
        "_homes",
        "_prefixes",
        "_tried",
        "attempts",
        "begun",
        "failure",
        "hurried",
        "models",
        "sent",
    )

    def __init__(self, call: ModelCall, models: Sequence[PublicModel], begun: float, prefixes: Prefixes) -> None:
        """``begun``: when its time began to run (``time.monotonic``)."""
        self.models = models
        self.begun = begun
        self.attempts = 0
        """Requests that were sent to upstreams for it."""
        self.sent = False
        """The attempt that runs has sent one."""
        self.hurried = False
        """The attempt that runs has less than its deployment's whole time."""
        self.failure: SageError | None = None
        self._call = call
        self._prefixes = prefixes
        self._tried: dict[str, Unavailability] = {}
        self._barred: dict[str, set[int]] = {}
        self._homes: dict[str, str | None] = {}

    @property
    def fresh(self) -> bool:
        """Nothing sets it apart from other requests for its model."""
        return not self._tried and not self._barred

    def ends(self, models: Iterable[PublicModel]) -> float:
        """When the last deployment of ``models`` could no longer answer in time."""
        return max((self.begun + d.timeouts.total for model in models for d in model.deployments), default=self.begun)

    def left(self, deployment: Deployment) -> float | None:
        """The seconds that ``deployment`` has to answer; none if it has its whole time."""
        total = deployment.timeouts.total
        left = self.begun + total - time.monotonic()
        self.hurried = left < total - _SHORT
        return max(left, _SHORT) if self.hurried else None

    def may_go_on(self, at: float, patience: float) -> bool:
        """Whether another attempt at ``at`` has somebody to ask, with so many seconds of waiting."""
        if at >= self.ends(self.models):
            return False
        return (
            self.worth_waiting(self.models, at)
            or self.soonest(self.models, at, Unavailability.COOLING) <= at + patience
        )

    # What it may ask

    def bar(self, deployment: Deployment, now: float) -> Unavailability | None:
        """What keeps it from ``deployment``; none if it may ask there now."""
        if deployment.name in self._tried:
            return self._tried[deployment.name]
        if now >= self.begun + deployment.timeouts.total:
            return Unavailability.LATE
        if not deployment.breaker.admits(now):
            return Unavailability.OPEN
        free = deployment.keys.free_at(now, self._barred.get(deployment.provider.name, ()))
        if free > now:
            return Unavailability.TRIED if free == math.inf else Unavailability.COOLING
        return Unavailability.FULL if deployment.full else None

    def free_at(self, deployment: Deployment, now: float) -> float:
        """When what keeps it from ``deployment`` ends by itself; infinity if nobody can tell."""
        match self.bar(deployment, now):
            case None:
                return now
            case Unavailability.OPEN if deployment.breaker.until > now:
                return deployment.breaker.until
            case Unavailability.COOLING:
                return deployment.keys.free_at(now, self._barred.get(deployment.provider.name, ()))
        return math.inf

    def soonest(self, models: Iterable[PublicModel], now: float, bar: Unavailability | None = None) -> float:
        """When the first of ``models`` is free by itself; with ``bar``, of those that only that keeps from it."""
        found = (d for model in models for d in model.deployments if bar is None or self.bar(d, now) is bar)
        return min((self.free_at(d, now) for d in found), default=math.inf)

    def worth_waiting(self, models: Iterable[PublicModel], now: float) -> bool:
        """Whether some deployment of ``models`` is only full, or not even that."""
        return any(self.bar(d, now) in (None, Unavailability.FULL) for model in models for d in model.deployments)

    def claim(self, models: Iterable[PublicModel], now: float) -> DeploymentLease | None:
        """A lease of the best deployment, of the first of ``models`` that has one to ask now."""
        for model in models:
            chosen, why = self.pick(model, now)
            if chosen is not None:
                key = chosen.keys.pick(now, self._barred.get(chosen.provider.name, ())) if len(chosen.keys) > 1 else 0
                return DeploymentLease(chosen, key, model, why)
        return None

    def pick(self, model: PublicModel, now: float) -> tuple[Deployment | None, str]:
        """The deployment of ``model`` to ask now, and why that one."""
        usable = [d for d in model.deployments if self.bar(d, now) is None]
        if not usable:
            return None, ""
        return choose(usable, self.home(model) if len(usable) > 1 else None)

    def home(self, model: PublicModel) -> str | None:
        """The deployment of ``model`` that answered this conversation's previous turn."""
        if self._call.operation is not Operation.CHAT:
            return None
        if model.name not in self._homes:
            self._homes[model.name] = self._prefixes.find(model.name, self._call.body.get("messages"))
        return self._homes[model.name]

    # What came of it

    def answered(self, lease: DeploymentLease) -> None:
        """``lease`` gave the answer: the conversation's next turn goes there too."""
        model = lease.model
        if model is not None and len(model.deployments) > 1 and self._call.operation is Operation.CHAT:
            self._prefixes.remember(model.name, self._call.body.get("messages"), lease.deployment.name)

    def cannot(self, deployment: Deployment, why: Unsupported) -> None:
        """The vendor cannot do what is asked, which costs nobody anything."""
        self._tried[deployment.name] = Unavailability.UNSUPPORTED
        if self.failure is None:
            self.failure = why

    def failed(self, lease: DeploymentLease, failure: SageError, of_key: bool) -> None:
        """Never the same bad deployment again; if the failure speaks of its key, never that key.

        Vendors count for each model, so with a single key, being told to wait speaks of the deployment.
        """
        deployment, name = lease.deployment, lease.deployment.provider.name
        if of_key and (len(deployment.keys) > 1 or not isinstance(failure, RateLimited)):
            self._barred.setdefault(name, set()).add(lease.key)
        else:
            self._tried[deployment.name] = Unavailability.TRIED
        self.failure = failure

    def refusal(self, now: float, crowded: str = "") -> SageError:
        """Why nobody can answer; ``crowded``: why it may not wait longer for a deployment that is full."""
        bars = [self.bar(d, now) for model in self.models for d in model.deployments]
        if self.failure is not None and not isinstance(self.failure, Unsupported):
            return self.failure
        name = self.models[0].name
        if not bars:
            faults = "; ".join(fault for model in self.models for fault in model.faults)
            return Unavailable(f"model '{name}' cannot serve: {faults}", param="model", code="model_unavailable")
        if Unavailability.FULL in bars or None in bars:
            return Unavailable(f"{self._full(now)}; {crowded}", code="overloaded")
        cools, opens = self._next(Unavailability.COOLING, now), self._next(Unavailability.OPEN, now)
        if Unavailability.COOLING in bars and (Unavailability.OPEN not in bars or cools <= opens):
            return RateLimited(
                f"everything that answers for model '{name}' was told to wait by its upstream; try again in "
                f"{cools:.1f} s",
                retry_after=cools,
            )
        if Unavailability.OPEN in bars:
            return self._left_alone(opens, now)
        if self.failure is not None:
            return self.failure
        limit = self.ends(self.models) - self.begun
        return DeadlineExceeded(f"model '{name}' had no time left to answer of {limit:g} s", code="total_timeout")

    def _next(self, bar: Unavailability, now: float) -> float:
        """Seconds until the first of those under ``bar`` is free; one where nobody can tell."""
        seconds = self.soonest(self.models, now, bar) - now
        return 1.0 if seconds == math.inf else max(0.0, seconds)

    def _full(self, now: float) -> str:
        full = next(
            d for model in self.models for d in model.deployments if self.bar(d, now) in (Unavailability.FULL, None)
        )
        if full.share.full:
            who = full.provider.name
            where = f"llm.providers.{who}.max_concurrency"
            return f"the provider '{who}' has its {full.share.limit} requests running ({where})"
        return f"'{full.name}' has its {full.max_concurrency} requests running (max_concurrency of its model)"

    def _left_alone(self, seconds: float, now: float) -> Unavailable:
        found = (
            d.breaker.last
            for model in self.models
            for d in model.deployments
            if self.bar(d, now) is Unavailability.OPEN
        )
        last = next((failure.message for failure in found if failure is not None), "")
        return Unavailable(
            f"everything that answers for model '{self.models[0].name}' has failed too often in a row and is left "
            f"alone for {seconds:.1f} s; the last failure: {last}",
            retry_after=seconds,
            code="upstream_left_alone",
        )


def crowded(model: PublicModel, routing: Routing) -> str:
    """Why a request for ``model`` may not wait longer for a deployment that is full."""
    if model.waiting >= routing.queue_size:
        return f"{model.waiting} requests wait already (llm.routing.queue_size); try again soon"
    return f"none ended within {routing.queue_timeout:g} s (llm.routing.queue_timeout); try again soon"
