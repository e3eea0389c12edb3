"""The metadata of one segment of a collection as an inverted index, so that a filter is a mask.

A *term* is a path, a type and a value. Terms are in order, and so are the documents of each, one term after the other:
a range of values is one slice of that array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sage.middleware.retrieval.filters.language import (
    All,
    Compare,
    Condition,
    Equal,
    Exists,
    Filter,
    Leaves,
    Not,
    Some,
    leaves_of,
)
from sage.middleware.retrieval.filters.terms import Posted, Terms, collect, joined
from sage.middleware.retrieval.keywords.postings import Arrays, Mask


class FilterIndex:
    """Immutable, over arrays which may be memory-mapped."""

    def __init__(self, size: int, terms: Terms, posted: Posted) -> None:
        self._size = size
        self._terms = terms
        self._posted = posted

    @classmethod
    def build(cls, metadatas: Sequence[bytes]) -> FilterIndex:
        """From the metadata of each document, JSON objects as bytes."""
        terms, posted = collect(
            (ordinal, leaves_of(orjson.loads(metadata)))
            for ordinal, metadata in enumerate(metadatas)
            if metadata != b"{}"
        )
        return cls(len(metadatas), terms, posted)

    @classmethod
    def merge(cls, segments: Sequence[tuple[FilterIndex, Mask | None]]) -> FilterIndex:
        """One index of all, in order, without the documents whose mask says dead."""
        found: list[tuple[Terms, Posted, NDArray[np.int64]]] = []
        size = 0
        for segment, live in segments:
            kept = np.ones(segment.size, np.bool_) if live is None else live
            places = np.cumsum(kept, dtype=np.int64) - 1 + size
            places[~kept] = -1
            size += int(np.count_nonzero(kept))
            found.append((segment.whole().terms, segment.whole().posted, places))
        return cls(size, *joined(found))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> FilterIndex:
        """The inverse of :meth:`arrays`, without copying the postings."""
        posted = Posted(arrays["starts"], arrays["ordinals"])
        return cls(int(arrays["size"][0]), Terms.from_arrays(arrays), posted)

    def arrays(self) -> Arrays:
        return {
            "size": np.array([self._size], np.int64),
            "starts": self._posted.starts,
            "ordinals": self._posted.ordinals,
            **self._terms.arrays(),
        }

    def whole(self) -> FilterIndex:
        """The same as arrays, for merging."""
        return self

    @property
    def size(self) -> int:
        return self._size

    @property
    def terms(self) -> Terms:
        return self._terms

    @property
    def posted(self) -> Posted:
        return self._posted

    def mask(self, condition: Filter) -> Mask:
        """``(size,)``: which documents pass; exactly as :meth:`Filter.matches` says of each."""
        return self._mask(condition.condition)

    def _mask(self, condition: Condition) -> Mask:
        match condition:
            case Not(inner):
                return ~self._mask(inner)
            case All(inner):
                found = np.ones(self._size, np.bool_)
                for each in inner:
                    found &= self._mask(each)
                return found
            case Some(inner):
                found = np.zeros(self._size, np.bool_)
                for each in inner:
                    found |= self._mask(each)
                return found
            case Equal(path, values):
                return self._of(self._terms.equal(path, values))
            case Compare(path, operator, operand):
                return self._of(self._terms.compare(path, operator, operand))
            case Exists(path):
                return self._of([self._terms.of_path(path)])
        raise TypeError(f"{condition!r} is no condition")

    def _of(self, ranges: Sequence[tuple[int, int]]) -> Mask:
        """The documents of terms ``start…end`` of each range."""
        found = np.zeros(self._size, np.bool_)
        starts, ordinals = self._posted.starts, self._posted.ordinals
        for start, end in ranges:
            if start < end:
                found[ordinals[int(starts[start]) : int(starts[end])]] = True
        return found


class GrowingFilters:
    """The newest documents' metadata. One thread appends while others read what they saw."""

    def __init__(self) -> None:
        self._metadatas: list[bytes] = []
        self._leaves: list[Leaves | None] = []
        """Read when a filter first asks."""

    def append(self, metadata: bytes) -> None:
        self._leaves.append(None)
        self._metadatas.append(metadata)

    def at(self, size: int) -> FilterIndex:
        """What answers like an index of the first ``size``."""
        return _Listed(self._metadatas, self._leaves, size)

    def freeze(self, size: int) -> FilterIndex:
        return FilterIndex.build(self._metadatas[:size])


class _Listed(FilterIndex):
    """The first documents of a growing list, looked at one by one: they are few."""

    def __init__(self, metadatas: list[bytes], leaves: list[Leaves | None], size: int) -> None:
        self._size = size
        self._metadatas = metadatas
        self._leaves = leaves

    def whole(self) -> FilterIndex:
        return FilterIndex.build(self._metadatas[: self._size])

    def arrays(self) -> Arrays:
        return self.whole().arrays()

    def mask(self, condition: Filter) -> Mask:
        passes, leaves = condition.condition.passes, self._leaves
        found = np.zeros(self._size, np.bool_)
        for ordinal in range(self._size):
            known = leaves[ordinal]
            if known is None:
                known = leaves[ordinal] = leaves_of(orjson.loads(self._metadatas[ordinal]))
            found[ordinal] = passes(known)
        return found
