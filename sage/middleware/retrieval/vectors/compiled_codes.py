"""Codes of vectors as the compiled kernels read them: those of 8 bits where FAISS keeps them, those of one bit
copied in another order.

FAISS builds the indexes, and searches them until the kernels are compiled, or where numba is not installed. The kernels
take a fifth of its time: they compute the sums of a query once, not once a list, and keep no heap of a thousand
candidates.
"""

from __future__ import annotations

import functools
import math
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import Mask
from sage.middleware.retrieval.machine_code.compilation import Compilation, is_compiler_installed
from sage.middleware.retrieval.recently_used import RecentlyUsed
from sage.middleware.retrieval.vectors.bit_kernels import LARGEST, PLANES, SMALLEST_STEP
from sage.middleware.retrieval.vectors.code_kernels import compile_kernels, kept_kernels
from sage.middleware.retrieval.vectors.exact import Matrix, Ordinals
from sage.middleware.retrieval.vectors.scan import Found
from sage.middleware.settings.retrieval import Metric

Floats = NDArray[np.float32]
Words = NDArray[np.uint64]
_ALL: Mask = np.empty(0, np.bool_)
_WORTH_COPYING = 4
"""Where a filter keeps fewer than one vector of so many, the bits of those are copied, which costs less than one search
with them saves."""
_KEPT_MASKS, _KEPT_VECTORS = 8, 2_000_000
"""Masks for which bits are copied, and the vectors of the indexes that they are of, all counted: 32 MB at most."""
_EVERY: Ordinals = np.empty(0, np.int64)
_WORTH_COMPILING = 10_000
"""Vectors of an index from which on compiled code is wanted."""
_FACTOR_BYTES = 8  # after the bits of each vector: two numbers of float32
_PLANE_BITS = (1 << np.arange(PLANES, dtype=np.uint8))[:, np.newaxis]
_ROUNDS_OF_A_CENTRE = 3  # each says six more bits of its numbers


class CodeKernels:
    """Compiled. Safe to call from several threads."""

    def __init__(self) -> None:
        """Takes seconds."""
        self.score: Callable[..., Any]
        self.best: Callable[..., Any]
        self.scan: Callable[..., Any]
        self.find: Callable[..., Any]
        self.score, self.best, self.scan, self.find = compile_kernels()
        self._buffers = threading.local()

    def buffers(self, size: int) -> tuple[Ordinals, Floats, Floats]:
        """For ``size`` ordinals and their scores twice; they are this thread's until it calls again."""
        buffers = self._buffers
        if not hasattr(buffers, "found") or len(buffers.found) < size:
            buffers.found, buffers.scores = np.empty(2 * size, np.int64), np.empty(2 * size, np.float32)
            buffers.spare = np.empty(2 * size, np.float32)
        return buffers.found, buffers.scores, buffers.spare

    def counts(self, size: int) -> Words:
        """Room for so many numbers, this thread's until it calls again."""
        buffers = self._buffers
        if not hasattr(buffers, "counts") or len(buffers.counts) < size:
            buffers.counts = np.empty(2 * size, np.uint64)
        counts: Words = buffers.counts
        return counts


@functools.cache
def kernels_of_process() -> Compilation[CodeKernels] | None:
    """``None`` means that numba is not installed."""
    return Compilation("compile-vectors", CodeKernels, kept_kernels) if is_compiler_installed() else None


def code_kernels(count: int) -> CodeKernels | None:
    """The kernels, once they are ready. Until then ``None``, and an index of many vectors requests them."""
    compilation = kernels_of_process()
    if compilation is None:
        return None
    if compilation.kernels is None and count >= _WORTH_COMPILING:
        compilation.request()
    return compilation.kernels


@dataclass(frozen=True, slots=True)
class ByteCodes:
    """Codes of 8 bits for each dimension: of code ``c`` the number is ``lowest + step * c``."""

    codes: NDArray[np.uint8]
    """``(n, dim)``."""
    lowest: Floats
    step: Floats
    is_distance: bool

    @classmethod
    def of(cls, codes: NDArray[np.uint8], trained: Floats, metric: Metric) -> ByteCodes:
        """``trained``: FAISS's least number of each dimension, and then the range of each."""
        least, ranges = np.split(trained, 2)
        step = (ranges / 255).astype(np.float32)
        return cls(codes, (least + step / 2).astype(np.float32), step, metric is Metric.EUCLIDEAN)

    def best(self, kernels: CodeKernels, query: Matrix, ordinals: Ordinals | None, k: int) -> Found:
        """The ``k`` ≥ 1 nearest of ``ordinals`` (``None``: of all), best first, equal ones in their order."""
        ordinals = _EVERY if ordinals is None else ordinals
        rows, scores = np.empty(k, np.int64), np.empty(k, np.float32)
        count = kernels.best(self.codes, ordinals, *self._query(query), rows, scores)
        return rows[:count], self._finished(query, scores[:count])

    def scores(self, kernels: CodeKernels, query: Matrix, ordinals: Ordinals) -> Floats:
        scores = np.empty(len(ordinals), np.float32)
        kernels.score(self.codes, ordinals, *self._query(query), scores)
        return self._finished(query, scores)

    def _query(self, query: Matrix) -> tuple[Floats, Floats, bool]:
        if self.is_distance:
            return self.step, query - self.lowest, True
        return query * self.step, self.lowest, False

    def _finished(self, query: Matrix, sums: Floats) -> Floats:
        finished: Floats = -np.sqrt(-sums) if self.is_distance else sums + np.vecdot(query, self.lowest)
        return finished


