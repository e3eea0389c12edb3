"""JSON of a shape that nobody promises: what is not as it should be is as good as not there."""

from __future__ import annotations

from typing import Any


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in ``value``; empty if it is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def first_object(value: Any) -> dict[str, Any]:
    """The first of the :func:`objects` in ``value``; empty if there is none."""
    if type(value) is list and value and type(value[0]) is dict:  # nearly always
        first: dict[str, Any] = value[0]
        return first
    return next(iter(objects(value)), {})


def string(value: Any) -> str:
    """``value``; empty if it is not a text."""
    return value if isinstance(value, str) else ""
