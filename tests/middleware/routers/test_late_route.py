"""Framework routes that are put together when they are first asked for."""

from __future__ import annotations

import threading

import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.testclient import TestClient

from sage.middleware.routers.http.guard import guarded_router, public
from sage.middleware.routers.http.late_route import LateRoute


class Count(BaseModel):
    count: int


def app_with_routes() -> tuple[FastAPI, dict[str, LateRoute]]:
    router = guarded_router("Test")

    @router.post("/counts/{name:path}", name="add")
    @public
    async def add(name: str, body: Count, request: Request) -> dict[str, str]:
        return {name: f"{body.count} of {request.method}"}

    @router.get("/counts/{name:path}", name="read")
    @public
    async def read(name: str) -> dict[str, str]:
        return {"name": name}

    app = FastAPI()
    app.router.routes += router.routes
    return app, {route.name: route for route in router.routes if isinstance(route, LateRoute)}


def test_a_route_is_put_together_by_its_first_request_alone() -> None:
    app, routes = app_with_routes()
    client = TestClient(app)
    assert client.get("/elsewhere").status_code == 404
    assert [name for name, route in routes.items() if "path_regex" in vars(route)] == []
    assert client.get("/counts/a/b%0A").json() == {"name": "a/b\n"}
    assert [name for name, route in routes.items() if "app" in vars(route)] == ["read"]
    assert client.post("/counts/a", json={"count": 2}).json() == {"a": "2 of POST"}
    assert client.post("/counts/a", json={"count": "x"}).status_code == 422
    assert client.put("/counts/a").status_code == 405
    assert routes["add"].methods == {"POST"}
    assert routes["add"].body_field is not None
    assert routes["read"].body_field is None
    assert routes["read"].path_format == "/counts/{name}"


def test_threads_that_come_at_once_all_find_a_whole_route() -> None:
    app, _ = app_with_routes()
    together, answers = threading.Barrier(4), []

    def ask() -> None:
        together.wait()
        answers.append(TestClient(app).post("/counts/a", json={"count": 2}).json())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [{"a": "2 of POST"}] * 4


def test_an_attribute_that_no_route_has_is_none_of_a_late_one() -> None:
    _, routes = app_with_routes()
    with pytest.raises(AttributeError, match="colour"):
        _ = routes["add"].colour  # type: ignore[attr-defined]
    assert not hasattr(routes["add"], "colour")
