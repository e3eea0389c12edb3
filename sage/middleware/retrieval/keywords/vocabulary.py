"""The words of an index as arrays: found by hash in microseconds, also where the arrays are memory-mapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

Positions = NDArray[np.int64]


def encode(term: str) -> bytes:
    """A term as bytes. Lone surrogates, which JSON can carry, get bytes of their own."""
    return term.encode("utf-8", "surrogatepass")


class Vocabulary:
    """Distinct terms, sorted by their xxh3 hash (equal hashes by their bytes). A look-up compares the bytes too."""

    def __init__(self, hashes: NDArray[np.uint64], starts: NDArray[Any], text: NDArray[np.uint8]) -> None:
        self.hashes, self.starts, self.text = hashes, starts, text

    @classmethod
    def of(cls, terms: Sequence[bytes]) -> tuple[Vocabulary, Positions]:
        """``(vocabulary, order)``: the term at position ``i`` of the vocabulary is ``terms[order[i]]``.

        ``terms`` are distinct."""
        hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, terms), np.uint64, len(terms))
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        if len(hashes) > 1 and (hashes[1:] == hashes[:-1]).any():
            order = np.array(sorted(order.tolist(), key=lambda i: (xxhash.xxh3_64_intdigest(terms[i]), terms[i])))
        in_order = [terms[position] for position in order.tolist()]
        starts = np.fromiter(accumulate(map(len, in_order), initial=0), np.int64, len(terms) + 1)
        text = np.frombuffer(b"".join(in_order), np.uint8)
        return cls(hashes, starts.astype(smallest(int(starts[-1]))), text), order

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Vocabulary:
        return cls(*(np.asarray(arrays[name]) for name in ("term_hashes", "term_starts", "term_text")))

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"term_hashes": self.hashes, "term_starts": self.starts, "term_text": self.text}

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, term: bytes) -> int:
        """The position of a term, or -1."""
        hash_of_term = np.uint64(xxhash.xxh3_64_intdigest(term))
        position = int(self.hashes.searchsorted(hash_of_term))
        while position < len(self.hashes) and self.hashes[position] == hash_of_term:
            if self.term(position) == term:
                return position
            position += 1
        return -1

    def term(self, position: int) -> bytes:
        return self.text[int(self.starts[position]) : int(self.starts[position + 1])].tobytes()

    def terms(self) -> list[bytes]:
        text, starts = self.text.tobytes(), self.starts.tolist()
        return [text[start:end] for start, end in pairwise(starts)]


def union(vocabularies: Sequence[Vocabulary]) -> tuple[Vocabulary, list[Positions]]:
    """All terms of several vocabularies, and for each vocabulary the positions of its terms among them."""
    hashes = np.concatenate([v.hashes for v in vocabularies])
    distinct, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    lengths = np.concatenate([widths(v.starts) for v in vocabularies])
    text = np.concatenate([v.text for v in vocabularies])
    starts = np.concatenate(([0], np.cumsum(lengths)))
    if not _hashes_are_distinct(text, starts, lengths, first[inverse]):
        return _union_one_by_one(vocabularies)
    ends = np.cumsum([len(v) for v in vocabularies])
    merged_lengths = lengths[first]
    merged = np.concatenate(([0], np.cumsum(merged_lengths)))
    merged_text = text[spans(starts[first], merged_lengths)]
    return (
        Vocabulary(distinct, merged.astype(smallest(int(merged[-1]))), merged_text),
        [np.asarray(part) for part in np.split(inverse, ends[:-1])],
    )


def _hashes_are_distinct(text: NDArray[np.uint8], starts: Positions, lengths: Positions, first: Positions) -> bool:
    """Whether no two different terms share a hash: each term equals the one at the position ``first`` of its hash."""
    if not np.array_equal(lengths, lengths[first]):
        return False
    repeated = np.flatnonzero(first != np.arange(len(first)))
    size = lengths[repeated]
    return bool(np.array_equal(text[spans(starts[repeated], size)], text[spans(starts[first[repeated]], size)]))


def _union_one_by_one(vocabularies: Sequence[Vocabulary]) -> tuple[Vocabulary, list[Positions]]:
    terms = list(dict.fromkeys(term for v in vocabularies for term in v.terms()))
    merged, order = Vocabulary.of(terms)
    position_of = {terms[index]: position for position, index in enumerate(order.tolist())}
    return merged, [np.array([position_of[term] for term in v.terms()], np.int64) for v in vocabularies]


def spans(starts: Positions, lengths: Positions) -> Positions:
    """The indices of all spans one after the other: ``starts[0], starts[0] + 1, …``."""
    total = int(lengths.sum())
    before = np.cumsum(lengths) - lengths
    indices: Positions = np.arange(total) + np.repeat(starts - before, lengths)
    return indices


def widths(starts: NDArray[Any]) -> Positions:
    """The distance from each start to the next."""
    wide = starts.astype(np.int64)
    return wide[1:] - wide[:-1]


def smallest(largest: int) -> type[np.unsignedinteger[Any]]:
    """The smallest unsigned type that holds ``largest``."""
    for kind in (np.uint8, np.uint16, np.uint32):
        if largest <= np.iinfo(kind).max:
            return kind
    return np.uint64
