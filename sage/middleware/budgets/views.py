"""A budget as others see it: in listings, and in what webhooks are told."""

from __future__ import annotations

import math
from typing import Any

from sage.middleware.budgets.budget import Budget, Unit, dollars
from sage.middleware.budgets.periods import period_at
from sage.middleware.budgets.spending import Counted


def budget_view(budget: Budget, counted: Counted, now: float) -> dict[str, Any]:
    """Its amount and what has become of it in the window of ``now``: dollars as numbers, or tokens.

    ``reserved`` is what running calls may take, and what gateways hold for calls to come; ``left`` is what is neither
    spent nor reserved, at least 0. ``opens_at`` is when the next window begins (Unix seconds; ``None``: never).
    """
    ends = period_at(budget.window, now).ends
    left = max(0, budget.amount - counted.settled - counted.reserved)
    return {
        "subject": budget.subject,
        "kind": budget.kind,
        "name": budget.name,
        str(budget.unit): _number(budget, budget.amount),
        "window": budget.window,
        "hard": budget.hard,
        "spent": _number(budget, counted.settled),
        "reserved": _number(budget, counted.reserved),
        "left": _number(budget, left),
        "opens_at": None if math.isinf(ends) else int(ends),
        "source": budget.source,
    }


def amount_view(budget: Budget) -> dict[str, Any]:
    """How much it is and for what window, as it was given."""
    return {str(budget.unit): _number(budget, budget.amount), "window": budget.window, "hard": budget.hard}


def _number(budget: Budget, amount: int) -> float | int:
    return float(dollars(amount)) if budget.unit is Unit.USD else amount
