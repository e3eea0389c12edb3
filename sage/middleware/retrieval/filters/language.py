"""Filters: what they may say, and whether one document's metadata passes.

A filter is an object. Its fields are all to be met: ``{"lang": "zh", "year": {"$gte": 2020}}``; ``$and`` and ``$or``
take lists of filters, ``$not`` takes one. A field is a path with dots into nested objects (``author.name``), and a list
counts as each of its elements, also where they are objects.

Of a field's values, one is enough to meet a condition:

========================  =============================================================================================
``v``, ``{"$eq": v}``     equals the text, number, truth value or null; types never mix, but 1 equals 1.0
``$gt $gte $lt $lte``     is of the operand's type, text or number, and on that side of it; text goes by code points, so
                          that dates as ISO 8601 compare as dates
``$in``                   equals one of the list
``$exists``               ``true``: the field is there, though it be null or empty; ``false``: it is not
``$ne``, ``$nin``         not ``$eq``, not ``$in``: no value equals, so documents without the field pass
``$not``                  does not pass; of a field: ``{"year": {"$not": {"$gt": 2000}}}``
========================  =============================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sage.errors import InvalidRequest

Scalar = str | int | float | bool | None
Leaves = Mapping[str, list[Any]]
"""The values of a document's metadata by path; a path that leads to an object or an empty list has :data:`THERE`."""

MAX_DEPTH = 16
MAX_CONDITIONS = 1000
MAX_VALUES = 10_000
_ORDER = ("$gt", "$gte", "$lt", "$lte")
_FIELD_OPERATORS = ("$eq", "$ne", *_ORDER, "$in", "$nin", "$exists", "$not")


class _There:
    """Stands for what is there without being a value: an object, or an empty list."""


THERE = _There()


