"""The best documents so far, as a heap in two arrays with the worst of them at the top: of equal scores, the higher row
is worse. Plain functions, which :mod:`sage.middleware.retrieval.machine_code.compilation` compiles."""

from __future__ import annotations

from typing import Any


def offer(rows: Any, scores: Any, count: Any, row: Any, score: Any) -> Any:
    """Puts a document into the heap if it is among the best; returns how many are in it. Called for single documents,
    so it gets arrays, not tuples of them."""
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
        replace_worst(rows, scores, count, row, score)
    return count


def replace_worst(rows: Any, scores: Any, count: Any, row: Any, score: Any) -> None:
    """Takes the worst from the top of the heap and puts a document in."""
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


def sort_heap(rows: Any, scores: Any, count: Any) -> None:
    """From a heap to the order best first: takes the worst out and puts it at the end, one after the other."""
    for last in range(count - 1, 0, -1):
        row, score = rows[last], scores[last]
        rows[last], scores[last] = rows[0], scores[0]
        replace_worst(rows, scores, last, row, score)


HEAP = (replace_worst, offer, sort_heap)
"""In such an order that each calls only those before it."""