@dataclass(frozen=True, slots=True)
class BitLists:
    """A first stage of one bit for each dimension, in lists with a centre each: FAISS's RaBitQ, by the formula of its
    ``RaBitQuantizer``.

    With the signs ``s`` of ``o - c``, of the vector ``o`` in the list of ``c``, the inner product of ``q`` and ``o`` is
    about ``q·c + (o - c)·c + factor * s·(q - c)``, in which only ``q·c`` and ``s·q`` depend on the query; and half of
    the squared distance likewise.
    """

    kernels: CodeKernels
    words: Words
    """The bits, copied from where FAISS keeps them: list by list, and in a list word by word."""
    centres: Matrix
    centre_scores: Floats
    """What is added to ``q·c``."""
    starts: NDArray[np.int64]
    """Where each list begins among all vectors, and the end."""
    ids: NDArray[np.int32]
    bases: Floats
    factors: Floats
    ones: Floats
    """How many bits of each vector are set."""
    largest: NDArray[np.int64]
    """How many vectors the largest lists have together: none, one, two…"""
    of_masks: RecentlyUsed[int, tuple[weakref.ref[Mask], BitLists | None]] = field(
        default_factory=lambda: RecentlyUsed(1)
    )
    """By the ``id`` of a mask; ``None`` means that it was seen once."""

    @classmethod
    def of(
        cls,
        kernels: CodeKernels,
        blob: NDArray[np.uint8],
        centres: Matrix,
        lists: list[tuple[int, NDArray[np.int64] | None, int]],
        metric: Metric,
    ) -> BitLists | None:
        """``lists``: of each the address of its codes, its ids (``None``: 0 and up) and its size. ``None`` means that
        the codes are not in ``blob``."""
        dimension, width = centres.shape[1], -(-centres.shape[1] // 8)
        stride, origin = width + _FACTOR_BYTES, blob.ctypes.data
        offsets = np.array([address - origin if size else 0 for address, _, size in lists], np.int64)
        sizes = np.array([size for _, _, size in lists], np.int64)
        if (offsets < 0).any() or (offsets + sizes * stride > blob.nbytes).any():
            return None
        starts = np.concatenate(([0], np.cumsum(sizes)))
        ids, pairs = np.empty(starts[-1], np.int32), np.empty((starts[-1], 2), np.float32)
        words_of_one = -(-dimension // 64)
        words, ones = np.empty(starts[-1] * words_of_one, np.uint64), np.empty(starts[-1], np.float32)
        used = np.packbits(np.arange(8 * width) < dimension, bitorder="little")
        for (_, some, size), start, offset in zip(lists, starts.tolist(), offsets.tolist(), strict=False):
            ids[start : start + size] = np.arange(size) if some is None else some
            codes = blob[offset : offset + size * stride].reshape(size, stride)
            pairs[start : start + size] = codes[:, width:].copy().view("<f4")
            padded = np.zeros((size, 8 * words_of_one), np.uint8)
            np.bitwise_and(codes[:, :width], used, out=padded[:, :width])
            ones[start : start + size] = np.bitwise_count(padded).sum(axis=1)
            words[start * words_of_one : (start + size) * words_of_one] = padded.view("<u8").T.ravel()
        lengths = np.vecdot(centres, centres)
        factors = (pairs[:, 1] / math.sqrt(dimension)).astype(np.float32)
        bases = (pairs[:, 0] / -2).astype(np.float32)
        centre_scores = np.zeros(len(centres), np.float32)
        if metric is Metric.EUCLIDEAN:
            centre_scores -= lengths / 2
        else:
            bases -= np.repeat(lengths, sizes) / 2
        masks: RecentlyUsed[int, tuple[weakref.ref[Mask], BitLists | None]]
        masks = RecentlyUsed(max(1, min(_KEPT_MASKS, _KEPT_VECTORS // max(1, len(ids)))))
        result = cls(kernels, words, centres, centre_scores, starts, ids, bases, factors, ones, _largest(sizes), masks)
        bases -= result._signed_centres()
        return result

    def _signed_centres(self) -> Floats:
        """``factor * s·c`` of every vector."""
        signed = np.empty(len(self.ids), np.float32)
        nothing, found = np.zeros(len(self.ids), np.float32), np.empty(len(self.ids), np.int64)
        for number, centre in enumerate(self.centres):
            start, end = self.starts[number], self.starts[number + 1]
            total, rest = np.zeros(end - start, np.float32), centre
            for _ in range(_ROUNDS_OF_A_CENTRE):
                coded = _CodedQuery.of(rest)
                self._scan(np.array([number]), nothing[:1], coded, _ALL, nothing, found[start:end], signed[start:end])
                total += signed[start:end]
                rest = rest - coded.numbers
            signed[start:end] = total
        return signed

    def candidates(self, query: Matrix, count: int, probes: int, allowed: Mask | None) -> Ordinals:
        """The ``count`` nearest allowed vectors by their bits in the lists of the ``probes`` nearest centres, in no
        order. They are this thread's until it calls again."""
        if allowed is not None and (among := self._among(allowed)) is not None:
            return among.candidates(query, count, probes, None)
        size = max(int(self.largest[min(probes, len(self.centres))]), len(self.centres))
        found, scores, spare = self.kernels.buffers(size)
        number = self.kernels.find(
            self.words,
            self.starts,
            self.ids,
            self.bases,
            self.factors,
            self.ones,
            self.centres,
            self.centre_scores,
            query,
            probes,
            count,
            _ALL if allowed is None else allowed,
            self.kernels.counts(int(self.largest[1])),
            found,
            scores,
            spare,
        )
        return found[:number]

    def _among(self, allowed: Mask) -> BitLists | None:
        """Those of the allowed vectors alone, which is kept when a mask that nobody can change comes again. ``None``
        for other masks, and for those that let many through."""
        if allowed.flags.writeable:
            return None
        kept = self.of_masks.get(id(allowed))
        if kept is None or kept[0]() is not allowed:
            self.of_masks.keep(id(allowed), (weakref.ref(allowed), None))
            return None
        if kept[1] is None and np.count_nonzero(allowed) * _WORTH_COPYING <= len(allowed):
            kept = weakref.ref(allowed), self._only(np.flatnonzero(allowed[self.ids]))
            self.of_masks.keep(id(allowed), kept)
        return kept[1]

    def _only(self, places: NDArray[np.int64]) -> BitLists:
        """The vectors that stand at these places, ascending."""
        starts, width = np.searchsorted(places, self.starts), len(self.words) // max(1, len(self.ids))
        sizes, sizes_before = np.diff(starts), np.diff(self.starts)
        owners = np.repeat(np.arange(len(sizes)), sizes)
        words = np.empty(len(places) * width, np.uint64)
        to = starts[owners] * (width - 1) + np.arange(len(places))
        source = self.starts[owners] * (width - 1) + places
        for word in range(width):
            words[to + word * sizes[owners]] = self.words[source + word * sizes_before[owners]]
        columns = self.ids[places], self.bases[places], self.factors[places], self.ones[places]
        return BitLists(self.kernels, words, self.centres, self.centre_scores, starts, *columns, _largest(sizes))

    def _scan(
        self,
        lists: Ordinals,
        list_scores: Floats,
        coded: _CodedQuery,
        allowed: Mask,
        bases: Floats,
        found: Ordinals,
        scores: Floats,
    ) -> int:
        counts = self.kernels.counts(int((self.starts[lists + 1] - self.starts[lists]).max(initial=0)))
        count: int = self.kernels.scan(
            self.words,
            self.starts,
            self.ids,
            bases,
            self.factors,
            self.ones,
            lists,
            list_scores,
            coded.planes,
            coded.lowest,
            coded.step,
            coded.total,
            allowed,
            counts,
            found,
            scores,
        )
        return count


@dataclass(frozen=True, slots=True)
class _CodedQuery:
    """A query's numbers in :data:`PLANES` bits each, one plane of bits after the other: see
    :func:`~sage.middleware.retrieval.vectors.code_kernels._scan_bits`."""

    codes: NDArray[np.uint8]
    planes: Words
    lowest: float
    step: float
    total: float
    """The sum of what the codes say."""

    @classmethod
    def of(cls, query: Matrix) -> _CodedQuery:
        lowest = float(query.min())
        step = max((float(query.max()) - lowest) / LARGEST, SMALLEST_STEP)
        codes = np.rint((query - lowest) / step).astype(np.uint8)
        width = -(-len(query) // 64)
        bits = np.zeros((PLANES, 64 * width), np.uint8)
        np.bitwise_and(codes, _PLANE_BITS, out=bits[:, : len(query)])
        words = np.packbits(bits, axis=1, bitorder="little").view("<u8")
        total = lowest * len(query) + step * int(codes.sum())
        return cls(codes, np.ascontiguousarray(words.T).ravel(), lowest, step, total)

    @property
    def numbers(self) -> Matrix:
        """What the codes say."""
        numbers: Matrix = (self.lowest + self.step * self.codes).astype(np.float32)
        return numbers


def _largest(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """See :attr:`BitLists.largest`."""
    return np.concatenate(([0], np.cumsum(np.sort(sizes)[::-1])))
