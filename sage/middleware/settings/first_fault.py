"""The first fault that pydantic finds in an input: to list all of them takes seconds when there are very many."""

from __future__ import annotations

from collections.abc import Callable
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
    fault = exc.errors(include_url=False, include_input=False)[0]
    return fault["type"], fault["loc"], fault["msg"].removeprefix("Value error, ")


def _beginning(value: Any) -> Any:
    """``value`` with the first entries of each list and object only."""
    if isinstance(value, dict):
        return {key: _beginning(value[key]) for key in list(value)[:_FIELDS]}
    if isinstance(value, list | tuple):
        return [_beginning(entry) for entry in value[:_MANY]]
    return value
