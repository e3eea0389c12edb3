"""Users, keys and teams as JSON shows them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pydantic import BaseModel

from sage.middleware.auth.subjects import stored_limits
from sage.middleware.settings.limits import Limits


def shown(view: Any) -> dict[str, Any]:
    """The fields of a view (:class:`User`, :class:`ApiKey`, :class:`Team`), as values of JSON."""
    return {field.name: _value(getattr(view, field.name)) for field in fields(view)}


def _value(value: Any) -> Any:
    if isinstance(value, Limits):
        return stored_limits(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value
