"""The metadata of the newest documents, which no index has taken in yet: in columns that grow."""

from __future__ import annotations

import threading

import numpy as np
import orjson
from numpy.typing import NDArray

from sage.middleware.retrieval.filters.index import FilterIndex
from sage.middleware.retrieval.filters.language import (
    All,
    Compare,
    Condition,
    Equal,
    Filter,
    Leaves,
    Not,
    Some,
    kind_of,
    leaves_of,
)
from sage.middleware.retrieval.filters.terms import type_of
from sage.middleware.retrieval.keywords.postings import Arrays, Mask

_NO_TEXT = -1
_ROOM = 64
"""Documents for which a new column has room; it doubles when they are more."""


class GrowingFilters:
    """One thread appends while others read what was there before."""

    def __init__(self) -> None:
        self._metadatas: list[bytes] = []
        self._leaves: list[Leaves | None] = []
        """Parsed when the first filter asks for them."""
        self._columns: dict[str, _GrowingColumn] = {}
        self._filling = threading.Lock()

    def append(self, metadata: bytes) -> None:
        self._leaves.append(None)
        self._metadatas.append(metadata)

    def at(self, size: int) -> FilterIndex:
        """The first ``size`` documents; they stay as they are however many are appended."""
        return _UnindexedFilters(self, size)

    def freeze(self, size: int) -> FilterIndex:
        """An index of the first ``size`` documents."""
        return FilterIndex.build(self._metadatas[:size])

    def leaves(self, ordinal: int) -> Leaves:
        leaves = self._leaves[ordinal]
        if leaves is None:
            leaves = self._leaves[ordinal] = leaves_of(orjson.loads(self._metadatas[ordinal]))
        return leaves

    def column(self, path: str, size: int) -> _GrowingColumn:
        """The values of the first ``size`` documents, or more, under a path."""
        with self._filling:
            column = self._columns.setdefault(path, _GrowingColumn())
            for ordinal in range(column.size, size):
                column.append(self.leaves(ordinal).get(path, ()))
            return column


class _GrowingColumn:
    """The values of one path. A document with one text or one number has it in ``codes`` or ``numbers``; ``mixed_from``
    is the first one with several values or with one of another type, from which on the column does not say all."""

    def __init__(self) -> None:
        self.size = 0
        self.code_of: dict[str, int] = {}
        self.codes = np.full(_ROOM, _NO_TEXT, np.int64)
        self.numbers = np.full(_ROOM, np.nan)
        self.mixed_from: int | None = None

    def append(self, values: object) -> None:
        assert isinstance(values, list | tuple)
        if self.size == len(self.codes):  # readers keep the arrays that they have
            self.codes = np.concatenate([self.codes, np.full(self.size, _NO_TEXT, np.int64)])
            self.numbers = np.concatenate([self.numbers, np.full(self.size, np.nan)])
        for value in values:  # of several, the last one counts where one must
            if kind_of(value) == "text":
                self.codes[self.size] = self.code_of.setdefault(value, len(self.code_of))
            elif kind_of(value) == "number":
                self.numbers[self.size] = value
        if self.mixed_from is None and (len(values) > 1 or any(type_of(v) not in ("text", "number") for v in values)):
            self.mixed_from = self.size
        self.size += 1

    def is_plain(self, size: int) -> bool:
        """Whether it says all of the first ``size`` documents."""
        return self.mixed_from is None or self.mixed_from >= size


class _UnindexedFilters(FilterIndex):
    """The first documents of a growing list."""

    def __init__(self, growing: GrowingFilters, size: int) -> None:
        self._growing = growing
        self._size = size
        self._text_columns = {}
        self._number_columns = {}

    def frozen(self) -> FilterIndex:
        return self._growing.freeze(self._size)

    def arrays(self) -> Arrays:
        return self.frozen().arrays()

    def mask(self, condition: Filter) -> Mask:
        return self._mask(condition.condition)

    def passing(self, condition: Filter, live: Mask | None) -> Mask:
        mask = self.mask(condition)  # the next search finds more documents, so nothing is kept
        return mask if live is None else mask & live

    def holding(self, path: str, codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        column = self.text_column(path)
        place_of = np.full(len(column.texts) + 1, -1, np.int64)  # the last one is for the code -1
        place_of[codes] = np.arange(len(codes))
        places = place_of[column.codes]
        ordinals = np.flatnonzero(places >= 0)
        return ordinals, places[ordinals]

    def _first_text(self, path: str) -> int:
        return 0

    def numbers(self, path: str) -> NDArray[np.float64]:
        return self._growing.column(path, self._size).numbers[: self._size].copy()

    def texts(self, path: str) -> tuple[list[str], NDArray[np.int64]]:
        column = self._growing.column(path, self._size)
        return list(column.code_of), column.codes[: self._size].copy()

    def _mask(self, condition: Condition) -> Mask:
        match condition:
            case Not(inner):
                return ~self._mask(inner)
            case All(inner):
                mask = np.ones(self._size, np.bool_)
                for each in inner:
                    mask &= self._mask(each)
                return mask
            case Some(inner):
                mask = np.zeros(self._size, np.bool_)
                for each in inner:
                    mask |= self._mask(each)
                return mask
        by_column = self._by_column(condition)
        if by_column is not None:
            return by_column
        leaves, passes = self._growing.leaves, condition.passes  # look at each document: they are few
        return np.fromiter((passes(leaves(ordinal)) for ordinal in range(self._size)), np.bool_, self._size)

    def _by_column(self, condition: Condition) -> Mask | None:
        """``None`` where the column does not say all, or the condition asks for something that is not in one."""
        if not isinstance(condition, Equal | Compare):
            return None
        column = self._growing.column(condition.path, self._size)
        if not column.is_plain(self._size):
            return None
        codes, numbers = column.codes[: self._size], column.numbers[: self._size]
        if isinstance(condition, Compare):
            return _compared(numbers, condition)
        mask = np.zeros(self._size, np.bool_)
        for value in condition.values:
            if type_of(value) == "text":
                mask |= codes == column.code_of.get(str(value), _NO_TEXT - 1)
            elif type_of(value) == "number":
                mask |= numbers == value
        return mask


def _compared(numbers: NDArray[np.float64], condition: Compare) -> Mask | None:
    """Which numbers are within the bounds; ``None`` for bounds of texts, or that are no exact float."""
    mask = np.ones(len(numbers), np.bool_)
    for operator, operand in condition.bounds:
        if type_of(operand) != "number":
            return None
        mask &= _COMPARE[operator](numbers, operand)
    return mask


_COMPARE = {"gt": np.greater, "gte": np.greater_equal, "lt": np.less, "lte": np.less_equal}
