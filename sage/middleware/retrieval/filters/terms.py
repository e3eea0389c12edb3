"""The terms of a filter index: paths in order, under each the types, under each the values in order.

Numbers are kept as float64, which is exact but for whole numbers beyond 2^53: those have a type of their own.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sage.middleware.retrieval.filters.language import Leaves, Scalar, kind_of
from sage.middleware.retrieval.keywords.postings import Arrays

TYPES = ("null", "bool", "number", "big", "text", "there")
_EXACT = 2**53
Range = tuple[int, int]
Values = Sequence[Any] | NDArray[Any]


@dataclass(frozen=True, slots=True)
class Posted:
    """``ordinals[starts[t]:starts[t + 1]]``: the documents of term ``t``, ascending."""

    starts: NDArray[Any]
    ordinals: NDArray[np.uint32]


class Terms:
    """``sections``: where the terms of each path and type begin, ``len(TYPES)`` a path, and the end."""

    def __init__(
        self,
        paths: Sequence[str],
        sections: NDArray[np.int64],
        numbers: NDArray[np.float64],
        rest: Sequence[Any],
        blob: NDArray[np.uint8],
        ends: NDArray[np.int64],
    ) -> None:
        self._paths = list(paths)
        self._sections = sections
        self._numbers = numbers
        self._rest = list(rest)  # truth values and whole numbers beyond 2^53, in the order of their terms
        self._blob = blob
        self._ends = ends  # of texts in the blob
        sizes = np.diff(sections).reshape(len(self._paths), len(TYPES))
        self._before = {
            "number": _before(sizes[:, 2]),
            "rest": _before(sizes[:, 1] + sizes[:, 3]),
            "text": _before(sizes[:, 4]),
        }
        self._of_path = {path: place for place, path in enumerate(self._paths)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Terms:
        said = orjson.loads(arrays["said"].tobytes())
        return cls(
            said["paths"], arrays["sections"], arrays["numbers"], said["rest"], arrays["texts"], arrays["text_ends"]
        )

    def arrays(self) -> Arrays:
        said = orjson.dumps({"paths": self._paths, "rest": self._rest})
        return {
            "said": np.frombuffer(said, np.uint8),
            "sections": self._sections,
            "numbers": self._numbers,
            "texts": self._blob,
            "text_ends": self._ends,
        }

    def of_path(self, path: str) -> Range:
        """All terms of a path."""
        place = self._of_path.get(path)
        if place is None:
            return 0, 0
        first = place * len(TYPES)
        return int(self._sections[first]), int(self._sections[first + len(TYPES)])

    def equal(self, path: str, values: Sequence[Scalar]) -> list[Range]:
        """The terms of a path that equal one of ``values``."""
        found: list[Range] = []
        if path not in self._of_path:
            return found
        for value in values:
            if kind_of(value) == "null":
                found.append(self._section(path, "null"))
            elif isinstance(value, bool):
                found.append(self._among(path, "bool", value))
            elif isinstance(value, str):
                found.append(self._text(path, value, value))
            else:
                assert value is not None
                found += self._number(path, value, value)
        return found

    def compare(self, path: str, operator: str, operand: str | int | float) -> list[Range]:
        """The terms of a path on one side of the operand."""
        if path not in self._of_path:
            return []
        if isinstance(operand, str):
            low, high = self._section(path, "text")
            start, end = self._text(path, operand, operand)
            return [_side(operator, low, start, end, high)]
        found = []
        for section, (start, end) in zip(("number", "big"), self._number(path, operand, operand), strict=True):
            low, high = self._section(path, section)
            found.append(_side(operator, low, start, end, high))
        return found

    def values(self, path: str, kind: str) -> Values:
        """The values of one type under a path, in order."""
        if path not in self._of_path:
            return ()
        start, end = self._section(path, kind)
        count, first = end - start, self._first(path, kind)
        if kind == "number":
            return self._numbers[first : first + count]
        if kind == "text":
            return [self._text_at(place) for place in range(first, first + count)]
        return self._rest[first : first + count] if kind in ("bool", "big") else [None] * count

    def sections(self) -> Iterator[tuple[str, str, Range]]:
        """``(path, type, terms)``, in order."""
        for path in self._paths:
            for kind in TYPES:
                yield path, kind, self._section(path, kind)

    def _section(self, path: str, kind: str) -> Range:
        place = self._of_path[path] * len(TYPES) + TYPES.index(kind)
        return int(self._sections[place]), int(self._sections[place + 1])

    def _first(self, path: str, kind: str) -> int:
        """Where the values of a section begin among all that are kept with them."""
        place = self._of_path[path]
        if kind in ("number", "text"):
            return int(self._before[kind][place])
        before = int(self._before["rest"][place])
        if kind == "big":
            start, end = self._section(path, "bool")
            before += end - start
        return before

    def _among(self, path: str, kind: str, value: Any) -> Range:
        """The terms of a short section that equal ``value``."""
        start, _ = self._section(path, kind)
        known = self.values(path, kind)
        return start + bisect_left(known, value), start + bisect_right(known, value)

    def _number(self, path: str, low: int | float, high: int | float) -> list[Range]:
        """The terms that equal a number: among those in float64, and among the larger whole ones."""
        start, _ = self._section(path, "number")
        known = self.values(path, "number")
        assert isinstance(known, np.ndarray)
        # bisect compares Python's way, in which whole numbers and fractions are compared exactly.
        first, last = bisect_left(known, low, key=float), bisect_right(known, high, key=float)
        return [(start + first, start + last), self._among(path, "big", low)]

    def _text(self, path: str, low: str, high: str) -> Range:
        start, end = self._section(path, "text")
        first = self._first(path, "text")
        places = range(first, first + end - start)
        wanted = low.encode("utf-8", "surrogatepass")
        left = bisect_left(places, wanted, key=self._text_at)
        right = left + int(left < len(places) and self._text_at(first + left) == wanted)
        return start + left, start + right

    def _text_at(self, place: int) -> bytes:
        start = int(self._ends[place - 1]) if place else 0
        return self._blob[start : int(self._ends[place])].tobytes()


def _before(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(sizes) - sizes


def _side(operator: str, low: int, start: int, end: int, high: int) -> Range:
    """Of terms ``low…high``, of which ``start…end`` equal the operand."""
    return {"gt": (end, high), "gte": (start, high), "lt": (low, start), "lte": (low, end)}[operator]


def type_of(value: Any) -> str:
    """Under which of :data:`TYPES` a value is kept."""
    kind = kind_of(value)
    return "big" if kind == "number" and isinstance(value, int) and abs(value) > _EXACT else kind


class Sections:
    """Values of paths and types as they are gathered."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Values]] = {}

    def put(self, path: str, kind: str, values: Values) -> None:
        if len(values):
            self._values.setdefault(path, {})[kind] = values

    def terms(self) -> Terms:
        """All that was put."""
        sizes: list[int] = []
        numbers: list[NDArray[np.float64]] = []
        rest: list[Any] = []
        texts: list[bytes] = []
        paths = sorted(self._values)
        for path in paths:
            kinds = self._values[path]
            sizes += [len(kinds.get(kind, ())) for kind in TYPES]
            rest += [*kinds.get("bool", ()), *kinds.get("big", ())]
            numbers.append(np.asarray(kinds.get("number", ()), np.float64))
            texts += kinds.get("text", ())
        sections = np.cumsum([0, *sizes], dtype=np.int64)
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64) if texts else np.empty(0, np.int64)
        blob = np.frombuffer(b"".join(texts), np.uint8)
        return Terms(paths, sections, np.concatenate(numbers or [np.empty(0)]), rest, blob, ends)


