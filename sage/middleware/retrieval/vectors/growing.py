"""The vectors of the newest documents, which grow by appending."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sage.middleware.retrieval.vectors.exact import Matrix
from sage.middleware.retrieval.vectors.flat import Flat, float32_safe, lengths_of
from sage.middleware.retrieval.vectors.index import VectorIndex
from sage.middleware.settings.retrieval import Metric


class GrowingVectors:
    """Exact. One thread appends; an index that was given out stays as it was."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._size = self._count = 0
        self._float32_safe = True
        self._vectors = np.empty((0, 0), np.float32)
        self._lengths = np.empty(0, np.float32)
        self._places = np.empty(0, np.int32)
        self._counts: list[int] = [0]  # of the first n documents, how many have a vector

    def append(self, vector: Matrix | None) -> None:
        self.extend([vector])

    def extend(self, vectors: Sequence[Matrix | None]) -> None:
        """Appends a vector, or ``None``, for each of some documents. Costs a tenth of appending one by one."""
        rows = np.array([vector for vector in vectors if vector is not None], np.float32)
        has_vector = np.array([vector is not None for vector in vectors], np.bool_)
        end = self._count + len(rows)
        if len(rows):
            if end > len(self._vectors):
                self._grow(end, rows.shape[1])
            self._vectors[self._count : end] = rows
            self._lengths[self._count : end] = lengths_of(rows)
            self._places[self._count : end] = self._size + np.flatnonzero(has_vector)
            self._float32_safe = self._float32_safe and float32_safe(rows)
        self._counts += (self._count + np.cumsum(has_vector)).tolist()
        self._count = end
        self._size += len(has_vector)

    def _grow(self, wanted: int, width: int) -> None:
        room = max(64, 2 * self._count, wanted)
        vectors, lengths = np.zeros((room, width), np.float32), np.zeros(room, np.float32)
        places = np.zeros(room, np.int32)
        if self._count:
            vectors[: self._count], lengths[: self._count] = self._vectors[: self._count], self._lengths[: self._count]
            places[: self._count] = self._places[: self._count]
        # indexes that were given out keep the arrays that they have
        self._vectors, self._lengths, self._places = vectors, lengths, places

    def at(self, size: int) -> VectorIndex:
        """A ``flat`` index of the first ``size`` documents, made without copying them."""
        count = self._counts[size]
        places = None if count == size else self._places[:count]
        if not count:
            return VectorIndex(size, self._metric, None, places)
        scan = Flat(self._vectors[:count], self._lengths[:count], self._metric, self._float32_safe)
        return VectorIndex(size, self._metric, scan, places)
