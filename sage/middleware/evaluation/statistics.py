"""Means, percentiles, and how sure a difference is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_SAMPLES = 2000
_MANY = 5000
"""Differences from which on their mean is as good as normally distributed."""
_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the bounds of its 95 % interval; ``None`` means that there are too few values for bounds."""

    mean: float
    low: float | None
    high: float | None


def mean(values: Sequence[float]) -> float | None:
    """``None`` means that there is no value."""
    return math.fsum(values) / len(values) if values else None


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which ``share`` (0 to 1) of ``values`` lie, between the two nearest; ``None`` means no value."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def paired_interval(differences: Sequence[float], seed: int = 0) -> Interval:
    """The mean of ``differences``, one for each question that two systems have both answered, with the percentile
    bootstrap of 2,000 samples (Efron and Tibshirani 1993); the same ``seed`` gives the same bounds. Of very many the
    bounds are those of the normal distribution."""
    centre = mean(differences)
    if centre is None:
        raise ValueError("no differences, no interval")
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return Interval(centre, None, None)
    if len(values) > _MANY:
        reach = _NORMAL_95 * float(values.std(ddof=1)) / math.sqrt(len(values))
        return Interval(centre, centre - reach, centre + reach)
    generator = np.random.default_rng(seed)
    means = [float(values[generator.integers(0, len(values), len(values))].mean()) for _ in range(_SAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(centre, float(low), float(high))
