"""The compiled keyword kernels: the best documents of one segment for the words of a query, and the scores of some.

The functions below are plain Python; :func:`compile_kernels` has numba compile them. They are written in the way that
numba compiles best: they loop over arrays, and take them out of their tuples before a loop, as that costs much inside.
Where there are many postings, no branch hangs on a single one, for the processor could not predict it.

:func:`_top` goes one of two ways. Where the words have few postings, it merges them document by document. Otherwise it
takes the documents in blocks: it adds up the scores of a block word by word, in arrays that stay in the processor's
cache, and offers the block's documents to a heap of the best.

Most words of a query are common and worth little. Once the heap is full, those that together cannot lift a document
over the worst of the best are *non-essential* (MaxScore: Turtle and Flood, 1995). Their postings are only marked, since
they count as matches. A document whose essential words score high enough is then scored again, with all words in the
order of the query, so that its score is the same to the last digit whichever way was taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sage.middleware.retrieval.machine_code.compilation import compiled, load_numba
from sage.middleware.retrieval.machine_code.kept_code import KeptCode
from sage.middleware.retrieval.machine_code.top_heap import HEAP, offer, sort_heap

SPARSE = 16
"""Words with fewer postings in all than one for so many documents are merged document by document: a posting takes
some 14 ns there, and a document 1 ns in a block."""
MOST_RESCORED = 32
"""Documents of a block that may be scored again. Once a block would have more, no word is non-essential any more."""
STEP = 8
"""Documents that are compared with the worst of the best at once. It divides the size of a block."""
ROUNDING = 1e-9
"""Sums in another order differ by less than this share of them."""
START, END, WEIGHT, BASE, SHARE = range(5)
"""The columns of ``words``: from where to where its postings stand, its weight and its base, and its share."""
NO_DOCUMENT = 1 << 40


class PostingArrays(NamedTuple):
    """Of the segment's index."""

    ordinals: Any
    frequencies: Any
    lengths: Any


class Gains(NamedTuple):
    """What a posting gains: :class:`sage.middleware.retrieval.keywords.bm25.Curve` as numbers, and as a table."""

    curve: Any
    """``(4,)``: flat, slope, rise, bend."""
    table: Any
    """``(frequencies, lengths)``, while both are small."""


class ScoreBlock(NamedTuple):
    """The documents from ``first`` on, as many as the arrays are long."""

    first: Any
    scores: Any
    matches: Any
    """1 where a document has a word of the query."""


class TopHeap(NamedTuple):
    """The best documents so far, a heap with the worst of them at the top. How many there are goes beside it."""

    rows: Any
    scores: Any


def compile_kernels(frequency: str) -> list[Callable[..., Any]]:
    """:func:`_top` and :func:`_score_rows` as machine code, for an index whose frequencies have this type.

    Takes some seconds. Raises :class:`sage.errors.MissingExtra`.
    """
    types = load_numba().types

    def read(kind: Any, dimensions: int = 1) -> Any:
        return types.Array(kind, dimensions, "C", readonly=True)

    def written(kind: Any) -> Any:
        return types.Array(kind, 1, "C")

    index = (read(types.uint32), read(getattr(types, frequency)), read(types.uint32))
    query = (read(types.float64, 2), read(types.float64), read(types.float64, 2))
    numbers, sums = written(types.int64), written(types.float64)
    result: Any = types.UniTuple(types.int64, 2)
    top = result(*index, *query, read(types.boolean), sums, written(types.uint8), numbers, sums)
    score_rows = types.void(*index, *query, read(types.int64), sums, sums)
    return compiled([(_top, top), (_score_rows, score_rows)], _CALLED, globals(), kept_kernels(frequency))


def kept_kernels(frequency: str) -> KeptCode:
    """Those of :func:`compile_kernels` as an earlier process made them."""
    return KeptCode(f"keywords-{frequency}", (_top, *_CALLED))


