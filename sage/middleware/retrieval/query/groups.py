"""How well the groups that documents belong to match a query: sessions, of which the documents are the turns.

All documents with the same text under a field of the metadata count as one long document. Its BM25 is made of the
postings of its documents, with the weights that the words have for single documents: no group is stored or indexed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.index.view import View
from sage.middleware.retrieval.keywords.postings import Mask
from sage.middleware.retrieval.keywords.search import GroupMembers, KeywordLeg
from sage.middleware.retrieval.text.query_syntax import KeywordQuery

Floats = NDArray[np.float64]
_NO_GROUP = -1


def group_scores(
    view: View,
    keywords: KeywordLeg,
    query: KeywordQuery,
    allowed: Sequence[Mask | None],
    field: str,
    rows: NDArray[np.int64],
) -> Floats:
    """``(n,)``, 0 to 1: the score of the group of each row, as a share of the best of them; 0 for rows without one.
    Only the documents that ``allowed`` lets through (a mask a segment; ``None``: all live ones) belong to a group."""
    number_of: dict[str, int] = {}
    groups_of_rows = [
        _NO_GROUP if text is None else number_of.setdefault(text, len(number_of)) for text in _texts(view, field, rows)
    ]
    if not number_of:
        return np.zeros(len(rows))
    if len(number_of) == 1:  # the same for all: not worth its cost
        return np.where(np.array(groups_of_rows) >= 0, 1.0, 0.0)
    members = [
        _members(view, segment, field, number_of, mask)
        for segment, mask in zip(range(len(view.segments)), allowed, strict=True)
    ]
    scores = keywords.of_groups(query, members, len(number_of))
    best = float(scores.max(initial=0.0))
    shares = np.append(scores / best if best > 0 else scores, 0.0)  # the last one is that of no group
    return shares[groups_of_rows]


def _texts(view: View, field: str, rows: NDArray[np.int64]) -> list[str | None]:
    """The text of each row under ``field``."""
    starts = np.asarray(view.starts, np.int64)
    segments = np.searchsorted(starts, rows, side="right") - 1
    texts: list[str | None] = []
    columns = [segment.filters.text_column(field) for segment in view.segments]
    for segment, ordinal in zip(segments.tolist(), (rows - starts[segments]).tolist(), strict=True):
        column = columns[segment]
        code = column.codes[ordinal]
        texts.append(column.texts[code] if code >= 0 else None)
    return texts


def _members(view: View, segment: int, field: str, number_of: dict[str, int], allowed: Mask | None) -> GroupMembers:
    """The documents of a segment that belong to a group, and the number of the group of each."""
    filters = view.segments[segment].filters
    column = filters.text_column(field)
    here = [(column.code_of[text], number) for text, number in number_of.items() if text in column.code_of]
    codes, numbers = np.array(here, np.int64).reshape(len(here), 2).T
    ordinals, places = filters.holding(field, codes)
    members = GroupMembers(ordinals, numbers[places])
    mask = view.segments[segment].live if allowed is None else allowed
    return members if mask is None else members.among(mask)
