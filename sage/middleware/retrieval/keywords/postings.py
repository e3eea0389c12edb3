"""The inverted index of one segment of a collection, as immutable arrays; and merging several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.vocabulary import Positions, Vocabulary, encode, smallest, spans, union, widths

Arrays = dict[str, NDArray[Any]]
Mask = NDArray[np.bool_]
_CHUNK = 2**22
"""Postings that a merge moves at a time, which bounds its memory."""


_FEW = 128
"""Documents that are cheaper to score one by one than to find among all."""


def few_rows(allowed: Sequence[Mask | None]) -> NDArray[np.int64] | None:
    """The rows that the masks of all segments let through, ascending, where they are few; else ``None``."""
    rows: list[NDArray[np.int64]] = []
    start = count = 0
    for mask in allowed:
        if mask is None or (count := count + int(np.count_nonzero(mask))) > _FEW:
            return None
        rows.append(np.flatnonzero(mask) + start)
        start += len(mask)
    return np.concatenate(rows) if rows else None


class Postings(Protocol):
    """What a search reads of a segment. Ordinals count its documents from 0, in the order of their numbers."""

    @property
    def size(self) -> int:
        """Documents, the dead ones too."""

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """``(size,)``: how many terms each document has."""

    def postings(self, term: str) -> tuple[NDArray[np.uint32], NDArray[Any]]:
        """``(ordinals, frequencies)``: the documents that hold the term, ascending, and how often each holds it."""

    def index(self) -> KeywordIndex:
        """The same documents as an index, for callers that need all of it."""


class KeywordIndex:
    """Immutable :class:`Postings` over arrays, which may be memory-mapped.

    The postings of the term at position ``i`` of the vocabulary stand in ``ordinals`` and ``frequencies`` from
    ``starts[i]`` to ``starts[i + 1]``; ``ranks`` says in which order the terms first appear in the documents.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        starts: NDArray[Any],
        ordinals: NDArray[np.uint32],
        frequencies: NDArray[Any],
        lengths: NDArray[np.uint32],
        ranks: NDArray[np.uint32],
    ) -> None:
        self.vocabulary, self.starts, self.ranks = vocabulary, starts, ranks
        self.ordinals, self.frequencies, self._lengths = ordinals, frequencies, lengths
        self.frequency_type = str(frequencies.dtype.name)
        self.length = int(lengths.sum(dtype=np.int64))
        """Of all documents together, in terms."""
        self.live_statistics: object = None
        """A cache of searches: see :mod:`sage.middleware.retrieval.keywords.live_statistics`."""

    @classmethod
    def build(cls, documents: Sequence[Sequence[str]]) -> KeywordIndex:
        """From the terms of each document."""
        positions: defaultdict[str, int] = defaultdict()
        positions.default_factory = positions.__len__
        lengths = np.fromiter(map(len, documents), np.uint32, len(documents))
        terms = np.fromiter(map(positions.__getitem__, chain.from_iterable(documents)), np.int64, int(lengths.sum()))
        vocabulary, order = Vocabulary.of([encode(term) for term in positions])
        new = np.empty(len(order), np.int64)
        new[order] = np.arange(len(order))
        pairs = new[terms] << 32 | np.repeat(np.arange(len(documents)), lengths)
        pairs.sort()
        return cls.of_pairs(vocabulary, pairs, lengths, order)

    @classmethod
    def of_pairs(
        cls, vocabulary: Vocabulary, pairs: NDArray[np.int64], lengths: NDArray[np.uint32], ranks: Positions
    ) -> KeywordIndex:
        """``pairs`` are sorted ``position << 32 | ordinal``, one for each occurrence of a term in a document."""
        new = np.ones(len(pairs), np.bool_)
        np.not_equal(pairs[1:], pairs[:-1], out=new[1:])
        first = np.flatnonzero(new)
        frequencies = np.diff(first, append=len(pairs))
        pairs = pairs[first]
        starts = np.searchsorted(pairs, np.arange(len(vocabulary) + 1) << 32)
        return cls(
            vocabulary,
            starts.astype(smallest(len(pairs))),
            (pairs & 0xFFFFFFFF).astype(np.uint32),
            frequencies.astype(smallest(int(frequencies.max(initial=0)))),
            lengths,
            ranks.astype(np.uint32),
        )

    @classmethod
    def merge(cls, segments: Sequence[tuple[KeywordIndex, Mask | None]]) -> KeywordIndex:
        """One index of all, in order, without the documents that a mask of the live ones, ``(size,)``, leaves out."""
        if not segments:
            return cls.build([])
        return _KeywordMerge(segments).index()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> KeywordIndex:
        """The inverse of :meth:`arrays`, without copying."""
        names = ("starts", "ordinals", "frequencies", "lengths", "ranks")
        return cls(Vocabulary.from_arrays(arrays), *(np.asarray(arrays[name]) for name in names))

    def arrays(self) -> Arrays:
        return {
            **self.vocabulary.arrays(),
            "starts": self.starts,
            "ordinals": self.ordinals,
            "frequencies": self.frequencies,
            "lengths": self._lengths,
            "ranks": self.ranks,
        }

    @property
    def size(self) -> int:
        return len(self._lengths)

    @property
    def lengths(self) -> NDArray[np.uint32]:
        return self._lengths

    def postings(self, term: str) -> tuple[NDArray[np.uint32], NDArray[Any]]:
        start, end = self.locate(encode(term))
        return self.ordinals[start:end], self.frequencies[start:end]

    def locate(self, term: bytes) -> tuple[int, int]:
        """``(start, end)`` of the postings of a term; equal when it has none."""
        position = self.vocabulary.find(term)
        return (0, 0) if position < 0 else (int(self.starts[position]), int(self.starts[position + 1]))

    def index(self) -> KeywordIndex:
        return self


