"""From vectors to the kind of index that their number calls for and that finds enough of them.

Recall is measured on the collection's own vectors: what a kind misses with its best parameters is given to the next
more exact one, down to vectors as they are. The same vectors make the same index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sage.middleware.retrieval.vectors.exact import Matrix, best, exact_scores, unit
from sage.middleware.retrieval.vectors.kinds import (
    DEPTHS,
    Coded,
    Flat,
    ProbeSetting,
    Scan,
    Staged,
    float32_safe,
    written,
)
from sage.middleware.settings.retrieval import Metric

FLAT, SQ8, RABITQ = 4_000, 16_000, 64_000
"""Up to how many vectors each kind serves. At 384 dimensions on one core: 4,000 flat 0.25 ms, 16,000 in SQ8 1 ms,
64,000 in RaBitQ 1 ms."""

_STAGED = 1000  # fewer are compared as fast by their codes
_SLICE = 8192  # vectors in work at a time
_TRAINING = 20_000  # vectors that the ranges of SQ8 and the centre of RaBitQ are taken from
_QUERIES = 96
_EVERY = 4
_CANDIDATES = ((350, 500, 750, 1000, 2000), (800, 1000, 1400, 2000, 3000, 5000))
_SHARES = (0.05, 0.07, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)  # of the lists
_MOST_LISTS = 1024
_PER_LIST = 64  # vectors a list that k-means learns from


def build_scan(
    vectors: Matrix, metric: Metric, target_recall: float, kind: str | None, checkpoint: Callable[[], None]
) -> Scan:
    """``kind`` is the least exact that is tried; none: by the number of vectors. ``checkpoint`` is called now and then
    and may raise."""
    if kind is None:
        kind = kind_for(len(vectors))
    if kind == "flat" or not float32_safe(vectors):
        return Flat.of(np.array(vectors, np.float32), metric)
    if len(vectors) < _STAGED:
        kind = "sq8"
    trial = Trial.of(vectors, metric, target_recall, checkpoint)
    codes = _coded(vectors, metric, trial)
    if codes is None:
        return Flat.of(np.array(vectors, np.float32), metric)
    for staged in {"ivf": ("ivf", "rabitq"), "rabitq": ("rabitq",)}.get(kind, ()):
        found = _staged(vectors, codes, staged, trial)
        if found is not None:
            return found
    return codes


def kind_for(count: int) -> str:
    """The kind that so many vectors call for."""
    return "flat" if count <= FLAT else "sq8" if count <= SQ8 else "rabitq" if count <= RABITQ else "ivf"


@dataclass(frozen=True, slots=True)
class Trial:
    """Queries with their true answers: how good the ``k``-th best is."""

    queries: Matrix
    vectors: Matrix
    metric: Metric
    bars: dict[int, list[float]]
    target: float
    checkpoint: Callable[[], None]

    @classmethod
    def of(cls, vectors: Matrix, metric: Metric, target: float, checkpoint: Callable[[], None]) -> Trial:
        queries = _queries(vectors)
        tops = _true_scores(vectors, queries, metric, min(max(DEPTHS), len(vectors)), checkpoint)
        bars = {k: [float(top[k - 1]) for top in tops] for k in DEPTHS if k <= len(vectors)}
        return cls(queries, vectors, metric, bars, target, checkpoint)

    def passed(self, scan: Scan) -> bool:
        """Whether it finds enough at every depth."""
        return all(self.recall(scan, k) >= self.target for k in self.bars)

    def recall(self, scan: Scan, k: int) -> float:
        """The share of the ``k`` nearest that are among the candidates. Another one as near is as good."""
        hits, every = 0, _EVERY if isinstance(scan, Coded) else 1  # comparing all codes is slow, and seldom misses
        asked = list(zip(self.queries, self.bars[k], strict=True))[::every]
        for query, bar in asked:
            self.checkpoint()
            ordinals, _ = scan.nearest(query, k, None)
            scores = exact_scores(query, self.vectors[ordinals], self.metric)
            hits += min(k, int(np.count_nonzero(scores >= bar - 1e-6 * abs(bar))))
        return hits / (k * len(asked))


def _queries(vectors: Matrix) -> Matrix:
    """Members moved by differences of others, until the nearest neighbour is as far as it is from real queries, which
    lie between documents, not on them (on MiniLM vectors these ask for as many lists as real queries do)."""
    chance = np.random.default_rng(0)
    own = vectors[np.sort(chance.choice(len(vectors), min(_QUERIES, len(vectors)), replace=False))].astype(np.float64)
    other = vectors[chance.integers(len(vectors), size=len(own))]
    another = vectors[chance.integers(len(vectors), size=len(own))]
    strength = np.linspace(0.2, 0.8, len(own))[:, np.newaxis]
    moved = (own + strength * (other - another.astype(np.float64))).astype(np.float32)
    return np.where(np.any(moved != 0, axis=1, keepdims=True), moved, np.float32(1))


def _true_scores(vectors: Matrix, queries: Matrix, metric: Metric, k: int, checkpoint: Callable[[], None]) -> list[Any]:
    """The ``k`` highest exact scores of each query, best first."""
    found: list[Any] = [np.empty(0) for _ in queries]
    import faiss

    faiss.omp_set_num_threads(1)
    for start, some in _slices(vectors, metric):
        checkpoint()
        asked = unit(queries) if metric is Metric.COSINE else queries
        _, places = faiss.knn(asked, some, min(k, len(some)), metric=_measure(metric))
        for number, query in enumerate(queries):
            scores = exact_scores(query, vectors[start : start + _SLICE][places[number]], metric)
            together = np.concatenate([found[number], scores])
            found[number] = together[best(together, k)]
    return found


def _coded(vectors: Matrix, metric: Metric, trial: Trial) -> Coded | None:
    import faiss

    for kind, coding in (("sq8", faiss.ScalarQuantizer.QT_8bit), ("bf16", faiss.ScalarQuantizer.QT_bf16)):
        index = faiss.IndexScalarQuantizer(vectors.shape[1], coding, _measure(metric))
        index.train(_sample(vectors, metric, _TRAINING))
        _add(index, vectors, metric, trial.checkpoint)
        codes = Coded(written(index), metric, kind)
        if trial.passed(codes):
            return codes
    return None


def _staged(vectors: Matrix, codes: Coded, kind: str, trial: Trial) -> Staged | None:
    """``None``: it does not find enough, however widely it looks."""
    base = _lists(vectors, codes.metric) if kind == "ivf" else _one_list(vectors, codes.metric)
    base.train(_sample(vectors, codes.metric, _TRAINING))
    _add(base, vectors, codes.metric, trial.checkpoint)
    blob = written(base)
    settings = []
    for depth, candidates in zip(DEPTHS, _CANDIDATES, strict=True):

        def recall(setting: ProbeSetting, depth: int = depth) -> float:
            return trial.recall(Staged(blob, codes, kind, [setting] * len(DEPTHS)), depth)

        setting = _narrowest(recall, trial.target, candidates, base.nlist if kind == "ivf" else 1)
        if setting is None:
            return None
        settings.append(setting)
    return Staged(blob, codes, kind, settings)


def _narrowest(
    recall: Callable[[ProbeSetting], float], target: float, candidates: Sequence[int], lists: int
) -> ProbeSetting | None:
    """The fewest lists that find enough and a little more (a hundred queries tell it to within .005), with candidates
    that lose no more than half of what may be lost: another candidate costs 0.3 µs, a list of a thousand vectors 12 to
    30 µs."""
    bar = (1 + target) / 2 if lists > 1 else target
    enough = next((count for count in candidates if recall(ProbeSetting(count, lists)) >= bar), candidates[-1])
    for share in _SHARES if lists > 1 else (1.0,):
        setting = ProbeSetting(enough, max(1, round(share * lists)))
        found = recall(setting)
        if found >= (3 * target + 1) / 4 or (setting.probes == lists and found >= target):
            return setting
    return None


def _one_list(vectors: Matrix, metric: Metric) -> Any:
    import faiss

    return faiss.IndexRaBitQ(vectors.shape[1], _measure(metric))


def _lists(vectors: Matrix, metric: Metric) -> Any:
    """An empty index with the centres that k-means finds."""
    import faiss

    faiss.omp_set_num_threads(1)
    width, lists = vectors.shape[1], int(max(16, min(2 * len(vectors) ** 0.5, _MOST_LISTS)))
    means = faiss.Kmeans(
        width,
        lists,
        niter=8,
        seed=1,
        spherical=metric is Metric.COSINE,
        min_points_per_centroid=1,
        max_points_per_centroid=_PER_LIST,
    )
    means.train(_sample(vectors, metric, lists * _PER_LIST))
    centres: Any = faiss.IndexFlat(width, _measure(metric))
    centres.add(means.centroids)
    index = faiss.IndexIVFRaBitQ(centres, width, lists, _measure(metric))
    centres.this.disown()
    index.own_fields = True
    return index


def _measure(metric: Metric) -> int:
    import faiss

    return int(faiss.METRIC_L2 if metric is Metric.EUCLIDEAN else faiss.METRIC_INNER_PRODUCT)


def _sample(vectors: Matrix, metric: Metric, most: int) -> Matrix:
    if len(vectors) <= most:
        chosen = vectors
    else:
        chosen = vectors[np.sort(np.random.default_rng(0).choice(len(vectors), most, replace=False))]
    return _normal(chosen) if metric is Metric.COSINE else np.ascontiguousarray(chosen)


def _normal(vectors: Matrix) -> Matrix:
    """As :func:`unit`, in float32, which is enough for codes and three times as fast."""
    lengths = np.sqrt(np.vecdot(vectors, vectors))[:, np.newaxis]
    lengths[lengths == 0] = 1
    found: Matrix = np.divide(vectors, lengths, dtype=np.float32)
    return found


def _slices(vectors: Matrix, metric: Metric) -> Iterator[tuple[int, Matrix]]:
    for start in range(0, len(vectors), _SLICE):
        some = vectors[start : start + _SLICE]
        yield start, _normal(some) if metric is Metric.COSINE else np.ascontiguousarray(some)


def _add(index: Any, vectors: Matrix, metric: Metric, checkpoint: Callable[[], None]) -> None:
    """In slices, on one thread: searches go on beside it."""
    import faiss

    faiss.omp_set_num_threads(1)
    for _, some in _slices(vectors, metric):
        checkpoint()
        index.add(some)
