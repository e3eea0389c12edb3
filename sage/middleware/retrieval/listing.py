"""Which documents pass a filter, in the order in which they came, and the cursors of their pages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sage.errors import InvalidRequest
from sage.middleware.retrieval.filters import Filter
from sage.middleware.retrieval.view import View


def numbers_passing(view: View, condition: Filter, after: int = 0) -> NDArray[np.int64]:
    """The numbers over ``after`` of the live documents that pass, ascending."""
    found = [np.empty(0, np.int64)]
    for part in view.parts:
        mask = part.filters.mask(condition)
        if part.live is not None:
            mask = mask & part.live
        numbers = part.numbers[mask]
        found.append(numbers[numbers > after])
    return np.concatenate(found)


def cursor_of(number: int) -> str:
    """The cursor of the page that follows the document of that number."""
    return f"n{number:x}"


def after_cursor(cursor: str | None) -> int:
    """The inverse; 0 for none. Raises :class:`InvalidRequest`."""
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
