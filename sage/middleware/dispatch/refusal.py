"""The error of a request that no deployment can answer: the cause that helps the caller most."""

from __future__ import annotations

import math

from sage.errors import DeadlineExceeded, RateLimited, SageError, Unavailable, Unsupported
from sage.middleware.dispatch.attempts import WORTH_WAITING, AttemptPlan, Unavailability
from sage.middleware.dispatch.deployment import PublicModel
from sage.middleware.settings.settings import Routing


def refusal(plan: AttemptPlan, now: float, routing: Routing) -> SageError:
    """Why no deployment of ``plan.models`` can answer. The failure of an attempt goes before everything else."""
    if plan.failure is not None and not isinstance(plan.failure, Unsupported):
        return plan.failure
    name = plan.models[0].name
    reasons = [plan.unavailability(d, now) for model in plan.models for d in model.deployments]
    if not reasons:
        faults = "; ".join(fault for model in plan.models for fault in model.faults)
        return Unavailable(f"model '{name}' cannot serve: {faults}", param="model", code="model_unavailable")
    if any(reason in WORTH_WAITING for reason in reasons):
        return Unavailable(f"{_what_is_full(plan, now)}; {_why_not_wait(plan.models[0], routing)}", code="overloaded")
    cooled, closed = _seconds(plan, Unavailability.COOLING, now), _seconds(plan, Unavailability.OPEN, now)
    if Unavailability.COOLING in reasons and (Unavailability.OPEN not in reasons or cooled <= closed):
        return RateLimited(
            f"all deployments of model '{name}' are cooling down, as their upstreams asked; try again in "
            f"{cooled:.1f} s",
            retry_after=cooled,
        )
    if Unavailability.OPEN in reasons:
        return _all_breakers_open(plan, closed, now)
    if plan.failure is not None:
        return plan.failure
    limit = plan.deadline(plan.models) - plan.started_at
    return DeadlineExceeded(f"model '{name}' had no time left to answer of {limit:g} s", code="total_timeout")


def _seconds(plan: AttemptPlan, reason: Unavailability, now: float) -> float:
    """Seconds until the first deployment that is unavailable for ``reason`` is available; 1 if unknown."""
    seconds = plan.available_from(plan.models, now, reason) - now
    return 1.0 if seconds == math.inf else max(0.0, seconds)


def _what_is_full(plan: AttemptPlan, now: float) -> str:
    deployments = (d for model in plan.models for d in model.deployments)
    deployment = next(d for d in deployments if plan.unavailability(d, now) in WORTH_WAITING)
    if deployment.quota.full:
        provider = deployment.provider.name
        setting = f"llm.providers.{provider}.max_concurrency"
        return f"the provider '{provider}' has its {deployment.quota.limit} requests running ({setting})"
    limit = deployment.max_concurrency
    if plan.unavailability(deployment, now) is Unavailability.NO_SLOT:
        return f"'{deployment.name}' has its {deployment.slots} requests running (parallel of the local model)"
    return f"'{deployment.name}' has its {limit} requests running (max_concurrency of its model)"


def _why_not_wait(model: PublicModel, routing: Routing) -> str:
    """Why a request for ``model`` does not wait longer for a deployment that is full."""
    if model.waiting >= routing.queue_size:
        return f"{model.waiting} requests wait already (llm.routing.queue_size); try again soon"
    return f"none ended within {routing.queue_timeout:g} s (llm.routing.queue_timeout); try again soon"


def _all_breakers_open(plan: AttemptPlan, seconds: float, now: float) -> Unavailable:
    failures = (
        plan.last_failure(d, now)
        for model in plan.models
        for d in model.deployments
        if plan.unavailability(d, now) is Unavailability.OPEN
    )
    last = next((failure.message for failure in failures if failure is not None), "")
    return Unavailable(
        f"all deployments of model '{plan.models[0].name}' have failed too often in a row and are left alone for "
        f"{seconds:.1f} s; the last failure: {last}",
        retry_after=seconds,
        code="upstream_left_alone",
    )
