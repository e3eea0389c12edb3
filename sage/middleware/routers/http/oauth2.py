"""Errors of the token endpoint in the shape of OAuth2 (RFC 6749, 5.2), for clients that speak it."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request

from sage.errors import SageError

TOKEN_PATH = "/auth/token"  # noqa: S105 (a path)
_CODES = {400: "invalid_request", 401: "invalid_grant", 403: "invalid_grant"}


def oauth2_error(request: Request, error: SageError) -> dict[str, Any]:
    """The body for an error of the token endpoint.

    In OAuth2 ``error`` is a text, in our envelope an object. A client that names its grant, as OAuth2 wants it, gets
    the former, others the latter with ``error_description`` beside it. A form that has not been read is not waited for.
    """
    envelope = error.envelope()
    form: FormData | None = getattr(request, "_form", None)
    if form is None or form.get("grant_type") != "password":
        return {**envelope, "error_description": error.message}
    code = _CODES.get(error.status, "temporarily_unavailable" if error.retry_after is not None else "server_error")
    return {"error": code, "error_description": error.message, **envelope["error"]}