class _KeywordMerge:
    """Moves the postings of each segment to their positions among those of all, a few million at a time."""

    def __init__(self, segments: Sequence[tuple[KeywordIndex, Mask | None]]) -> None:
        self._segments = segments
        self._vocabulary, self._positions = union([index.vocabulary for index, _ in segments])
        self._counts = [_live_counts(index, live)[0] for index, live in segments]
        totals = np.zeros(len(self._vocabulary), np.int64)
        for positions, counts in zip(self._positions, self._counts, strict=True):
            totals[positions] += counts
        self._totals = totals
        self._starts = np.concatenate(([0], np.cumsum(totals)))

    def index(self) -> KeywordIndex:
        size = int(self._starts[-1])
        ordinals = np.empty(size, np.uint32)
        largest = max((int(index.frequencies.max(initial=0)) for index, _ in self._segments), default=0)
        frequencies = np.empty(size, smallest(largest))
        cursor = self._starts[:-1].copy()
        base = 0
        for (index, live), positions, counts in zip(self._segments, self._positions, self._counts, strict=True):
            for ids, is_live, begin, end in _chunks(index, live):
                target = spans(cursor[positions[ids]], counts[ids])
                ordinals[target] = _renumbered(index.ordinals[begin:end], live, is_live, base)
                frequencies[target] = (
                    index.frequencies[begin:end] if is_live is None else index.frequencies[begin:end][is_live]
                )
            cursor[positions] += counts
            base += index.size if live is None else int(np.count_nonzero(live))
        return self._without_unused_terms(ordinals, frequencies)

    def _without_unused_terms(self, ordinals: NDArray[np.uint32], frequencies: NDArray[Any]) -> KeywordIndex:
        """The index, without the terms that no live document holds."""
        used = np.flatnonzero(self._totals)
        vocabulary = self._vocabulary
        if len(used) < len(vocabulary):
            sizes = widths(vocabulary.starts)[used]
            text = vocabulary.text[spans(vocabulary.starts[used].astype(np.int64), sizes)]
            starts = np.concatenate(([0], np.cumsum(sizes)))
            vocabulary = Vocabulary(vocabulary.hashes[used], starts.astype(smallest(int(starts[-1]))), text)
        starts = np.concatenate(([0], np.cumsum(self._totals[used])))
        first = ordinals[starts[:-1]]
        lengths = [index.lengths if live is None else index.lengths[live] for index, live in self._segments]
        return KeywordIndex(
            vocabulary,
            starts.astype(smallest(len(ordinals))),
            ordinals,
            frequencies,
            np.concatenate(lengths),
            self._ranks(first, used),
        )

    def _ranks(self, first: NDArray[np.uint32], used: Positions) -> NDArray[np.uint32]:
        """The order in which terms first appear: by their first document, within one as in its segment."""
        before = np.zeros(len(self._vocabulary), np.int64)
        for (index, _), positions, counts in reversed(
            list(zip(self._segments, self._positions, self._counts, strict=True))
        ):
            before[positions[counts > 0]] = index.ranks[counts > 0]
        ranks = np.empty(len(used), np.uint32)
        ranks[np.lexsort((before[used], first))] = np.arange(len(used), dtype=np.uint32)
        return ranks


