"""Loops of the first stage, which compares one bit for each dimension of a vector; numba compiles them together with
those of :mod:`sage.middleware.retrieval.vectors.code_kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np

PLANES = 6
"""Bits of a query's numbers in the first stage."""
LARGEST = 2**PLANES - 1
"""What they can say."""
SMALLEST_STEP = 1e-30
"""Of a query whose numbers are all the same."""
ONE, TWO, THREE = np.uint64(1), np.uint64(2), np.uint64(3)


def scan_bits(
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


def find_candidates(
    words: Any,
    starts: Any,
    ids: Any,
    bases: Any,
    factors: Any,
    ones: Any,
    centres: Any,
    centre_scores: Any,
    query: Any,
    probes: Any,
    wanted: Any,
    allowed: Any,
    counts: Any,
    found: Any,
    scores: Any,
    spare: Any,
) -> Any:
    """Fills the front of ``found`` with the ``wanted`` nearest by their bits of the allowed vectors in the ``probes``
    lists that are nearest, in no order; returns how many. The rest as for :func:`scan_bits`; ``spare`` is room like
    ``scores``.
    """
    list_scores = np.empty(len(centre_scores), np.float32)
    for number in range(len(list_scores)):
        list_scores[number] = centre_scores[number] + _product(centres, number, query)
    lists = _highest_places(list_scores, probes)
    for place in range(len(lists)):
        spare[place] = list_scores[lists[place]]
    chosen_scores = spare[: len(lists)].copy()
    planes = np.zeros((len(query) + 63) // 64 * PLANES, np.uint64)
    lowest, step, total = _code_query(query, planes)
    count = scan_bits(
        words,
        starts,
        ids,
        bases,
        factors,
        ones,
        lists,
        chosen_scores,
        planes,
        lowest,
        step,
        total,
        allowed,
        counts,
        found,
        scores,
    )
    return _keep_highest(found, scores, count, wanted, spare)


def _product(centres: Any, number: Any, query: Any) -> Any:
    product = np.float32(0)
    for dimension in range(len(query)):
        product += centres[number, dimension] * query[dimension]
    return product


def _highest_places(scores: Any, wanted: Any) -> Any:
    """Where the ``wanted`` highest scores stand, ascending; of equal ones the first."""
    if wanted >= len(scores):
        return np.arange(len(scores))
    places = np.empty(max(wanted, 0), np.int64)
    if wanted <= 0:
        return places
    limit, above = _limit(scores.copy(), len(scores), wanted)
    count, equal = np.int64(0), wanted - above
    for place in range(len(scores)):
        if scores[place] > limit or (scores[place] == limit and equal > 0):
            equal -= np.int64(scores[place] == limit)
            places[count] = place
            count += 1
    return places[:count]


def _keep_highest(found: Any, scores: Any, count: Any, wanted: Any, spare: Any) -> Any:
    """Moves the ``wanted`` highest to the front of ``found``; returns how many there are."""
    if count <= wanted:
        return count
    if wanted <= 0:
        return np.int64(0)
    for place in range(count):
        spare[place] = scores[place]
    limit, above = _limit(spare, count, wanted)
    kept, equal = np.int64(0), wanted - above
    for place in range(count):
        score, ordinal = scores[place], found[place]
        if score > limit or (score == limit and equal > 0):
            equal -= np.int64(score == limit)
            found[kept] = ordinal
            kept += 1
    return kept


def _limit(numbers: Any, count: Any, rank: Any) -> Any:
    """``(the rank-th highest of the first count numbers, how many are higher)``; puts them in another order. Hoare's
    way of selecting: most of a part is left alone."""
    low, high, wanted = np.int64(0), count - 1, rank - 1
    while low < high:
        middle = numbers[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while numbers[left] > middle:
                left += 1
            while numbers[right] < middle:
                right -= 1
            if left <= right:
                numbers[left], numbers[right] = numbers[right], numbers[left]
                left += 1
                right -= 1
        if wanted <= right:
            high = right
        elif wanted >= left:
            low = left
        else:
            break
    limit, above = numbers[wanted], np.int64(0)
    for place in range(count):
        above += np.int64(numbers[place] > limit)
    return limit, above


def _code_query(query: Any, planes: Any) -> Any:
    """``(lowest, step, sum)``: fills in the bits of the query's numbers, which are zeros before: see
    :func:`scan_bits`."""
    lowest, highest = query[0], query[0]
    for dimension in range(len(query)):
        lowest, highest = min(lowest, query[dimension]), max(highest, query[dimension])
    step = max((highest - lowest) / np.float32(LARGEST), np.float32(SMALLEST_STEP))
    total = np.float32(0)
    for dimension in range(len(query)):
        code = np.uint64(min(np.float32(LARGEST), (query[dimension] - lowest) / step + np.float32(0.5)))
        total += np.float32(np.int64(code))
        first, bit = dimension // 64 * PLANES, np.uint64(dimension % 64)
        for plane in range(PLANES):
            planes[first + plane] |= ((code >> np.uint64(plane)) & ONE) << bit
    return lowest, step, lowest * np.float32(len(query)) + step * total


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


BITS = (
    _count_bits,
    _estimate,
    _keep,
    scan_bits,
    _product,
    _limit,
    _highest_places,
    _keep_highest,
    _code_query,
)
"""All that :func:`find_candidates` calls, in such an order that each calls only those before it."""
