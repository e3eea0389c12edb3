"""How bodies that the framework does not parse are described to OpenAPI, and the shape of every error."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict

JSON = "application/json"
NDJSON = "application/x-ndjson"
BYTES = "application/octet-stream"
EVENTS = "text/event-stream"
SCHEMA_REF = "#/components/schemas/{model}"


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorEnvelope(BaseModel):
    """Every error, everywhere."""

    error: ErrorDetail


class OpenBody(BaseModel):
    """A body that may have further fields, which go on to the provider unchanged."""

    model_config = ConfigDict(extra="allow")


class JsonBody(dict[str, Any]):
    """``openapi_extra`` that refers to the schema of ``model``, which the document must then contain."""

    def __init__(self, model: type[BaseModel], content: dict[str, Any]) -> None:
        super().__init__({"requestBody": {"required": True, "content": content}})
        self.model = model


def json_body(model: type[BaseModel], example: Any, *, others: tuple[str, ...] = ()) -> JsonBody:
    """``openapi_extra`` of a route that reads its body itself: as ``model``, or of the media types ``others``.

    The framework would parse it with Python's own JSON and validate every document of thousands.
    """
    content: dict[str, Any] = {"application/json": {"schema": schema_ref(model), "example": example}}
    content.update({media: {"schema": {"type": "string"}} for media in others})
    return JsonBody(model, content)


def bytes_body() -> dict[str, Any]:
    """``openapi_extra`` of a route whose body is a file."""
    schema = {"type": "string", "format": "binary"}
    return {"requestBody": {"required": True, "content": {BYTES: {"schema": schema}}}}


def schema_ref(model: type[BaseModel]) -> dict[str, str]:
    """The reference to the schema of ``model``."""
    return {"$ref": SCHEMA_REF.format(model=model.__name__)}


def media_type(request: Request) -> str:
    """The media type of the body by its head, without parameters; empty when there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
