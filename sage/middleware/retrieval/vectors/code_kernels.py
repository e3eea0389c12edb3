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

PLANES = 6
"""Bits of a query's numbers in the first stage."""
ONE, TWO, THREE = np.uint64(1), np.uint64(2), np.uint64(3)


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
    bits = (read(types.uint64), read(types.int64), read(types.int32), *[read(types.float32)] * 3)
    coded = (read(types.uint64), types.float32, types.float32, types.float32)
    room = (types.Array(types.uint64, 1, "C"), numbers, floats)
    scan = types.int64(*bits, read(types.int64), read(types.float32), *coded, read(types.boolean), *room)
    entries: list[Entry] = [(_score_codes, score), (_best_codes, best), (_scan_bits, scan)]
    names = {**globals(), "bit_count": _compiled_bit_count()}
    return compiled(entries, _CALLED, names, kept_kernels(), fast=True)


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
    words: Any,
    starts: Any,
    ids: Any,
    bases: Any,
    factors: Any,
    ones: Any,
    lists: Any,
    list_scores: Any,
    planes: Any,
    lowest: Any,
    step: Any,
    total: Any,
    allowed: Any,
    counts: Any,
    found: Any,
    scores: Any,
) -> Any:
    """Fills ``found`` and ``scores`` with every allowed vector of ``lists`` and an estimate of its score by one bit for
    each dimension; returns how many. No ``allowed`` stand for all.

    The vectors of list ``n`` are those from ``starts[n]`` on in ``ids``, ``bases``, ``factors`` and ``ones``, which
    says how many bits are set. ``words`` has the bits of a list word by word: the first word of each vector, then the
    second. The query's numbers are ``lowest`` and ``step`` times what their bits in ``planes`` say, :data:`PLANES` for
    each word; their sum is ``total``. ``counts`` is room for the largest list.
    """
    width = len(planes) // PLANES
    count = np.int64(0)
    for number in range(len(lists)):
        first, end = starts[lists[number]], starts[lists[number] + 1]
        size = np.uint64(end - first)
        for vector in range(size):
            counts[vector] = np.uint64(0)
        for word in range(width):
            _count_bits(words, np.uint64(first * width) + np.uint64(word) * size, size, planes, word * PLANES, counts)
        _estimate(
            ids,
            bases,
            factors,
            ones,
            np.uint64(first),
            size,
            counts,
            lowest,
            step,
            total,
            list_scores[number],
            np.uint64(count),
            found,
            scores,
        )
        count += _keep(found, scores, np.uint64(count), size, allowed) if len(allowed) > 0 else np.int64(size)
    return count


def _count_bits(words: Any, offset: Any, size: Any, planes: Any, place: Any, counts: Any) -> None:
    """Adds the query's codes where a vector has a bit, for one word of each vector. One loop over the vectors, which
    the compiler turns into instructions for several of them."""
    first, second, third = planes[place], planes[place + 1], planes[place + 2]
    fourth, fifth, sixth = planes[place + 3], planes[place + 4], planes[place + 5]
    for vector in range(size):
        bits = words[offset + vector]
        low = bit_count(bits & first) + (bit_count(bits & second) << ONE) + (bit_count(bits & third) << TWO)
        high = bit_count(bits & fourth) + (bit_count(bits & fifth) << ONE) + (bit_count(bits & sixth) << TWO)
        counts[vector] += low + (high << THREE)


def _estimate(
    ids: Any,
    bases: Any,
    factors: Any,
    ones: Any,
    first: Any,
    size: Any,
    counts: Any,
    lowest: Any,
    step: Any,
    total: Any,
    list_score: Any,
    start: Any,
    found: Any,
    scores: Any,
) -> None:
    """Fills in the vectors of a list from ``start`` on."""
    for vector in range(size):
        counted = lowest * ones[first + vector] + step * np.float32(np.int64(counts[vector]))
        signed = np.float32(2) * counted - total
        scores[start + vector] = list_score + bases[first + vector] + factors[first + vector] * signed
    for vector in range(size):
        found[start + vector] = ids[first + vector]


def _keep(found: Any, scores: Any, start: Any, size: Any, allowed: Any) -> Any:
    """Moves what is allowed, of ``size`` vectors from ``start`` on, to the front of them; returns how many. Without a
    branch, which the processor would often guess wrong."""
    kept = start
    for vector in range(size):
        ordinal, score = found[start + vector], scores[start + vector]
        found[kept], scores[kept] = ordinal, score
        kept += np.uint64(allowed[np.uint64(ordinal)])
    return np.int64(kept - start)


def bit_count(number: Any) -> Any:
    """How many bits are set; compiled, it is one instruction."""
    return np.uint64(int(number).bit_count())


def _compiled_bit_count() -> Any:
    numba = load_numba()

    def typed(context: Any, number: Any) -> Any:
        def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.ctpop(arguments[0])

        return numba.types.uint64(numba.types.uint64), generated

    return numba.extending.intrinsic(typed)


_CALLED = (*HEAP, _score_code, _count_bits, _estimate, _keep)
"""All that the kernels call, in such an order that each calls only those before it."""
