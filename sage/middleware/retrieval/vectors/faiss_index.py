"""How vectors go into FAISS and results come out. FAISS is imported at its first use, since that takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import Mask
from sage.middleware.retrieval.vectors.exact import Matrix
from sage.middleware.retrieval.vectors.scan import Found
from sage.middleware.settings.retrieval import Metric

SLICE = 8192  # vectors in work at a time


def load_faiss() -> Any:
    import faiss

    return faiss


def faiss_metric(metric: Metric) -> int:
    import faiss

    return int(faiss.METRIC_L2 if metric is Metric.EUCLIDEAN else faiss.METRIC_INNER_PRODUCT)


def slices(vectors: Matrix, metric: Metric) -> Iterator[tuple[int, Matrix]]:
    """The vectors, :data:`SLICE` at a time, as FAISS takes them: each slice with the place at which it begins."""
    for start in range(0, len(vectors), SLICE):
        some = vectors[start : start + SLICE]
        yield start, _normal(some) if metric is Metric.COSINE else np.ascontiguousarray(some)


def sample(vectors: Matrix, metric: Metric, most: int) -> Matrix:
    """Up to ``most`` of the vectors, always the same ones, as FAISS takes them."""
    if len(vectors) > most:
        vectors = vectors[np.sort(np.random.default_rng(0).choice(len(vectors), most, replace=False))]
    return _normal(vectors) if metric is Metric.COSINE else np.ascontiguousarray(vectors)


def _normal(vectors: Matrix) -> Matrix:
    """As :func:`~sage.middleware.retrieval.vectors.exact.unit`, in float32, which is enough for codes and three times
    as fast."""
    lengths = np.sqrt(np.vecdot(vectors, vectors))[:, np.newaxis]
    lengths[lengths == 0] = 1
    normal: Matrix = np.divide(vectors, lengths, dtype=np.float32)
    return normal


def add_vectors(index: Any, vectors: Matrix, metric: Metric, checkpoint: Callable[[], None]) -> None:
    """In slices, on one thread: searches go on beside it."""
    import faiss

    faiss.omp_set_num_threads(1)
    for _, some in slices(vectors, metric):
        checkpoint()
        index.add(some)


def selector(allowed: Mask) -> Any:
    return load_faiss().IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def search_index(index: Any, query: Matrix, k: int, parameters: Any, metric: Metric) -> Found:
    """FAISS's answer as ordinals and scores, best first, equal ones in the order of ordinals."""
    import faiss

    faiss.omp_set_num_threads(1)  # of this thread: a server has other requests for its other cores
    distances, labels = index.search(query[np.newaxis], k, params=parameters)
    filled = labels[0] >= 0
    ordinals, scores = labels[0][filled], distances[0][filled]
    if metric is Metric.EUCLIDEAN:
        scores = -np.sqrt(np.maximum(scores, 0))
    order = np.lexsort((ordinals, -scores))
    return ordinals[order], scores[order]


def serialized(index: Any) -> NDArray[np.uint8]:
    import faiss

    return np.asarray(faiss.serialize_index(index), np.uint8)


def open_index(blob: NDArray[np.uint8]) -> Any:
    """An index that reads its codes where they lie in ``blob``, which may be a mapped file and must outlive it."""
    faiss = load_faiss()
    return faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(blob), blob.nbytes))
