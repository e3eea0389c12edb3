"""The kinds ``sq8`` and ``bf16``: a number of 8 or 16 bits for each dimension, all compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import Arrays, Mask
from sage.middleware.retrieval.vectors.exact import Matrix, Ordinals, unit
from sage.middleware.retrieval.vectors.faiss_index import load_faiss, open_index, search_index, selector
from sage.middleware.retrieval.vectors.scan import Found, pool_of
from sage.middleware.settings.retrieval import Metric

FEW = 4096
"""Up to so many allowed vectors, only their codes are compared: 0.5 ms at 384 dimensions."""


class Coded:
    """FAISS's scalar quantizer."""

    exact: ClassVar[bool] = False
    staged: ClassVar[bool] = False

    def __init__(self, blob: NDArray[np.uint8], metric: Metric, kind: str) -> None:
        """``blob`` is the index as FAISS writes it."""
        self.blob, self.metric, self.kind = blob, metric, kind
        self.index = open_index(blob)
        self.count = int(self.index.ntotal)

    def nearest(self, query: Matrix, k: int, allowed: Mask | None) -> Found:
        count = self.count if allowed is None else int(np.count_nonzero(allowed))
        if allowed is not None and count <= FEW:
            return self._among(query, np.flatnonzero(allowed), k)
        parameters = None if allowed is None else load_faiss().SearchParameters(sel=selector(allowed))
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
            # The pool ends within a run of equal scores. The oldest of them come first, so the run is read further.
            pool = min(4 * pool, count)

    def scores(self, query: Matrix, ordinals: Ordinals) -> NDArray[np.float32]:
        scores = np.empty(len(ordinals), np.float32)
        if len(ordinals):
            places, some = search_index(self._copy(ordinals), self.prepared(query), len(ordinals), None, self.metric)
            scores[places] = some
        return scores

    def _copy(self, ordinals: Ordinals) -> Any:
        """An index of these vectors alone."""
        index = load_faiss().IndexScalarQuantizer(self.index.d, self.index.sq.qtype, self.index.metric_type)
        index.sq.trained, index.is_trained = self.index.sq.trained, True
        index.add_sa_codes(self._codes()[ordinals])
        return index

    def _codes(self) -> NDArray[np.uint8]:
        width = self.index.code_size
        codes = load_faiss().rev_swig_ptr(self.index.codes.data(), self.count * width)
        return np.asarray(codes, np.uint8).reshape(self.count, width)

    def prepared(self, query: Matrix) -> Matrix:
        return unit(query) if self.metric is Metric.COSINE else query

    def raw_vectors(self, ordinals: Ordinals) -> Matrix | None:
        return None

    def head(self) -> dict[str, Any]:
        return {"coding": self.kind}

    def arrays(self) -> Arrays:
        return {"codes": self.blob}

    @classmethod
    def restore(cls, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], metric: Metric) -> Self:
        return cls(arrays["codes"], metric, head["coding"])
