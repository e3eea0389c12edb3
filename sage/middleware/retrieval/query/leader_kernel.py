"""One round of :mod:`sage.middleware.retrieval.query.estimates` as loops, which numba compiles: with numpy it is sixty
calls for a hundred candidates each, and took an eighth of a hybrid search.

The numbers are made in the order in which numpy makes them there, so that they are the same to the last digit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from sage.middleware.retrieval.machine_code.compilation import Compilation, compiled, is_compiler_installed, load_numba
from sage.middleware.retrieval.machine_code.kept_code import KeptCode

GAVE_UP, DONE, UNUSUAL = range(3)
"""What :func:`_round` returns. :data:`UNUSUAL` means numbers that it leaves to numpy: those that are not finite, or
whose squares vanish."""
LOW, SPAN, MISSING = range(3)
"""Of a scale."""
ROUNDING = 1e-12
SQUARES_VANISH = 1e-100


def compile_kernels() -> list[Callable[..., Any]]:
    """:func:`_round` as machine code. Takes seconds. Raises :class:`sage.errors.MissingExtra`."""
    types = load_numba().types
    floats, mask = types.Array(types.float64, 1, "C"), types.Array(types.boolean, 1, "C")
    numbers = (types.int64, types.int64, types.float64, types.float64)
    a_round = types.int64(floats, floats, mask, mask, floats, *numbers, mask, mask, floats, floats)
    return compiled([(_round, a_round)], _CALLED, globals(), kept_kernels())


def kept_kernels() -> KeptCode:
    """Those of :func:`compile_kernels` as an earlier process made them."""
    return KeptCode("leaders", (_round, *_CALLED))


class LeaderKernels:
    """Compiled. Safe to call from several threads."""

    def __init__(self) -> None:
        """Takes seconds."""
        self.round: Callable[..., Any]
        (self.round,) = compile_kernels()


@functools.cache
def kernels_of_process() -> Compilation[LeaderKernels] | None:
    """``None`` means that numba is not installed."""
    return Compilation("compile-leaders", LeaderKernels, kept_kernels) if is_compiler_installed() else None


def leader_kernels(is_worth: bool) -> LeaderKernels | None:
    """The kernels, once they are ready. Until then ``None``, and a search for which they are worth it requests them."""
    compilation = kernels_of_process()
    if compilation is None:
        return None
    if compilation.kernels is None and is_worth:
        compilation.request()
    return compilation.kernels


def _round(
    scores: Any,
    errors: Any,
    is_near: Any,
    is_hit: Any,
    keywords: Any,
    k: Any,
    count: Any,
    dense_weight: Any,
    keywords_weight: Any,
    wanted: Any,
    leading: Any,
    dense: Any,
    scale: Any,
) -> Any:
    """Fills ``wanted`` (whose exact scores are to be read), ``leading`` (who may be among the best ``count``), and both
    scales. All masks have one entry a candidate."""
    size = len(scores)
    certain, possible = is_hit.copy(), np.zeros(size, np.bool_)
    undecided = np.zeros(size, np.bool_)
    if not _choose_members(scores, errors, is_near, k, certain, possible, undecided):
        return UNUSUAL
    least, most, members, present = np.inf, -np.inf, 0, 0
    for place in range(size):
        if certain[place]:
            members += 1
            if not np.isnan(scores[place]):
                present += 1
                least = min(least, scores[place] + errors[place])
                most = max(most, scores[place] - errors[place])
    if members < count or present == 0:
        return GAVE_UP
    if not _fit(scores, certain, False, dense) or not _fit(keywords, certain, True, scale):
        return UNUSUAL
    if dense[SPAN] <= 0:
        return GAVE_UP
    fused, slack, lowest = np.empty(size), np.empty(size), np.empty(members)
    filled = 0
    for place in range(size):
        fused[place] = dense_weight * _scaled(scores[place], dense) + keywords_weight * _scaled(keywords[place], scale)
        slack[place] = dense_weight * errors[place] / dense[SPAN] + ROUNDING
        if certain[place]:
            lowest[filled] = fused[place] - slack[place]
            filled += 1
    limit = _highest(lowest, count)
    is_open, is_undecided = False, _decides_scale(keywords, certain, possible)
    for place in range(size):
        low, high = scores[place] - errors[place], scores[place] + errors[place]
        may_end, may_lead = low <= least or high >= most, fused[place] + slack[place] >= limit
        leading[place] = certain[place] and may_lead
        wanted[place] = certain[place] and ((may_end and not np.isnan(low)) or may_lead)
        is_open |= possible[place] and (may_end or may_lead)
    if is_open or is_undecided:
        for place in range(size):
            wanted[place] |= undecided[place]
    return DONE


def _choose_members(scores: Any, errors: Any, is_near: Any, k: Any, certain: Any, possible: Any, undecided: Any) -> Any:
    """Adds those of the nearest that are certain to be among the ``k`` nearest to ``certain``; ``False`` for scores
    that are no numbers."""
    near = 0
    for place in range(len(scores)):
        if is_near[place]:
            near += 1
            if np.isnan(scores[place]):
                return False
    if near <= k:
        for place in range(len(scores)):
            certain[place] |= is_near[place]
        return True
    lower, upper = np.empty(near), np.empty(near)
    filled = 0
    for place in range(len(scores)):
        if is_near[place]:
            lower[filled], upper[filled] = scores[place] - errors[place], scores[place] + errors[place]
            filled += 1
    beyond, within = _highest(upper, k + 1), _highest(lower, k)
    left, is_inexact = k, False
    for place in range(len(scores)):
        if is_near[place]:
            if scores[place] - errors[place] > beyond:  # fewer than k others may be before it
                certain[place] = True
                left -= 1
            elif scores[place] + errors[place] >= within:
                undecided[place] = True
                is_inexact |= errors[place] > 0
    if is_inexact:
        for place in range(len(scores)):
            possible[place] = undecided[place] and not certain[place]
        return True
    _add_best(scores, undecided, left, certain)
    return True


def _add_best(scores: Any, among: Any, count: Any, certain: Any) -> None:
    """Adds the best of ``among`` to ``certain``, the first of equal ones; afterwards ``among`` is empty."""
    for _ in range(count):
        best = -1
        for place in range(len(scores)):
            if among[place] and (best < 0 or scores[place] > scores[best]):
                best = place
        if best < 0:
            break
        certain[best], among[best] = True, False
    among[:] = False


def _highest(numbers: Any, rank: Any) -> Any:
    """The ``rank``-th highest, from 1 on; puts the numbers in order."""
    for end in range(1, len(numbers)):
        number, hole = numbers[end], end
        while hole > 0 and numbers[hole - 1] < number:
            numbers[hole] = numbers[hole - 1]
            hole -= 1
        numbers[hole] = number
    return numbers[rank - 1]


def _fit(scores: Any, chosen: Any, has_floor: Any, scale: Any) -> Any:
    """Fills in the scale of the chosen scores: see :func:`sage.middleware.retrieval.query.fusion.fit`."""
    low, high, is_missing, present = np.inf, -np.inf, False, 0
    for place in range(len(scores)):
        if chosen[place]:
            if np.isnan(scores[place]):
                is_missing = True
            else:
                low, high = min(low, scores[place]), max(high, scores[place])
                present += 1
    scale[LOW], scale[SPAN], scale[MISSING] = 1.0, 0.0, 0.0
    if present == 0:
        return True
    floor = min(0.0, low) if has_floor else low
    if is_missing:
        low, high = min(low, floor), max(high, floor)
    if low == -np.inf or high == np.inf:
        return False
    span = high - low
    if span <= ROUNDING * max(abs(low), abs(high)):
        return True
    if not SQUARES_VANISH < span < np.inf:
        return False
    scale[LOW], scale[SPAN], scale[MISSING] = low, span, (floor - low) / span
    return True


def _scaled(score: Any, scale: Any) -> Any:
    if np.isnan(score):
        return scale[MISSING]
    return (score - scale[LOW]) / scale[SPAN] if scale[SPAN] > 0 else scale[LOW]


def _decides_scale(keywords: Any, certain: Any, possible: Any) -> Any:
    """Whether the scale of the keyword leg hangs on scores that are not certain to be fused."""
    is_any, is_negative, is_complete = False, False, True
    for place in range(len(keywords)):
        if possible[place]:
            is_any = True
            is_negative |= keywords[place] < 0
        is_complete &= not (certain[place] and np.isnan(keywords[place]))
    return is_any and (is_complete or is_negative)


_CALLED = (_add_best, _highest, _choose_members, _fit, _scaled, _decides_scale)
"""All that it calls, in such an order that each calls only those before it."""
