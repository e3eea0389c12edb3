"""What the routes of stored things share: items in bodies and answers, filters, deletions, replies."""

from __future__ import annotations

from typing import Any, TypeVar

import orjson
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from sage.errors import InvalidRequest
from sage.middleware.gateway.collections.requests import parse
from sage.middleware.gateway.json_object import parse_object


class NewItem(BaseModel):
    """An item; one with the `id` of another replaces it. Without an `id` it gets one. `text` may be left out where
    there is a vector, and the vector where there is an embedder."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(None, max_length=512)
    vector: list[float] | None = Field(None, description="In place of one that the embedder makes, if there is one.")
    metadata: dict[str, Any] | None = None
    text: str | None = None


class Item(BaseModel):
    """An item as it is stored; its `vector` (null when it has none) comes with `?vector=true`."""

    id: str
    text: str
    metadata: dict[str, Any]
    vector: list[float] | None = None


class ItemsWritten(BaseModel):
    """The items' ids, in the order of the request."""

    ids: list[str]


class Deleted(BaseModel):
    """Whether there was one to delete."""

    deleted: bool


class Cleared(BaseModel):
    """How many were deleted."""

    deleted: int


class Selection(BaseModel):
    """Items by their ids; a subclass adds a filter."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    ids: list[str] | None = Field(None, min_length=1)


Selected = TypeVar("Selected", bound=Selection)


def select(kind: type[Selected], body: dict[str, Any], filter_field: str) -> Selected:
    """The body of a deletion, which names ids or a filter. Raises :class:`InvalidRequest`."""
    selection = parse(kind, body)
    if (selection.ids is None) == (getattr(selection, filter_field) is None):
        raise InvalidRequest(f"give either 'ids' or '{filter_field}'", param="ids")
    return selection


def filter_of(text: str | None, param: str) -> dict[str, Any] | None:
    """The filter in a query parameter, if there is one. Raises :class:`InvalidRequest`."""
    if text is None:
        return None
    try:
        return parse_object(text.encode())
    except InvalidRequest:
        raise InvalidRequest(f'\'{param}\' must be a JSON object such as {{"lang": "en"}}', param=param) from None


def list_of(body: bytes, field: str, example: str) -> list[Any]:
    """The list ``field``, alone in a body; what is in it is checked where it is stored: pydantic would take seconds for
    thousands of vectors. Raises :class:`InvalidRequest`."""
    fields = parse_object(body, vectors=True)
    unknown = next((name for name in fields if name != field), None)
    if unknown is not None:
        raise InvalidRequest(f"unknown field '{unknown}'; give '{field}'", param=unknown)
    items = fields.get(field)
    if not isinstance(items, list):
        raise InvalidRequest(f"'{field}' must be a list such as [{example}]", param=field)
    return items


def reply(value: Any) -> Response:
    """``value`` as a JSON answer."""
    return Response(orjson.dumps(value), media_type="application/json")
