"""What stands in a path names exactly itself: line ends, other white space, slashes, any script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from running_gateway import Running
from starlette.routing import Match

from sage.middleware.app.routes import guarded_routes
from sage.middleware.routers.http.guard import GuardedRoute

pytestmark = pytest.mark.slow  # every route

TEXTS = [
    "a\n",
    "\na",
    "p\nq",
    "a\r\n",
    "a\x0b",
    "a\x85",
    "a\u2028",
    "a\0b",
    " a ",
    "文",
    "e\u0301",
    "%0A",
    "a?b#c",
    ";a",
    "*",
]
WITH_SLASHES = ["a/", "/a", "a//b\n", "a/\n/b", "a/../b", "."]
ROUTES = [route for route in guarded_routes() if route.param_convertors]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_path_parameter_is_taken_as_it_is(route: GuardedRoute) -> None:
    takes_slashes = [name for name in route.param_convertors if f"{{{name}:path}}" in route.path]
    for text in TEXTS + (WITH_SLASHES if takes_slashes else []):
        names = route.param_convertors if "/" not in text else takes_slashes
        parameters = {name: text if name in names else "x" for name in route.param_convertors}
        path = route.path
        for name, value in parameters.items():
            path = path.replace(f"{{{name}:path}}", value).replace(f"{{{name}}}", value)
        scope: dict[str, Any] = {"type": "http", "method": next(iter(route.methods)), "path": path, "root_path": ""}
        match, inner = route.matches(scope)
        assert match is Match.FULL, path
        assert inner["path_params"] == parameters


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running]) -> Running:
    return module_gateway()


def path(template: str, id: str) -> str:
    return template.replace("ID", quote(id, safe=""))


def put(running: Running, kind: str, ids: list[str]) -> None:
    if kind == "documents":
        sent = [running.post("/collections/c/documents", {"documents": [{"id": id, "text": id} for id in ids]})]
    elif kind == "items":
        sent = [running.post("/vdb/c", {"items": [{"id": id, "vector": [1, 0], "text": id} for id in ids]})]
    elif kind == "keys":
        sent = [running.request("PUT", path("/kv/ID", id), json={"value": id}) for id in ids]
    else:
        sent = [running.post("/memory", {"session_id": id, "content": f"{id}!"}) for id in ids]
    for answer in sent:
        assert answer.status_code == 200, answer.text


PATHS = {
    "documents": "/collections/c/documents/ID",
    "items": "/vdb/c/ID",
    "keys": "/kv/ID",
    "sessions": "/memory/sessions/ID",
}


@pytest.mark.parametrize("kind", PATHS)
def test_a_line_end_is_part_of_an_id(running: Running, kind: str) -> None:
    ids = ["a", "a\n", "a\n\n", "p\nq", "p"]
    put(running, kind, ids)
    for id in ids:
        shown = running.get(path(PATHS[kind], id))
        assert shown.status_code == 200, shown.text
        assert id in (shown.json().get("id"), shown.json().get("key"), shown.json().get("session_id"))
    assert running.request("DELETE", path(PATHS[kind], "a\n")).status_code in (200, 204)
    assert running.get(path(PATHS[kind], "a\n")).status_code == 404
    assert [running.get(path(PATHS[kind], id)).status_code for id in ids if id != "a\n"] == [200] * 4
    running.request("DELETE", path(PATHS[kind], "p\n"))
    assert running.get(path(PATHS[kind], "p")).status_code == 200


@pytest.mark.parametrize("name", ["gemma-3-270m\n", "gemma-3-270m\r", "gemma\n-3-270m"])
def test_a_model_with_a_line_end_is_another_one(running: Running, name: str) -> None:
    assert running.get("/models/gemma-3-270m").status_code == 200
    for template in ("/models/ID", "/v1/models/ID"):
        answer = running.get(path(template, name))
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
        assert repr(name)[1:-1] in repr(answer.json()["error"]["message"])
    for action in ("load", "unload"):
        assert running.post(path(f"/models/ID/{action}", name)).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/auth/users/root%0A"),
        ("PATCH", "/auth/users/root%0A"),
        ("DELETE", "/auth/keys/tests%0A"),
        ("GET", "/services/kv_service%0A"),
        ("GET", "/memory/mem_0%0A"),
        ("DELETE", "/collections/c%0A"),
        ("GET", "/collections/c%0A/snapshot"),
    ],
)
def test_other_names_with_a_line_end_are_not_those_without(running: Running, method: str, path: str) -> None:
    put(running, "documents", ["a"])
    answer = running.request(method, path, json={} if method == "PATCH" else None)
    assert answer.status_code in (400, 404, 405), answer.text
    assert running.get("/collections/c").status_code == 200


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", "/kv/%FF"),
        ("DELETE", "/kv/a%C3"),
        ("DELETE", "/kv?prefix=%FF"),
        ("DELETE", "/collections/c/documents/%ED%A0%80"),
        ("GET", "/vdb/c/%FF"),
        ("GET", "/v1/models/%FF"),
    ],
)
def test_bytes_that_are_no_text_are_refused(running: Running, method: str, url: str) -> None:
    """They were read as U+FFFD, which may be the id of another thing."""
    running.request("PUT", "/kv/%EF%BF%BD", json={"value": 1})
    answer = running.request(method, url)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_url")
    assert running.get("/kv/%EF%BF%BD").json() == {"key": "\ufffd", "value": 1}
