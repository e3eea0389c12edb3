"""Our filters, translated into Chroma's.

Chroma tells single values from lists, and compares a whole number with a fraction cut off at its point (0 equals 0.5,
and is not below 0.5): each condition is translated so that it means what it means to our own engine. What Chroma cannot
express is refused: whether a field exists, null, order among texts, and the opposite of an order. An order does not
look into lists, unless ``$in`` or ``$eq`` stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sage.errors import Unsupported
from sage.middleware.retrieval.filters.language import All, Compare, Condition, Equal, Not, Scalar, Some, parse_filter
from sage.service.vdb.chroma.records import RESERVED

_SUPPORTED = "with Chroma 'where' takes $and, $or, $eq, $ne, $in, $nin and, of numbers, $gt, $gte, $lt, $lte"
_OPPOSITES = {"$eq": "$ne", "$ne": "$eq", "$in": "$nin", "$contains": "$not_contains"}
_MOST_TERMS = 400
"""Chroma 1.5 fails from about 1,000 on, and from some thousands on it takes its process with it."""
_LEAST, _MOST = -(2**63), 2**63 - 1

Where = dict[str, Any] | bool
"""``True``: all; ``False``: none."""


def chroma_where(given: Mapping[str, Any] | None) -> Where:
    """Raises :class:`sage.errors.InvalidRequest` for what is no filter, and :class:`Unsupported` for what Chroma
    cannot express."""
    parsed = parse_filter(given, "where")
    where: Where = True if parsed is None else _translated(parsed.condition)
    if (size := _size(where)) > _MOST_TERMS:
        raise Unsupported(
            f"'where' becomes {size} comparisons in Chroma, which takes {_MOST_TERMS}; ask in parts, with fewer values "
            "in $in and $nin",
            param="where",
        )
    return where


def _size(where: Where) -> int:
    if isinstance(where, bool):
        return 0
    ((key, operands),) = where.items()
    return sum(map(_size, operands)) if key in ("$and", "$or") else 1


def _translated(condition: Condition) -> Where:
    if isinstance(condition, All):
        return _all(_translated(inner) for inner in condition.inner)
    if isinstance(condition, Some):
        return _some(_translated(inner) for inner in condition.inner)
    if isinstance(condition, Equal):
        return _equal(condition)
    if isinstance(condition, Compare):
        return _all(_compared(condition.path, operator, operand) for operator, operand in condition.bounds)
    if isinstance(condition, Not):
        return _denied(condition.inner)
    raise Unsupported(f"{_SUPPORTED}; whether a field exists ($exists) it cannot express", param="where")


def _denied(condition: Condition) -> Where:
    if isinstance(condition, Not):
        return _translated(condition.inner)
    if isinstance(condition, All):
        return _some(_denied(inner) for inner in condition.inner)
    if isinstance(condition, Some):
        return _all(_denied(inner) for inner in condition.inner)
    if isinstance(condition, Equal):
        return _opposite(_equal(condition))
    raise Unsupported(f"{_SUPPORTED}; $not of an order or of $exists it cannot express", param="where")


def _equal(condition: Equal) -> Where:
    """One value of many: as a single one, or in a list."""
    path = condition.path
    if path.startswith(RESERVED):
        return False
    kinds: dict[type, list[Scalar]] = {}
    parts: list[Where] = []
    for value in condition.values:
        if value is None:
            raise Unsupported(f"{_SUPPORTED}; it holds no null (field '{path}')", param="where")
        variants = _variants(value)
        parts += [{path: {"$contains": variant}} for variant in variants]
        if isinstance(value, float) and not value.is_integer():
            parts.append(_fraction(path, value))
        else:
            kinds.setdefault(type(variants[0]), []).append(variants[0])
    parts += [{path: {"$in": values} if len(values) > 1 else {"$eq": values[0]}} for values in kinds.values()]
    return _some(parts)


def _variants(value: str | int | float | bool) -> list[str | int | float | bool]:
    """The same number as a whole one and as a float."""
    if isinstance(value, bool | str) or not (isinstance(value, int) or value.is_integer()):
        return [value]
    return [int(value), float(value)] if _LEAST <= value <= _MOST else [float(value)]


def _fraction(path: str, value: float) -> dict[str, Any]:
    return {"$and": [{path: {"$eq": value}}, {path: {"$ne": int(value)}}]}


def _compared(path: str, name: str, operand: str | int | float) -> Where:
    operator = f"${name}"
    if isinstance(operand, str):
        raise Unsupported(f"{_SUPPORTED}; text has no order there (field '{path}')", param="where")
    if path.startswith(RESERVED):
        return False
    if isinstance(operand, int) or operand.is_integer():
        return {path: {operator: _variants(operand)[0]}}
    strict = operator.removesuffix("e")
    parts: list[Where] = [{path: {strict: operand}}]
    if (strict == "$lt") == (operand > 0):  # what it is cut off to is on the side that is asked for
        parts.append({path: {"$eq": int(operand)}})
    if strict != operator:
        parts.append(_fraction(path, operand))
    return _some(parts)


def _opposite(where: Where) -> Where:
    """Of equalities."""
    if isinstance(where, bool):
        return not where
    ((key, operands),) = where.items()
    if key in ("$and", "$or"):
        return {"$or" if key == "$and" else "$and": [_opposite(part) for part in operands]}
    ((operator, operand),) = operands.items()
    return {key: {_OPPOSITES[operator]: operand}}


def _all(parts: Iterable[Where]) -> Where:
    remaining = [part for part in parts if part is not True]
    if any(part is False for part in remaining):
        return False
    return _joined("$and", remaining) if remaining else True


def _some(parts: Iterable[Where]) -> Where:
    remaining = [part for part in parts if part is not False]
    if any(part is True for part in remaining):
        return True
    return _joined("$or", remaining) if remaining else False


def _joined(operator: str, parts: Sequence[Where]) -> Where:
    return parts[0] if len(parts) == 1 else {operator: list(parts)}
