"""The best documents of one segment for the words of a query, in numpy.

:mod:`sage.middleware.retrieval.keywords.compiled` does the same faster. Both give the same numbers: words are added in
the order of the query, and of equal scores the lower ordinal comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.bm25 import Curve, Floats
from sage.middleware.retrieval.keywords.postings import Mask

_SPARSE = 16
"""Words with fewer postings in all than one for so many documents are added up over their own documents only."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The postings of one word of the query in one segment, and what the word is worth."""

    ordinals: NDArray[np.uint32]
    frequencies: NDArray[Any]
    weight: float
    base: float


Best = tuple[NDArray[np.int64], Floats, int]
"""``(ordinals, scores, how many match)``, best first."""


def top_by_numpy(
    slices: Sequence[Slice], lengths: NDArray[np.uint32], curve: Curve, allowed: Mask | None, k: int
) -> Best:
    """The ``k`` best. ``allowed``: ``None`` means that all documents may be returned."""
    ordinals, scores = _sums(slices, lengths, curve)
    if allowed is not None:
        is_allowed = allowed[ordinals]
        ordinals, scores = ordinals[is_allowed], scores[is_allowed]
    return (*best(ordinals.astype(np.int64), scores, k), len(ordinals))


def _sums(slices: Sequence[Slice], lengths: NDArray[np.uint32], curve: Curve) -> tuple[NDArray[Any], Floats]:
    """Every document with a posting in any slice, ascending, and its score."""
    if not slices:
        return np.empty(0, np.uint32), np.empty(0)
    if len(slices) == 1:
        return slices[0].ordinals, slice_scores(slices[0], lengths, curve)
    if sum(len(each.ordinals) for each in slices) * _SPARSE < len(lengths):
        ordinals = np.unique(np.concatenate([each.ordinals for each in slices]))
        sums = np.zeros(len(ordinals))
        for each in slices:
            sums[ordinals.searchsorted(each.ordinals)] += slice_scores(each, lengths, curve)
        return ordinals, sums
    scores, is_match = np.zeros(len(lengths)), np.zeros(len(lengths), np.bool_)
    for each in slices:
        scores[each.ordinals] += slice_scores(each, lengths, curve)
        is_match[each.ordinals] = True
    matches = np.flatnonzero(is_match)
    return matches, scores[matches]


def slice_scores(each: Slice, lengths: NDArray[np.uint32], curve: Curve) -> Floats:
    """What each posting adds to its document's score."""
    gains = curve.of(each.frequencies.astype(np.float64), lengths[each.ordinals].astype(np.float64))
    return each.base + each.weight * gains


def best(rows: NDArray[np.int64], scores: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """The ``k`` highest, best first, equal ones by row; ``rows`` ascend."""
    if k <= 0:
        return rows[:0], scores[:0]
    if len(scores) > 4 * k:  # a partition first: sorting all of them costs more
        lowest = np.partition(scores, len(scores) - k)[len(scores) - k]
        above = np.flatnonzero(scores > lowest)
        equal = np.flatnonzero(scores == lowest)[: k - len(above)]
        chosen = np.concatenate((above, equal))
        rows, scores = rows[chosen], scores[chosen]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]
