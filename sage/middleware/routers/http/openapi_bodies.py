"""How routes that read their body themselves describe it to OpenAPI."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import BaseModel

NDJSON = "application/x-ndjson"
BYTES = "application/octet-stream"


def json_body(model: type[BaseModel], example: Any, *, others: tuple[str, ...] = ()) -> dict[str, Any]:
    """``openapi_extra`` of a route whose body is ``model``, or of the media types ``others``.

    The framework would parse it with Python's own JSON and validate every document of thousands.
    """
    content: dict[str, Any] = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}, "example": example}
    }
    content.update({media: {"schema": {"type": "string"}} for media in others})
    return {"requestBody": {"required": True, "content": content}}


def bytes_body() -> dict[str, Any]:
    """``openapi_extra`` of a route whose body is a file."""
    schema = {"type": "string", "format": "binary"}
    return {"requestBody": {"required": True, "content": {BYTES: {"schema": schema}}}}


def media_type(request: Request) -> str:
    """What the body says it is, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
