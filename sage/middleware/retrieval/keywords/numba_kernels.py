"""The keyword kernel as numba compiles it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sage.errors import MissingExtra

SPARSE = 32
"""Where the words have fewer postings than one a so many documents, they are merged one by one."""
CROWD = 32
"""Documents of a block that may be scored anew; where more would have to, all words are added up from there on."""
STEP = 8
"""Documents that are compared with the worst of the best at once; divides the size of a block."""


def compile_top(block: int, frequency: str) -> Callable[..., Any]:
    """For an index whose frequencies have this type. Takes some seconds; nothing is written to disk, for what is read
    back would be unpickled.

    The function adds up the scores of ``block`` documents at a time: no branch hangs on a single posting, for the
    processor could not foresee it. Words that together cannot lift a document over the worst of the best so far are
    only marked, for the count (MaxScore: Turtle and Flood, 1995); what the others lift high enough is scored anew with
    all words, in the order of the query. Its arguments: the index's ``ordinals``, ``frequencies`` and ``lengths``;
    ``words (n, 4)``: start, end, weight and base of each; the curve's four numbers and
    a ``table`` of it by frequency and length; ``allowed`` (empty: all);
    ``scratch (block,)`` and ``seen (block,)`` of zeros, left so; and ``rows`` and ``scores`` ``(k,)``, which it fills.
    It returns how many it filled and how many match.
    """
    try:
        import numba
    except ImportError as exc:
        raise MissingExtra("the compiled keyword kernel", "numba") from exc
    jit = numba.njit(nogil=True)
    sink, gain = jit(_sink), jit(_gain)
    add, mark, light, over = jit(_add_with(gain)), jit(_mark), jit(_light), jit(_over)
    count_seen, order, next_block = jit(_count), jit(_order_with(sink)), jit(_next_block)
    step = jit(_step_with(jit(_keep_with(sink)), gain))
    take = jit(_take_with(jit(_keep_with(sink)), jit(_score_with(gain))))

    def top(
        ordinals: Any,
        frequencies: Any,
        lengths: Any,
        words: Any,
        curve: Any,
        table: Any,
        allowed: Any,
        scratch: Any,
        seen: Any,
        rows: Any,
        scores: Any,
    ) -> Any:
        count, total, crowded = np.int64(0), np.int64(0), False
        index = (ordinals, frequencies, lengths)
        places, begins = words[:, 0].astype(np.int64), words[:, 0].astype(np.int64)
        only_marked = np.zeros(len(words), np.bool_)
        if (words[:, 1] - words[:, 0]).sum() * SPARSE < len(lengths):
            count, total = step(index, words, curve, table, allowed, places, rows, scores)
        first = next_block(ordinals, words, places, block)
        while first >= 0:
            bound = scores[0] if count == len(rows) and count > 0 and not crowded else -np.inf
            slack = light(words, bound, only_marked)
            begins[:] = places
            for word in range(len(words)):
                if only_marked[word]:
                    places[word] = mark(ordinals, words[word], places[word], first, seen)
                else:
                    places[word] = add(index, words[word], curve, table, places[word], first, scratch, seen)
            bound = scores[0] - abs(scores[0]) * 1e-9 - slack if count == len(rows) and count > 0 else -np.inf
            better = over(scratch, bound)
            if slack > 0.0 and better > CROWD:
                crowded, slack = True, 0.0
                scratch[:] = 0.0
                for word in range(len(words)):
                    add(index, words[word], curve, table, begins[word], first, scratch, seen)
            size = min(np.int64(block), np.int64(len(lengths)) - first)
            total += count_seen(seen, allowed, first, size)
            if better > 0:
                at = (begins, places)
                count = take(index, words, at, curve, table, allowed, scratch, seen, first, slack, rows, scores, count)
            scratch[:] = 0.0
            seen[:] = 0
            first = next_block(ordinals, words, places, block)
        order(rows, scores, count)
        return count, total

    return numba.njit([_signature(numba.types, frequency)], nogil=True)(top)


def _signature(types: Any, frequency: str) -> Any:
    def given(kind: Any, dimensions: int = 1) -> Any:
        return types.Array(kind, dimensions, "C", readonly=True)

    def filled(kind: Any) -> Any:
        return types.Array(kind, 1, "C")

    pair: Any = types.UniTuple(types.int64, 2)
    return pair(
        given(types.uint32),
        given(getattr(types, frequency)),
        given(types.uint32),
        given(types.float64, 2),
        given(types.float64),
        given(types.float64, 2),
        given(types.boolean),
        filled(types.float64),
        filled(types.uint8),
        filled(types.int64),
        filled(types.float64),
    )


def _next_block(ordinals: Any, words: Any, places: Any, block: Any) -> Any:
    """Its first document; -1: no word has postings left."""
    low = np.int64(1) << 40
    for word in range(len(words)):
        if places[word] < np.int64(words[word, 1]):
            low = min(low, np.int64(ordinals[places[word]]))
    return np.int64(-1) if low == np.int64(1) << 40 else low // block * block


def _light(words: Any, bound: Any, only_marked: Any) -> Any:
    """Marks the words that together cannot reach ``bound``, from the least on; returns what they can add at most. A
    word is worth between its base and its base and weight."""
    only_marked[:] = False
    slack = 0.0
    while bound > 0.0:
        least, most = -1, np.inf
        for word in range(len(words)):
            worth = max(0.0, words[word, 3], words[word, 2] + words[word, 3])
            if not only_marked[word] and worth < most:
                least, most = word, worth
        if least < 0 or slack + most > bound * 0.5:
            break
        only_marked[least] = True
        slack += most
    return slack


def _gain(frequency: Any, length: Any, curve: Any, table: Any) -> Any:
    """Divisions are slow: what small frequencies and lengths gain is in a table."""
    if np.int64(frequency) < table.shape[0] and np.int64(length) < table.shape[1]:
        return table[np.int64(frequency), np.int64(length)]
    norm = curve[0] + curve[1] * np.float64(length)
    return (np.float64(frequency) + curve[2] * norm) / (np.float64(frequency) + curve[3] * norm)


def _add_with(gain: Any) -> Any:
    def add(index: Any, word: Any, curve: Any, table: Any, place: Any, first: Any, scratch: Any, seen: Any) -> Any:
        """Adds one word's postings of one block; returns where those of the next begin. Unsigned places spare the
        question whether they count from the end: half of the time."""
        ordinals, frequencies, lengths = index
        here, end = np.uint64(place), np.uint64(word[1])
        begin, stop = np.uint32(first), np.uint32(first + len(scratch))
        weight, base = word[2], word[3]
        rows, columns, flat = np.uint32(table.shape[0]), np.uint32(table.shape[1]), table.ravel()
        while here < end:
            ordinal = ordinals[here]
            if ordinal >= stop:
                break
            frequency, length = np.uint32(frequencies[here]), lengths[ordinal]
            if frequency < rows and length < columns:
                gained = flat[np.uint32(frequency * columns + length)]
            else:
                gained = gain(frequency, length, curve, table)
            scratch[np.uint32(ordinal - begin)] += base + weight * gained
            seen[np.uint32(ordinal - begin)] = np.uint8(1)
            here += np.uint64(1)
        return np.int64(here)

    return add


def _mark(ordinals: Any, word: Any, place: Any, first: Any, seen: Any) -> Any:
    here, end = np.uint64(place), np.uint64(word[1])
    begin, stop = np.uint32(first), np.uint32(first + len(seen))
    while here < end:
        ordinal = ordinals[here]
        if ordinal >= stop:
            break
        seen[np.uint32(ordinal - begin)] = np.uint8(1)
        here += np.uint64(1)
    return np.int64(here)


def _score_with(gain: Any) -> Any:
    def score(index: Any, words: Any, at: Any, curve: Any, table: Any, ordinal: Any) -> Any:
        """Of one document, whose postings of each word stand between the places ``at`` if it has any."""
        ordinals, frequencies, lengths = index
        begins, ends = at
        found = 0.0
        for word in range(len(words)):
            low, high = begins[word], ends[word]
            while low < high:
                middle = (low + high) // 2
                if np.int64(ordinals[middle]) < ordinal:
                    low = middle + 1
                else:
                    high = middle
            if low < ends[word] and np.int64(ordinals[low]) == ordinal:
                found += words[word, 3] + words[word, 2] * gain(frequencies[low], lengths[ordinal], curve, table)
        return found

    return score


def _over(scratch: Any, bound: Any) -> Any:
    found = 0
    for here in range(len(scratch)):
        found += 1 if scratch[here] > bound else 0
    return found


def _count(seen: Any, allowed: Any, first: Any, size: Any) -> Any:
    total = 0
    if len(allowed) == 0:
        for here in range(size):
            total += seen[here]
    else:
        for here in range(size):
            total += seen[here] & np.uint8(allowed[first + here])
    return total


def _take_with(keep: Any, score: Any) -> Any:
    def take(
        index: Any,
        words: Any,
        at: Any,
        curve: Any,
        table: Any,
        allowed: Any,
        scratch: Any,
        seen: Any,
        first: Any,
        slack: Any,
        rows: Any,
        scores: Any,
        count: Any,
    ) -> Any:
        """Offers a block's documents in their order: of equal scores, the first that came stays."""
        if len(rows) == 0:
            return count
        for begin in range(0, len(scratch), STEP):
            bound = scores[0] * (1.0 - 1e-9) - slack if slack > 0.0 else scores[0]
            better = False
            if count < len(rows):
                for here in range(begin, begin + STEP):
                    better |= seen[here] != 0
            else:
                for here in range(begin, begin + STEP):
                    better |= scratch[here] > bound
            if not better:
                continue
            for here in range(begin, begin + STEP):
                if not seen[here] or (len(allowed) > 0 and not allowed[first + here]):
                    continue
                found = scratch[here]
                if slack > 0.0:
                    if found <= bound:
                        continue
                    found = score(index, words, at, curve, table, first + here)
                count = keep(rows, scores, count, first + here, found)
        return count

    return take


