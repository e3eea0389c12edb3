"""Pages of documents in the order in which they were added, and their cursors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from sage.errors import InvalidRequest
from sage.middleware.retrieval.filters.language import Filter
from sage.middleware.retrieval.index.view import View
from sage.middleware.retrieval.store.store import DocumentStore
from sage.middleware.retrieval.types.documents import Row

PAGE_BYTES = 16 * 2**20
"""About so much text and metadata goes on one page."""
_STEP = 16  # documents that are read at a time for a page


def numbers_passing(view: View, condition: Filter | None, after: int = 0) -> NDArray[np.int64]:
    """The numbers over ``after`` of the live documents that pass ``condition``, ascending. ``None`` means all."""
    passing = [np.empty(0, np.int64)]
    for segment in view.segments:
        numbers = segment.numbers[segment.passing(condition)]
        passing.append(numbers[numbers > after])
    return np.concatenate(passing)


def first_page(store: DocumentStore, after: int, limit: int) -> tuple[list[Row], int | None]:
    """The page of documents after a number; and the number of its last document, ``None`` if it is the last page."""
    rows: list[Row] = []
    size = 0
    with store.reading() as reading:
        for row in chain.from_iterable(reading.rows(after, vectors=False)):
            if len(rows) == limit or size >= PAGE_BYTES:
                return rows, rows[-1].number
            rows.append(row)
            size += len(row.text) + len(row.metadata)
    return rows, None


def page_of(store: DocumentStore, numbers: Sequence[int], limit: int) -> tuple[list[Row], int | None]:
    """As :func:`first_page`, of the documents with these numbers. Those that were deleted since are left out."""
    rows: list[Row] = []
    size = 0
    with store.reading() as reading:
        for start in range(0, min(limit, len(numbers)), _STEP):
            some = numbers[start : min(start + _STEP, limit)]
            fetched = reading.fetch(some)
            rows += [fetched[number] for number in some if number in fetched]
            size += sum(len(row.text) + len(row.metadata) for row in fetched.values())
            end = start + len(some)
            if size >= PAGE_BYTES:
                break
        else:
            end = min(limit, len(numbers))
    return rows, numbers[end - 1] if end < len(numbers) else None


def cursor_of(number: int) -> str:
    """The cursor of the page that follows the document of that number."""
    return f"n{number:x}"


def after_cursor(cursor: str | None) -> int:
    """The inverse of :func:`cursor_of`; 0 for ``None``. Raises :class:`InvalidRequest`."""
    if cursor is None:
        return 0
    try:
        number = int(cursor.removeprefix("n"), 16)
    except ValueError:
        number = -1
    if not cursor.startswith("n") or not 0 <= number < 2**63 or cursor_of(number) != cursor:
        raise InvalidRequest(
            "'cursor' is none that this gateway gave out; leave it out to begin at the first page", param="cursor"
        )
    return number
