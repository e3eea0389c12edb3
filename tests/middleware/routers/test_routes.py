"""Every route declares its scope, the scope is enforced, and OpenAPI says the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from fastapi import APIRouter, FastAPI
from running_gateway import Running
from starlette.routing import Mount, Route

from sage.middleware.app import routes
from sage.middleware.app.main import create_app, openapi_document
from sage.middleware.auth.principal import Scope, with_implied
from sage.middleware.gateway.jobs.rights import WORK
from sage.middleware.routers.http.guard import GuardedRoute, public, requires
from sage.middleware.settings.settings import Settings

PUBLIC = {
    "auth_token",
    "auth_oidc_callback",
    "auth_oidc_login",
    "auth_refresh",
    "auth_setup",
    "auth_options",
    "jwks",
    "health",
    "ready",
    "root",
    "docs",
    "docs_oauth2_redirect",
    "redoc",
    "openapi",
    "docs_static",
    "console",
    "console_files",
    "flower_login",
    "flower_logout",
    "flower_home",
    "mcp_metadata",
    "mcp_metadata_root",
}
"""Every route that asks for no credential. A new one is added here by hand, or the test below fails."""

GUARDED_PAGES = {"flower", "mcp"}
"""What asks for a credential itself: pages, since a browser's cookie will do (``flower/test_flower_pages.py``), and
``/mcp``, whose refusal says where a client gets one (``mcp/test_mcp_access.py``)."""


@functools.cache
def document() -> dict[str, Any]:
    """The document that describes every route, made once: it takes some tenths of a second."""
    return openapi_document()


def served() -> dict[str, tuple[str, str]]:
    """Route name → (method, path)."""
    return {
        operation["operationId"]: (method.upper(), path)
        for path, operations in document()["paths"].items()
        for method, operation in operations.items()
    }


def scopes() -> dict[str, Scope | None]:
    """Route name → the scope that the route declares."""
    return {route.name: route.scope for route in (*routes.guarded_routes(), *routes.HOT_ROUTES)}


def test_only_these_routes_are_public(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path)).app
    assert isinstance(app, FastAPI)
    pages = {route.name for route in app.routes if isinstance(route, Route | Mount)}
    pages -= set(scopes())
    assert pages | {name for name, scope in scopes().items() if scope is None} == PUBLIC | GUARDED_PAGES


def test_every_route_is_described_and_has_a_name_of_its_own() -> None:
    assert set(served()) == set(scopes())
    assert len(scopes()) == len([*routes.guarded_routes(), *routes.HOT_ROUTES])


def test_every_framework_route_is_guarded() -> None:
    for router in routes.routers():
        assert router.routes
        assert all(isinstance(route, GuardedRoute) for route in router.routes)


def test_a_route_without_a_guard_is_not_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = APIRouter()
    bare.add_api_route("/x", lambda: None, name="bare")
    monkeypatch.setattr(routes, "_ROUTERS", (bare,))
    with pytest.raises(TypeError, match="is not guarded"):
        create_app(Settings(data_dir=tmp_path))


def test_a_route_that_declares_no_scope_cannot_be_made() -> None:
    router = APIRouter(route_class=GuardedRoute)
    with pytest.raises(TypeError, match="'undeclared' declares no scope"):
        router.add_api_route("/x", lambda: None, name="undeclared")
    router.add_api_route("/y", requires(Scope.KV)(lambda: None), name="required")
    router.add_api_route("/z", public(lambda: None), name="open")
    assert [route.scope for route in router.routes if isinstance(route, GuardedRoute)] == [Scope.KV, None]


def _filled_in(path: str) -> str:
    for name in ("model", "name", "id", "collection"):
        path = path.replace(f"{{{name}}}", "m")
    return path


def _error(answer: requests.Response) -> tuple[str, str]:
    """Code and message of an error, in our envelope or in Ollama's."""
    body = answer.json()
    error = body["error"]
    return (error["code"], error["message"]) if isinstance(error, dict) else (body["code"], error)


@pytest.mark.slow
def test_each_route_asks_for_its_scope(gateway: Callable) -> None:
    running = gateway()
    keys = {scope: running.new_key(scopes=[scope]) for scope in Scope}
    declared = scopes()
    for name, (method, template) in served().items():
        needed, path = declared[name], _filled_in(template)
        bare = requests.request(method, running.url + path, json={}, timeout=10)
        if needed is None:
            assert bare.status_code != 403, name
            assert name.startswith("auth_") or bare.status_code == 200, name
            continue
        assert bare.status_code == 401, name
        assert bare.headers["www-authenticate"].startswith("Bearer"), name
        if (
            name.startswith("tasks_") and (kind := name.removeprefix("tasks_")) in WORK
        ):  # a job takes the scope of its work, too
            refused = running.request(method, path, key=keys[needed], json={})
            assert refused.status_code == 403, name
            assert f"'{WORK[kind]}'" in _error(refused)[1]
            both = running.new_key(scopes=[needed, WORK[kind], Scope.SEARCH])  # an ingest also looks at what is there
            assert running.request(method, path, key=both, json={}).status_code == 400, name
            continue
        for scope, key in keys.items():
            # A stream of events has no end, so what is allowed is not read.
            with running.request(method, path, key=key, json={}, stream=True) as answer:
                assert answer.status_code != 401, (name, scope)
                has_it = needed in with_implied({scope})
                assert (answer.status_code == 403) != has_it, (name, scope)
                if not has_it:
                    code, message = _error(answer)
                    assert code == "missing_scope"
                    assert f"'{needed}'" in message


def test_openapi_says_what_holds() -> None:
    for operations in document()["paths"].values():
        for operation in operations.values():
            assert "422" not in operation["responses"]
            assert "default" in operation["responses"]
            guarded = scopes()[operation["operationId"]] is not None
            assert ("security" in operation) == guarded
    flow = document()["components"]["securitySchemes"]["password"]["flows"]["password"]
    assert flow["tokenUrl"] == "/auth/token"
    assert "HTTPValidationError" not in document()["components"]["schemas"]
    chat = document()["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert {"model", "messages", "stream", "tools"} <= set(chat)


@pytest.mark.parametrize("path", ["/models/gemma-3-270m", "/services/kv_service", "/v1/models/gemma-3-270m"])
def test_a_name_in_a_path_is_taken_with_its_line_end(gateway: Callable[..., Running], path: str) -> None:
    running = gateway()
    assert running.get(path).status_code == 200
    assert running.get(f"{path}%0A").status_code == 404
