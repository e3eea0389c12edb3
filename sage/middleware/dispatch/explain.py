"""What would be chosen for a request and why, told without asking anybody and without changing anything."""

from __future__ import annotations

from typing import Any

from sage.middleware.dispatch import retry_budget as retries
from sage.middleware.dispatch.attempts import AttemptPlan, Unavailability, crowded
from sage.middleware.dispatch.deployment import Deployment, PublicModel
from sage.middleware.settings.settings import Routing

Explanation = dict[str, Any]


def explanation(course: AttemptPlan, now: float, routing: Routing) -> Explanation:
    """The answer of ``POST /models/{name}/explain``. Times are seconds from now."""
    asked = course.models[0]
    home = next((name for model in course.models if (name := course.home(model))), None)
    chosen, reason = _chosen(course, now, routing)
    return {
        "model": asked.name,
        "chosen": chosen,
        "reason": reason,
        "candidates": [_candidate(course, model, d, now) for model in course.models for d in model.deployments],
        "faults": [fault for model in course.models for fault in model.faults],
        "sticky": home,
        "waiting": asked.waiting,
        "retries": {
            "allowed": min(retries.MOST, max((d.retries for d in asked.deployments), default=0)),
            "budget_left": asked.budget.left(now),
        },
        "queue_timeout": routing.queue_timeout,
        "deadline": max(0.0, course.ends((asked,)) - now),
    }


def _chosen(course: AttemptPlan, now: float, routing: Routing) -> tuple[str | None, str]:
    asked = course.models[0]
    may_wait = asked.waiting < routing.queue_size
    behind = f", behind {asked.waiting} requests" if asked.waiting else ""
    for model in course.models:
        deployment, why = course.pick(model, now)
        if deployment is not None:
            if model is not asked:
                why = f"nothing of model '{asked.name}' can answer now; {why} of its fallback '{model.name}'"
            return deployment.name, why
        if may_wait and course.worth_waiting((model,), now):
            return None, f"it would wait for a deployment of model '{model.name}' that is full now{behind}"
    cools = course.soonest(course.models, now, Unavailability.COOLING)
    if may_wait and cools <= min(now + routing.queue_timeout, course.ends(course.models)):
        return None, f"it would wait {cools - now:.1f} s for a deployment that was told to wait{behind}"
    return None, course.refusal(now, crowded(asked, routing)).message


def _candidate(course: AttemptPlan, model: PublicModel, deployment: Deployment, now: float) -> Explanation:
    bar = course.bar(deployment, now)
    managed = deployment.managed
    return {
        "deployment": deployment.name,
        "of": model.name,
        "priority": deployment.priority,
        "weight": deployment.weight,
        "in_flight": deployment.in_flight,
        "max_concurrency": deployment.max_concurrency,
        "provider_in_flight": deployment.share.in_flight,
        "provider_max_concurrency": deployment.share.limit,
        "waiting": model.waiting,
        "state": str(managed.state) if managed is not None else "ready",
        **deployment.health(now),
        "usable": bar is None,
        "reason": str(bar) if bar is not None else _ready(deployment),
        "free_in": None if bar in (Unavailability.FULL, None) else _seconds(course.free_at(deployment, now) - now),
    }


def _ready(deployment: Deployment) -> str:
    return "it probes whether the deployment answers again" if deployment.breaker.until else "it can answer"


def _seconds(left: float) -> float | None:
    return round(max(0.0, left), 3) if left != float("inf") else None
