"""The newest documents, in memory: they grow by appending, and what was given out stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sage.middleware.retrieval.filters.index import GrowingFilters
from sage.middleware.retrieval.index.view import Segment
from sage.middleware.retrieval.keywords.postings import GrowingKeywords, Mask
from sage.middleware.retrieval.types.documents import Row
from sage.middleware.retrieval.vectors.index import GrowingVectors
from sage.middleware.settings.retrieval import Metric

SEAL_AT = 1024  # documents


class MemTable:
    """Up to :data:`SEAL_AT` documents. One thread at a time appends; it may hold more than was published."""

    def __init__(self, metric: Metric) -> None:
        self._keywords, self._filters, self._vectors = GrowingKeywords(), GrowingFilters(), GrowingVectors(metric)
        self._numbers = np.empty(SEAL_AT, np.int64)
        self.size = 0
        self.broken = False
        """An append failed half-way: its columns may differ in length past what was published."""

    @property
    def room(self) -> int:
        return SEAL_AT - self.size

    def append(self, rows: Sequence[Row], terms: Sequence[Sequence[str]]) -> None:
        self.broken = True
        for row, words in zip(rows, terms, strict=True):
            self._keywords.append(words)
            self._filters.append(row.metadata)
        self._vectors.extend([row.vector for row in rows])
        self._numbers[self.size : self.size + len(rows)] = [row.number for row in rows]
        self.size += len(rows)
        self.broken = False

    def contents(self, live: Mask | None) -> Segment:
        """All that is in it; ``live`` of the first ones: the further ones live."""
        size = self.size
        if live is not None:
            live = np.concatenate([live, np.ones(size - len(live), np.bool_)])
        numbers = self._numbers[:size]
        numbers.flags.writeable = False
        return Segment(numbers, live, self._keywords.at(size), self._filters.at(size), self._vectors.at(size))

    def compact(self, data: Segment) -> Segment:
        """A segment of this table, as the arrays that a segment is made of."""
        size = data.size
        return replace(data, keywords=self._keywords.freeze(size), filters=self._filters.freeze(size))
