"""The first fault that pydantic finds in an input: to list all of them takes seconds when there are very many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

_MANY = 20
"""Faults that are listed. When there are more, so many entries of each list are looked at, and some fields."""
_FIELDS = 1000


def first_fault(
    exc: ValidationError, validate: Callable[[Any], object], value: Any
) -> tuple[str, tuple[Any, ...], str]:
    """The type, the place and the message of the first fault of ``exc``, which ``validate`` raised for ``value``."""
    if exc.error_count() > _MANY:
        try:
            validate(_beginning(value))
        except ValidationError as shorter:
            exc = shorter
        else:
            return "many", (), f"{exc.error_count()} values are not valid"
    fault = clearest(exc.errors(include_url=False, include_input=False), value)
    return fault["type"], fault["loc"], fault["msg"].removeprefix("Value error, ")


def clearest(faults: Sequence[Any], value: Any) -> dict[str, Any]:
    """The first of pydantic's ``faults`` in ``value``, with a place of names and numbers of ``value`` itself alone.

    Where a value may be of several types, pydantic tells of each, and has the type in the place (``query.str``). That
    one is told which says more than that the value is of another type, or else of the innermost value.
    """
    placed = [{**fault, "loc": _place_in(fault, value)} for fault in faults]
    first = placed[0]
    of_it = [fault for fault in placed if fault["loc"][: len(first["loc"])] == first["loc"]]
    others = [fault for fault in of_it if not fault["type"].endswith("_type")]
    return others[0] if others else max(of_it, key=lambda fault: len(fault["loc"]))


def _place_in(fault: Any, value: Any) -> tuple[Any, ...]:
    """The place of a fault without what is no part of ``value``."""
    place: list[Any] = []
    for part in fault["loc"]:
        is_key = isinstance(value, dict) and part in value
        if is_key or (isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)):
            value = value[part]
        elif not (isinstance(value, dict) and fault["type"] == "missing" and part == fault["loc"][-1]):
            continue
        place.append(part)
    return tuple(place)


def _beginning(value: Any) -> Any:
    """``value`` with the first entries of each list and object only."""
    if isinstance(value, dict):
        return {key: _beginning(value[key]) for key in list(value)[:_FIELDS]}
    if isinstance(value, list | tuple):
        return [_beginning(entry) for entry in value[:_MANY]]
    return value
