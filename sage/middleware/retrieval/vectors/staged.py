"""The kinds ``rabitq`` and ``ivf``: a coarse first stage finds candidates, and their codes put them in order.

RaBitQ, one bit for each dimension: Gao & Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error
Bound", SIGMOD 2024.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import Arrays, Mask
from sage.middleware.retrieval.vectors.coded import FEW, Coded
from sage.middleware.retrieval.vectors.exact import Matrix, Ordinals
from sage.middleware.retrieval.vectors.faiss_index import (
    faiss_metric,
    load_faiss,
    open_index,
    sample,
    search_index,
    selector,
)
from sage.middleware.retrieval.vectors.scan import DEPTHS, Found, pool_of
from sage.middleware.settings.retrieval import Metric

WIDEN_BELOW = 0.9
"""Where a filter keeps a smaller share than this, the search is repeated twice as wide until it finds next to nothing
new. The lists nearest the query may hold little that is allowed, and allowed vectors may lie closer together than those
that the settings were measured on. Where the filter is correlated with the query, .98 to 1.0 of the nearest are found
this way; .92 to 1.0 by searching all lists once."""
QUERY_BITS = 4  # RaBitQ: 2 lose .03 of recall@10 on MiniLM vectors, 8 win nothing
_MOST_LISTS = 1024
_PER_LIST = 64  # vectors a list that k-means learns from


@dataclass(frozen=True, slots=True)
class ProbeSetting:
    """How widely the first stage searches: how many candidates it takes, from how many lists."""

    candidates: int
    probes: int


class Staged(ABC):
    """The part that both kinds share."""

    kind: ClassVar[str]
    exact: ClassVar[bool] = False
    staged: ClassVar[bool] = True

    def __init__(self, blob: NDArray[np.uint8], codes: Coded, settings: Sequence[ProbeSetting]) -> None:
        """``blob`` is the first stage as FAISS writes it. There is a setting for each of :data:`DEPTHS`."""
        self.blob, self.codes, self.count = blob, codes, codes.count
        self.metric, self.settings = codes.metric, tuple(settings)
        base = open_index(blob)
        self.lists = self.lists_in(base)
        self.index = load_faiss().IndexRefine(base, codes.index)
        self.base = base

    @staticmethod
    @abstractmethod
    def first_stage(vectors: Matrix, metric: Metric) -> Any:
        """A FAISS index for such vectors, before it is trained."""

    @staticmethod
    @abstractmethod
    def lists_in(base: Any) -> int:
        """How many lists a first stage has."""

    @staticmethod
    @abstractmethod
    def _base_parameters(probes: int, chosen: Mapping[str, Any]) -> Any:
        """FAISS's search parameters of the first stage."""

    def nearest(self, query: Matrix, k: int, allowed: Mask | None) -> Found:
        count = self.count if allowed is None else int(np.count_nonzero(allowed))
        if allowed is not None and count <= FEW:
            return self.codes.nearest(query, k, allowed)
        setting, pool = self._setting_for(k, count), min(pool_of(k), count)
        if setting.candidates * 4 > count:
            return self.codes.nearest(query, k, allowed)
        ordinals, scores = self._probe(query, pool, setting, allowed)
        while count <= self.count * WIDEN_BELOW:
            before, setting = ordinals, ProbeSetting(2 * setting.candidates, min(2 * setting.probes, self.lists))
            if setting.candidates * 4 > count:
                return self.codes.nearest(query, k, allowed)
            ordinals, scores = self._probe(query, pool, setting, allowed)
            if np.isin(ordinals[:k], before[:k]).sum() >= k - k // 50:
                break
        if len(scores) < pool or scores[-1] == scores[min(k, pool) - 1]:
            # too few in the lists that were searched, or the pool ends within a run of equal scores
            return self.codes.nearest(query, k, allowed)
        return ordinals, scores

    def _probe(self, query: Matrix, pool: int, setting: ProbeSetting, allowed: Mask | None) -> Found:
        chosen = {} if allowed is None else {"sel": selector(allowed)}
        parameters = load_faiss().IndexRefineSearchParameters(
            k_factor=max(1.0, setting.candidates / pool),
            base_index_params=self._base_parameters(setting.probes, chosen),
        )
        return search_index(self.index, self.codes.prepared(query), pool, parameters, self.metric)

    def _setting_for(self, k: int, count: int) -> ProbeSetting:
        """How widely to search for ``k`` of ``count`` allowed vectors, at first."""
        for depth, setting in zip(DEPTHS, self.settings, strict=True):
            if k <= depth:
                if count > self.count * WIDEN_BELOW:
                    return setting
                return ProbeSetting(setting.candidates, self._probes(k, count))
        return ProbeSetting(self.settings[-1].candidates * -(-k // DEPTHS[-1]), self.lists)

    def _probes(self, k: int, count: int) -> int:
        """How many lists to begin with where a filter keeps ``count`` vectors. If the filter were random, the ``k``-th
        best of those would have the rank ``k / share`` among all: as many lists as for that rank."""
        rank: float = k * self.count / count
        for depth, setting in zip(DEPTHS, self.settings, strict=True):
            if rank <= depth:
                return setting.probes
        return min(self.lists, round(self.settings[-1].probes * math.sqrt(rank / DEPTHS[-1])))

    def scores(self, query: Matrix, ordinals: Ordinals) -> NDArray[np.float32]:
        return self.codes.scores(query, ordinals)

    def raw_vectors(self, ordinals: Ordinals) -> Matrix | None:
        return None

    def head(self) -> dict[str, Any]:
        # "looks" is the key that files of older releases have
        return {"looks": [asdict(setting) for setting in self.settings], **self.codes.head()}

    def arrays(self) -> Arrays:
        return {"base": self.blob, **self.codes.arrays()}

    @classmethod
    def restore(cls, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], metric: Metric) -> Self:
        settings = [ProbeSetting(**setting) for setting in head["looks"]]
        return cls(arrays["base"], Coded.restore(head, arrays, metric), settings)


class RaBitQ(Staged):
    """All vectors are compared by one bit for each dimension."""

    kind = "rabitq"

    @staticmethod
    def first_stage(vectors: Matrix, metric: Metric) -> Any:
        return load_faiss().IndexRaBitQ(vectors.shape[1], faiss_metric(metric))

    @staticmethod
    def lists_in(base: Any) -> int:
        return 1

    @staticmethod
    def _base_parameters(probes: int, chosen: Mapping[str, Any]) -> Any:
        return load_faiss().RaBitQSearchParameters(qb=QUERY_BITS, **chosen)


class InvertedLists(Staged):
    """Vectors are kept in lists by their nearest centre; those in the lists nearest the query are compared, by one bit
    for each dimension."""

    kind = "ivf"

    @staticmethod
    def first_stage(vectors: Matrix, metric: Metric) -> Any:
        """With the centres that k-means finds."""
        faiss = load_faiss()
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
        means.train(sample(vectors, metric, lists * _PER_LIST))
        centres = faiss.IndexFlat(width, faiss_metric(metric))
        centres.add(means.centroids)
        index = faiss.IndexIVFRaBitQ(centres, width, lists, faiss_metric(metric))
        centres.this.disown()
        index.own_fields = True
        return index

    @staticmethod
    def lists_in(base: Any) -> int:
        return int(base.nlist)

    @staticmethod
    def _base_parameters(probes: int, chosen: Mapping[str, Any]) -> Any:
        return load_faiss().IVFRaBitQSearchParameters(nprobe=probes, qb=QUERY_BITS, **chosen)
