"""The terms of a filter index, and how a value is found among them.

A *term* is a path into the metadata, a type and a value. Terms are numbered from 0 in the order of their paths, under
each path in the order of :data:`TYPES`, and under each type in the order of their values. The terms of one path and
one type are a *section*; as its values are in order and distinct, a value is found in it by bisection.

The values stand in one column for each type, section after section. Numbers are kept as float64, which is exact except
for whole numbers beyond 2^53: those have a type and a column of their own, ``big``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from sage.middleware.retrieval.filters.language import Scalar, kind_of
from sage.middleware.retrieval.keywords.postings import Arrays

TYPES = ("null", "bool", "number", "big", "text", "present")
"""``null`` and ``present`` (an object or an empty list) have one term a path at most, and no column."""
_TYPES_OF_KIND = {"null": ("null",), "bool": ("bool",), "number": ("number", "big"), "text": ("text",)}
"""Under which types a value of each kind may stand (see :func:`kind_of`)."""
_LARGEST_EXACT = 2**53
Range = tuple[int, int]
"""Terms, from the first to the one before the second."""
Values = Sequence[Any] | NDArray[np.float64]


def type_of(value: Any) -> str:
    """Under which of :data:`TYPES` a value is kept."""
    kind = kind_of(value)
    return "big" if kind == "number" and isinstance(value, int) and abs(value) > _LARGEST_EXACT else kind


@dataclass(frozen=True, slots=True)
class TermDocuments:
    """``ordinals[starts[t]:starts[t + 1]]`` are the documents of term ``t``, ascending."""

    starts: NDArray[Any]
    ordinals: NDArray[np.uint32]

    @classmethod
    def of_counts(cls, counts: NDArray[np.int64], ordinals: NDArray[np.uint32]) -> TermDocuments:
        """``counts``: how many of ``ordinals``, which are ordered by term, belong to each term."""
        starts = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        return cls(starts.astype(np.uint32) if int(starts[-1]) < 2**32 else starts, ordinals)


class _Position(NamedTuple):
    """Where a value stands in a section: the section's terms, and those that equal the value. These are one or none;
    where there is none, both their ends are the place at which the value would stand."""

    section: Range
    equal: Range

    def on_side(self, operator: str) -> Range:
        """The terms that are ``gt``, ``gte``, ``lt`` or ``lte`` the value."""
        if operator in ("gt", "gte"):
            return self.equal[1 if operator == "gt" else 0], self.section[1]
        return self.section[0], self.equal[0 if operator == "lt" else 1]


class _Texts:
    """The column of texts. An object of its own: if :class:`Terms` had a reference to its own method, it would be freed
    late, and with it the segment's file."""

    def __init__(self, texts: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self._texts = texts
        self._ends = ends

    def __getitem__(self, offset: int) -> bytes:
        start = int(self._ends[offset - 1]) if offset else 0
        return self._texts[start : int(self._ends[offset])].tobytes()


class Terms:
    """Immutable. The arrays may be memory-mapped.

    ``sections`` has ``len(TYPES)`` entries a path, the first term of each section, and the end of the last one.
    ``numbers`` is the column of numbers. ``scalars`` has the truth values and the big numbers in the order of their
    terms. ``texts`` is the column of texts as UTF-8, one after the other; ``text_ends`` says where each ends.
    """

    def __init__(
        self,
        paths: Sequence[str],
        sections: NDArray[np.int64],
        numbers: NDArray[np.float64],
        scalars: Sequence[Any],
        texts: NDArray[np.uint8],
        text_ends: NDArray[np.int64],
    ) -> None:
        self._paths = {path: number for number, path in enumerate(paths)}
        self._sections = sections
        self._numbers = numbers
        self._scalars = list(scalars)
        self._texts = texts
        self._text_ends = text_ends
        truth_values = [value for value in scalars if isinstance(value, bool)]
        big_numbers = [value for value in scalars if not isinstance(value, bool)]
        self._value_at: dict[str, Callable[[int], Any]] = {
            "bool": truth_values.__getitem__,
            "number": numbers.item,  # as a Python float, which compares with whole numbers exactly
            "big": big_numbers.__getitem__,
            "text": _Texts(texts, text_ends).__getitem__,
        }
        sizes = np.diff(sections).reshape(len(self._paths), len(TYPES))
        self._column_starts = np.cumsum(sizes, axis=0) - sizes
        """``(paths, types)``: where the values of each section begin in the column of their type."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Terms:
        """The inverse of :meth:`arrays`."""
        lists = orjson.loads(arrays["said"].tobytes())
        numbers, texts, text_ends = (arrays[name] for name in ("numbers", "texts", "text_ends"))
        return cls(lists["paths"], arrays["sections"], numbers, lists["rest"], texts, text_ends)

    def arrays(self) -> Arrays:
        """As they are written to a segment's file; ``said`` is JSON."""
        lists = orjson.dumps({"paths": [*self._paths], "rest": self._scalars})
        return {
            "said": np.frombuffer(lists, np.uint8),
            "sections": self._sections,
            "numbers": self._numbers,
            "texts": self._texts,
            "text_ends": self._text_ends,
        }

    def of_path(self, path: str) -> Range:
        """All terms of a path."""
        number = self._paths.get(path)
        if number is None:
            return 0, 0
        first = number * len(TYPES)
        return int(self._sections[first]), int(self._sections[first + len(TYPES)])

    def of_kind(self, path: str, kind: str) -> tuple[Range, Values]:
        """The terms of one type under a path, and their values in order; texts as UTF-8."""
        if path not in self._paths:
            return (0, 0), []
        return self._section(path, kind)[0], self.values(path, kind)

    def equal(self, path: str, values: Sequence[Scalar]) -> list[Range]:
        """The terms of a path that equal one of ``values``."""
        return [position.equal for value in values for position in self._positions(path, value)]

    def compare(self, path: str, bounds: Sequence[tuple[str, str | int | float]]) -> list[Range]:
        """The terms of a path that are within all ``bounds``, whose operands are of one type, and of that type. A bound
        is an operator (``gt``, ``gte``, ``lt``, ``lte``) and its operand."""
        sides = [[place.on_side(operator) for place in self._positions(path, operand)] for operator, operand in bounds]
        sections = zip(*sides, strict=True)  # the same ones for each bound
        return [(max(start for start, _ in section), min(end for _, end in section)) for section in sections]

    def sections(self) -> Iterator[tuple[str, str, Range]]:
        """``(path, type, terms)``, in order."""
        for path in self._paths:
            for kind in TYPES:
                yield path, kind, self._section(path, kind)[0]

    def values(self, path: str, kind: str) -> Values:
        """The values of one type under a path, in order; texts as UTF-8."""
        (start, end), first = self._section(path, kind)
        if kind == "number":
            return self._numbers[first : first + end - start]
        value_at = self._value_at.get(kind)
        if value_at is None:
            return [None] * (end - start)
        return [value_at(offset) for offset in range(first, first + end - start)]

    def _section(self, path: str, kind: str) -> tuple[Range, int]:
        """The terms of a section, and where their values begin in the column of its type."""
        number, column = self._paths[path], TYPES.index(kind)
        offset = number * len(TYPES) + column
        terms = int(self._sections[offset]), int(self._sections[offset + 1])
        return terms, int(self._column_starts[number, column])

    def _positions(self, path: str, value: Scalar) -> Iterator[_Position]:
        """Where ``value`` stands in each section under ``path`` that may hold it."""
        if path not in self._paths:
            return
        wanted = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        for kind in _TYPES_OF_KIND[kind_of(value)]:
            section, first = self._section(path, kind)
            start, end = section
            if kind == "null":
                yield _Position(section, section)
                continue
            offsets, value_at = range(first, first + end - start), self._value_at[kind]
            before = bisect_left(offsets, wanted, key=value_at)
            is_equal = before < len(offsets) and value_at(first + before) == wanted
            yield _Position(section, (start + before, start + before + int(is_equal)))
