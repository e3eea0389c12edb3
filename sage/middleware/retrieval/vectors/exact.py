"""Exact scores of vectors, and the best of some scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sage.middleware.settings.retrieval import Metric

Matrix = NDArray[np.float32]
Scores = NDArray[np.float64]
Ordinals = NDArray[np.int64]

_SLICE = 2**20  # numbers of float64 that are in memory at a time


def exact_scores(query: Matrix, vectors: Matrix, metric: Metric) -> Scores:
    """``(n,)`` scores of ``(n, dim)`` vectors, which are not normalised: higher is nearer.

    Cosine is in -1…1, and 0 where either side is all zeros. The Euclidean distance is made negative; no score is -0.0.
    All is computed in float64, each row by itself: a row has the same score, to the last bit, whatever the other rows
    are.
    """
    scores = np.empty(len(vectors))
    wide_query = np.asarray(query, np.float64)
    step = max(1, _SLICE // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        scores[start : start + step] = _scores(wide_query, vectors[start : start + step].astype(np.float64), metric)
    return scores + 0.0  # -0.0 becomes 0.0


def _scores(query: Scores, vectors: Scores, metric: Metric) -> Scores:
    # vecdot goes row by row on one thread. The rounding of '@' depends on a row's place, and it starts BLAS's threads.
    if metric is Metric.EUCLIDEAN:
        apart = vectors - query
        distances: Scores = np.sqrt(np.vecdot(apart, apart))
        return -distances
    products: Scores = np.vecdot(vectors, query)
    if metric is Metric.DOT:
        return products
    lengths = np.sqrt(np.vecdot(vectors, vectors)) * np.sqrt(np.vecdot(query, query))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = np.where(lengths > 0, products / lengths, 0.0)
    return np.clip(cosines, -1.0, 1.0)


def unit(vectors: Matrix) -> Matrix:
    """A copy with rows of length 1; rows of zeros stay."""
    wide = vectors.astype(np.float64)
    lengths = np.sqrt(np.vecdot(wide, wide))[..., np.newaxis]
    normalised: Scores = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    return normalised.astype(np.float32)


def best(scores: NDArray[np.floating], k: int) -> Ordinals:
    """The places of the ``k`` highest scores, best first, equal ones in the order of their places."""
    if k <= 0 or not len(scores):
        return np.empty(0, np.int64)
    if k < len(scores):
        limit = np.partition(scores, len(scores) - k)[len(scores) - k]
        above = np.flatnonzero(scores > limit)
        equal = np.flatnonzero(scores == limit)[: k - len(above)]
        places = np.sort(np.concatenate([above, equal]))
    else:
        places = np.arange(len(scores))
    return places[np.argsort(-scores[places], kind="stable")].astype(np.int64, copy=False)
