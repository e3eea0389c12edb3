"""What a search sees: the segments of a collection at one sequence number. Immutable; each commit makes a new view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.filters.index import FilterIndex
from sage.middleware.retrieval.filters.language import Filter
from sage.middleware.retrieval.keywords.postings import Mask, Postings
from sage.middleware.retrieval.vectors.index import VectorIndex


@dataclass(frozen=True, slots=True)
class Segment:
    """The indexes of some documents, in the order of their numbers. A document's *ordinal* is its place among them."""

    numbers: NDArray[np.int64]
    """``(size,)``, ascending."""
    live: Mask | None
    """``(size,)``: which documents are not deleted; ``None`` means all."""
    keywords: Postings
    filters: FilterIndex
    vectors: VectorIndex | None
    """``None`` means that this index is being rebuilt, and that searches read the vectors from the document store."""

    @property
    def size(self) -> int:
        return len(self.numbers)

    def passing(self, condition: Filter | None) -> Mask:
        """``(size,)``: which live documents pass; ``None`` means all live ones. Not to be changed."""
        if condition is None:
            return self.live_among(np.ones(self.size, np.bool_))
        return self.filters.passing(condition, self.live)

    def live_among(self, mask: Mask) -> Mask:
        """``(size,)``: which documents of ``mask`` are live."""
        return mask if self.live is None else mask & self.live


@dataclass(frozen=True, slots=True)
class View:
    """Segments in the order of their numbers. A *row* is a document's place over all of them, deleted ones counted."""

    sequence: int
    """The number of the last operation on the database that it shows."""
    generation: int
    """The generation of the vectors; it grows with each reembedding."""
    segments: tuple[Segment, ...]
    documents: int
    """How many documents are live."""

    @property
    def starts(self) -> tuple[int, ...]:
        """The row at which each segment begins."""
        starts, start = [], 0
        for segment in self.segments:
            starts.append(start)
            start += segment.size
        return tuple(starts)
