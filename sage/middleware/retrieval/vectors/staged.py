"""The kinds ``rabitq`` and ``ivf``: a coarse first stage finds candidates, and their codes put them in order.

RaBitQ, one bit for each dimension: Gao & Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error
Bound", SIGMOD 2024.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import Arrays, Mask
from sage.middleware.retrieval.vectors.coded import FEW, Coded
from sage.middleware.retrieval.vectors.compiled_codes import BitLists
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
_FEW_COMPILED = 2048
"""As :data:`FEW`, with compiled kernels: by bits more are compared in the time of one code."""
_ALL_LISTS = 32_768
"""With compiled kernels, up to so many allowed vectors those of all lists are compared by bits."""
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
        self._bits: BitLists | None = None
        self._bits_lock = threading.Lock()
        self._bits_fit = True

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

    @abstractmethod
    def _codes_by_list(self) -> tuple[Matrix, list[tuple[int, Ordinals | None, int]]]:
        """The centres, and the lists as :meth:`BitLists.of` takes them."""

    def nearest(self, query: Matrix, k: int, allowed: Mask | None) -> Found:
        count = self.count if allowed is None else int(np.count_nonzero(allowed))
        bits = self._bit_lists()
        if allowed is not None and count <= (FEW if bits is None else _FEW_COMPILED):
            return self.codes.nearest(query, k, allowed)
        setting, pool = self._setting_for(k, count), min(pool_of(k), count)
        if bits is not None and allowed is not None and count <= _ALL_LISTS and 2 * setting.candidates < count:
            return self._probe(query, pool, ProbeSetting(2 * setting.candidates, self.lists), allowed)
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
        if (bits := self._bit_lists()) is not None:
            prepared = self.codes.prepared(query)
            ordinals = bits.candidates(prepared, max(pool, setting.candidates), setting.probes, allowed)
            return self.codes.best(bits.kernels, query, ordinals, min(pool, len(ordinals)))
        chosen = {} if allowed is None else {"sel": selector(allowed)}
        parameters = load_faiss().IndexRefineSearchParameters(
            k_factor=max(1.0, setting.candidates / pool),
            base_index_params=self._base_parameters(setting.probes, chosen),
        )
        return search_index(self.index, self.codes.prepared(query), pool, parameters, self.metric)

    def _bit_lists(self) -> BitLists | None:
        """The first stage for the compiled kernels, once these are ready. While one thread makes it, the others get
        ``None``."""
        if self._bits is not None or not self._bits_fit or (kernels := self.codes.kernels()) is None:
            return self._bits
        if self._bits_lock.acquire(blocking=False):
            try:
                centres, lists = self._codes_by_list()
                self._bits = BitLists.of(kernels, self.blob, centres, lists, self.metric)
                self._bits_fit = self._bits is not None
            finally:
                self._bits_lock.release()
        return self._bits

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

    @property
    def has_errors(self) -> bool:
        return self.codes.has_errors

    def errors(self, query: Matrix, ordinals: Ordinals) -> NDArray[np.float64]:
        return self.codes.errors(query, ordinals)

    def raw_vectors(self, ordinals: Ordinals) -> Matrix | None:
        return None

    def head(self) -> dict[str, Any]:
        # "looks" is the key that files of older releases have, and they know two depths
        first, middle, last = (asdict(setting) for setting in self.settings)
        return {"looks": [first, last], "middle_look": middle, **self.codes.head()}

    def arrays(self) -> Arrays:
        return {"base": self.blob, **self.codes.arrays()}

    @classmethod
    def restore(cls, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], metric: Metric) -> Self:
        first, last = (ProbeSetting(**setting) for setting in head["looks"])
        middle = ProbeSetting(**head["middle_look"]) if "middle_look" in head else last
        return cls(arrays["base"], Coded.restore(head, arrays, metric), (first, middle, last))


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

    def _codes_by_list(self) -> tuple[Matrix, list[tuple[int, Ordinals | None, int]]]:
        centre = load_faiss().vector_to_array(self.base.center)
        return centre[np.newaxis], [(int(self.base.codes.data()), None, self.count)]


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

    def _codes_by_list(self) -> tuple[Matrix, list[tuple[int, Ordinals | None, int]]]:
        faiss, lists = load_faiss(), self.base.invlists
        sizes = [lists.list_size(number) for number in range(self.lists)]
        return self.base.quantizer.reconstruct_n(0, self.lists), [
            (int(lists.get_codes(number)), faiss.rev_swig_ptr(lists.get_ids(number), size), size)
            if size
            else (0, None, 0)
            for number, size in enumerate(sizes)
        ]
