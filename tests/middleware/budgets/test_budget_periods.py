"""The calendar's windows, at their edges."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.budgets.periods import period_at
from sage.middleware.settings.budgets import BudgetWindow


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("window", "moment", "starts", "ends"),
    [
        ("day", "2026-11-30 23:59:59", "2026-11-30", "2026-12-01"),
        ("day", "2026-12-01 00:00:00", "2026-12-01", "2026-12-02"),
        ("week", "2026-11-29 23:59:59", "2026-11-23", "2026-11-30"),  # a Sunday
        ("week", "2026-11-30 00:00:00", "2026-11-30", "2026-12-07"),  # a Monday
        ("month", "2024-02-29 12:00:00", "2024-02-01", "2024-03-01"),
        ("month", "2026-12-31 23:59:59", "2026-12-01", "2027-01-01"),
    ],
)
def test_windows_begin_and_end_with_the_calendar(window: BudgetWindow, moment: str, starts: str, ends: str) -> None:
    period = period_at(window, at(moment))
    assert period.name == f"{window}:{int(at(starts))}"
    assert period.ends == at(ends)


def test_all_time_never_ends() -> None:
    assert (period_at("total", 0).name, period_at("total", 0).ends) == ("total", math.inf)


@given(st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1)), st.sampled_from(["day", "week", "month"]))
def test_windows_follow_each_other_without_a_gap(moment: datetime, window: BudgetWindow) -> None:
    now = moment.replace(tzinfo=UTC)
    period = period_at(window, now.timestamp())
    starts = int(period.name.partition(":")[2])
    assert starts <= now.timestamp() < period.ends
    assert period_at(window, period.ends).name == f"{window}:{int(period.ends)}"
    assert period_at(window, starts - 1).ends == starts
    days = {"day": (1, 1), "week": (7, 7), "month": (28, 31)}[window]
    assert timedelta(days[0]) <= timedelta(seconds=period.ends - starts) <= timedelta(days[1])
