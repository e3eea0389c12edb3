"""The kind ``flat``: vectors as they are, compared one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import Arrays, Mask
from sage.middleware.retrieval.vectors.exact import Matrix, Ordinals, best, exact_scores, unit
from sage.middleware.retrieval.vectors.scan import Found, pool_of
from sage.middleware.settings.retrieval import Metric

_ROWS = 4096  # vectors compared at a time


@dataclass(frozen=True, slots=True)
class Flat:
    """Exact."""

    vectors: Matrix
    lengths: NDArray[np.float32]
    """``(count,)``, for cosine."""
    metric: Metric
    float32_safe: bool
    """If not, the vectors are compared in float64: float32 would overflow."""

    kind: ClassVar[str] = "flat"
    exact: ClassVar[bool] = True
    staged: ClassVar[bool] = False
    has_errors: ClassVar[bool] = False

    @classmethod
    def of(cls, vectors: Matrix, metric: Metric) -> Flat:
        return cls(vectors, lengths_of(vectors), metric, float32_safe(vectors))

    @property
    def count(self) -> int:
        return len(self.vectors)

    def nearest(self, query: Matrix, k: int, allowed: Mask | None) -> Found:
        if allowed is None:
            scores = self._scan(query, self.vectors, self.lengths)
            places = best(scores, pool_of(k))
            return places, scores[places]
        ordinals = np.flatnonzero(allowed)
        scores = self.scores(query, ordinals)
        places = best(scores, pool_of(k))
        return ordinals[places], scores[places]

    def scores(self, query: Matrix, ordinals: Ordinals) -> NDArray[np.float32]:
        scores = np.empty(len(ordinals), np.float32)
        for start in range(0, len(ordinals), _ROWS):
            some = ordinals[start : start + _ROWS]
            scores[start : start + _ROWS] = self._scan(query, self.vectors[some], self.lengths[some])
        return scores

    def _scan(self, query: Matrix, vectors: Matrix, lengths: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.float32_safe or not float32_safe(query):
            with np.errstate(over="ignore"):
                return exact_scores(query, vectors, self.metric).astype(np.float32)
        if self.metric is Metric.EUCLIDEAN:
            distances = np.empty(len(vectors), np.float32)
            for start in range(0, len(vectors), _ROWS):
                apart = vectors[start : start + _ROWS] - query
                distances[start : start + _ROWS] = -np.sqrt(np.vecdot(apart, apart))
            return distances
        if self.metric is Metric.DOT:
            products: NDArray[np.float32] = np.vecdot(vectors, query)
            return products
        products = np.vecdot(vectors, unit(query))
        cosines: NDArray[np.float32] = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
        return cosines

    def errors(self, query: Matrix, ordinals: Ordinals) -> NDArray[np.float64]:
        raise NotImplementedError("what has the vectors needs no bounds")

    def raw_vectors(self, ordinals: Ordinals) -> Matrix | None:
        return self.vectors[ordinals]

    def head(self) -> dict[str, Any]:
        return {"tame": self.float32_safe}  # files of older releases have this key

    def arrays(self) -> Arrays:
        return {"vectors": self.vectors, "lengths": self.lengths}

    @classmethod
    def restore(cls, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], metric: Metric) -> Self:
        return cls(arrays["vectors"], arrays["lengths"], metric, head["tame"])


def float32_safe(vectors: Matrix) -> bool:
    """Whether float32 can multiply and add them without an overflow or underflow that matters."""
    if not vectors.size:
        return True
    largest = np.maximum(vectors.max(axis=-1), -vectors.min(axis=-1))
    return bool(np.all((largest == 0) | ((largest > 1e-12) & (largest < 1e12))))


def lengths_of(vectors: Matrix) -> NDArray[np.float32]:
    """``(n,)``: the length of each row, without the overflow of squares in float32."""
    with np.errstate(over="ignore"):
        scores = exact_scores(np.zeros(vectors.shape[1], np.float32), vectors, Metric.EUCLIDEAN)
        return np.abs(scores).astype(np.float32)