def collect(documents: Iterable[tuple[int, Leaves]]) -> tuple[Terms, Posted]:
    """The terms of some documents, each with its ordinal, ascending."""
    found: dict[tuple[str, int], dict[Any, list[int]]] = {}
    for ordinal, leaves in documents:
        for path, values in leaves.items():
            for value in values:
                kind = type_of(value)
                key = value.encode() if kind == "text" else None if kind == "there" else value
                posted = found.setdefault((path, TYPES.index(kind)), {}).setdefault(key, [])
                if not posted or posted[-1] != ordinal:
                    posted.append(ordinal)
    sections = Sections()
    lists: list[list[int]] = []
    for path, kind_number in sorted(found):
        by_value = found[path, kind_number]
        ordered = sorted(by_value) if len(by_value) > 1 else list(by_value)
        sections.put(path, TYPES[kind_number], ordered)
        lists += [by_value[value] for value in ordered]
    starts = np.cumsum([0, *(len(posted) for posted in lists)], dtype=np.int64)
    ordinals = np.fromiter((ordinal for posted in lists for ordinal in posted), np.uint32, int(starts[-1]))
    return sections.terms(), Posted(_narrow(starts), ordinals)


def joined(segments: Sequence[tuple[Terms, Posted, NDArray[np.int64]]]) -> tuple[Terms, Posted]:
    """One index of several. ``places``: of each document of a segment its ordinal in the whole, -1 for a dead one."""
    postings = [_alive(posted, places) for _, posted, places in segments]  # (term, ordinal) of each
    held: dict[tuple[str, int], list[tuple[int, Range, NDArray[np.int64]]]] = {}
    for number, (terms, posted, _) in enumerate(segments):
        counts = np.bincount(postings[number][0], minlength=len(posted.starts) - 1)
        for path, kind, (start, end) in terms.sections():
            if start < end and (used := np.flatnonzero(counts[start:end])).size:
                held.setdefault((path, TYPES.index(kind)), []).append((number, (start, end), used))
    sections = Sections()
    new_terms = [np.full(len(posted.starts), -1, np.int64) for _, posted, _ in segments]
    first = 0
    for path, kind_number in sorted(held):
        kind, found = TYPES[kind_number], held[path, kind_number]
        values, places_of = _united(
            kind, [_some(segments[number][0].values(path, kind), used) for number, _, used in found]
        )
        sections.put(path, kind, values)
        for (number, (start, _), used), places in zip(found, places_of, strict=True):
            new_terms[number][start + used] = first + places
        first += len(values)
    return sections.terms(), _posted(
        first, [(new[terms], ords) for new, (terms, ords) in zip(new_terms, postings, strict=True)]
    )


