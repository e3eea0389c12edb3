"""From the scores of two legs to one: pure functions over the candidates of a search.

Every candidate is scored on both legs before ("completed"); NaN is a document to which a leg cannot give a score, which
counts as that leg's floor. All results are weighted means of two numbers, so weights that add up to 1 keep the range.

Sources: min-max and z-score as in Lee, *Analyses of multiple evidence combination* (SIGIR 1997); RRF: Cormack, Clarke,
Büttcher, *Reciprocal rank fusion* (SIGIR 2009), k = 60; DBSF, distribution-based score fusion: mean ± 3 standard
deviations as the bounds (Mazzeschi, 2023; Qdrant).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.types.search import Fusion

Floats = NDArray[np.float64]
RRF_K = 60


@dataclass(frozen=True, slots=True)
class Scale:
    """How the scores of one leg are made comparable: ``(score - low) / span``."""

    low: float
    span: float
    missing: float
    """What a document without a score gets."""
    clipped: bool = False

    def __call__(self, scores: Floats) -> Floats:
        one = np.where(np.isnan(scores), np.nan, self.low)  # they are all equal
        scaled = (scores - self.low) / self.span if self.span > 0 else one
        if self.clipped:
            scaled = np.clip(scaled, 0.0, 1.0)
        return np.where(np.isnan(scaled), self.missing, scaled)


def fit(kind: Fusion, scores: Floats, *, floor: float | None = None) -> Scale:
    """The scale of a leg by its candidates. ``floor``: what a missing score is at most (0 for words: no match); without
    it, it is the lowest of the others. Equal scores do not divide by zero: then whoever has one gets the most."""
    known = scores[~np.isnan(scores)]
    if not known.size:
        return Scale(1.0, 0.0, 0.0)
    lowest = float(known.min()) if floor is None else min(floor, float(known.min()))
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
    """Whether they differ by more than rounding."""
    low, high = float(scores.min()), float(scores.max())
    return high - low > 1e-12 * max(abs(low), abs(high)) and float(scores.std()) > 0


def reciprocal_ranks(scores: Floats, rows: NDArray[np.int64], placed: int = 0) -> Floats:
    """``61 / (60 + rank)``, so that the first gets 1; without a score 0. Equal scores are ranked by row. ``placed``:
    how many stand before these."""
    found = np.zeros(len(scores))
    order = np.lexsort((rows, -np.where(np.isnan(scores), -np.inf, scores)))
    order = order[~np.isnan(scores[order])]
    found[order] = (RRF_K + 1) / (RRF_K + placed + np.arange(1, len(order) + 1))
    return found


def weights(alpha: float | None, dense_weight: float, coverage: float) -> tuple[float, float]:
    """``(dense, words)``, which add up to 1. A given ``alpha`` is taken as it is. Else both begin alike: that of the
    vectors falls with ``dense_weight`` (how much of the query its embedder understands), that of the words with
    ``coverage`` (how much of what the query says the best document holds): few matching words say little."""
    if alpha is not None:
        return alpha, 1.0 - alpha
    dense, words = dense_weight, min(1.0, coverage / ENOUGH)
    whole = dense + words
    return (dense / whole, words / whole) if whole > 0 else (0.5, 0.5)


ENOUGH = 0.25
"""The share of a query's words from which on the words have their whole weight."""