def _live_counts(index: KeywordIndex, live: Mask | None) -> tuple[Positions, Positions]:
    """``(counts, firsts)`` of each term: how many live documents hold it, and the first of them, 0 if there is none."""
    if live is None:
        return widths(index.starts), index.ordinals[index.starts[:-1]].astype(np.int64)
    counts, firsts = np.zeros(len(index.vocabulary), np.int64), np.zeros(len(index.vocabulary), np.int64)
    for ids, is_live, begin, end in _chunks(index, live):
        before = np.concatenate(([0], np.cumsum(is_live)))[
            index.starts[ids.start : ids.stop + 1].astype(np.int64) - begin
        ]
        counts[ids] = np.diff(before)
        alive = index.ordinals[begin:end][is_live]
        if len(alive):
            firsts[ids] = alive[np.minimum(before[:-1], len(alive) - 1)]
    return counts, firsts


def document_frequencies(segments: Sequence[tuple[KeywordIndex, Mask | None]]) -> Positions:
    """For each term how many live documents hold it, in the order in which the terms first appear. Terms that no
    document holds are left out."""
    _, positions = union([index.vocabulary for index, _ in segments])
    size = max((int(positions_here.max(initial=-1)) for positions_here in positions), default=-1) + 1
    totals, first, rank = (np.zeros(size, np.int64) for _ in range(3))
    base = sum(index.size for index, _ in segments)
    for (index, live), positions_here in reversed(list(zip(segments, positions, strict=True))):
        base -= index.size
        counts, firsts = _live_counts(index, live)
        is_held = counts > 0
        totals[positions_here] += counts
        first[positions_here[is_held]] = base + firsts[is_held]
        rank[positions_here[is_held]] = index.ranks[is_held]
    order = np.lexsort((rank, first))
    return totals[order][totals[order] > 0]


def _chunks(index: KeywordIndex, live: Mask | None) -> Any:
    """``(slice of terms, mask of live postings or None, first posting, end)``, some millions of postings each."""
    term, terms = 0, len(index.vocabulary)
    while term < terms:
        begin = int(index.starts[term])
        stop = int(np.searchsorted(index.starts, index.starts.dtype.type(min(begin + _CHUNK, len(index.ordinals)))))
        stop = min(max(stop, term + 1), terms)
        end = int(index.starts[stop])
        yield slice(term, stop), None if live is None else live[index.ordinals[begin:end]], begin, end
        term = stop


def _renumbered(ordinals: NDArray[np.uint32], live: Mask | None, is_live: Mask | None, base: int) -> NDArray[np.uint32]:
    if live is None:
        return ordinals + np.uint32(base)
    new = (np.cumsum(live, dtype=np.int64) + (base - 1)).astype(np.uint32)
    return new[ordinals[is_live]]
