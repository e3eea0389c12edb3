"""What a search sees: the segments of a collection at one sequence number. Immutable; writers make a new one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.filters.index import FilterIndex
from sage.middleware.retrieval.keywords.postings import Mask, Postings
from sage.middleware.retrieval.vectors.index import VectorIndex


@dataclass(frozen=True, slots=True)
class Segment:
    """Some documents, in the order of their numbers: a segment on disk, a frozen one in memory, or the newest ones."""

    numbers: NDArray[np.int64]
    """``(size,)``, ascending."""
    live: Mask | None
    """``(size,)``: not deleted; ``None``: all live."""
    keywords: Postings
    filters: FilterIndex
    vectors: VectorIndex | None
    """``None``: its index is not there (being rebuilt): the document store is asked for its vectors."""

    @property
    def size(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, slots=True)
class View:
    """Parts in the order of their numbers. A *row* is a document's place over all of them, the dead ones too."""

    sequence: int
    generation: int
    """Of the vectors: grows when all are embedded anew."""
    segments: tuple[Segment, ...]
    documents: int
    """The live ones."""

    @property
    def starts(self) -> tuple[int, ...]:
        """The row at which each segment begins."""
        found, start = [], 0
        for data in self.segments:
            found.append(start)
            start += data.size
        return tuple(found)
