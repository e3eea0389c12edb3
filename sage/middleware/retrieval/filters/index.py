"""The metadata of one segment as an inverted index: a filter becomes a mask of the documents that pass.

Terms (see :mod:`sage.middleware.retrieval.filters.terms`) are in order, and the documents of each term follow those of
the one before: the documents of a range of values are one slice of an array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sage.middleware.retrieval.filters.build import Source, build_terms, merge_terms
from sage.middleware.retrieval.filters.language import (
    All,
    Compare,
    Condition,
    Equal,
    Exists,
    Filter,
    Not,
    Some,
    leaves_of,
)
from sage.middleware.retrieval.filters.terms import Range, TermDocuments, Terms
from sage.middleware.retrieval.keywords.postings import Arrays, Mask
from sage.middleware.retrieval.keywords.vocabulary import spans
from sage.middleware.retrieval.recently_used import RecentlyUsed

_RARE = 8
"""One document of so many: where a condition lets fewer through, the others are looked up for these alone."""
_FEW_TERMS = 4
"""A look-up among the documents of one term costs little; those of many terms are marked in a mask."""

_KEPT_MASKS, _KEPT_BYTES = 16, 4 * 2**20
_LONGEST_KEPT = 2000  # characters of a filter


@dataclass(frozen=True, slots=True)
class TextColumn:
    """The texts under one path, by document: ``codes``, ``(size,)``, says which of them each has, one of several; -1
    means none."""

    texts: Sequence[str]
    code_of: Mapping[str, int]
    codes: NDArray[np.int64]
    first_term: int = 0
    """Of the texts, which are terms one after the other; not of documents that are not indexed yet."""


class FilterIndex:
    """Immutable, over arrays which may be memory-mapped."""

    def __init__(self, size: int, terms: Terms, documents: TermDocuments) -> None:
        self._size = size
        self._terms = terms
        self._documents = documents
        self._text_columns: dict[str, TextColumn] = {}
        self._number_columns: dict[str, NDArray[np.float64]] = {}
        self._passing: RecentlyUsed[str, tuple[Mask | None, Mask]] = RecentlyUsed(_most_kept(size))

    @classmethod
    def build(cls, metadatas: Sequence[bytes]) -> FilterIndex:
        """From the metadata of each document, JSON objects as bytes."""
        terms, documents = build_terms(
            (ordinal, leaves_of(orjson.loads(metadata)))
            for ordinal, metadata in enumerate(metadatas)
            if metadata != b"{}"
        )
        return cls(len(metadatas), terms, documents)

    @classmethod
    def merge(cls, segments: Sequence[tuple[FilterIndex, Mask | None]]) -> FilterIndex:
        """One index of all, in order, without the documents that a mask of the live ones leaves out."""
        sources: list[Source] = []
        size = 0
        for segment, mask in segments:
            index = segment.frozen()
            live = np.ones(index.size, np.bool_) if mask is None else mask
            ordinals = np.where(live, np.cumsum(live, dtype=np.int64) - 1 + size, -1)
            sources.append(Source(index._terms, index._documents, ordinals))
            size += int(np.count_nonzero(live))
        return cls(size, *merge_terms(sources))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> FilterIndex:
        """The inverse of :meth:`arrays`, without copying the postings."""
        documents = TermDocuments(arrays["starts"], arrays["ordinals"])
        return cls(int(arrays["size"][0]), Terms.from_arrays(arrays), documents)

    def arrays(self) -> Arrays:
        return {
            "size": np.array([self._size], np.int64),
            "starts": self._documents.starts,
            "ordinals": self._documents.ordinals,
            **self._terms.arrays(),
        }

    def frozen(self) -> FilterIndex:
        """The same documents as arrays."""
        return self

    @property
    def size(self) -> int:
        return self._size

    def mask(self, condition: Filter) -> Mask:
        """``(size,)``: which documents pass; exactly as :meth:`Filter.matches` says of each."""
        return self._mask(condition.condition)

    def passing(self, condition: Filter, live: Mask | None) -> Mask:
        """Which documents of ``live`` (``None``: of all) pass. It is kept for the next search with the same filter, so
        it is not to be changed."""
        written = repr(condition.condition)  # not the condition itself: 1 is True to Python, and not to a filter
        kept = self._passing.get(written)
        if kept is not None and kept[0] is live:
            return kept[1]
        mask = self.mask(condition)
        if live is not None:
            mask &= live
        mask.flags.writeable = False
        if len(written) <= _LONGEST_KEPT:
            self._passing.keep(written, (live, mask))
        return mask

    def numbers(self, path: str) -> NDArray[np.float64]:
        """``(size,)``: the number of each document under a path, one of several; NaN where there is none."""
        numbers = np.full(self._size, np.nan)
        for kind in ("number", "big"):
            terms, values = self._terms.of_kind(path, kind)
            counts, ordinals = self._documents_of(terms)
            numbers[ordinals] = np.repeat(np.asarray(values, np.float64), counts)
        return numbers

    def texts(self, path: str) -> tuple[list[str], NDArray[np.int64]]:
        """The texts under a path, and ``(size,)``: which of them each document has, one of several; -1 means none."""
        codes = np.full(self._size, -1, np.int64)
        terms, values = self._terms.of_kind(path, "text")
        counts, ordinals = self._documents_of(terms)
        codes[ordinals] = np.repeat(np.arange(len(values)), counts)
        return [value.decode("utf-8", "surrogatepass") for value in values], codes

    def holding(self, path: str, codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The documents that have one of these texts of :meth:`text_column`, and the place of its code in ``codes``."""
        column = self.text_column(path)
        terms = column.first_term + codes
        starts = self._documents.starts[terms].astype(np.int64)
        counts = self._documents.starts[terms + 1].astype(np.int64) - starts
        ordinals = self._documents.ordinals[spans(starts, counts)].astype(np.int64)
        places = np.repeat(np.arange(len(codes)), counts)
        own = np.flatnonzero(column.codes[ordinals] == codes[places])  # of several texts one counts
        return ordinals[own], places[own]

    def text_column(self, path: str) -> TextColumn:
        """What :meth:`texts` says, kept from its first use on."""
        column = self._text_columns.get(path)
        if column is None:
            texts, codes = self.texts(path)
            first = self._first_text(path)
            column = TextColumn(texts, {text: code for code, text in enumerate(texts)}, codes, first)
            self._text_columns[path] = column
        return column

    def _first_text(self, path: str) -> int:
        return self._terms.of_kind(path, "text")[0][0]

    def number_column(self, path: str) -> NDArray[np.float64]:
        """What :meth:`numbers` says, kept from its first use on. Not to be changed."""
        column = self._number_columns.get(path)
        if column is None:
            column = self._number_columns[path] = self.numbers(path)
        return column

    def _documents_of(self, terms: Range) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """How many documents each of these terms has, and those of all, term after term."""
        starts = np.asarray(self._documents.starts[terms[0] : terms[1] + 1], np.int64)
        return np.diff(starts), self._documents.ordinals[int(starts[0]) : int(starts[-1])]

    def _mask(self, condition: Condition) -> Mask:
        match condition:
            case Not(inner):
                return ~self._mask(inner)
            case All(inner):
                return self._all(_flat(inner))
            case Some(inner):
                mask = np.zeros(self._size, np.bool_)
                for each in inner:
                    mask |= self._mask(each)
                return mask
        ranges = self._ranges(condition)
        if ranges is None:
            raise TypeError(f"{condition!r} is no condition")
        return self._holding(ranges)

    def _ranges(self, condition: Condition) -> list[Range] | None:
        """The terms of which a document must have one; ``None`` for a condition that is made of others."""
        match condition:
            case Equal(path, values):
                ranges = self._terms.equal(path, values)
            case Compare(path, bounds):
                ranges = self._terms.compare(path, bounds)
            case Exists(path):
                ranges = [self._terms.of_path(path)]
            case _:
                return None
        return [(start, end) for start, end in ranges if start < end]

    def _all(self, conditions: Sequence[Condition]) -> Mask:
        """Which documents pass all of them. Begins with the rarest one; where few documents are left, only these are
        looked at for the others."""
        simple: list[tuple[int, list[Range]]] = []
        others: list[Condition] = []
        for condition in conditions:
            ranges = self._ranges(condition)
            if ranges is None:
                others.append(condition)
            elif not self._is_everywhere(ranges):
                simple.append((self._postings(ranges), ranges))
        simple.sort(key=lambda counted: counted[0])
        if not simple or simple[0][0] * _RARE > self._size:
            masks = [*(self._holding(ranges) for _, ranges in simple), *map(self._mask, others)]
            return np.logical_and.reduce(masks) if masks else np.ones(self._size, np.bool_)
        ordinals = np.flatnonzero(self._holding(simple[0][1]))
        for _, ranges in simple[1:]:
            ordinals = ordinals[self._among(ranges, ordinals)]
        for condition in others:
            ordinals = ordinals[self._mask(condition)[ordinals]]
        mask = np.zeros(self._size, np.bool_)
        mask[ordinals] = True
        return mask

    def _postings(self, ranges: Sequence[Range]) -> int:
        """How many documents have these terms, one with several of them counted several times."""
        starts = self._documents.starts
        return sum(int(starts[end]) - int(starts[start]) for start, end in ranges)

    def _is_everywhere(self, ranges: Sequence[Range]) -> bool:
        """Whether it is one term that every document has."""
        return len(ranges) == 1 and ranges[0][1] - ranges[0][0] == 1 and self._postings(ranges) == self._size

    def _among(self, ranges: Sequence[Range], ordinals: NDArray[np.int64]) -> Mask:
        """Which of ``ordinals`` have a term of one of the ranges."""
        if sum(end - start for start, end in ranges) > _FEW_TERMS:
            return self._holding(ranges)[ordinals]
        found = np.zeros(len(ordinals), np.bool_)
        for term in (term for start, end in ranges for term in range(start, end)):
            starts = self._documents.starts
            documents = self._documents.ordinals[int(starts[term]) : int(starts[term + 1])]
            places = np.minimum(documents.searchsorted(ordinals.astype(documents.dtype)), len(documents) - 1)
            found |= documents[places] == ordinals
        return found

    def _holding(self, ranges: Sequence[Range]) -> Mask:
        """Which documents have a term of one of the ranges."""
        mask = np.zeros(self._size, np.bool_)
        starts, ordinals = self._documents.starts, self._documents.ordinals
        for start, end in ranges:
            if start < end:
                mask[ordinals[int(starts[start]) : int(starts[end])]] = True
        return mask


def _most_kept(size: int) -> int:
    """How many masks of so many documents are kept."""
    return max(1, min(_KEPT_MASKS, _KEPT_BYTES // max(1, size)))


def _flat(conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions, those within an :class:`All` among them in its place."""
    flat: list[Condition] = []
    for condition in conditions:
        flat += _flat(condition.inner) if isinstance(condition, All) else [condition]
    return flat
