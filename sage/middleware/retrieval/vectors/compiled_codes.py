"""Codes of vectors as the compiled kernels read them: where FAISS keeps them, without a copy of the codes.

FAISS builds the indexes, and searches them until the kernels are compiled, or where numba is not installed. The kernels
take a fifth of its time: they compute the sums of a query once, not once a list, and keep no heap of a thousand
candidates.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import Mask
from sage.middleware.retrieval.machine_code.compilation import Compilation, is_compiler_installed
from sage.middleware.retrieval.vectors.code_kernels import compile_kernels, kept_kernels
from sage.middleware.retrieval.vectors.exact import Matrix, Ordinals
from sage.middleware.retrieval.vectors.scan import Found
from sage.middleware.settings.retrieval import Metric

Floats = NDArray[np.float32]
_ALL: Mask = np.empty(0, np.bool_)
_EVERY: Ordinals = np.empty(0, np.int64)
_WORTH_COMPILING = 10_000
"""Vectors of an index from which on compiled code is wanted."""
_FACTOR_BYTES = 8  # after the bits of each vector: two numbers of float32


class CodeKernels:
    """Compiled. Safe to call from several threads."""

    def __init__(self) -> None:
        """Takes seconds."""
        self.score: Callable[..., Any]
        self.best: Callable[..., Any]
        self.scan: Callable[..., Any]
        self.score, self.best, self.scan = compile_kernels()
        self._buffers = threading.local()

    def buffers(self, size: int) -> tuple[Ordinals, Floats]:
        """For ``size`` ordinals and their scores; they are this thread's until it calls again."""
        buffers = self._buffers
        if not hasattr(buffers, "found") or len(buffers.found) < size:
            buffers.found, buffers.scores = np.empty(2 * size, np.int64), np.empty(2 * size, np.float32)
        return buffers.found, buffers.scores


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
    blob: NDArray[np.uint8]
    centres: Matrix
    centre_scores: Floats
    """What is added to ``q·c``."""
    starts: NDArray[np.int64]
    """Where each list begins among all vectors, and the end."""
    offsets: NDArray[np.int64]
    """Where the codes of each list begin in ``blob``."""
    width: int
    ids: NDArray[np.int32]
    bases: Floats
    factors: Floats

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
        for (_, some, size), start, offset in zip(lists, starts.tolist(), offsets.tolist(), strict=False):
            ids[start : start + size] = np.arange(size) if some is None else some
            codes = blob[offset : offset + size * stride].reshape(size, stride)
            pairs[start : start + size] = codes[:, width:].copy().view("<f4")
        lengths = np.vecdot(centres, centres)
        factors = (pairs[:, 1] / math.sqrt(dimension)).astype(np.float32)
        bases = (pairs[:, 0] / -2).astype(np.float32)
        centre_scores = np.zeros(len(centres), np.float32)
        if metric is Metric.EUCLIDEAN:
            centre_scores -= lengths / 2
        else:
            bases -= np.repeat(lengths, sizes) / 2
        result = cls(kernels, blob, centres, centre_scores, starts, offsets, width, ids, bases, factors)
        bases -= result._signed_centres()
        return result

    def _signed_centres(self) -> Floats:
        """``factor * s·c`` of every vector."""
        signed = np.empty(len(self.ids), np.float32)
        nothing = np.zeros(len(self.ids), np.float32)
        found = np.empty(len(self.ids), np.int64)
        for number, centre in enumerate(self.centres):
            start, end = self.starts[number], self.starts[number + 1]
            chosen = np.array([number])
            bits = (self.blob, self.starts, self.offsets, self.width, self.width + _FACTOR_BYTES)
            self.kernels.scan(
                *bits,
                self.ids,
                nothing,
                self.factors,
                chosen,
                np.zeros(1, np.float32),
                self._table(centre),
                _ALL,
                found[start:end],
                signed[start:end],
            )
        return signed

    def candidates(self, query: Matrix, count: int, probes: int, allowed: Mask | None) -> Ordinals:
        """About the ``count`` nearest allowed vectors in the lists of the ``probes`` nearest centres, in no order."""
        scores_of_lists = np.vecdot(self.centres, query) + self.centre_scores
        if probes < len(scores_of_lists):
            lists = np.argpartition(scores_of_lists, -probes)[-probes:]
        else:
            lists = np.arange(len(scores_of_lists))
        found, scores = self.kernels.buffers(int((self.starts[lists + 1] - self.starts[lists]).sum()))
        size = self.kernels.scan(
            self.blob,
            self.starts,
            self.offsets,
            self.width,
            self.width + _FACTOR_BYTES,
            self.ids,
            self.bases,
            self.factors,
            lists,
            scores_of_lists[lists],
            self._table(query),
            _ALL if allowed is None else allowed,
            found,
            scores,
        )
        if size <= count:
            return found[:size].copy()
        return found[np.argpartition(scores[:size], size - count)[size - count :]]

    def _table(self, query: Matrix) -> Floats:
        """For each value of a byte, and each byte of a code, the sum of the query's numbers with the signs of the
        bits."""
        numbers = np.zeros(8 * self.width, np.float32)
        numbers[: len(query)] = query
        by_bit = np.ascontiguousarray(numbers.reshape(self.width, 8).T)
        table = np.empty((256, self.width), np.float32)
        table[0] = -by_bit.sum(axis=0)
        by_bit *= 2
        for bit in range(8):
            half = 1 << bit
            np.add(table[:half], by_bit[bit], out=table[half : 2 * half])
        return table.ravel()
