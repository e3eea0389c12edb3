"""Loops over the codes of vectors, which numba compiles: see
:mod:`sage.middleware.retrieval.machine_code.compilation`.

A score here is what puts vectors in order: the inner product, or the squared distance made negative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sage.middleware.retrieval.machine_code.compilation import Entry, compiled, load_numba
from sage.middleware.retrieval.machine_code.kept_code import KeptCode
from sage.middleware.retrieval.machine_code.top_heap import HEAP, offer, sort_heap


def compile_kernels() -> list[Callable[..., Any]]:
    """:func:`_score_codes`, :func:`_best_codes` and :func:`_scan_bits` as machine code. Takes some seconds. Raises
    :class:`sage.errors.MissingExtra`."""
    types = load_numba().types

    def read(kind: Any, dimensions: int = 1) -> Any:
        return types.Array(kind, dimensions, "C", readonly=True)

    numbers, floats = types.Array(types.int64, 1, "C"), types.Array(types.float32, 1, "C")
    query = (read(types.float32), read(types.float32), types.boolean)
    score = types.void(read(types.uint8, 2), read(types.int64), *query, floats)
    best = types.int64(read(types.uint8, 2), read(types.int64), *query, numbers, floats)
    bits = (read(types.uint8), read(types.int64), read(types.int64), types.int64, types.int64)
    factors = (read(types.int32), read(types.float32), read(types.float32))
    probed = (read(types.int64), read(types.float32), read(types.float32), read(types.boolean))
    scan = types.int64(*bits, *factors, *probed, numbers, floats)
    entries: list[Entry] = [(_score_codes, score), (_best_codes, best), (_scan_bits, scan)]
    return compiled(entries, _CALLED, globals(), kept_kernels(), fast=True)


def kept_kernels() -> KeptCode:
    """Those of :func:`compile_kernels` as an earlier process made them."""
    return KeptCode("vectors", (_best_codes, *_CALLED))


def _score_codes(codes: Any, ordinals: Any, steps: Any, lowest: Any, is_distance: Any, scores: Any) -> None:
    """Fills in the score of each vector of ``ordinals`` by its code of 8 bits for each dimension: see
    :func:`_score_code`."""
    for place in range(len(ordinals)):
        scores[place] = _score_code(codes, ordinals[place], steps, lowest, is_distance)


def _best_codes(codes: Any, ordinals: Any, steps: Any, lowest: Any, is_distance: Any, rows: Any, scores: Any) -> Any:
    """Fills ``rows`` and ``scores`` with the best of ``ordinals``, best first, equal ones in their order; returns how
    many. No ordinals stand for all."""
    count = np.int64(0)
    is_all = len(ordinals) == 0
    for place in range(len(codes) if is_all else len(ordinals)):
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


def _scan_bits(
    blob: Any,
    starts: Any,
    offsets: Any,
    width: Any,
    stride: Any,
    ids: Any,
    bases: Any,
    factors: Any,
    lists: Any,
    list_scores: Any,
    table: Any,
    allowed: Any,
    found: Any,
    scores: Any,
) -> Any:
    """Fills ``found`` and ``scores`` with every allowed vector of ``lists`` and an estimate of its score by one bit for
    each dimension; returns how many.

    The vectors of list ``n`` are those from ``starts[n]`` on in ``ids``, ``bases`` and ``factors``; their bits begin in
    ``blob`` at ``offsets[n]``, ``width`` bytes every ``stride``. ``table`` has for each value of a byte, and each byte,
    the sum of the query's numbers with the signs of the bits. No ``allowed`` stand for all.
    """
    count = np.int64(0)
    for number in range(len(lists)):
        chosen = lists[number]
        base_of_list, offset = list_scores[number], np.uint64(offsets[chosen])
        for place in range(starts[chosen], starts[chosen + 1]):
            if len(allowed) == 0 or allowed[ids[place]]:
                signed = _sum_of_bits(blob, offset, np.uint64(width), table)
                found[count], scores[count] = ids[place], base_of_list + bases[place] + factors[place] * signed
                count += 1
            offset += np.uint64(stride)
    return count


def _sum_of_bits(blob: Any, offset: Any, width: Any, table: Any) -> Any:
    """Four sums side by side: the processor need not wait for one addition before the next."""
    first = second = third = fourth = np.float32(0)
    byte = np.uint64(0)
    while byte + np.uint64(3) < width:
        start = offset + byte
        first += table[np.uint64(blob[start]) * width + byte]
        second += table[np.uint64(blob[start + np.uint64(1)]) * width + byte + np.uint64(1)]
        third += table[np.uint64(blob[start + np.uint64(2)]) * width + byte + np.uint64(2)]
        fourth += table[np.uint64(blob[start + np.uint64(3)]) * width + byte + np.uint64(3)]
        byte += np.uint64(4)
    while byte < width:
        first += table[np.uint64(blob[offset + byte]) * width + byte]
        byte += np.uint64(1)
    return (first + second) + (third + fourth)


_CALLED = (*HEAP, _score_code, _sum_of_bits)
"""All that the kernels call, in such an order that each calls only those before it."""