def _top(
    ordinals: Any,
    frequencies: Any,
    lengths: Any,
    words: Any,
    curve: Any,
    table: Any,
    allowed: Any,
    block_scores: Any,
    block_matches: Any,
    rows: Any,
    scores: Any,
) -> Any:
    """``(how many are filled in, how many documents match)``.

    Fills ``rows`` and ``scores``, ``(k,)`` each, with the best documents, best first, equal ones by row. ``words`` is
    ``(n, 5)``, see :data:`START`. ``allowed`` is a mask of the documents that may be returned; an empty one allows all.
    ``block_scores`` and ``block_matches`` are zeros before and after.
    """
    postings, gains, best = PostingArrays(ordinals, frequencies, lengths), Gains(curve, table), TopHeap(rows, scores)
    if (words[:, END] - words[:, START]).sum() * SPARSE < len(lengths):
        count, total = _by_document(postings, words, gains, allowed, best)
    else:
        count, total = _by_block(postings, words, gains, allowed, block_scores, block_matches, best)
    sort_heap(rows, scores, count)
    return count, total


def _score_rows(
    ordinals: Any,
    frequencies: Any,
    lengths: Any,
    words: Any,
    curve: Any,
    table: Any,
    rows: Any,
    scores: Any,
    shares: Any,
) -> None:
    """Fills ``scores``, NaN where a document of ``rows`` holds no word, and ``shares``, the sum of those of the words
    that it holds."""
    for place in range(len(rows)):
        document, score, share, matches = rows[place], 0.0, 0.0, False
        for number in range(len(words)):
            end = np.int64(words[number, END])
            found = _find(ordinals, np.int64(words[number, START]), end, document)
            if found < end and np.int64(ordinals[found]) == document:
                gain = _gain(frequencies[found], lengths[document], curve, table)
                score += words[number, BASE] + words[number, WEIGHT] * gain
                share += words[number, SHARE]
                matches = True
        scores[place] = score if matches else np.nan
        shares[place] = share


def _find(ordinals: Any, low: Any, high: Any, document: Any) -> Any:
    """Where the first posting between ``low`` and ``high`` is that is of ``document`` or of a later one."""
    while low < high:
        middle = (low + high) // 2
        if np.int64(ordinals[middle]) < document:
            low = middle + 1
        else:
            high = middle
    return low


# What a posting is worth


def _gain(frequency: Any, length: Any, curve: Any, table: Any) -> Any:
    """Divisions are slow: what small frequencies and lengths gain is in a table."""
    if np.int64(frequency) < table.shape[0] and np.int64(length) < table.shape[1]:
        return table[np.int64(frequency), np.int64(length)]
    norm = curve[0] + curve[1] * np.float64(length)
    return (np.float64(frequency) + curve[2] * norm) / (np.float64(frequency) + curve[3] * norm)


# Document by document


def _by_document(postings: Any, words: Any, gains: Any, allowed: Any, best: Any) -> Any:
    """``(how many are in the heap, how many match)``: over all words at once, one document after the other."""
    ordinals, frequencies, lengths = postings
    curve, table = gains
    rows, scores = best
    count, total = np.int64(0), np.int64(0)
    cursors, ends = words[:, START].astype(np.int64), words[:, END].astype(np.int64)
    heads = np.full(len(words), np.int64(NO_DOCUMENT))  # the document that each cursor stands at
    for number in range(len(words)):
        if cursors[number] < ends[number]:
            heads[number] = np.int64(ordinals[cursors[number]])
    while True:
        document = np.int64(NO_DOCUMENT)
        for number in range(len(words)):
            document = min(document, heads[number])
        if document == NO_DOCUMENT:
            return count, total
        length, score = lengths[document], 0.0
        for number in range(len(words)):
            if heads[number] == document:
                cursor = cursors[number]
                score += words[number, BASE] + words[number, WEIGHT] * _gain(frequencies[cursor], length, curve, table)
                cursors[number] = cursor + 1
                heads[number] = np.int64(ordinals[cursor + 1]) if cursor + 1 < ends[number] else np.int64(NO_DOCUMENT)
        if len(allowed) == 0 or allowed[document]:
            total += 1
            if count < len(rows) or (count > 0 and score >= scores[0]):
                count = offer(rows, scores, count, document, score)


