"""The language of filters: how they are parsed, and whether the metadata of one document passes.

A filter is an object, such as ``{"lang": "zh", "year": {"$gte": 2020}}``; a document must meet all of its fields.
``$and`` and ``$or`` take lists of filters, ``$not`` takes one. A field is a path with dots into nested objects
(``author.name``). A list counts as each of its elements, also where these are objects.

A document meets a condition when one value of the field does. The conditions of one object are on one value:
``{"year": {"$gte": 2000, "$lt": 2010}}`` needs a year that meets both. Those of an ``$and`` may each have a value of
their own.

========================  =============================================================================================
``v``, ``{"$eq": v}``     it equals the text, number, truth value or null; types never mix, but 1 equals 1.0
``$gt $gte $lt $lte``     it is of the operand's type, text or number, and on that side of it; text is ordered by code
                          points, so that dates as ISO 8601 compare as dates
``$in``                   it equals one of the list
``$exists``               ``true``: the field is present, though it may be null or empty; ``false``: it is absent
``$ne``, ``$nin``         not ``$eq``, not ``$in``: no value is equal, so documents without the field pass; these and
                          ``$not`` are on all values together, whatever stands beside them
``$not``                  the condition is not met; of a field: ``{"year": {"$not": {"$gt": 2000}}}``
========================  =============================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import ge, gt, le, lt
from typing import Any, Protocol

from sage.errors import InvalidRequest

Scalar = str | int | float | bool | None
Leaves = Mapping[str, list[Any]]
"""The values of a document's metadata by path; a path that leads to an object or an empty list has
:data:`PRESENT`."""

MAX_DEPTH = 16
MAX_CONDITIONS = 1000
MAX_VALUES = 10_000
_ORDER = ("$gt", "$gte", "$lt", "$lte")
_FIELD_OPERATORS = ("$eq", "$ne", *_ORDER, "$in", "$nin", "$exists", "$not")


class _Present:
    """Stands for a field that is present without a value: an object, or an empty list."""


PRESENT = _Present()


def leaves_of(metadata: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of a JSON object by path."""
    leaves: dict[str, list[Any]] = {}
    for path, value in _walk("", metadata):
        leaves.setdefault(path, []).append(value)
    return leaves


def _walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        if path:
            yield path, PRESENT
        for key, inner in value.items():
            yield from _walk(f"{path}.{key}" if path else key, inner)
    elif isinstance(value, list):
        if not value:
            yield path, PRESENT
        for inner in value:
            yield from _walk(path, inner)
    else:
        yield path, value


def kind_of(value: Any) -> str:
    """The type by which values are told apart: ``null``, ``bool``, ``number``, ``text`` or ``present``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "present"


class Condition(Protocol):
    """A part of a filter."""

    def passes(self, leaves: Leaves) -> bool: ...


@dataclass(frozen=True, slots=True)
class Equal:
    """One value of the field is one of ``values``."""

    path: str
    values: tuple[Scalar, ...]
    _wanted: frozenset[tuple[str, Scalar]] = field(init=False, repr=False, compare=False)
    """Built once: reading a list of 10,000 values for each of 1,000 documents took two seconds."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_wanted", frozenset((kind_of(value), value) for value in self.values))

    def passes(self, leaves: Leaves) -> bool:
        return any(map(self.holds, leaves.get(self.path, ())))

    def holds(self, value: Any) -> bool:
        return (kind_of(value), value) in self._wanted


@dataclass(frozen=True, slots=True)
class Compare:
    """One value of the field is within all ``bounds``, whose operands are of one type, and of that type. Operators are
    without ``$``."""

    path: str
    bounds: tuple[tuple[str, str | int | float], ...]

    def passes(self, leaves: Leaves) -> bool:
        return any(map(self.holds, leaves.get(self.path, ())))

    def holds(self, value: Any) -> bool:
        kind = kind_of(value)
        return all(kind == kind_of(operand) and _ON_SIDE[operator](value, operand) for operator, operand in self.bounds)


