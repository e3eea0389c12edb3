"""Errors as Anthropic's clients read them: ``{"type": "error", "error": {"type", "message"}, "request_id"}``.

Source: Anthropic's API reference, *Errors*.
"""

from __future__ import annotations

from typing import Any, Literal

import orjson
from pydantic import BaseModel

from sage.errors import SageError
from sage.middleware.routers.http.asgi import ADDED_HEADERS, FIELDS, Headers, Scope, error_headers

MESSAGES = "/v1/messages"
MODELS = "/v1/models"
VERSION = b"anthropic-version"
"""The header that every client of Anthropic's sends."""
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class AnthropicError(BaseModel):
    """What went wrong; `code` and `param` are the gateway's own, as in its other errors."""

    type: str
    message: str
    code: str
    param: str | None


class AnthropicErrorEnvelope(BaseModel):
    """Every error of Anthropic's routes."""

    type: Literal["error"] = "error"
    error: AnthropicError
    request_id: str


def is_messages_path(path: str) -> bool:
    """Whether ``path`` is that of Messages, or below it."""
    return path.startswith(MESSAGES) and path[len(MESSAGES) :][:1] in ("", "/")


def speaks_anthropic(scope: Scope) -> bool:
    """Whether the sender of a request reads errors in this shape."""
    path: str = scope["path"]
    if path.startswith(MODELS):
        return path[len(MODELS) :][:1] in ("", "/") and VERSION in scope[FIELDS]
    return is_messages_path(path)


def error_object(error: SageError) -> dict[str, Any]:
    """The ``error`` in the envelope."""
    kind = _TYPES.get(error.status, "api_error")
    return {"type": kind, "message": error.message, "code": error.code, "param": error.param}


def error_answer(error: SageError, request_id: str) -> tuple[bytes, Headers]:
    """The body and the headers of the answer that reports ``error``."""
    body = orjson.dumps({"type": "error", "error": error_object(error), "request_id": request_id})
    return body, [*error_headers(error, len(body)), (b"request-id", request_id.encode())]


def add_request_id(state: dict[str, Any]) -> None:
    """Gives an answer that begins now, and that reports no error, the header in which Anthropic's clients look for the
    id of a request. ``state`` is the request's."""
    state[ADDED_HEADERS].append((b"request-id", state["request_id"]))