def _step_with(keep: Any, gain: Any) -> Any:
    def step(
        index: Any, words: Any, curve: Any, table: Any, allowed: Any, places: Any, rows: Any, scores: Any
    ) -> tuple[Any, Any]:
        """Few postings: document by document, over all words at once."""
        ordinals, frequencies, lengths = index
        count, total = np.int64(0), np.int64(0)
        while True:
            low = np.int64(1) << 40
            for word in range(len(words)):
                if places[word] < np.int64(words[word, 1]):
                    low = min(low, np.int64(ordinals[places[word]]))
            if low == np.int64(1) << 40:
                return count, total
            found = 0.0
            for word in range(len(words)):
                place = places[word]
                if place < np.int64(words[word, 1]) and np.int64(ordinals[place]) == low:
                    found += words[word, 3] + words[word, 2] * gain(frequencies[place], lengths[low], curve, table)
                    places[word] += 1
            if len(allowed) == 0 or allowed[low]:
                total += 1
                count = keep(rows, scores, count, low, found)

    return step


def _sink(rows: Any, scores: Any, count: Any, row: Any, score: Any) -> None:
    """Puts an entry in the place of the worst, which stands at the top of the heap."""
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= count:
            break
        other = child + 1
        if other < count and (
            scores[other] < scores[child] or (scores[other] == scores[child] and rows[other] > rows[child])
        ):
            child = other
        if scores[child] > score or (scores[child] == score and rows[child] < row):
            break
        rows[hole], scores[hole] = rows[child], scores[child]
        hole = child
    rows[hole], scores[hole] = row, score


def _keep_with(sink: Any) -> Any:
    def keep(rows: Any, scores: Any, count: Any, row: Any, score: Any) -> Any:
        """Keeps the best as a heap with the worst at its top; returns how many there are."""
        if count < len(rows):
            hole = count
            while hole > 0:
                above = (hole - 1) // 2
                if scores[above] < score or (scores[above] == score and rows[above] > row):
                    break
                rows[hole], scores[hole] = rows[above], scores[above]
                hole = above
            rows[hole], scores[hole] = row, score
            return count + 1
        if count > 0 and (score > scores[0] or (score == scores[0] and row < rows[0])):
            sink(rows, scores, count, row, score)
        return count

    return keep


def _order_with(sink: Any) -> Any:
    def order(rows: Any, scores: Any, count: Any) -> None:
        """From the heap to best first: the worst goes to the end, again and again."""
        for last in range(count - 1, 0, -1):
            row, score = rows[last], scores[last]
            rows[last], scores[last] = rows[0], scores[0]
            sink(rows, scores, last, row, score)

    return order
