"""What an index knows of metadata without reading a document: groups of equal texts, and the order by a number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sage.middleware.retrieval.filters.language import Filter
from sage.middleware.retrieval.index.view import View


@dataclass(frozen=True, slots=True)
class Group:
    """The documents of one text: how many they are, and the lowest and the highest of their numbers."""

    count: int
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class NumberOrder:
    """Documents in the order of the number in their metadata ``field``; with ``after``, those beyond it."""

    field: str
    after: float | None = None
    descending: bool = False


def groups(view: View, condition: Filter | None, by: str, of: str) -> dict[str, Group]:
    """The live documents that pass, by the text of the field ``by``, with their numbers of the field ``of``. Those that
    lack one of both are left out; of several values of a field, one counts."""
    found: dict[str, Group] = {}
    for segment in view.segments:
        column = segment.filters.text_column(by)
        labels, codes, numbers = column.texts, column.codes, segment.filters.number_column(of)
        chosen = np.flatnonzero(segment.passing(condition))
        codes, numbers = codes[chosen], numbers[chosen]
        complete = (codes >= 0) & ~np.isnan(numbers)
        codes, numbers = codes[complete], numbers[complete]
        counts = np.bincount(codes, minlength=len(labels))
        lowest, highest = np.full(len(labels), np.inf), np.full(len(labels), -np.inf)
        np.minimum.at(lowest, codes, numbers)
        np.maximum.at(highest, codes, numbers)
        for code in np.flatnonzero(counts).tolist():
            group = Group(int(counts[code]), float(lowest[code]), float(highest[code]))
            before = found.get(labels[code])
            found[labels[code]] = group if before is None else _joined(before, group)
    return found


def _joined(one: Group, other: Group) -> Group:
    return Group(one.count + other.count, min(one.lowest, other.lowest), max(one.highest, other.highest))


def in_order(view: View, condition: Filter | None, order: NumberOrder, limit: int) -> list[int]:
    """The numbers of the first ``limit`` live documents that pass, in this order; those of one number in the order in
    which they were written."""
    values, documents = [np.empty(0)], [np.empty(0, np.int64)]
    for segment in view.segments:
        chosen = np.flatnonzero(segment.passing(condition))
        numbers = segment.filters.number_column(order.field)[chosen]
        has_number = ~np.isnan(numbers)
        values.append(numbers[has_number])
        documents.append(segment.numbers[chosen[has_number]])
    keys, all_documents = np.concatenate(values), np.concatenate(documents)
    sign = -1 if order.descending else 1
    keys = sign * keys
    if order.after is not None:
        beyond = keys > sign * order.after
        keys, all_documents = keys[beyond], all_documents[beyond]
    first: list[int] = all_documents[np.lexsort((all_documents, keys))[:limit]].tolist()
    return first
