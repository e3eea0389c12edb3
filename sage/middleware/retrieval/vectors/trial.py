"""How many of the true neighbours a vector index finds, measured on the vectors that it is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sage.middleware.retrieval.vectors.exact import Matrix, best, exact_scores, unit
from sage.middleware.retrieval.vectors.faiss_index import SLICE, faiss_metric, slices
from sage.middleware.retrieval.vectors.scan import DEPTHS, Scan
from sage.middleware.settings.retrieval import Metric

_QUERIES = 96
_EVERY = 4


@dataclass(frozen=True, slots=True)
class Trial:
    """Queries, and how good their true neighbours are."""

    queries: Matrix
    vectors: Matrix
    metric: Metric
    thresholds: dict[int, list[float]]
    """For each of :data:`DEPTHS`, the true score of each query's ``k``-th best."""
    target: float
    """The recall that an index has to reach."""
    checkpoint: Callable[[], None]

    @classmethod
    def of(cls, vectors: Matrix, metric: Metric, target: float, checkpoint: Callable[[], None]) -> Trial:
        queries = _queries(vectors)
        tops = _true_scores(vectors, queries, metric, min(max(DEPTHS), len(vectors)), checkpoint)
        thresholds = {k: [float(top[k - 1]) for top in tops] for k in DEPTHS if k <= len(vectors)}
        return cls(queries, vectors, metric, thresholds, target, checkpoint)

    def passed(self, scan: Scan) -> bool:
        """Whether it finds enough at the least and the greatest depth, of those that have as many vectors."""
        return all(self.recall(scan, k) >= self.target for k in (DEPTHS[0], DEPTHS[-1]) if k in self.thresholds)

    def recall(self, scan: Scan, k: int) -> float:
        """The share of the ``k`` nearest that are among the candidates. Another vector that is as near counts, too."""
        every = 1 if scan.staged else _EVERY  # comparing all codes is slow, and seldom misses
        questions = list(zip(self.queries, self.thresholds[k], strict=True))[::every]
        hits = 0
        for query, threshold in questions:
            self.checkpoint()
            ordinals, _ = scan.nearest(query, k, None)
            scores = exact_scores(query, self.vectors[ordinals], self.metric)
            hits += min(k, int(np.count_nonzero(scores >= threshold - 1e-6 * abs(threshold))))
        return hits / (k * len(questions))


def _queries(vectors: Matrix) -> Matrix:
    """Some of the vectors, each moved by a difference of two others. Real queries lie between documents, not on them:
    so the nearest neighbour is as far as from real queries (on MiniLM vectors these need as many lists)."""
    chance = np.random.default_rng(0)
    own = vectors[np.sort(chance.choice(len(vectors), min(_QUERIES, len(vectors)), replace=False))].astype(np.float64)
    other = vectors[chance.integers(len(vectors), size=len(own))]
    another = vectors[chance.integers(len(vectors), size=len(own))]
    strength = np.linspace(0.2, 0.8, len(own))[:, np.newaxis]
    moved = (own + strength * (other - another.astype(np.float64))).astype(np.float32)
    return np.where(np.any(moved != 0, axis=1, keepdims=True), moved, np.float32(1))


def _true_scores(vectors: Matrix, queries: Matrix, metric: Metric, k: int, checkpoint: Callable[[], None]) -> list[Any]:
    """The ``k`` highest exact scores of each query, best first."""
    import faiss

    faiss.omp_set_num_threads(1)
    tops: list[Any] = [np.empty(0) for _ in queries]
    prepared = unit(queries) if metric is Metric.COSINE else queries
    for start, some in slices(vectors, metric):
        checkpoint()
        _, places = faiss.knn(prepared, some, min(k, len(some)), metric=faiss_metric(metric))
        for number, query in enumerate(queries):
            scores = exact_scores(query, vectors[start : start + SLICE][places[number]], metric)
            together = np.concatenate([tops[number], scores])
            tops[number] = together[best(together, k)]
    return tops
