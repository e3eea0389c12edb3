"""From the scores of two legs to one: pure functions over the candidates of a search.

Both legs have scored every candidate before. NaN stands for a document that a leg cannot score; it gets that leg's
lowest value. All results are weighted means of two numbers, so with weights that add up to 1 the range stays the same.

Sources: min-max and z-score as in Lee, *Analyses of multiple evidence combination* (SIGIR 1997); RRF: Cormack, Clarke,
Büttcher, *Reciprocal rank fusion* (SIGIR 2009), k = 60; DBSF, distribution-based score fusion: mean ± 3 standard
deviations as the bounds (Mazzeschi, 2023; Qdrant).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.types.search import Fusion

Floats = NDArray[np.float64]
RRF_K = 60
_SQUARES_VANISH = 1e-100
"""Numbers that differ by more have a deviation above 0, which need not be computed then."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How the scores of one leg become comparable: ``(score - low) / span``."""

    low: float
    span: float
    missing: float
    """What a document without a score gets."""
    clipped: bool = False

    def __call__(self, scores: Floats) -> Floats:
        if_equal = np.where(np.isnan(scores), np.nan, self.low)  # the scale of equal scores
        scaled = (scores - self.low) / self.span if self.span > 0 else if_equal
        if self.clipped:
            scaled = np.clip(scaled, 0.0, 1.0)
        return np.where(np.isnan(scaled), self.missing, scaled)


def fit(kind: Fusion, scores: Floats, *, floor: float | None = None) -> Scale:
    """The scale of a leg by its candidates. A missing score counts as ``floor`` at most (0 for keywords, which means no
    match); without ``floor``, as the lowest of the others. When all scores are equal, every document that has one gets
    the highest value."""
    present = scores[~np.isnan(scores)]
    if not present.size:
        return Scale(1.0, 0.0, 0.0)
    lowest = float(present.min()) if floor is None else min(floor, float(present.min()))
    complete = np.where(np.isnan(scores), lowest, scores)
    if kind is Fusion.ZSCORE:
        mean, deviation = float(complete.mean()), float(complete.std())
        if not _spread(complete):
            return Scale(0.0, 0.0, 0.0)
        return Scale(mean, deviation, (lowest - mean) / deviation)
    if not _spread(complete):
        return Scale(1.0, 0.0, 0.0)
    if kind is Fusion.DBSF:
        mean, deviation = float(complete.mean()), float(complete.std())
        low = mean - 3 * deviation
        return Scale(low, 6 * deviation, float(np.clip((lowest - low) / (6 * deviation), 0, 1)), clipped=True)
    low = float(complete.min())
    return Scale(low, float(complete.max()) - low, (lowest - low) / (float(complete.max()) - low))


def _spread(scores: Floats) -> bool:
    """Whether the scores differ by more than rounding."""
    low, high = float(scores.min()), float(scores.max())
    span = high - low
    if span <= 1e-12 * max(abs(low), abs(high)):
        return False
    return _SQUARES_VANISH < span < math.inf or float(scores.std()) > 0


def reciprocal_ranks(scores: Floats, rows: NDArray[np.int64], ranked_before: int = 0) -> Floats:
    """``61 / (60 + rank)``, so that the first gets 1; a document without a score gets 0. Equal scores are ranked by
    row. ``ranked_before`` is how many documents stand before these."""
    result = np.zeros(len(scores))
    order = np.lexsort((rows, -np.where(np.isnan(scores), -np.inf, scores)))
    order = order[~np.isnan(scores[order])]
    result[order] = (RRF_K + 1) / (RRF_K + ranked_before + np.arange(1, len(order) + 1))
    return result


def weights(alpha: float | None, dense_weight: float, coverage: float, known: float) -> tuple[float, float]:
    """``(dense, keywords)``, which add up to 1. ``alpha``, if it is given, is the first of them. Otherwise both are
    equal at first: the weight of the vectors falls with ``dense_weight`` (how much of the query its embedder
    understands), that of the keywords with ``coverage`` (how much of the query the best document holds), as few
    matching words mean little; and less than a few where any document holds only a few of the query's words, which are
    the ``known`` part of it: as in a question in another language than the documents'."""
    if alpha is not None:
        return alpha, 1.0 - alpha
    enough = ENOUGH + _MORE * min(1.0, max(0.0, (_WELL_KNOWN - known) / (_WELL_KNOWN - _HARDLY_KNOWN)))
    dense, keywords = dense_weight, min(1.0, coverage / enough)
    total = dense + keywords
    return (dense / total, keywords / total) if total > 0 else (0.5, 0.5)


ENOUGH = 0.25
"""The share of a query's words from which on keywords have their full weight."""
_MORE = 0.15
"""How much larger a share that is in a collection that hardly knows the words."""
_WELL_KNOWN, _HARDLY_KNOWN = 0.8, 0.5
"""With these, 76 of CMRC2018's questions in English find .506 (nDCG@10) in the Chinese paragraphs, in place of .481; by
vectors alone it is .482. The questions in Chinese and SciFact's claims, whose words are known, find what they did."""
