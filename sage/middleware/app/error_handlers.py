"""Errors of framework routes as answers, in one place."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from sage.errors import InvalidRequest, MethodNotAllowed, NotFound, SageError
from sage.middleware.app.edge import answer_error
from sage.middleware.routers.http.asgi import Message
from sage.middleware.routers.http.faults import body_fault


def add_error_handlers(app: FastAPI) -> None:
    """Answers every error of a framework route with our envelope, and invalid bodies with 400 instead of 422."""
    app.add_exception_handler(SageError, _on_sage_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_sage_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, SageError)
    request.scope["state"]["log"]["error"] = exc.code
    return await _respond(exc)


async def _on_invalid(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    error = exc.errors()[0]
    loc = [str(part) for part in error["loc"]]
    field = ".".join(loc[1:] if loc[0] in ("body", "query", "path", "header") else loc)
    if error["type"] == "json_invalid":
        return await _respond(InvalidRequest("the body is not JSON", code="invalid_json"))
    message = str(error["msg"]).removeprefix("Value error, ")
    return await _respond(InvalidRequest(f"'{field}': {message}" if field else message, param=field or None))


async def _on_http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    path = request.url.path
    if exc.status_code == HTTPStatus.NOT_FOUND:
        return await _respond(NotFound(f"there is no route {path}; /docs lists the routes", code="no_such_route"))
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response = await _respond(MethodNotAllowed(f"{request.method} is not allowed at {path}"))
        response.headers["allow"] = ", ".join(_allowed_methods(request))
        return response
    return await _respond(body_fault(exc))


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
    return await _respond(SageError("an internal error of the gateway; its log has more under this request id"))


async def _respond(error: SageError) -> Response:
    """``answer_error`` as a response object."""
    sent: list[Message] = []

    async def collect(message: Message) -> None:
        sent.append(message)

    await answer_error(error, collect)
    response = Response(sent[1]["body"], status_code=sent[0]["status"])
    response.raw_headers = list(sent[0]["headers"])
    return response
