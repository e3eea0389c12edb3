"""The keywords of the newest documents, in lists that grow."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import KeywordIndex, Postings
from sage.middleware.retrieval.keywords.vocabulary import Vocabulary, encode


class GrowingKeywords:
    """The newest documents. One thread appends while others read :meth:`at`, which does not change."""

    def __init__(self) -> None:
        self._postings: defaultdict[str, list[int]] = defaultdict(list)
        """For each term the ordinals of the documents that hold it, once for each occurrence."""
        self._lengths = np.zeros(256, np.uint32)
        self._size = 0

    def append(self, terms: Sequence[str]) -> None:
        size = self._size
        if size == len(self._lengths):
            self._lengths = np.concatenate((self._lengths, np.zeros(size, np.uint32)))
        self._lengths[size] = len(terms)
        deque(map(list.append, map(self._postings.__getitem__, terms), repeat(size)), maxlen=0)
        self._size = size + 1

    def at(self, size: int) -> Postings:
        """The first ``size`` documents; they stay as they are however many are appended."""
        return _GrownKeywords(self._postings, self._lengths[:size])

    def freeze(self, size: int) -> KeywordIndex:
        """An index of the first ``size`` documents, without analysing any text again."""
        return self.at(size).index()


class _GrownKeywords:
    """:class:`Postings` of the first documents of a :class:`GrowingKeywords`, whose lists only grow at their ends."""

    def __init__(self, postings: Mapping[str, list[int]], lengths: NDArray[np.uint32]) -> None:
        self._postings, self._lengths = postings, lengths
        self._index: KeywordIndex | None = None

    @property
    def size(self) -> int:
        return len(self._lengths)

    @property
    def lengths(self) -> NDArray[np.uint32]:
        return self._lengths

    def postings(self, term: str) -> tuple[NDArray[np.uint32], NDArray[Any]]:
        if self._index is not None:
            return self._index.postings(term)
        growing = self._postings.get(term)
        if growing is None:
            return np.empty(0, np.uint32), np.empty(0, np.uint32)
        snapshot = growing.copy()
        ordinals = np.array(snapshot[: bisect_left(snapshot, self.size)], np.uint32)
        new = np.ones(len(ordinals), np.bool_)
        np.not_equal(ordinals[1:], ordinals[:-1], out=new[1:])
        first = np.flatnonzero(new)
        return ordinals[first], np.diff(first, append=len(ordinals)).astype(np.uint32)

    def index(self) -> KeywordIndex:
        if self._index is None:
            self._index = self._frozen()
        return self._index

    def _frozen(self) -> KeywordIndex:
        size = self.size
        terms, lists = [], []
        for term, growing in list(self._postings.items()):
            if growing and growing[0] < size:
                ordinals = growing.copy()
                terms.append(encode(term))
                lists.append(ordinals[: bisect_left(ordinals, size)])
        vocabulary, order = Vocabulary.of(terms)
        counts = np.fromiter(map(len, lists), np.int64, len(lists))
        positions = np.empty(len(order), np.int64)
        positions[order] = np.arange(len(order))
        ordinals_of_all = np.fromiter(chain.from_iterable(lists), np.int64, int(counts.sum()))
        pairs = np.repeat(positions, counts) << 32 | ordinals_of_all
        pairs.sort()
        return KeywordIndex.of_pairs(vocabulary, pairs, self._lengths.copy(), order)
