"""Adding up the scores of one segment's postings and keeping the best: in numpy, and compiled by numba where installed.

Both give the same numbers: words are added in the order of the query, and ties go to the lower ordinal.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.bm25 import Curve, Floats
from sage.middleware.retrieval.keywords.postings import KeywordIndex, Mask

_logger = logging.getLogger(__name__)
_BLOCK = 1 << 13
"""Documents whose scores are added up at a time: 64 KiB, which stays in the processor's cache."""
_WORTH_COMPILING = 20_000
"""Documents of a segment from which compiled code is wanted; below, numpy needs some 0.1 ms."""
_WANTED = 20


@dataclass(frozen=True, slots=True)
class Slice:
    """The postings of one word of the query in one segment."""

    ordinals: NDArray[np.uint32]
    frequencies: NDArray[Any]
    weight: float
    base: float


Best = tuple[NDArray[np.int64], Floats, int]
"""``(ordinals, scores, how many match)``, best first."""


def top_by_numpy(
    slices: Sequence[Slice], lengths: NDArray[np.uint32], curve: Curve, allowed: Mask | None, k: int
) -> Best:
    ordinals, scores = _added(slices, lengths, curve)
    if allowed is not None:
        kept = allowed[ordinals]
        ordinals, scores = ordinals[kept], scores[kept]
    return (*best(ordinals.astype(np.int64), scores, k), len(ordinals))


def _added(slices: Sequence[Slice], lengths: NDArray[np.uint32], curve: Curve) -> tuple[NDArray[Any], Floats]:
    """Every document that any slice names, ascending, and its score."""
    if len(slices) == 1:
        return slices[0].ordinals, slice_scores(slices[0], lengths, curve)
    if not slices:
        return np.empty(0, np.uint32), np.empty(0)
    postings = sum(len(each.ordinals) for each in slices)
    if postings * 16 < len(lengths):
        distinct = np.unique(np.concatenate([each.ordinals for each in slices]))
        total = np.zeros(len(distinct))
        for each in slices:
            total[distinct.searchsorted(each.ordinals)] += slice_scores(each, lengths, curve)
        return distinct, total
    scores, seen = np.zeros(len(lengths)), np.zeros(len(lengths), np.bool_)
    for each in slices:
        scores[each.ordinals] += slice_scores(each, lengths, curve)
        seen[each.ordinals] = True
    found = np.flatnonzero(seen)
    return found, scores[found]


def slice_scores(each: Slice, lengths: NDArray[np.uint32], curve: Curve) -> Floats:
    gained = curve.of(each.frequencies.astype(np.float64), lengths[each.ordinals].astype(np.float64))
    return each.base + each.weight * gained


def best(rows: NDArray[np.int64], scores: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """The ``k`` highest, best first, equal ones by row; ``rows`` ascend."""
    if k <= 0:
        return rows[:0], scores[:0]
    if len(scores) > 4 * k:
        bound = np.partition(scores, len(scores) - k)[len(scores) - k]
        above = np.flatnonzero(scores > bound)
        level = np.flatnonzero(scores == bound)[: k - len(above)]
        chosen = np.concatenate((above, level))
        rows, scores = rows[chosen], scores[chosen]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


@functools.lru_cache(16)
def tabled(curve: Curve) -> tuple[Floats, Floats]:
    """The curve's numbers, and what it gives by frequency and length while both are small (64 KiB)."""
    lengths = np.arange(256, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # a frequency of zero is never asked for
        table = np.stack([curve.of(np.full(256, float(frequency)), lengths) for frequency in range(32)])
    return np.array((curve.flat, curve.slope, curve.rise, curve.bend)), table


class Compiled:
    """The kernel as machine code, made on a thread of its own; until it is ready, numpy serves."""

    def __init__(self, frequency: str) -> None:
        self._frequency = frequency
        self._top: Callable[..., Any] | None = None
        self._buffers = threading.local()
        self._wanted = 0
        self._alone = threading.Lock()
        self._thread = threading.Thread(target=self._compile, name="compile-keywords")

    def want(self) -> None:
        """Counts a search that would be faster; compiling begins with the twentieth, so that a program that asks once
        and ends does not wait for it."""
        with self._alone:
            self._wanted += 1
            if self._wanted == _WANTED:
                self._thread.start()

    def _compile(self) -> None:
        from sage.middleware.retrieval.keywords.numba_kernels import compile_top

        try:
            self._top = compile_top(_BLOCK, self._frequency)
        except Exception:  # a numba that does not fit: numpy gives the same answers, only slower
            _logger.warning("the keyword kernel was not compiled; searches go on in numpy", exc_info=True)

    def wait(self) -> None:
        """Until compiling is done, beginning it if need be."""
        while self._wanted < _WANTED:
            self.want()
        self._thread.join()

    @property
    def ready(self) -> bool:
        return self._top is not None

    def top(
        self,
        index: KeywordIndex,
        words: Sequence[tuple[int, int, float, float]],
        curve: Curve,
        allowed: Mask | None,
        k: int,
    ) -> Best:
        """``words``: of each from where to where its postings stand in ``index``, its weight and its base."""
        assert self._top is not None
        buffers = self._buffers
        if not hasattr(buffers, "scores"):
            buffers.scores, buffers.seen = np.zeros(_BLOCK), np.zeros(_BLOCK, np.uint8)
            buffers.all = np.empty(0, np.bool_)
        k = max(0, min(k, index.size))
        rows, scores = np.empty(k, np.int64), np.empty(k)
        count, total = self._top(
            index.ordinals,
            index.frequencies,
            index.lengths,
            np.array(words, np.float64),
            *tabled(curve),
            buffers.all if allowed is None else allowed,
            buffers.scores,
            buffers.seen,
            rows,
            scores,
        )
        return rows[:count], scores[:count], total


@functools.cache
def machine(frequency: str) -> Compiled | None:
    """The one of this process for frequencies of this type; ``None``: numba is not installed."""
    return Compiled(frequency) if importlib.util.find_spec("numba") is not None else None


def compiled(index: KeywordIndex) -> Compiled | None:
    """The compiled kernel, once it is ready; until then, notes that ``index`` is large enough to want it."""
    found = machine(index.frequencies.dtype.name)
    if found is None:
        return None
    if found.ready:
        return found
    if index.size >= _WORTH_COMPILING:
        found.want()
    return None
