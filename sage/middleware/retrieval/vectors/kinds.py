"""How the vectors of one segment are kept and scanned: as they are, as codes, or as codes behind a coarser first look.

A *scan* finds candidates: the best by codes, some more than were asked for, so that the best by exact score are among
them. Its vectors are counted from 0 without gaps. FAISS answers from one thread, and many threads may ask at once:
what differs between searches goes in as search parameters, never as attributes of the index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import Arrays, Mask
from sage.middleware.retrieval.vectors.exact import Matrix, Ordinals, best, exact_scores, unit
from sage.middleware.settings.retrieval import Metric

Found = tuple[Ordinals, NDArray[np.float32]]

DEPTHS = (10, 100)
"""Up to so many are looked for in the same way; what a way takes is measured for each."""
FEW = 4096
"""Of so many allowed vectors all codes are compared: 0.5 ms at 384 dimensions."""
MOST = 0.9
"""Where a filter keeps less, it is looked twice as wide until that finds next to nothing: the lists nearest the query
may hold little that is allowed, and what is allowed may lie closer together than what the looks were measured on. Where
a filter goes with the query, .98 to 1.0 of the nearest are found so; .92 to 1.0 by all lists, looked into once."""
QUERY_BITS = 4  # RaBitQ: 2 lose .03 of recall@10 on MiniLM vectors, 8 win nothing

_ROWS = 4096  # scanned at a time where vectors are kept as they are


class Scan(Protocol):
    """The vectors of a segment, without gaps."""

    @property
    def kind(self) -> str: ...

    @property
    def count(self) -> int: ...

    def nearest(self, query: Matrix, k: int, allowed: Mask | None) -> Found:
        """``k`` or more of the nearest, fewer when fewer are allowed, best first, equal ones in order. ``query`` is
        not normalised, and neither zero with cosine nor untame."""

    def scores(self, query: Matrix, ordinals: Ordinals) -> NDArray[np.float32]:
        """The same numbers."""

    def raw_vectors(self, ordinals: Ordinals) -> Matrix | None:
        """The vectors as they were given; ``None``: only codes are kept."""

    def arrays(self) -> Arrays: ...


def pool_of(k: int) -> int:
    """How many by code for the ``k`` best by exact score: with 10 % more, recall is 1.0000 on MiniLM vectors in SQ8
    (without: .99), at 10 and at 100."""
    return k + max(8, k // 8)


def float32_safe(vectors: Matrix) -> bool:
    """Whether float32 can multiply and add them without overflow or underflow that matters."""
    if not vectors.size:
        return True
    largest = np.maximum(vectors.max(axis=-1), -vectors.min(axis=-1))
    return bool(np.all((largest == 0) | ((largest > 1e-12) & (largest < 1e12))))


@dataclass(frozen=True, slots=True)
class Flat:
    """Vectors as they are, compared one by one: exact."""

    vectors: Matrix
    lengths: NDArray[np.float32]
    """``(count,)``, for cosine."""
    metric: Metric
    float32_safe: bool
    """Else float32 would overflow, and they are compared in float64."""
    kind: str = "flat"

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
        found = np.empty(len(ordinals), np.float32)
        for start in range(0, len(ordinals), _ROWS):
            some = ordinals[start : start + _ROWS]
            found[start : start + _ROWS] = self._scan(query, self.vectors[some], self.lengths[some])
        return found

    def _scan(self, query: Matrix, vectors: Matrix, lengths: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.float32_safe or not float32_safe(query):
            with np.errstate(over="ignore"):
                return exact_scores(query, vectors, self.metric).astype(np.float32)
        if self.metric is Metric.EUCLIDEAN:
            found = np.empty(len(vectors), np.float32)
            for start in range(0, len(vectors), _ROWS):
                apart = vectors[start : start + _ROWS] - query
                found[start : start + _ROWS] = -np.sqrt(np.vecdot(apart, apart))
            return found
        if self.metric is Metric.DOT:
            products: NDArray[np.float32] = np.vecdot(vectors, query)
            return products
        products = np.vecdot(vectors, unit(query))
        cosines: NDArray[np.float32] = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
        return cosines

    def raw_vectors(self, ordinals: Ordinals) -> Matrix | None:
        return self.vectors[ordinals]

    def arrays(self) -> Arrays:
        return {"vectors": self.vectors, "lengths": self.lengths}


def lengths_of(vectors: Matrix) -> NDArray[np.float32]:
    """Of each row, without the overflow of squares in float32."""
    with np.errstate(over="ignore"):
        return (-exact_scores(np.zeros(vectors.shape[1], np.float32), vectors, Metric.EUCLIDEAN)).astype(np.float32)


class Coded:
    """A number of 8 bits a dimension (``sq8``) or of 16 (``bf16``), all compared."""

    def __init__(self, blob: NDArray[np.uint8], metric: Metric, kind: str) -> None:
        self.blob, self.metric, self.kind = blob, metric, kind
        self.index = open_index(blob)
        self.count = int(self.index.ntotal)

    def nearest(self, query: Matrix, k: int, allowed: Mask | None) -> Found:
        count = self.count if allowed is None else int(np.count_nonzero(allowed))
        if allowed is not None and count <= FEW:
            return self._among(query, np.flatnonzero(allowed), k)
        parameters = None if allowed is None else _faiss().SearchParameters(sel=selector(allowed))
        return self._ranked(self.index, query, k, count, parameters)

    def _among(self, query: Matrix, ordinals: Ordinals, k: int) -> Found:
        if not len(ordinals):
            return ordinals, np.empty(0, np.float32)
        places, scores = self._ranked(self._copy(ordinals), query, k, len(ordinals), None)
        return ordinals[places], scores

    def _ranked(self, index: Any, query: Matrix, k: int, count: int, parameters: Any) -> Found:
        pool = wanted = min(pool_of(k), count)
        while True:
            ordinals, scores = search_index(index, self.prepared(query), pool, parameters, self.metric)
            if len(scores) < pool or pool >= count or scores[-1] < scores[min(k, len(scores)) - 1]:
                return ordinals[:wanted], scores[:wanted]
            # a crowd of equals is cut in two: of those, the oldest come first
            pool = min(4 * pool, count)

    def scores(self, query: Matrix, ordinals: Ordinals) -> NDArray[np.float32]:
        scores = np.empty(len(ordinals), np.float32)
        if len(ordinals):
            copy = self._copy(ordinals)
            places, found = search_index(copy, self.prepared(query), len(ordinals), None, self.metric)
            scores[places] = found
        return scores

    def _copy(self, ordinals: Ordinals) -> Any:
        """An index of these alone."""
        index = _faiss().IndexScalarQuantizer(self.index.d, self.index.sq.qtype, self.index.metric_type)
        index.sq.trained, index.is_trained = self.index.sq.trained, True
        index.add_sa_codes(self._codes()[ordinals])
        return index

    def _codes(self) -> NDArray[np.uint8]:
        width = self.index.code_size
        codes = _faiss().rev_swig_ptr(self.index.codes.data(), self.count * width)
        return np.asarray(codes, np.uint8).reshape(self.count, width)

    def prepared(self, query: Matrix) -> Matrix:
        return unit(query) if self.metric is Metric.COSINE else query

    def raw_vectors(self, ordinals: Ordinals) -> Matrix | None:
        return None

    def arrays(self) -> Arrays:
        return {"codes": self.blob}


@dataclass(frozen=True, slots=True)
class ProbeSetting:
    """A way to find the best up to some depth: how many candidates are taken, out of how many lists."""

    candidates: int
    probes: int


class Staged:
    """A bit a dimension (RaBitQ) finds candidates, in all lists (``rabitq``) or in the nearest ones (``ivf``); their
    codes put them in order.

    RaBitQ: Gao & Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound", SIGMOD 2024.
    """

    def __init__(self, blob: NDArray[np.uint8], codes: Coded, kind: str, settings: Sequence[ProbeSetting]) -> None:
        """``looks``: one for each of :data:`DEPTHS`."""
        self.blob, self.codes, self.kind, self.count = blob, codes, kind, codes.count
        self.metric, self.settings = codes.metric, tuple(settings)
        base = open_index(blob)
        self.lists = int(base.nlist) if kind == "ivf" else 1
        self.index = _faiss().IndexRefine(base, codes.index)
        self.base = base

    def nearest(self, query: Matrix, k: int, allowed: Mask | None) -> Found:
        count = self.count if allowed is None else int(np.count_nonzero(allowed))
        if allowed is not None and count <= FEW:
            return self.codes.nearest(query, k, allowed)
        setting, pool = self._setting_for(k, count), min(pool_of(k), count)
        if setting.candidates * 4 > count:
            return self.codes.nearest(query, k, allowed)
        ordinals, scores = self._probe(query, pool, setting, allowed)
        while count <= self.count * MOST:
            before, setting = ordinals, ProbeSetting(2 * setting.candidates, min(2 * setting.probes, self.lists))
            if setting.candidates * 4 > count:
                return self.codes.nearest(query, k, allowed)
            ordinals, scores = self._probe(query, pool, setting, allowed)
            if np.isin(ordinals[:k], before[:k]).sum() >= k - k // 50:
                break
        if len(scores) < pool or scores[-1] == scores[min(k, pool) - 1]:
            # too few in the lists that were looked into, or a crowd of equals that was cut in two
            return self.codes.nearest(query, k, allowed)
        return ordinals, scores

    def _probe(self, query: Matrix, pool: int, setting: ProbeSetting, allowed: Mask | None) -> Found:
        parameters = self._parameters(max(1.0, setting.candidates / pool), setting.probes, allowed)
        return search_index(self.index, self.codes.prepared(query), pool, parameters, self.metric)

    def _setting_for(self, k: int, count: int) -> ProbeSetting:
        for depth, setting in zip(DEPTHS, self.settings, strict=True):
            if k <= depth:
                return (
                    setting if count > self.count * MOST else ProbeSetting(setting.candidates, self._probes(k, count))
                )
        return ProbeSetting(self.settings[-1].candidates * -(-k // DEPTHS[-1]), self.lists)

    def _probes(self, k: int, count: int) -> int:
        """How many lists to begin with where a filter keeps ``count``: as for the rank that the ``k``-th best of those
        has among all, did the filter choose by chance."""
        rank: float = k * self.count / count
        for depth, setting in zip(DEPTHS, self.settings, strict=True):
            if rank <= depth:
                return setting.probes
        return min(self.lists, round(self.settings[-1].probes * math.sqrt(rank / DEPTHS[-1])))

    def _parameters(self, factor: float, probes: int, allowed: Mask | None) -> Any:
        faiss = _faiss()
        chosen = {} if allowed is None else {"sel": selector(allowed)}
        if self.kind == "ivf":
            base = faiss.IVFRaBitQSearchParameters(nprobe=probes, qb=QUERY_BITS, **chosen)
        else:
            base = faiss.RaBitQSearchParameters(qb=QUERY_BITS, **chosen)
        return faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=base)

    def scores(self, query: Matrix, ordinals: Ordinals) -> NDArray[np.float32]:
        return self.codes.scores(query, ordinals)

    def raw_vectors(self, ordinals: Ordinals) -> Matrix | None:
        return None

    def arrays(self) -> Arrays:
        return {"base": self.blob, **self.codes.arrays()}


def _faiss() -> Any:
    import faiss

    return faiss


def selector(allowed: Mask) -> Any:
    return _faiss().IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def search_index(index: Any, query: Matrix, k: int, parameters: Any, metric: Metric) -> Found:
    """FAISS's answer as ordinals and scores, best first, equal ones in order, without the places it left empty."""
    _faiss().omp_set_num_threads(1)  # of this thread: a server has other requests for its other cores
    distances, labels = index.search(query[np.newaxis], k, params=parameters)
    found = labels[0] >= 0
    ordinals, scores = labels[0][found], distances[0][found]
    if metric is Metric.EUCLIDEAN:
        scores = -np.sqrt(np.maximum(scores, 0))
    order = np.lexsort((ordinals, -scores))
    return ordinals[order], scores[order]


def written(index: Any) -> NDArray[np.uint8]:
    return np.asarray(_faiss().serialize_index(index), np.uint8)


def open_index(blob: NDArray[np.uint8]) -> Any:
    """An index that reads its codes where they lie in ``blob``, which may be a mapped file and must outlive it."""
    faiss = _faiss()
    reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(blob), blob.nbytes)
    return faiss.read_index(reader)
