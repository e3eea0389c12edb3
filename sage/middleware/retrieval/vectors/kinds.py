"""The kinds of vector index, a row each, and which one serves how many vectors.

Recall is measured on the collection's own vectors. A kind that finds too little with its best settings gives way to
the next more exact one; ``flat`` always finds everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from sage.middleware.retrieval.vectors.builder import Builder
from sage.middleware.retrieval.vectors.coded import Coded
from sage.middleware.retrieval.vectors.exact import Matrix
from sage.middleware.retrieval.vectors.flat import Flat, float32_safe
from sage.middleware.retrieval.vectors.scan import Scan
from sage.middleware.retrieval.vectors.staged import InvertedLists, RaBitQ
from sage.middleware.settings.retrieval import Metric

_STAGED_FROM = 1000  # fewer vectors are compared as fast by their codes


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    up_to: float
    """It is the first choice for so many vectors, where no more exact kind is; 0 means never."""
    build: Callable[[Builder], Scan | None]
    """``None`` is its answer when the index finds too little."""
    restore: Callable[[Mapping[str, Any], Mapping[str, NDArray[Any]], Metric], Scan]
    """See :meth:`Scan.restore`."""


KINDS = (
    Kind("flat", 4_000, Builder.flat, Flat.restore),
    Kind("bf16", 0, lambda builder: builder.codes, Coded.restore),
    Kind("sq8", 6_000, lambda builder: builder.codes, Coded.restore),
    Kind("rabitq", 64_000, lambda builder: builder.staged(RaBitQ), RaBitQ.restore),
    Kind("ivf", math.inf, lambda builder: builder.staged(InvertedLists), InvertedLists.restore),
)
"""From the most exact to the fastest with many vectors. At 384 dimensions on one core a search takes: 4,000 flat
0.25 ms, 16,000 in SQ8 1 ms, 64,000 in RaBitQ 1 ms with FAISS; with compiled kernels 10,000 take 0.9 ms in SQ8 and 0.5
ms in RaBitQ."""
_BY_NAME = {kind.name: kind for kind in KINDS}


def kind_for(count: int) -> Kind:
    """The kind for so many vectors."""
    return next(kind for kind in KINDS if count <= kind.up_to)


def build_scan(
    vectors: Matrix, metric: Metric, target_recall: float, name: str | None, checkpoint: Callable[[], None]
) -> Scan:
    """``name`` is the first kind that is tried; ``None`` means by the number of vectors. ``checkpoint`` is called now
    and then and may raise."""
    first = kind_for(len(vectors)) if name is None else _BY_NAME[name]
    if len(vectors) < _STAGED_FROM and first.name != "flat":
        first = _BY_NAME["sq8"]
    builder = Builder(vectors, metric, target_recall, checkpoint)
    if float32_safe(vectors):
        for kind in reversed(KINDS[: KINDS.index(first) + 1]):
            if (scan := kind.build(builder)) is not None:
                return scan
    return builder.flat()


def restore_scan(name: str, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], metric: Metric) -> Scan:
    """The scan that a file holds. Raises :class:`KeyError`, :class:`TypeError` or :class:`ValueError` for a file of
    another version."""
    return _BY_NAME[name].restore(head, arrays, metric)
