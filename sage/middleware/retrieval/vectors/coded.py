"""The kinds ``sq8`` and ``bf16``: a number of 8 or 16 bits for each dimension, all compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import Arrays, Mask
from sage.middleware.retrieval.vectors.compiled_codes import ByteCodes, CodeKernels, code_kernels
from sage.middleware.retrieval.vectors.exact import Matrix, Ordinals, unit
from sage.middleware.retrieval.vectors.faiss_index import load_faiss, open_index, search_index, selector
from sage.middleware.retrieval.vectors.scan import Found, pool_of
from sage.middleware.settings.retrieval import Metric

FEW = 4096
"""Up to so many allowed vectors, only their codes are compared: 0.5 ms at 384 dimensions."""


_ROUNDING = 1e-5
"""What float32 may lose of a sum, as a share of the longest vectors."""


@dataclass(frozen=True, slots=True)
class Residuals:
    """How far each vector (with cosine, of length 1) is from what its code stands for: at most ``most / 255`` times its
    share."""

    most: float
    shares: NDArray[np.uint8]

    @classmethod
    def rounded_up(cls, residuals: NDArray[np.float64]) -> Residuals:
        most = float(residuals.max(initial=0.0))
        return cls(most, np.ceil(residuals * (255 / most if most else 0)).clip(0, 255).astype(np.uint8))

    def of(self, ordinals: Ordinals) -> NDArray[np.float64]:
        return self.shares[ordinals].astype(np.float64) * (self.most / 255)


class Coded:
    """FAISS's scalar quantizer."""

    exact: ClassVar[bool] = False
    staged: ClassVar[bool] = False

    def __init__(self, blob: NDArray[np.uint8], metric: Metric, kind: str, residuals: Residuals | None = None) -> None:
        """``blob`` is the index as FAISS writes it. Files of older releases have no ``residuals``."""
        self.blob, self.metric, self.kind, self.residuals = blob, metric, kind, residuals
        self.index = open_index(blob)
        self.count = int(self.index.ntotal)
        self._last: tuple[Matrix, Matrix] | None = None

    def nearest(self, query: Matrix, k: int, allowed: Mask | None) -> Found:
        count = self.count if allowed is None else int(np.count_nonzero(allowed))
        if (kernels := self.kernels()) is not None:
            ordinals = None if allowed is None else np.flatnonzero(allowed)
            return self.best(kernels, query, ordinals, min(pool_of(k), count))
        if allowed is not None and count <= FEW:
            return self._among(query, np.flatnonzero(allowed), k)
        parameters = None if allowed is None else load_faiss().SearchParameters(sel=selector(allowed))
        return self._ranked(self.index, query, k, count, parameters)

    def best(self, kernels: CodeKernels, query: Matrix, ordinals: Ordinals | None, k: int) -> Found:
        """The ``k`` nearest of ``ordinals`` (``None``: of all), best first, equal ones in their order."""
        if not k or (ordinals is not None and not len(ordinals)):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        return self._byte_codes.best(kernels, self.prepared(query), ordinals, k)

    def kernels(self) -> CodeKernels | None:
        """The compiled kernels, if they are ready and suit these codes."""
        return code_kernels(self.count) if self.kind == "sq8" else None

    @cached_property
    def _byte_codes(self) -> ByteCodes:
        trained = load_faiss().vector_to_array(self.index.sq.trained)
        return ByteCodes.of(self._codes(), trained, self.metric)

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
        if (kernels := self.kernels()) is not None:
            return self._byte_codes.scores(kernels, self.prepared(query), ordinals)
        scores = np.empty(len(ordinals), np.float32)
        if len(ordinals):
            places, some = search_index(self._copy(ordinals), self.prepared(query), len(ordinals), None, self.metric)
            scores[places] = some
        return scores

    @property
    def has_errors(self) -> bool:
        return self.residuals is not None and self.kind == "sq8"

    def errors(self, query: Matrix, ordinals: Ordinals) -> NDArray[np.float64]:
        """By Cauchy and Schwarz; and what float32 rounds."""
        assert self.residuals is not None
        length = 1.0 if self.metric is Metric.COSINE else float(np.sqrt(np.vecdot(query, query)))
        return length * (self.residuals.of(ordinals) + _ROUNDING * self._reach)

    @cached_property
    def _reach(self) -> float:
        """The length of the longest vector that a code can stand for."""
        trained = load_faiss().vector_to_array(self.index.sq.trained)
        least, ranges = np.split(trained.astype(np.float64), 2)
        return float(np.linalg.norm(np.abs(least) + ranges))

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
        """As it is compared with the codes. A search asks for it several times, so the last one is kept."""
        if self.metric is not Metric.COSINE:
            return query
        last = self._last
        if last is None or last[0] is not query:
            last = self._last = query, unit(query)
        return last[1]

    def raw_vectors(self, ordinals: Ordinals) -> Matrix | None:
        return None

    def head(self) -> dict[str, Any]:
        return {"coding": self.kind, **({} if self.residuals is None else {"residual": self.residuals.most})}

    def arrays(self) -> Arrays:
        return {"codes": self.blob, **({} if self.residuals is None else {"residuals": self.residuals.shares})}

    @classmethod
    def restore(cls, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], metric: Metric) -> Self:
        residuals = Residuals(head["residual"], arrays["residuals"]) if "residual" in head else None
        return cls(arrays["codes"], metric, head["coding"], residuals)
