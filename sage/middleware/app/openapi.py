"""The OpenAPI document: framework routes, hot routes, errors, and how to log in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from sage.middleware.app.routes import HOT_ROUTES, guarded_routes
from sage.middleware.routers.http.guard import GuardedRoute
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.openapi_bodies import EVENTS, JSON, NDJSON, SCHEMA_REF, JsonBody, schema_ref

_TAGS = (
    ("Generate", "The gateway's own and simplest way to an answer."),
    ("OpenAI", "For every client of OpenAI's API: its `base_url` is this server's address and `/v1`."),
    ("Anthropic", "For every client of Anthropic's API: its `base_url` is this server's address. Any model answers."),
    ("Cohere", "For Cohere's own clients: their `base_url` is this server's address. Any model answers."),
    ("Ollama", "For Ollama's own clients: their `host` is this server's address. Any model answers."),
    ("vLLM", "vLLM's own additions to OpenAI's API, for every provider that offers them."),
    ("Models", "Which models there are, and which are in memory."),
    ("Search", "Collections of documents, found by their words and by what they mean."),
    ("Services", "Values by key, vectors, and the memory of agents, separate for each tenant."),
    ("MCP", "Tools for agents: the gateway is an MCP server at `/mcp`, and passes on those of other servers."),
    ("Jobs", "Long work without an open connection: accepted at once, done by workers."),
    ("Accounts", "Login, keys, users and teams."),
    ("Usage", "What calls have used and cost, and the budgets that hold them."),
    ("Audit", "Who changed what, in a chain of hashes."),
    ("Operation", "For operators of the gateway."),
    ("Workers", "What `sage worker` speaks with the gateway; for nobody else."),
)
_STREAMS = {
    EVENTS: "The answer, or with `stream: true` server-sent events.",
    NDJSON: "A line of JSON for each piece, or with `stream: false` the answer.",
}


def describe(app: FastAPI, *, with_accounts: bool = True) -> dict[str, Any]:
    """The OpenAPI document of ``app``; made once, then cached in ``app``."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    document["tags"] = [
        {"name": name, "description": text} for name, text in _TAGS if with_accounts or name != "Accounts"
    ]
    routes: list[HotRoute | GuardedRoute] = [*guarded_routes(with_accounts=with_accounts), *HOT_ROUTES]
    by_name = {route.name: route for route in routes}
    for hot in HOT_ROUTES:
        document["paths"][hot.path] = {"post": _hot_operation(hot)}
    for operations in document["paths"].values():
        for operation in operations.values():
            _set_title(operation)
            _add_errors_and_security(operation, by_name[operation["operationId"]], with_accounts)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(_schemas(routes))
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    if with_accounts:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "description": "An access token or an API key."},
            "password": {"type": "oauth2", "flows": {"password": {"tokenUrl": "/auth/token", "scopes": {}}}},
        }
    app.openapi_schema = document
    return document


def _schemas(routes: Iterable[HotRoute | GuardedRoute]) -> dict[str, Any]:
    """The schemas of the models that the framework does not find in its routes."""
    models: dict[type[BaseModel], None] = {}  # a set in order
    for route in routes:
        models[route.error_model] = None
        if isinstance(route, HotRoute):
            models[route.request] = None
            if route.answer is not None:
                models[route.answer] = None
        elif isinstance(route.openapi_extra, JsonBody):
            models[route.openapi_extra.model] = None
    _, document = models_json_schema([(model, "validation") for model in models], ref_template=SCHEMA_REF)
    schemas: dict[str, Any] = document["$defs"]
    return schemas


def _hot_operation(route: HotRoute) -> dict[str, Any]:
    # Only fields with an example: upstreams would refuse optional fields that are null.
    example = {field: info.examples[0] for field, info in route.request.model_fields.items() if info.examples}
    return {
        "tags": [route.tag],
        "summary": route.summary,
        "description": route.request.__doc__,
        "operationId": route.name,
        "requestBody": {
            "required": True,
            "content": {media: {"schema": schema_ref(route.request), "example": example} for media in route.takes},
        },
        "responses": {"200": _hot_answer(route)},
    }


def _hot_answer(route: HotRoute) -> dict[str, Any]:
    schema: dict[str, Any] = schema_ref(route.answer) if route.answer is not None else {"type": "object"}
    content: dict[str, Any] = {JSON: {"schema": schema}} if route.gives == JSON else {route.gives: {}}
    if "stream" not in route.request.model_fields:
        return {"description": "The answer.", "content": content}
    content[route.stream_media] = {}  # a schema would be that of one event, and they are of many shapes
    return {"description": _STREAMS[route.stream_media], "content": content}


def _set_title(operation: dict[str, Any]) -> None:
    """Makes the first sentence of the description the title, where the framework made one of the function's name."""
    if operation["summary"] == operation["operationId"].replace("_", " ").title():
        text = operation.get("description", operation["summary"]).replace("``", "`")
        first, *rest = re.split(r"\.\s+", text, maxsplit=1)
        operation["summary"] = first.removesuffix(".").replace("`", "")
        operation["description"] = "".join(rest)


def _add_errors_and_security(operation: dict[str, Any], route: HotRoute | GuardedRoute, with_accounts: bool) -> None:
    """Adds the errors of ``route``, and whether it requires a credential."""
    responses = operation["responses"]
    responses.pop("422", None)
    errors = {"application/json": {"schema": schema_ref(route.error_model)}}
    responses.setdefault("default", {"description": "An error, by its status.", "content": errors})
    if route.scope is not None and with_accounts:
        operation["security"] = [{"password": []}, {"bearer": []}]
