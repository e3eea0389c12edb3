"""The newest documents, in memory: a table that grows by appending, while searches read what it held before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sage.middleware.retrieval.filters.growing import GrowingFilters
from sage.middleware.retrieval.index.view import Segment
from sage.middleware.retrieval.keywords.growing import GrowingKeywords
from sage.middleware.retrieval.keywords.postings import Mask
from sage.middleware.retrieval.types.documents import Row
from sage.middleware.retrieval.vectors.growing import GrowingVectors
from sage.middleware.settings.retrieval import Metric

SEAL_AT = 1024  # documents


class MemTable:
    """Up to :data:`SEAL_AT` documents. One thread at a time appends.

    What it gave out as a :class:`Segment` stays as it was: appending only writes behind it. The table may hold more
    rows than any segment shows, when the step that appended them failed afterwards.
    """

    def __init__(self, metric: Metric) -> None:
        self._keywords, self._filters, self._vectors = GrowingKeywords(), GrowingFilters(), GrowingVectors(metric)
        self._numbers = np.empty(SEAL_AT, np.int64)
        self.size = 0
        self.broken = False
        """An append failed half-way, and its columns may differ in length: it can be read, but not appended to."""

    @property
    def room(self) -> int:
        return SEAL_AT - self.size

    def append(self, rows: Sequence[Row], terms: Sequence[Sequence[str]]) -> None:
        """Adds rows with their terms, as many as there is :attr:`room` for at most."""
        self.broken = True
        for row, words in zip(rows, terms, strict=True):
            self._keywords.append(words)
            self._filters.append(row.metadata)
        self._vectors.extend([row.vector for row in rows])
        self._numbers[self.size : self.size + len(rows)] = [row.number for row in rows]
        self.size += len(rows)
        self.broken = False

    def contents(self, live: Mask | None) -> Segment:
        """All rows as a segment. ``live`` is the mask of the first ones; the rows after those are live."""
        size = self.size
        if live is not None:
            live = np.concatenate([live, np.ones(size - len(live), np.bool_)])
        numbers = self._numbers[:size]
        numbers.flags.writeable = False
        return Segment(numbers, live, self._keywords.at(size), self._filters.at(size), self._vectors.at(size))

    def compact(self, segment: Segment) -> Segment:
        """A segment of this table in the arrays that a merge reads, which are smaller than those that grow."""
        size = segment.size
        return replace(segment, keywords=self._keywords.freeze(size), filters=self._filters.freeze(size))