def _next_document(ordinals: Any, words: Any, cursors: Any) -> Any:
    """The lowest document that any cursor stands at, or :data:`NO_DOCUMENT`."""
    document = np.int64(NO_DOCUMENT)
    for number in range(len(words)):
        if cursors[number] < np.int64(words[number, END]):
            document = min(document, np.int64(ordinals[cursors[number]]))
    return document


# Block by block


def _by_block(
    postings: Any, words: Any, gains: Any, allowed: Any, block_scores: Any, block_matches: Any, best: Any
) -> Any:
    """``(how many are in the heap, how many match)``."""
    count, total, all_essential = np.int64(0), np.int64(0), False
    cursors = words[:, START].astype(np.int64)
    starts = cursors.copy()
    non_essential = np.zeros(len(words), np.bool_)
    size = np.int64(len(block_scores))
    document = _next_document(postings.ordinals, words, cursors)
    while document != NO_DOCUMENT:
        block = ScoreBlock(document // size * size, block_scores, block_matches)
        threshold = best.scores[0] if _is_full(best, count) and not all_essential else -np.inf
        missing = _choose_non_essential(words, threshold, non_essential)
        starts[:] = cursors
        for number in range(len(words)):
            if non_essential[number]:
                cursors[number] = _mark(postings.ordinals, words[number], cursors[number], block)
            else:
                cursors[number] = _add(postings, words[number], gains, cursors[number], block)
        lowest = best.scores[0] - abs(best.scores[0]) * ROUNDING - missing if _is_full(best, count) else -np.inf
        candidates = _count_above(block.scores, lowest)
        if missing > 0.0 and candidates > MOST_RESCORED:
            all_essential, missing = True, 0.0
            block.scores[:] = 0.0
            for number in range(len(words)):
                _add(postings, words[number], gains, starts[number], block)
        total += _count_matches(block, allowed, len(postings.lengths))
        if candidates > 0:
            count = _offer_block(postings, words, gains, (starts, cursors), allowed, block, missing, best, count)
        block.scores[:] = 0.0
        block.matches[:] = 0
        document = _next_document(postings.ordinals, words, cursors)
    return count, total


def _is_full(best: Any, count: Any) -> Any:
    return count == len(best.rows) and count > 0


def _choose_non_essential(words: Any, threshold: Any, non_essential: Any) -> Any:
    """Marks words, the least first, while all marked together are worth at most half of ``threshold``; returns what
    they are worth at most. A word is worth between its base and its base and weight."""
    non_essential[:] = False
    missing = 0.0
    while threshold > 0.0:
        least, most = -1, np.inf
        for number in range(len(words)):
            worth = max(0.0, words[number, BASE], words[number, WEIGHT] + words[number, BASE])
            if not non_essential[number] and worth < most:
                least, most = number, worth
        if least < 0 or missing + most > threshold * 0.5:
            break
        non_essential[least] = True
        missing += most
    return missing


def _add(postings: Any, word: Any, gains: Any, cursor: Any, block: Any) -> Any:
    """Adds one word's postings of one block; returns where those of the next begin.

    The hottest loop of all. With unsigned positions the compiled code need not ask whether they count from the end,
    which takes half of the time.
    """
    ordinals, frequencies, lengths = postings
    curve, table = gains
    scores, matches = block.scores, block.matches
    position, end = np.uint64(cursor), np.uint64(word[END])
    first, stop = np.uint32(block.first), np.uint32(block.first + len(scores))
    weight, base = word[WEIGHT], word[BASE]
    rows, columns, flat = np.uint32(table.shape[0]), np.uint32(table.shape[1]), table.ravel()
    while position < end:
        ordinal = ordinals[position]
        if ordinal >= stop:
            break
        frequency, length = np.uint32(frequencies[position]), lengths[ordinal]
        if frequency < rows and length < columns:
            gain = flat[np.uint32(frequency * columns + length)]
        else:
            gain = _gain(frequency, length, curve, table)
        scores[np.uint32(ordinal - first)] += base + weight * gain
        matches[np.uint32(ordinal - first)] = np.uint8(1)
        position += np.uint64(1)
    return np.int64(position)


def _mark(ordinals: Any, word: Any, cursor: Any, block: Any) -> Any:
    """As :func:`_add`, but the postings only count as matches."""
    matches = block.matches
    position, end = np.uint64(cursor), np.uint64(word[END])
    first, stop = np.uint32(block.first), np.uint32(block.first + len(matches))
    while position < end:
        ordinal = ordinals[position]
        if ordinal >= stop:
            break
        matches[np.uint32(ordinal - first)] = np.uint8(1)
        position += np.uint64(1)
    return np.int64(position)


def _count_above(scores: Any, lowest: Any) -> Any:
    count = 0
    for offset in range(len(scores)):
        count += 1 if scores[offset] > lowest else 0
    return count


def _count_matches(block: Any, allowed: Any, documents: Any) -> Any:
    """How many documents of the block match and are allowed; there are ``documents`` in all."""
    first, matches = block.first, block.matches
    count = 0
    if len(allowed) == 0:
        for offset in range(len(matches)):
            count += matches[offset]
    else:
        for offset in range(min(np.int64(len(matches)), np.int64(documents) - first)):
            count += matches[offset] & np.uint8(allowed[first + offset])
    return count


def _offer_block(
    postings: Any,
    words: Any,
    gains: Any,
    cursors: Any,
    allowed: Any,
    block: Any,
    missing: Any,
    best: Any,
    count: Any,
) -> Any:
    """Offers a block's documents to the heap in their order, so that of equal scores the first one stays; returns how
    many are in it. ``missing``: what a score may lack because words were non-essential. A few documents at a time are
    compared without a branch: most of them cannot enter the heap."""
    first, scores, matches = block
    rows, best_scores = best
    if len(rows) == 0:
        return count
    for start in range(0, len(scores), STEP):
        lowest = best_scores[0] * (1.0 - ROUNDING) - missing if missing > 0.0 else best_scores[0]
        has_candidate = False  # not a function of its own: one with arrays is not inlined, and this is called often
        if count < len(rows):
            for offset in range(start, start + STEP):
                has_candidate |= matches[offset] != 0
        else:
            for offset in range(start, start + STEP):
                has_candidate |= scores[offset] > lowest
        if not has_candidate:
            continue
        for offset in range(start, start + STEP):
            document = first + offset
            if not matches[offset] or (len(allowed) > 0 and not allowed[document]):
                continue
            score = scores[offset]
            if missing > 0.0:
                if score <= lowest:
                    continue
                score = _score(postings, words, gains, cursors, document)
            count = offer(rows, best_scores, count, document, score)
    return count


def _score(postings: Any, words: Any, gains: Any, cursors: Any, document: Any) -> Any:
    """The whole score of one document, whose posting of each word, if there is one, stands between two ``cursors``."""
    ordinals, frequencies, lengths = postings
    curve, table = gains
    starts, ends = cursors
    score = 0.0
    for number in range(len(words)):
        low = _find(ordinals, starts[number], ends[number], document)
        if low < ends[number] and np.int64(ordinals[low]) == document:
            gain = _gain(frequencies[low], lengths[document], curve, table)
            score += words[number, BASE] + words[number, WEIGHT] * gain
    return score


_CALLED = (
    _gain,
    _find,
    *HEAP,
    _next_document,
    _by_document,
    _is_full,
    _choose_non_essential,
    _add,
    _mark,
    _count_above,
    _count_matches,
    _score,
    _offer_block,
    _by_block,
)
"""All that both call, in such an order that each calls only those before it."""
