"""Calls over time: how many, what they cost, and how long they took, step by step of a period.

Durations are counted in a histogram that the database makes, whose bins are a tenth of a duration wide at most: a
million calls come to some hundred rows a step, and the interpreter's lock is free meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Integer, and_, case, cast, func, select

from sage.middleware.usage.entries import ID_BITS, first_id
from sage.middleware.usage.models import requests, series
from sage.middleware.usage.periods import UsagePeriod
from sage.middleware.usage.reader import UsageFilter, series_conditions
from sage.middleware.usage.records import usd

STEPS = (60, 300, 900, 3600, 6 * 3600, 86400)
"""Seconds that a step may have."""
_MOST_STEPS = 200
_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_WIDTHS = ((100, 0), (1000, 10), (10_000, 100), (100_000, 1000))
"""Of bins in milliseconds, by a bound that they begin below."""
_FAILED = 400


def step_for(period: UsagePeriod, wanted: int) -> int:
    """The shortest step, in seconds, with which ``period`` has about ``wanted`` steps at most."""
    length = period.end - period.begin
    return next((step for step in STEPS if length / step <= min(wanted, _MOST_STEPS)), STEPS[-1])


def timeline(connection: Connection, period: UsagePeriod, wanted: UsageFilter, step: int) -> list[dict[str, Any]]:
    """A row for each step in which a call has ended, in their order: its ``time`` (Unix seconds, when it began),
    counts, and the percentiles of ``ms`` and ``first_token_ms``, ``None`` where there were none."""
    at = cast(requests.c.id // (step * 1000 << ID_BITS), BigInteger)
    conditions = [requests.c.id >= first_id(period.begin), requests.c.id < first_id(period.end)]
    named = series_conditions(wanted)
    if named:
        conditions.append(requests.c.series.in_(select(series.c.id).where(*named)))
    sums = {name: requests.c[name] for name in ("prompt_tokens", "completion_tokens", "cost")}
    added = [
        func.count(),
        func.sum(case((requests.c.status >= _FAILED, 1), else_=0)),
        *(func.coalesce(func.sum(column), 0) for column in sums.values()),
        func.sum(case((requests.c.cost.is_(None), 1), else_=0)),
    ]
    counted = connection.execute(select(at, *added).where(and_(*conditions)).group_by(at).order_by(at)).all()
    took = _histograms(connection, at, requests.c.ms, conditions)
    first = _histograms(
        connection, at, requests.c.first_token_ms, [*conditions, requests.c.first_token_ms.is_not(None)]
    )
    return [
        {
            **{"time": int(slot) * step, "requests": count, "failed": int(failed)},
            **{"prompt_tokens": int(prompt), "completion_tokens": int(completion), "cost": usd(int(cost))},
            **{"unpriced": int(unpriced), "ms": _percentiles(took[slot])},
            "first_token_ms": _percentiles(first[slot]),
        }
        for slot, count, failed, prompt, completion, cost, unpriced in counted
    ]


def _histograms(
    connection: Connection, at: ColumnElement[int], duration: ColumnElement[Any], conditions: Sequence[Any]
) -> Mapping[int, Mapping[int, int]]:
    """By step: how many durations each bin has; a bin is known by where it begins, in milliseconds."""
    whole = cast(func.round(duration), Integer)
    begin = case(
        (whole < 100, whole),
        (whole < 1000, whole // 10 * 10),
        (whole < 10_000, whole // 100 * 100),
        (whole < 100_000, whole // 1000 * 1000),
        else_=whole // 10_000 * 10_000,
    )
    found: dict[int, dict[int, int]] = defaultdict(dict)
    rows = connection.execute(select(at, begin, func.count()).where(and_(*conditions)).group_by(at, begin))
    for slot, low, count in rows:
        found[slot][low] = count
    return found


def _percentiles(bins: Mapping[int, int]) -> dict[str, float] | None:
    """Percentiles of the durations in ``bins``, each in its bin in proportion."""
    total = sum(bins.values())
    return {name: _percentile(bins, total * share) for name, share in _SHARES.items()} if total else None


def _percentile(bins: Mapping[int, int], wanted: float) -> float:
    passed = 0.0
    for low, count in sorted(bins.items()):
        if passed + count >= wanted:
            return round(low + _width(low) * (wanted - passed) / count, 1)
        passed += count
    raise AssertionError("a share of all is passed")


def _width(low: int) -> int:
    """Of the bin that begins at ``low``. One of a millisecond has what is rounded to it, so it has none of its own."""
    return next(
        (width for bound, width in ((100, 0), (1000, 10), (10_000, 100), (100_000, 1000)) if low < bound), 10_000
    )