def leaves_of(metadata: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of a JSON object by path."""
    found: dict[str, list[Any]] = {}
    for path, value in _walk("", metadata):
        found.setdefault(path, []).append(value)
    return found


def _walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        if path:
            yield path, THERE
        for key, inner in value.items():
            yield from _walk(f"{path}.{key}" if path else key, inner)
    elif isinstance(value, list):
        if not value:
            yield path, THERE
        for inner in value:
            yield from _walk(path, inner)
    else:
        yield path, value


def kind_of(value: Any) -> str:
    """The type by which values are told apart: ``null``, ``bool``, ``number``, ``text`` or ``there``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "there"


class Condition(Protocol):
    """A part of a filter."""

    def passes(self, leaves: Leaves) -> bool: ...


@dataclass(frozen=True, slots=True)
class Equal:
    """One value of the field is one of ``values``."""

    path: str
    values: tuple[Scalar, ...]
    _wanted: frozenset[tuple[str, Scalar]] = field(init=False, repr=False, compare=False)
    """Made once: a list of 10,000 values read anew for each of 1,000 documents took two seconds."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_wanted", frozenset((kind_of(value), value) for value in self.values))

    def passes(self, leaves: Leaves) -> bool:
        wanted = self._wanted
        return any((kind_of(value), value) in wanted for value in leaves.get(self.path, ()))


@dataclass(frozen=True, slots=True)
class Compare:
    """One value of the field is of the operand's type and on its side; ``operator`` is without its ``$``."""

    path: str
    operator: str
    operand: str | int | float

    def passes(self, leaves: Leaves) -> bool:
        kind = kind_of(self.operand)
        return any(kind_of(value) == kind and self._holds(value) for value in leaves.get(self.path, ()))

    def _holds(self, value: Any) -> bool:
        if self.operator == "gt":
            return bool(value > self.operand)
        if self.operator == "gte":
            return bool(value >= self.operand)
        return bool(value < self.operand) if self.operator == "lt" else bool(value <= self.operand)


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is there."""

    path: str

    def passes(self, leaves: Leaves) -> bool:
        return self.path in leaves


@dataclass(frozen=True, slots=True)
class Not:
    inner: Condition

    def passes(self, leaves: Leaves) -> bool:
        return not self.inner.passes(leaves)


@dataclass(frozen=True, slots=True)
class All:
    inner: tuple[Condition, ...]

    def passes(self, leaves: Leaves) -> bool:
        return all(condition.passes(leaves) for condition in self.inner)


@dataclass(frozen=True, slots=True)
class Some:
    inner: tuple[Condition, ...]

    def passes(self, leaves: Leaves) -> bool:
        return any(condition.passes(leaves) for condition in self.inner)


@dataclass(frozen=True, slots=True)
class Filter:
    """A checked filter."""

    condition: Condition

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether a document with this metadata passes: the reference of every quicker way."""
        return self.condition.passes(leaves_of(metadata))


def parse_filter(given: Mapping[str, Any] | None, name: str = "filter") -> Filter | None:
    """``None`` for none or an empty one. Raises :class:`sage.errors.InvalidRequest` that names the place at fault,
    beginning with ``name``."""
    if given is None:
        return None
    condition = _Parser().filter(given, name, 0)
    return None if condition == All(()) else Filter(condition)


class _Parser:
    """Counts what it reads, so that a request cannot ask for endless work."""

    def __init__(self) -> None:
        self._conditions = 0

    def filter(self, given: Any, place: str, depth: int) -> Condition:
        self._count(place, depth)
        if not isinstance(given, Mapping):
            raise _fault(place, 'must be an object such as {"lang": "zh"}')
        found: list[Condition] = []
        for key, value in given.items():
            where = f"{place}.{key}"
            if key in ("$and", "$or"):
                if not isinstance(value, list | tuple) or not value:
                    raise _fault(where, "must be a list of filters, one or more")
                inner = tuple(self.filter(each, f"{where}[{n}]", depth + 1) for n, each in enumerate(value))
                found.append(All(inner) if key == "$and" else Some(inner))
            elif key == "$not":
                found.append(Not(self.filter(value, where, depth + 1)))
            elif not isinstance(key, str) or not key or key.startswith("$"):
                raise _fault(where, "is no operator here; there are $and, $or and $not, and fields")
            else:
                found.append(self._field(key, value, where, depth + 1))
        return found[0] if len(found) == 1 else All(tuple(found))

    def _field(self, path: str, given: Any, place: str, depth: int) -> Condition:
        self._count(place, depth)
        if not isinstance(given, Mapping):
            return Equal(path, (_scalar(given, place),))
        if not given:
            raise _fault(place, 'is empty; say what of it, such as {"$exists": true}')
        found = [self._operator(path, key, value, f"{place}.{key}", depth) for key, value in given.items()]
        return found[0] if len(found) == 1 else All(tuple(found))

    def _operator(self, path: str, operator: str, value: Any, place: str, depth: int) -> Condition:
        self._count(place, depth)
        if operator in ("$eq", "$ne"):
            equal = Equal(path, (_scalar(value, place),))
            return equal if operator == "$eq" else Not(equal)
        if operator in ("$in", "$nin"):
            one_of = Equal(path, _scalars(value, place))
            return one_of if operator == "$in" else Not(one_of)
        if operator in _ORDER:
            if kind_of(value) not in ("number", "text") or _scalar(value, place) is None:
                raise _fault(place, "must be a number or a text")
            return Compare(path, operator[1:], value)
        if operator == "$exists":
            if not isinstance(value, bool):
                raise _fault(place, "must be true or false")
            return Exists(path) if value else Not(Exists(path))
        if operator == "$not":
            return Not(self._field(path, value, place, depth + 1))
        raise _fault(
            place, f"is no operator; there are {', '.join(_FIELD_OPERATORS)} (of nested objects write the path: a.b)"
        )

    def _count(self, place: str, depth: int) -> None:
        self._conditions += 1
        if depth > MAX_DEPTH or self._conditions > MAX_CONDITIONS:
            raise _fault(place, f"goes too far: at most {MAX_CONDITIONS} conditions, {MAX_DEPTH} deep")


def _scalars(given: Any, place: str) -> tuple[Scalar, ...]:
    if not isinstance(given, list | tuple) or len(given) > MAX_VALUES:
        raise _fault(place, f"must be a list of up to {MAX_VALUES} values")
    return tuple(_scalar(value, f"{place}[{number}]") for number, value in enumerate(given))


def _scalar(given: Any, place: str) -> Scalar:
    if given is not None and not isinstance(given, str | int | float | bool):
        raise _fault(place, "must be a text, a number, a truth value or null; for one of several values take $in")
    if isinstance(given, float) and not math.isfinite(given):
        raise _fault(place, "must be a finite number")
    if isinstance(given, int) and abs(given) >= 2**64:
        raise _fault(place, "is too large a number")
    return given


def _fault(place: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"'{place}' {message}", param=place.partition(".")[0])
