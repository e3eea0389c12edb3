"""One request on its way to an answer: what it may ask, what it has asked, and what came of that."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar

from sage.errors import InvalidRequest, RateLimited, SageError, Unsupported
from sage.middleware.dispatch.balancing import choose
from sage.middleware.dispatch.deployment import Deployment, DeploymentLease, PublicModel, may_pass
from sage.middleware.dispatch.prefix_affinity import Prefixes
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.providers.call_steps import CallStep, OpenedConnection, StepKind, fault_of

_WITHOUT_SLOT = frozenset({Operation.TOKENIZE, Operation.DETOKENIZE})
_TOLERANCE = 0.005
"""Seconds of a deployment's time that may be gone before a request counts as having less than all of it."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_AT_ONCE = 0.002
"""Seconds; a wait that is no longer is none."""
_ADDED = "stream_options"
"""The field that the gateway adds to requests of its own accord: streams are asked for their usage."""
_SOON = 1.0
"""Seconds that a request waits at most to ask a deployment again that it has asked already."""


class Unavailability(StrEnum):
    """Why a request may not ask a deployment now."""

    TRIED = "it has failed in this request"
    UNSUPPORTED = "its vendor cannot do what the request asks"
    LATE = "the request has no time left"
    OPEN = "its breaker is open"
    COOLING = "it is cooling down, as its upstream asked (Retry-After)"
    FULL = "it has reached max_concurrency"
    REFUSED = "its upstream has refused its key (401 or 403) within the last minute"
    NO_SLOT = "every slot of its engine is in use (parallel)"
    GIVES_WAY = "live requests go before those of low priority"


WORTH_WAITING = (None, Unavailability.FULL, Unavailability.NO_SLOT, Unavailability.GIVES_WAY)
"""It can be asked, or may be as soon as another request ends."""


