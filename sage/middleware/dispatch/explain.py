"""``POST /models/{name}/explain``: what would be chosen for a request and why, without asking or changing anything."""

from __future__ import annotations

from typing import Any

from sage.middleware.dispatch import retry_budget
from sage.middleware.dispatch.attempts import WORTH_WAITING, AttemptPlan, Unavailability
from sage.middleware.dispatch.deployment import Deployment, PublicModel
from sage.middleware.dispatch.refusal import refusal
from sage.middleware.settings.settings import Routing

Explanation = dict[str, Any]


def explanation(plan: AttemptPlan, now: float, routing: Routing) -> Explanation:
    """The answer of ``POST /models/{name}/explain``. Times are seconds from now."""
    requested = plan.models[0]
    sticky = next((name for model in plan.models if (name := plan.preferred(model))), None)
    chosen, reason = _choice(plan, now, routing)
    return {
        "model": requested.name,
        "chosen": chosen,
        "reason": reason,
        "candidates": [_candidate(plan, model, d, now) for model in plan.models for d in model.deployments],
        "faults": [fault for model in plan.models for fault in model.faults],
        "sticky": sticky,
        "waiting": requested.waiting,
        "retries": {
            "allowed": min(retry_budget.MOST, max((d.retries for d in requested.deployments), default=0)),
            "budget_left": requested.budget.left(now),
        },
        "queue_timeout": routing.queue_timeout,
        "deadline": max(0.0, plan.deadline((requested,)) - now),
    }


def _choice(plan: AttemptPlan, now: float, routing: Routing) -> tuple[str | None, str]:
    """The deployment that would be asked, if there is one, and the reason."""
    requested = plan.models[0]
    may_wait = requested.waiting < routing.queue_size
    behind = f", behind {requested.waiting} requests" if requested.waiting else ""
    for model in plan.models:
        deployment, why = plan.pick(model, now)
        if deployment is not None:
            if deployment.keys.are_refused(now):
                why = f"{why}, though its upstream has refused its key"
            if model is not requested:
                why = f"nothing of model '{requested.name}' can answer now; {why} of its fallback '{model.name}'"
            return deployment.name, why
        if may_wait and plan.is_worth_waiting((model,), now):
            return None, f"it would wait for a deployment of model '{model.name}' that is full now{behind}"
    cooled = plan.available_from(plan.models, now, Unavailability.COOLING)
    if may_wait and cooled <= min(now + routing.queue_timeout, plan.deadline(plan.models)):
        return None, f"it would wait {cooled - now:.1f} s for a deployment that is cooling down{behind}"
    return None, refusal(plan, now, routing).message


def _candidate(plan: AttemptPlan, model: PublicModel, deployment: Deployment, now: float) -> Explanation:
    reason = plan.unavailability(deployment, now)
    if reason is None and deployment.keys.are_refused(now):
        reason = Unavailability.REFUSED
    managed = deployment.managed
    frees_with_time = reason not in (*WORTH_WAITING, Unavailability.REFUSED)
    return {
        "deployment": deployment.name,
        "of": model.name,
        "priority": deployment.priority,
        "weight": deployment.weight,
        "in_flight": deployment.in_flight,
        "max_concurrency": deployment.max_concurrency,
        "provider_in_flight": deployment.quota.in_flight,
        "provider_max_concurrency": deployment.quota.limit,
        "waiting": model.waiting,
        "state": str(managed.state) if managed is not None else "ready",
        **deployment.health(now),
        "usable": reason is None,
        "code": _code(reason, deployment),
        "reason": str(reason) if reason is not None else _why_usable(deployment),
        "free_in": _seconds(plan.available_at(deployment, now) - now) if frees_with_time else None,
    }


def _code(reason: Unavailability | None, deployment: Deployment) -> str:
    """The reason in a word."""
    if reason is not None:
        return reason.name.lower()
    return "probe" if deployment.breaker.is_open else "ready"


def _why_usable(deployment: Deployment) -> str:
    return "it probes whether the deployment answers again" if deployment.breaker.is_open else "it can answer"


def _seconds(left: float) -> float | None:
    return round(max(0.0, left), 3) if left != float("inf") else None
