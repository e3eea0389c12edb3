"""The calendar's windows, in UTC: in which one a moment lies, and when the next begins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sage.middleware.settings.budgets import BudgetWindow


@dataclass(frozen=True, slots=True)
class BudgetPeriod:
    """One window of a budget. ``name`` is unique among all windows (``month:1793491200``), ``ends`` is in Unix seconds;
    infinity means never."""

    name: str
    ends: float


def period_at(window: BudgetWindow, now: float) -> BudgetPeriod:
    """The window that ``now`` (Unix seconds) lies in: a day, a week from Monday on, a month, or all time."""
    if window == "total":
        return BudgetPeriod("total", math.inf)
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if window == "day":
        start, end = day, day + timedelta(days=1)
    elif window == "week":
        start = day - timedelta(days=day.weekday())
        end = start + timedelta(days=7)
    else:
        start = day.replace(day=1)
        end = (start + timedelta(days=31)).replace(day=1)
    return BudgetPeriod(f"{window}:{int(start.timestamp())}", end.timestamp())
