"""What LiteLLM's deployments cost and may take: prices, limits of rates, and budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

_PRICES = {
    "input": ("input_cost_per_token", 10**6),
    "cached": ("cache_read_input_token_cost", 10**6),
    "output": ("output_cost_per_token", 10**6),
    "reasoning": ("output_cost_per_reasoning_token", 10**6),
    "audio": ("input_cost_per_audio_token", 10**6),
    "audio_output": ("output_cost_per_audio_token", 10**6),
    "per_second": ("input_cost_per_second", 1),
}
"""Ours, LiteLLM's, and how many of its units ours has."""
_WINDOWS = {"1d": "day", "24h": "day", "7d": "week", "1w": "week", "30d": "month", "1mo": "month"}
KEYS = {key for key, _ in _PRICES.values()} | {"rpm", "tpm", "max_budget", "budget_duration"}


def price_of(params: Mapping[str, Any]) -> dict[str, int | float]:
    """The ``price`` of a deployment: US dollars for a million tokens."""
    return {
        name: number
        for name, (key, units) in _PRICES.items()
        if (number := _amount(params.get(key), units)) is not None
    }


def limits_of(params: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The limits of a model: the sum of its deployments', where all have one."""
    limits: dict[str, int] = {}
    for name in ("rpm", "tpm"):
        numbers = [_amount(each.get(name), 1) for each in params]
        whole = [int(number) for number in numbers if number is not None and number >= 1]
        if whole and len(whole) == len(params):
            limits[name] = sum(whole)
    return limits


def budget_of(params: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The budget of a model: the sum of its deployments', where all have one for the same time."""
    amounts = [_amount(each.get("max_budget"), 1) for each in params]
    durations = {str(each.get("budget_duration") or "total") for each in params}
    window = _WINDOWS.get(duration := durations.pop(), duration) if len(durations) == 1 else ""
    if None in amounts or window not in ("day", "week", "month", "total"):
        return None
    return {"usd": sum(amount for amount in amounts if amount is not None), "window": window}


def _amount(value: Any, units: int) -> int | float | None:
    """A number of our units that is not negative, exact to a nano-dollar."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = round(Decimal(str(value)) * units, 9)
    except InvalidOperation:
        return None
    if not 0 <= amount <= 10**9:
        return None
    return int(amount) if amount == int(amount) else float(amount)
