"""The compiled keyword kernels of this process: when they are compiled, and how they are called. Until they are ready,
numpy serves."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.bm25 import Curve, Floats
from sage.middleware.retrieval.keywords.kernels import Best
from sage.middleware.retrieval.keywords.numba_kernels import compile_kernels, kept_kernels
from sage.middleware.retrieval.keywords.postings import KeywordIndex, Mask
from sage.middleware.retrieval.machine_code.compilation import Compilation, is_compiler_installed

_BLOCK = 1 << 13
"""Documents whose scores are added up at a time: 64 KiB, which stays in the processor's cache."""
_WORTH_COMPILING = 20_000
"""Documents of a segment from which on compiled code is wanted. Below, numpy needs some 0.1 ms."""


class KeywordKernels:
    """Compiled. Safe to call from several threads.

    ``words`` are those of a query that have postings, ``(n, 5)``: see
    :mod:`sage.middleware.retrieval.keywords.numba_kernels`.
    """

    def __init__(self, frequency: str) -> None:
        """For frequencies of this type. Takes seconds."""
        self._top: Callable[..., Any]
        self._score_rows: Callable[..., Any]
        self._top, self._score_rows = compile_kernels(frequency)
        self._buffers = threading.local()

    def top(self, index: KeywordIndex, words: Floats, curve: Curve, allowed: Mask | None, k: int) -> Best:
        """The ``k`` best documents. ``allowed``: ``None`` means that all may be returned."""
        buffers = self._buffers
        if not hasattr(buffers, "scores"):
            buffers.scores, buffers.matches = np.zeros(_BLOCK), np.zeros(_BLOCK, np.uint8)
        k = max(0, min(k, index.size))
        rows, scores = np.empty(k, np.int64), np.empty(k)
        count, total = self._top(
            index.ordinals,
            index.frequencies,
            index.lengths,
            words,
            *_tables(curve),
            _ALL if allowed is None else allowed,
            buffers.scores,
            buffers.matches,
            rows,
            scores,
        )
        return rows[:count], scores[:count], total

    def score_rows(
        self, index: KeywordIndex, words: Floats, curve: Curve, ordinals: NDArray[np.int64]
    ) -> tuple[Floats, Floats]:
        """Of each document the score, NaN where it holds no word, and the sum of the shares of the words that it
        holds."""
        scores, shares = np.empty(len(ordinals)), np.empty(len(ordinals))
        self._score_rows(
            index.ordinals, index.frequencies, index.lengths, words, *_tables(curve), ordinals, scores, shares
        )
        return scores, shares


_ALL = np.empty(0, np.bool_)


@functools.lru_cache(16)
def _tables(curve: Curve) -> tuple[Floats, Floats]:
    """The curve's numbers, and what it gives by frequency and length while both are small (64 KiB)."""
    lengths = np.arange(256, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # a frequency of zero is never asked for
        table = np.stack([curve.of(np.full(256, float(frequency)), lengths) for frequency in range(32)])
    return np.array((curve.flat, curve.slope, curve.rise, curve.bend)), table


@functools.cache
def kernel_of_process(frequency: str) -> Compilation[KeywordKernels] | None:
    """Those for frequencies of this type; ``None`` means that numba is not installed."""
    if not is_compiler_installed():
        return None
    return Compilation("compile-keywords", partial(KeywordKernels, frequency), partial(kept_kernels, frequency))


def compiled_kernels(index: KeywordIndex) -> KeywordKernels | None:
    """The kernels for ``index``, once they are ready. Until then ``None``, and a large index requests them."""
    compilation = kernel_of_process(index.frequency_type)
    if compilation is None:
        return None
    if compilation.kernels is None and index.size >= _WORTH_COMPILING:
        compilation.request()
    return compilation.kernels