class AttemptPlan:
    """The attempts of one call at ``models``, the requested one first, then its fallbacks in their order.

    Times are those of ``time.monotonic``.
    """

    # What most plans never change, and few read: no plan is made of it.
    sent = False
    """Whether the current attempt has sent a request."""
    has_less_time = False
    """Whether the current attempt has less than the whole time of its deployment."""
    failure: SageError | None = None
    """The last failure."""
    _ruled_out: Mapping[str, Unavailability] = _NOTHING
    """By deployment."""
    _again: frozenset[str] = frozenset()
    """Deployments that failed in a way that may pass; they are asked once more when no other is left."""
    _refused_by: Deployment | None = None
    """The deployment that has refused a field which the gateway has added."""
    _excluded_keys: Mapping[str, frozenset[int]] = _NOTHING
    """By provider."""
    _preferred: Mapping[str, str | None] = _NOTHING
    """By model."""

    _new_lease: ClassVar[type[DeploymentLease]] = DeploymentLease

    def __init__(self, call: ModelCall, models: Sequence[PublicModel], started_at: float, prefixes: Prefixes) -> None:
        """``started_at``: when the time of the call began to run."""
        self.models = models
        self.started_at = started_at
        self._call = call
        self._prefixes = prefixes

    @property
    def tenant(self) -> str:
        """Whose turn it takes."""
        return self._call.caller[0]

    @property
    def user(self) -> str:
        return self._call.caller[1]

    @property
    def takes_slot(self) -> bool:
        """Whether it computes in an engine, so that it needs one of the engine's slots."""
        return self._call.operation not in _WITHOUT_SLOT

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was ruled out yet, so that it may ask whatever another new request may."""
        return not self._ruled_out and not self._excluded_keys

    # Time

    def deadline(self, models: Iterable[PublicModel]) -> float:
        """When the last deployment of ``models`` could no longer answer in time."""
        ends = (self.started_at + d.timeouts.total for model in models for d in model.deployments)
        return max(ends, default=self.started_at)

    def seconds_left(self, deployment: Deployment) -> float | None:
        """The seconds that ``deployment`` has to answer; ``None`` means its whole time."""
        total = deployment.timeouts.total
        left = self.started_at + total - time.monotonic()
        self.has_less_time = left < total - _TOLERANCE
        return max(left, _TOLERANCE) if self.has_less_time else None

    def can_continue(self, at: float, patience: float) -> bool:
        """Whether an attempt at the time ``at`` would find a deployment, with ``patience`` seconds of waiting."""
        if at >= self.deadline(self.models):
            return False
        if self.is_worth_waiting(self.models, at):
            return True
        cooled = self.available_from(self.models, at, Unavailability.COOLING)
        return cooled <= at + patience or bool(self._askable_again(at))

    def readmit(self, now: float) -> bool:
        """Lets those that failed be asked once more where that may help soon; returns whether there are any."""
        names = self._askable_again(now)
        self._ruled_out = {name: reason for name, reason in self._ruled_out.items() if name not in names}
        self._again = frozenset()
        return bool(names)

    def _askable_again(self, at: float) -> list[str]:
        names = []
        for deployment in (d for model in self.models for d in model.deployments if d.name in self._again):
            why_not = self._condition(deployment, at)
            soon = self._available_at(deployment, at, why_not) <= at + _SOON
            if soon or why_not in WORTH_WAITING:
                names.append(deployment.name)
        return names

    # What it may ask

    def unavailability(self, deployment: Deployment, now: float) -> Unavailability | None:
        """Why it may not ask ``deployment`` now; ``None`` means that it may."""
        if deployment.name in self._ruled_out:
            return self._ruled_out[deployment.name]
        reason = self._condition(deployment, now)
        if reason is None and deployment.quota.all_invalid_until > now and self._has_valid_key(now):
            return Unavailability.REFUSED
        return reason

    def _has_valid_key(self, now: float) -> bool:
        """Whether some deployment can be asked with a key that its upstream knows, as far as we know."""
        return any(
            d.quota.all_invalid_until <= now and d.name not in self._ruled_out and self._condition(d, now) is None
            for model in self.models
            for d in model.deployments
        )

    def _condition(self, deployment: Deployment, now: float) -> Unavailability | None:
        """As :meth:`unavailability`, whatever this request has met there."""
        if now >= self.started_at + deployment.timeouts.total:
            return Unavailability.LATE
        if not deployment.breaker.admits(now, self._call.caller):
            return Unavailability.OPEN
        key_at = self._key_available_at(deployment, now)
        if key_at > now:
            return Unavailability.TRIED if key_at == math.inf else Unavailability.COOLING
        if deployment.full:
            return Unavailability.FULL
        return Unavailability.NO_SLOT if self.takes_slot and deployment.slots_taken else None

    def available_at(self, deployment: Deployment, now: float) -> float:
        """When it may ask ``deployment`` if only time passes; infinity if time alone does not help."""
        return self._available_at(deployment, now, self.unavailability(deployment, now))

    def _available_at(self, deployment: Deployment, now: float, why_not: Unavailability | None) -> float:
        match why_not:
            case None:
                return now
            case Unavailability.OPEN:
                return deployment.breaker.opens_at(now, self._call.caller) or math.inf
            case Unavailability.COOLING:
                return self._key_available_at(deployment, now)
        return math.inf

    def available_from(self, models: Iterable[PublicModel], now: float, reason: Unavailability | None = None) -> float:
        """When the first deployment of ``models`` is available if only time passes.

        With ``reason``, of those that are unavailable for that reason alone.
        """
        deployments = (d for model in models for d in model.deployments)
        return min(
            (self.available_at(d, now) for d in deployments if reason is None or self.unavailability(d, now) is reason),
            default=math.inf,
        )

    def is_worth_waiting(self, models: Iterable[PublicModel], now: float) -> bool:
        """Whether some deployment of ``models`` is available, or only full."""
        return any(self.unavailability(d, now) in WORTH_WAITING for model in models for d in model.deployments)

    def claim_only(self) -> DeploymentLease | None:
        """A lease at once, where the model has one deployment, with one key and no bound, that nothing speaks against.
        ``None`` means that there may be a choice or a wait."""
        deployments, now = self.models[0].deployments, self.started_at
        if len(deployments) != 1:
            return None
        only = deployments[0]
        if (
            only.unconstrained
            and not only.breaker.is_open
            and only.keys.cooling_until <= now
            and only.quota.all_invalid_until <= now
        ):
            return self._new_lease(only, 0, None, self._call.caller)
        return None

    def claim(self, models: Iterable[PublicModel], now: float) -> DeploymentLease | None:
        """A lease of the best available deployment, of the first of ``models`` that has one."""
        for model in models:
            deployment, _ = self.pick(model, now)
            if deployment is not None:
                excluded = self._excluded_keys.get(deployment.provider.name, ())
                key = deployment.keys.pick(now, excluded) if len(deployment.keys) > 1 else 0
                slot_of = deployment.managed if self.takes_slot else None
                return self._new_lease(deployment, key, model, self._call.caller, slot_of)
        return None

    def pick(self, model: PublicModel, now: float) -> tuple[Deployment | None, str]:
        """The deployment of ``model`` to ask now, and why that one."""
        usable = [d for d in model.deployments if self.unavailability(d, now) is None]
        if not usable:
            return None, ""
        return choose(usable, self.preferred(model) if len(usable) > 1 else None)

    def preferred(self, model: PublicModel) -> str | None:
        """The deployment of ``model`` that answered this conversation's previous turn."""
        if self._call.operation is not Operation.CHAT:
            return None
        if model.name not in self._preferred:
            found = self._prefixes.find(model.name, self._call.body.get("messages"))
            self._preferred = {**self._preferred, model.name: found}
        return self._preferred[model.name]

    def _key_available_at(self, deployment: Deployment, now: float) -> float:
        return deployment.keys.available_at(now, self._excluded_keys.get(deployment.provider.name, ()))

    # What came of it

    def _rule_out(self, deployment: Deployment, why: Unavailability) -> None:
        self._ruled_out = {**self._ruled_out, deployment.name: why}

    def record_answer(self, lease: DeploymentLease) -> None:
        """``lease`` gave the answer: the conversation's next turn goes there too."""
        model = lease.model
        if model is not None and len(model.deployments) > 1 and self._call.operation is Operation.CHAT:
            self._prefixes.remember(model.name, self._call.body.get("messages"), lease.deployment.name)

    @property
    def is_divided(self) -> bool:
        """Whether its caller may be kept from a deployment that others may ask."""
        return any(d.breaker.is_divided for model in self.models for d in model.deployments)

    def last_failure(self, deployment: Deployment, now: float) -> SageError | None:
        """The last failure that its breaker, which is open for this caller, has counted."""
        breaker = deployment.breaker.blocking(now, self._call.caller)
        return breaker.last if breaker is not None else None

    def record_connection(self, opened: OpenedConnection, deployment: Deployment) -> None:
        """The transport has opened a connection for the current request. Where it has sent it twice, that is a further
        attempt, though nobody's failure."""
        if opened.sent_again:
            self._call.attempts += 1
            self.models[0].budget.retry()
        if opened.begin is not None and opened.end is not None:
            self._call.note(CallStep(StepKind.CONNECT, opened.begin, opened.end, deployment.name))

    def record_step(self, kind: StepKind, begin: float, deployment: Deployment | None = None) -> None:
        """The call may have waited since ``begin``."""
        end = time.monotonic()
        if end - begin > _AT_ONCE:
            self._call.note(CallStep(kind, begin, end, deployment.name if deployment is not None else ""))

    def record_attempt(self, deployment: Deployment, error: BaseException) -> None:
        """The attempt at ``deployment`` has ended with ``error``."""
        begin = attempt_began(self._call)
        self._call.note(CallStep(StepKind.ATTEMPT, begin, time.monotonic(), deployment.name, *fault_of(error)))

    def record_unsupported(self, deployment: Deployment, error: Unsupported) -> None:
        """The vendor cannot do what is asked; nothing was sent."""
        self._rule_out(deployment, Unavailability.UNSUPPORTED)
        if self.failure is None:
            self.failure = error

    def record_refused_field(self, deployment: Deployment, error: InvalidRequest) -> bool:
        """Leaves out a field that the gateway has added, if ``error`` is about it; returns whether that may help."""
        call = self._call
        if not call.stream or call.omitted is not None or error.upstream_status not in (400, 422):
            return False
        if _ADDED not in error.message and _ADDED not in (error.param or ""):
            return False
        call.omitted, self._refused_by = _ADDED, deployment
        return True

    def record_accepted(self, deployment: Deployment) -> None:
        """``deployment`` answers a request without the field that was refused."""
        if deployment is self._refused_by and self._call.omitted is not None:
            deployment.provider.learn(deployment.model, self._call.omitted)

    def record_failure(self, lease: DeploymentLease, failure: SageError, of_key: bool) -> None:
        """Rules the deployment out for this request, or only the key if the failure is ``of_key``.

        Vendors count requests for each model, so a rate limit on a provider's single key rules the deployment out.
        """
        deployment, name = lease.deployment, lease.deployment.provider.name
        if of_key and (len(deployment.keys) > 1 or not isinstance(failure, RateLimited)):
            excluded = self._excluded_keys.get(name, frozenset())
            self._excluded_keys = {**self._excluded_keys, name: excluded | {lease.key}}
        else:
            self._rule_out(deployment, Unavailability.TRIED)
            if may_pass(failure):
                self._again |= {deployment.name}
        self.failure = failure


def attempt_began(call: ModelCall) -> float:
    """When the latest attempt of ``call`` has begun: its connection is a part of it, everything else came before."""
    ends = (step.end for step in reversed(call.steps or ()) if step.kind is not StepKind.CONNECT)
    return next(ends, call.dispatched_at or time.monotonic())
