"""A hybrid page whose order codes bound and exact vectors decide.

Reading the vectors of a hundred candidates takes longer than finding them. A code says a document's score to within an
error whose greatest size is known (``VectorIndex.errors``), and most candidates are far from where it matters. So
exact scores are read only for those that may be on the page, or may decide the scale of the vectors' leg: some twenty.
The page is the same, to the last digit, as if all had been read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.query.fusion import Scale, fit
from sage.middleware.retrieval.query.leader_kernel import DONE, GAVE_UP, LeaderKernels, leader_kernels
from sage.middleware.retrieval.types.search import Fusion

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
_ROUNDS = 8
"""Reads of vectors after which a page is given up, and all are read: two are enough for most."""
_ROUNDING = 1e-12
_WORTH_COMPILING = 10_000
"""Vectors of a collection from which on compiled code is wanted."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """Scores of the vectors' leg for the candidates of both legs, each known to within an error."""

    rows: Rows
    """Ascending."""
    scores: Floats
    """NaN where a document has no vector. :meth:`settle` replaces them by exact ones."""
    errors: Floats
    """0 where the score is exact."""
    is_near: Mask
    """Which are candidates of the vectors' leg: the best of them by exact scores count, the others are those of the
    keyword leg."""
    total: int
    """How many documents have a vector."""
    exact: Callable[[Rows], Floats]

    def settle(self, chosen: Mask) -> bool:
        """Makes these scores exact; ``False`` means that they all were."""
        places = np.flatnonzero(chosen & (self.errors > 0))
        if len(places):
            self.scores[places] = self.exact(self.rows[places])
            self.errors[places] = 0.0
        return len(places) > 0


@dataclass(frozen=True, slots=True)
class _Members:
    """Which candidates are fused: those of the keyword leg, and the ``k`` nearest."""

    certain: Mask
    possible: Mask
    """Others that may be among the nearest."""
    undecided: Mask
    """Those whose exact scores decide it."""


@dataclass(frozen=True, slots=True)
class Leaders:
    """The best candidates by both legs."""

    places: NDArray[np.int64]
    """In :attr:`Estimates.rows`: all that may be among the best, with exact scores."""
    dense: Scale
    keywords: Scale


@dataclass(frozen=True, slots=True)
class _Round:
    """What one look at the candidates says."""

    wanted: Mask
    """Those whose exact scores decide."""
    leading: Mask
    """Those that may be among the best, if none is wanted any more."""
    dense: Scale
    keywords: Scale


_UNUSUAL = _Round(np.empty(0, np.bool_), np.empty(0, np.bool_), Scale(0.0, 0.0, 0.0), Scale(0.0, 0.0, 0.0))


def leaders(
    estimates: Estimates, keywords: Floats, is_hit: Mask, k: int, count: int, weights: tuple[float, float]
) -> Leaders | None:
    """The best ``count`` are among them, fused by min-max with ``weights``. ``is_hit`` says which are candidates of the
    keyword leg, ``k`` how many of the nearest are fused. ``None`` means that this way does not find them."""
    kernels = leader_kernels(estimates.total >= _WORTH_COMPILING)
    for _ in range(_ROUNDS):
        step: _Round | None = _UNUSUAL
        if kernels is not None:
            step = _compiled_round(kernels, estimates, keywords, is_hit, k, count, weights)
        if step is _UNUSUAL:
            step = _round(estimates, keywords, is_hit, k, count, weights)
        if step is None:
            return None
        if not estimates.settle(step.wanted):  # so the ends of the scale are exact, and those who may lead
            return Leaders(np.flatnonzero(step.leading), step.dense, step.keywords)
    return None


def _round(
    estimates: Estimates, keywords: Floats, is_hit: Mask, k: int, count: int, weights: tuple[float, float]
) -> _Round | None:
    members = _members(estimates, is_hit, k)
    lower, upper = estimates.scores - estimates.errors, estimates.scores + estimates.errors
    present = members.certain & ~np.isnan(lower)
    if np.count_nonzero(members.certain) < count or not present.any():
        return None
    may_end = (lower <= upper[present].min()) | (upper >= lower[present].max())
    dense = fit(Fusion.MINMAX, estimates.scores[members.certain])
    certain_keywords = keywords[members.certain]
    scale = fit(Fusion.MINMAX, certain_keywords, floor=0.0)
    if dense.span <= 0:
        return None
    fused = weights[0] * dense(estimates.scores) + weights[1] * scale(keywords)
    slack = weights[0] * estimates.errors / dense.span + _ROUNDING
    may_lead = fused + slack >= np.partition((fused - slack)[members.certain], -count)[-count]
    wanted = members.certain & ((may_end & present) | may_lead)
    is_open = members.possible & (may_end | may_lead)
    if is_open.any() or _decides_scale(certain_keywords, keywords[members.possible]):
        wanted |= members.undecided
    return _Round(wanted, members.certain & may_lead, dense, scale)


def _compiled_round(
    kernels: LeaderKernels,
    estimates: Estimates,
    keywords: Floats,
    is_hit: Mask,
    k: int,
    count: int,
    weights: tuple[float, float],
) -> _Round | None:
    """As :func:`_round`; :data:`_UNUSUAL` for numbers that are left to it."""
    size = len(is_hit)
    wanted, leading, dense, scale = np.empty(size, np.bool_), np.empty(size, np.bool_), np.empty(3), np.empty(3)
    outcome = kernels.round(
        estimates.scores,
        estimates.errors,
        estimates.is_near,
        is_hit,
        keywords,
        k,
        count,
        *weights,
        wanted,
        leading,
        dense,
        scale,
    )
    if outcome != DONE:
        return None if outcome == GAVE_UP else _UNUSUAL
    low, span, missing = dense.tolist()
    keywords_low, keywords_span, keywords_missing = scale.tolist()
    of_keywords = Scale(keywords_low, keywords_span, keywords_missing)
    return _Round(wanted, leading, Scale(low, span, missing), of_keywords)


def _members(estimates: Estimates, is_hit: Mask, k: int) -> _Members:
    near, nobody = np.flatnonzero(estimates.is_near), np.zeros(len(is_hit), np.bool_)
    if len(near) <= k:
        return _Members(estimates.is_near | is_hit, nobody, nobody)
    scores, errors = estimates.scores[near], estimates.errors[near]
    lower, upper = scores - errors, scores + errors
    is_in = lower > np.partition(upper, -k - 1)[-k - 1]  # fewer than k others may be before it
    may_be = ~is_in & (upper >= np.partition(lower, -k)[-k])
    certain, undecided = is_hit.copy(), nobody.copy()
    certain[near[is_in]] = True
    if errors[may_be].any():
        undecided[near[may_be]] = True
        return _Members(certain, undecided & ~certain, undecided)
    order = np.lexsort((near[may_be], -scores[may_be]))
    certain[near[may_be][order[: k - np.count_nonzero(is_in)]]] = True
    return _Members(certain, nobody, nobody)


def _decides_scale(certain: Floats, possible: Floats) -> bool:
    """Whether the scale of the keyword leg hangs on scores that are not certain to be fused."""
    return len(possible) > 0 and (not np.isnan(certain).any() or bool((possible < 0).any()))
