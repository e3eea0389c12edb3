"""The compiled keyword kernel of this process: when it is compiled, and how it is called.

Numba is an optional package, and compiling takes seconds: until the kernel is ready, numpy serves.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sage.middleware.retrieval.keywords.bm25 import Curve, Floats
from sage.middleware.retrieval.keywords.kernels import Best
from sage.middleware.retrieval.keywords.numba_kernels import compile_top
from sage.middleware.retrieval.keywords.postings import KeywordIndex, Mask

_logger = logging.getLogger(__name__)
_BLOCK = 1 << 13
"""Documents whose scores are added up at a time: 64 KiB, which stays in the processor's cache."""
_WORTH_COMPILING = 20_000
"""Documents of a segment from which on compiled code is wanted. Below, numpy needs some 0.1 ms."""
_ENOUGH_SEARCHES = 20
"""Searches that would have been faster, after which the kernel is compiled: a program that searches once and ends does
not wait for it."""


class CompiledKernel:
    """The kernel for frequencies of one type, compiled on a thread of its own. Safe to call from several threads."""

    def __init__(self, frequency: str) -> None:
        self._frequency = frequency
        self._top: Callable[..., Any] | None = None
        self._buffers = threading.local()
        self._requests = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._compile, name="compile-keywords")

    def request(self) -> None:
        """Counts a search that would be faster; the last of :data:`_ENOUGH_SEARCHES` starts the compiler."""
        with self._lock:
            self._requests += 1
            if self._requests == _ENOUGH_SEARCHES:
                self._thread.start()

    def _compile(self) -> None:
        try:
            self._top = compile_top(self._frequency)
        except Exception:  # a numba that does not fit: numpy gives the same answers, only slower
            _logger.warning("the keyword kernel was not compiled; searches go on in numpy", exc_info=True)

    def wait(self) -> None:
        """Waits until compiling is done, and starts it if need be."""
        while self._requests < _ENOUGH_SEARCHES:
            self.request()
        self._thread.join()

    @property
    def is_ready(self) -> bool:
        return self._top is not None

    def top(
        self,
        index: KeywordIndex,
        words: Sequence[tuple[int, int, float, float]],
        curve: Curve,
        allowed: Mask | None,
        k: int,
    ) -> Best:
        """``words``: of each from where to where its postings stand in ``index``, its weight and its base. ``allowed``:
        ``None`` means that all documents may be returned."""
        assert self._top is not None
        buffers = self._buffers
        if not hasattr(buffers, "scores"):
            buffers.scores, buffers.matches = np.zeros(_BLOCK), np.zeros(_BLOCK, np.uint8)
            buffers.all_allowed = np.empty(0, np.bool_)
        k = max(0, min(k, index.size))
        rows, scores = np.empty(k, np.int64), np.empty(k)
        count, total = self._top(
            index.ordinals,
            index.frequencies,
            index.lengths,
            np.array(words, np.float64),
            *_tables(curve),
            buffers.all_allowed if allowed is None else allowed,
            buffers.scores,
            buffers.matches,
            rows,
            scores,
        )
        return rows[:count], scores[:count], total


@functools.lru_cache(16)
def _tables(curve: Curve) -> tuple[Floats, Floats]:
    """The curve's numbers, and what it gives by frequency and length while both are small (64 KiB)."""
    lengths = np.arange(256, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # a frequency of zero is never asked for
        table = np.stack([curve.of(np.full(256, float(frequency)), lengths) for frequency in range(32)])
    return np.array((curve.flat, curve.slope, curve.rise, curve.bend)), table


@functools.cache
def kernel_of_process(frequency: str) -> CompiledKernel | None:
    """The one for frequencies of this type; ``None`` means that numba is not installed."""
    return CompiledKernel(frequency) if importlib.util.find_spec("numba") is not None else None


def compiled_kernel(index: KeywordIndex) -> CompiledKernel | None:
    """The kernel for ``index``, once it is ready. Until then ``None``, and a large index requests it."""
    kernel = kernel_of_process(index.frequencies.dtype.name)
    if kernel is None or kernel.is_ready:
        return kernel
    if index.size >= _WORTH_COMPILING:
        kernel.request()
    return None
