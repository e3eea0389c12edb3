"""The table of routes and scopes: complete, and enforced at every route."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests
from fastapi import APIRouter

from sage.middleware.app.main import openapi_document
from sage.middleware.auth.principal import Scope
from sage.middleware.auth.routes import ROUTES
from sage.middleware.routers import auth, collections, documents, health, kv, memory, models, services, vdb
from sage.middleware.routers.http.guard import GuardedRoute
from sage.middleware.routers.ollama import models as ollama
from sage.middleware.routers.openai import inference as openai

ROUTERS = (
    auth.router,
    collections.router,
    documents.router,
    health.router,
    kv.router,
    memory.router,
    models.router,
    ollama.router,
    openai.router,
    services.router,
    vdb.router,
)


def served() -> dict[str, tuple[str, str]]:
    """Route name → (method, path), from the document that describes every route."""
    document = openapi_document()
    return {
        operation["operationId"]: (method.upper(), path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }


PAGES = {"docs", "docs_oauth2_redirect", "redoc", "openapi", "docs_static"}


def test_the_table_names_every_route_and_no_other() -> None:
    assert set(served()) | PAGES == set(ROUTES)


def test_every_framework_route_is_guarded() -> None:
    for router in ROUTERS:
        assert router.routes
        assert all(isinstance(route, GuardedRoute) for route in router.routes)


def test_a_route_that_the_table_does_not_name_cannot_be_made() -> None:
    router = APIRouter(route_class=GuardedRoute)
    with pytest.raises(KeyError, match="not_in_the_table"):
        router.add_api_route("/x", lambda: None, name="not_in_the_table")


def _call(url: str, method: str, path: str, headers: dict[str, str]) -> requests.Response:
    for name in ("model", "name", "id", "collection"):
        path = path.replace(f"{{{name}}}", "m")
    return requests.request(method, url + path, json={}, headers=headers, timeout=10)


def _told(answer: requests.Response) -> tuple[str, str]:
    """Code and message of an error, in our envelope or in Ollama's."""
    told = answer.json()
    error = told["error"]
    return (error["code"], error["message"]) if isinstance(error, dict) else (told["code"], error)


def test_each_route_asks_for_its_scope(gateway: Callable) -> None:
    running = gateway()
    keys = {scope: running.new_key(scopes=[scope]) for scope in Scope}
    for name, (method, path) in served().items():
        needed = ROUTES[name]
        bare = _call(running.url, method, path, {})
        if needed is None:
            assert bare.status_code != 403, name
            assert name.startswith("auth_") or bare.status_code == 200, name
            continue
        assert bare.status_code == 401, name
        assert bare.headers["www-authenticate"].startswith("Bearer"), name
        for scope, key in keys.items():
            answer = _call(running.url, method, path, running.headers(key))
            assert answer.status_code != 401, (name, scope)
            assert (answer.status_code == 403) == (scope != needed), (name, scope, answer.text)
            if scope != needed:
                code, message = _told(answer)
                assert code == "missing_scope"
                assert f"'{needed}'" in message


def test_openapi_says_what_holds() -> None:
    document = openapi_document()
    for operations in document["paths"].values():
        for operation in operations.values():
            assert "422" not in operation["responses"]
            assert "default" in operation["responses"]
            guarded = ROUTES[operation["operationId"]] is not None
            assert ("security" in operation) == guarded
    flow = document["components"]["securitySchemes"]["password"]["flows"]["password"]
    assert flow["tokenUrl"] == "/auth/token"
    assert "HTTPValidationError" not in document["components"]["schemas"]
    chat = document["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert {"model", "messages", "stream", "tools"} <= set(chat)
