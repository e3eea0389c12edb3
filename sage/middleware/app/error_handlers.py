"""Errors of framework routes as answers, in one place."""

from __future__ import annotations

import re
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from sage.errors import InvalidRequest, MethodNotAllowed, NotFound, SageError
from sage.middleware.app.edge import answer_error
from sage.middleware.routers.http.asgi import Message, error_headers
from sage.middleware.routers.http.faults import body_fault
from sage.middleware.routers.http.oauth2 import TOKEN_PATH, oauth2_error
from sage.middleware.settings.first_fault import clearest

_PREFIXES = re.compile("^(?:/(?:v1|v2|api|openai)(?=/))+")
"""What stands before the names of routes, here or elsewhere."""


def add_error_handlers(app: FastAPI) -> None:
    """Answers every error of a framework route with our envelope, and invalid bodies with 400 instead of 422."""
    app.add_exception_handler(SageError, _on_sage_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_sage_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, SageError)
    request.scope["state"]["log"]["error"] = exc.code
    return await _respond(request, exc)


async def _on_invalid(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    errors = exc.errors()
    error = clearest(errors, {"body": exc.body}) if isinstance(exc.body, dict) else errors[0]
    loc = [str(part) for part in error["loc"]]
    field = ".".join(loc[1:] if loc and loc[0] in ("body", "query", "path", "header") else loc)
    if error["type"] == "json_invalid":
        return await _respond(request, InvalidRequest("the body is not JSON", code="invalid_json"))
    message = str(error["msg"]).removeprefix("Value error, ")
    invalid = InvalidRequest(f"'{field}': {message}" if field else message, param=field or None)
    return await _respond(request, invalid)


async def _on_http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    path = request.url.path
    if exc.status_code == HTTPStatus.NOT_FOUND:
        return await _respond(request, NotFound(_no_route(request), code="no_such_route"))
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response = await _respond(request, MethodNotAllowed(f"{request.method} is not allowed at {path}"))
        response.headers["allow"] = ", ".join(_allowed_methods(request))
        return response
    return await _respond(request, body_fault(exc))


def _allowed_methods(request: Request) -> list[str]:
    """The methods of all routes with the request's path; the framework names those of the first one only.

    Routes stand in order: the first that matches has the most exact path.
    """
    routes = [route for route in request.app.router.routes if isinstance(route, Route)]
    found = next((route for route in routes if route.matches(request.scope)[0] is not Match.NONE), None)
    if found is None:
        return []
    methods = {method for route in routes if route.path == found.path for method in route.methods or ()}
    if "GET" in methods:
        methods.add("HEAD")  # the edge answers it as GET
    return sorted(methods)


async def _on_unexpected(request: Request, exc: Exception) -> Response:
    internal = SageError("an internal error of the gateway; its log has more under this request id")
    return await _respond(request, internal)


def _no_route(request: Request) -> str:
    """What to do about a path that is none: clients leave out ``/v1``, or have it twice, or before routes of ours."""
    path = request.url.path
    name = _PREFIXES.sub("", path)
    routes = [route for route in request.app.router.routes if isinstance(route, Route)]
    for meant in (f"{prefix}{name}" for prefix in ("/v1", "", "/v2", "/api")):
        scope = {**request.scope, "path": meant, "root_path": ""}
        if name and any(route.matches(scope)[0] is not Match.NONE for route in routes):
            address = " The address for OpenAI's clients ends with /v1." if meant.startswith("/v1/") else ""
            return f"there is no route {path}: did you mean {meant}?{address}"
    return f"there is no route {path}; /docs lists the routes"


async def _respond(request: Request, error: SageError) -> Response:
    """``answer_error`` as a response object."""
    if request.scope["path"] == TOKEN_PATH:
        headers = {name.decode(): value.decode() for name, value in error_headers(error, 0)}
        del headers["content-length"]
        return JSONResponse(oauth2_error(request, error), error.status, headers)
    sent: list[Message] = []

    async def collect(message: Message) -> None:
        sent.append(message)

    await answer_error(error, collect, request.scope)
    response = Response(sent[1]["body"], status_code=sent[0]["status"])
    response.raw_headers = list(sent[0]["headers"])
    return response