_ON_SIDE: Mapping[str, Callable[[Any, Any], bool]] = {"gt": gt, "gte": ge, "lt": lt, "lte": le}


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is present."""

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
        """Whether a document with this metadata passes. Every faster way must agree with this one."""
        return self.condition.passes(leaves_of(metadata))


def parse_filter(raw: Mapping[str, Any] | None, name: str = "filter") -> Filter | None:
    """``None`` means that every document passes: there is no filter, or an empty one.

    Raises :class:`sage.errors.InvalidRequest` that names the path of what is wrong, beginning with ``name``."""
    if raw is None:
        return None
    condition = _Parser().filter(raw, name, 0)
    return None if condition == All(()) else Filter(condition)


class _Parser:
    """Counts the conditions, so that a request cannot ask for endless work. ``where`` is the path of what is read, as
    errors name it."""

    def __init__(self) -> None:
        self._conditions = 0

    def filter(self, raw: Any, where: str, depth: int) -> Condition:
        self._count(where, depth)
        if not isinstance(raw, Mapping):
            raise _fault(where, 'must be an object such as {"lang": "zh"}')
        conditions = [self._entry(key, value, f"{where}.{key}", depth + 1) for key, value in raw.items()]
        return conditions[0] if len(conditions) == 1 else All(tuple(conditions))

    def _entry(self, key: Any, value: Any, where: str, depth: int) -> Condition:
        if key in ("$and", "$or"):
            if not isinstance(value, list | tuple) or not value:
                raise _fault(where, "must be a list of filters, one or more")
            inner = tuple(self.filter(each, f"{where}[{number}]", depth) for number, each in enumerate(value))
            return All(inner) if key == "$and" else Some(inner)
        if key == "$not":
            return Not(self.filter(value, where, depth))
        if not isinstance(key, str) or not key or key.startswith("$"):
            raise _fault(where, "is no operator here; there are $and, $or and $not, and fields")
        return self._field(key, value, where, depth)

    def _field(self, path: str, raw: Any, where: str, depth: int) -> Condition:
        self._count(where, depth)
        if not isinstance(raw, Mapping):
            return Equal(path, (_scalar(raw, where),))
        if not raw:
            raise _fault(where, 'is empty; give a condition, such as {"$exists": true}')
        conditions = [self._operator(path, key, value, f"{where}.{key}", depth) for key, value in raw.items()]
        return conditions[0] if len(conditions) == 1 else _of_one_value(path, conditions)

    def _operator(self, path: str, operator: str, value: Any, where: str, depth: int) -> Condition:
        self._count(where, depth)
        if operator in ("$eq", "$ne"):
            equal = Equal(path, (_scalar(value, where),))
            return equal if operator == "$eq" else Not(equal)
        if operator in ("$in", "$nin"):
            one_of = Equal(path, _scalars(value, where))
            return one_of if operator == "$in" else Not(one_of)
        if operator in _ORDER:
            if kind_of(value) not in ("number", "text") or _scalar(value, where) is None:
                raise _fault(where, "must be a number or a text")
            return Compare(path, ((operator[1:], value),))
        if operator == "$exists":
            if not isinstance(value, bool):
                raise _fault(where, "must be true or false")
            return Exists(path) if value else Not(Exists(path))
        if operator == "$not":
            return Not(self._field(path, value, where, depth + 1))
        raise _fault(
            where, f"is no operator; there are {', '.join(_FIELD_OPERATORS)} (for nested objects write the path: a.b)"
        )

    def _count(self, where: str, depth: int) -> None:
        self._conditions += 1
        if depth > MAX_DEPTH or self._conditions > MAX_CONDITIONS:
            raise _fault(where, f"goes too far: at most {MAX_CONDITIONS} conditions, {MAX_DEPTH} deep")


def _of_one_value(path: str, conditions: Sequence[Condition]) -> Condition:
    """The conditions of one object on a field: those that a single value can meet become one condition."""
    equal = [condition for condition in conditions if isinstance(condition, Equal)]
    bounds = [bound for condition in conditions if isinstance(condition, Compare) for bound in condition.bounds]
    others = [condition for condition in conditions if not isinstance(condition, Equal | Compare)]
    compare = Compare(path, tuple(bounds))
    if equal:
        checks: list[Equal | Compare] = [compare, *equal[1:]]
        others.insert(0, Equal(path, tuple(value for value in equal[0].values if all(c.holds(value) for c in checks))))
    elif len({kind_of(operand) for _, operand in bounds}) > 1:  # no value is of two types
        others.insert(0, Equal(path, ()))
    elif bounds:
        others.insert(0, compare)
    return others[0] if len(others) == 1 else All(tuple(others))


def _scalars(raw: Any, where: str) -> tuple[Scalar, ...]:
    if not isinstance(raw, list | tuple) or len(raw) > MAX_VALUES:
        raise _fault(where, f"must be a list of up to {MAX_VALUES} values")
    return tuple(_scalar(value, f"{where}[{number}]") for number, value in enumerate(raw))


def _scalar(raw: Any, where: str) -> Scalar:
    if raw is not None and not isinstance(raw, str | int | float | bool):
        raise _fault(where, "must be a text, a number, a truth value or null; for one of several values take $in")
    if isinstance(raw, float) and not math.isfinite(raw):
        raise _fault(where, "must be a finite number")
    if isinstance(raw, int) and abs(raw) >= 2**64:
        raise _fault(where, "is too large a number")
    return raw


def _fault(where: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"'{where}' {message}", param=where.partition(".")[0])