def _alive(posted: Posted, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    terms = np.repeat(np.arange(len(posted.starts) - 1), posted.starts[1:].astype(np.int64) - posted.starts[:-1])
    ordinals = places[posted.ordinals]
    alive = ordinals >= 0
    return terms[alive], ordinals[alive]


def _some(values: Values, used: NDArray[np.int64]) -> Values:
    return values[used] if isinstance(values, np.ndarray) else [values[place] for place in used.tolist()]


def _united(kind: str, found: Sequence[Values]) -> tuple[Values, list[NDArray[np.int64]]]:
    """All values in order, each once, and where those of each segment stand among them."""
    if kind == "number":
        values, places = np.unique(np.concatenate(found), return_inverse=True)
        return values, np.split(places, np.cumsum([len(each) for each in found])[:-1])
    ordered = sorted({value for each in found for value in each}) if kind not in ("null", "there") else [None]
    place_of = {value: place for place, value in enumerate(ordered)}
    return ordered, [np.array([place_of[value] for value in each], np.int64) for each in found]


def _posted(count: int, postings: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Posted:
    """Sorted by term; within one they stay in the order in which the segments came, which is that of ordinals."""
    terms = np.concatenate([terms for terms, _ in postings] or [np.empty(0, np.int64)])
    ordinals = np.concatenate([ordinals for _, ordinals in postings] or [np.empty(0, np.int64)])
    order = np.argsort(terms, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(terms, minlength=count))]).astype(np.int64)
    return Posted(_narrow(starts), ordinals[order].astype(np.uint32))


def _narrow(starts: NDArray[np.int64]) -> NDArray[Any]:
    return starts.astype(np.uint32) if int(starts[-1]) < 2**32 else starts
