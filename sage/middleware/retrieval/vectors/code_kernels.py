"""Loops over the codes of vectors, which numba compiles: see
:mod:`sage.middleware.retrieval.machine_code.compilation`.

A score here is what puts vectors in order: the inner product, or the squared distance made negative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sage.middleware.retrieval.machine_code.compilation import Entry, compiled, load_numba
from sage.middleware.retrieval.machine_code.instructions import CACHE_LINE, compiled_bit_count, compiled_prefetch
from sage.middleware.retrieval.machine_code.kept_code import KeptCode
from sage.middleware.retrieval.machine_code.top_heap import HEAP, offer, sort_heap
from sage.middleware.retrieval.vectors import bit_kernels
from sage.middleware.retrieval.vectors.bit_kernels import BITS, find_candidates, scan_bits

AHEAD = 8
"""So many vectors before its turn the code of one is brought from memory. The codes of candidates are anywhere, and to
wait for each takes two to four times as long as to compute with it."""


def compile_kernels() -> list[Callable[..., Any]]:
    """:func:`_score_codes`, :func:`_best_codes`, :func:`scan_bits` and :func:`find_candidates` as machine code. Takes
    some seconds. Raises :class:`sage.errors.MissingExtra`."""
    types = load_numba().types

    def read(kind: Any, dimensions: int = 1) -> Any:
        return types.Array(kind, dimensions, "C", readonly=True)

    numbers, floats = types.Array(types.int64, 1, "C"), types.Array(types.float32, 1, "C")
    query = (read(types.float32), read(types.float32), types.boolean)
    score = types.void(read(types.uint8, 2), read(types.int64), *query, floats)
    best = types.int64(read(types.uint8, 2), read(types.int64), *query, numbers, floats)
    bits = (read(types.uint64), read(types.int64), read(types.int32), *[read(types.float32)] * 3)
    coded = (read(types.uint64), types.float32, types.float32, types.float32)
    room = (types.Array(types.uint64, 1, "C"), numbers, floats)
    scan = types.int64(*bits, read(types.int64), read(types.float32), *coded, read(types.boolean), *room)
    lists = (read(types.float32, 2), read(types.float32), read(types.float32), types.int64, types.int64)
    find = types.int64(*bits, *lists, read(types.boolean), *room, floats)
    entries: list[Entry] = [
        (_score_codes, score),
        (_best_codes, best),
        (scan_bits, scan),
        (find_candidates, find),
    ]
    names = {**vars(bit_kernels), **globals(), "bit_count": compiled_bit_count(), "prefetch": compiled_prefetch()}
    return compiled(entries, _CALLED, names, kept_kernels(), fast=True)


def kept_kernels() -> KeptCode:
    """Those of :func:`compile_kernels` as an earlier process made them."""
    return KeptCode("vectors", (find_candidates, compiled_prefetch, *_CALLED))


def _score_codes(codes: Any, ordinals: Any, steps: Any, lowest: Any, is_distance: Any, scores: Any) -> None:
    """Fills in the score of each vector of ``ordinals`` by its code of 8 bits for each dimension: see
    :func:`_score_code`."""
    for place in range(len(ordinals)):
        if place + AHEAD < len(ordinals):
            first = ordinals[place + AHEAD] * len(steps)
            for byte in range(0, len(steps), CACHE_LINE):
                prefetch(codes, first + byte)
        scores[place] = _score_code(codes, ordinals[place], steps, lowest, is_distance)


def _best_codes(codes: Any, ordinals: Any, steps: Any, lowest: Any, is_distance: Any, rows: Any, scores: Any) -> Any:
    """Fills ``rows`` and ``scores`` with the best of ``ordinals``, best first, equal ones in their order; returns how
    many. No ordinals stand for all."""
    count = np.int64(0)
    is_all = len(ordinals) == 0
    for place in range(len(codes) if is_all else len(ordinals)):
        if place + AHEAD < len(ordinals):  # not a function of its own, which would not be inlined
            first = ordinals[place + AHEAD] * len(steps)
            for byte in range(0, len(steps), CACHE_LINE):
                prefetch(codes, first + byte)
        ordinal = np.int64(place) if is_all else ordinals[place]
        score = _score_code(codes, ordinal, steps, lowest, is_distance)
        if count < len(rows) or score >= scores[0]:
            count = offer(rows, scores, count, ordinal, score)
    sort_heap(rows, scores, count)
    return count


def _score_code(codes: Any, ordinal: Any, steps: Any, lowest: Any, is_distance: Any) -> Any:
    """For an inner product, ``steps`` are the query's numbers times what a step of each dimension's code is worth. For
    a distance they are those steps, and ``lowest`` is the query less the vector of zero codes."""
    total = np.float32(0)
    if is_distance:
        for dimension in range(len(steps)):
            apart = lowest[dimension] - steps[dimension] * np.float32(codes[ordinal, dimension])
            total -= apart * apart
    else:
        for dimension in range(len(steps)):
            total += steps[dimension] * np.float32(codes[ordinal, dimension])
    return total


def prefetch(array: Any, byte: Any) -> None:
    """Compiled, it is one instruction: see :func:`compiled_prefetch`."""


_CALLED = (*HEAP, _score_code, *BITS)
"""All that the kernels call, in such an order that each calls only those before it."""
