"""The root, slashes too many, and which methods a path has."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import requests
from running_gateway import Running
from upstream import Upstream

CHAT = {"model": "Qwen/Qwen3", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running], up: Upstream) -> Running:
    providers = {"up0": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}}
    models = {"Qwen/Qwen3": {"deployments": [{"provider": "up0", "model": "theirs-0"}]}}
    return module_gateway(llm={"providers": providers, "models": models})


def send(running: Running, method: str, target: str, body: Any = None) -> tuple[int, Any]:
    """The request with its target as it is written here: `requests` would correct it."""
    connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=10)
    data = None if body is None else orjson.dumps(body)
    try:
        connection.request(method, target, data, {**running.headers(), "content-type": "application/json"})
        answer = connection.getresponse()
        read = answer.read()
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return answer.status, orjson.loads(read) if is_json and read else read
    finally:
        connection.close()


@pytest.mark.parametrize(
    "path",
    ["//v1/chat/completions", "/v1//chat/completions", "/v1/chat/completions/", "///v1///chat/completions//"],
)
def test_slashes_too_many_reach_a_hot_route(running: Running, path: str) -> None:
    status, answer = send(running, "POST", path, CHAT)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "hello")


@pytest.mark.parametrize(
    "path",
    ["/v1/models/Qwen/Qwen3/", "//v1/models/Qwen/Qwen3", "//v1//models/Qwen/Qwen3//"],
)
def test_slashes_around_the_name_of_a_model(running: Running, path: str) -> None:
    assert send(running, "GET", path)[1]["id"] == "Qwen/Qwen3"
    ours = path.replace("/v1", "")
    assert send(running, "GET", ours)[1]["name"] == "Qwen/Qwen3"
    assert send(running, "POST", ours.rstrip("/") + "/explain//", CHAT)[0] == 200


@pytest.mark.parametrize("path", ["/health/", "//health", "/v1/models/", "//models//", "/docs/", "//", "/auth/me/"])
def test_slashes_too_many_reach_every_other_route(running: Running, path: str) -> None:
    assert send(running, "GET", path)[0] == 200


@pytest.mark.parametrize("name", ["a/", "/a", "a//b", "a/b/", "//", "a%2F", "%2F"])
def test_an_id_keeps_its_slashes(running: Running, name: str) -> None:
    key = name.replace("%2F", "/")
    assert send(running, "PUT", f"/kv/{name}", {"value": name})[0] in (200, 201)
    assert key in send(running, "GET", "/kv?limit=100")[1]["keys"]
    assert send(running, "GET", f"//kv/{name}")[1]["value"] == name
    assert send(running, "DELETE", f"/kv/{name}")[0] in (200, 204)
    assert send(running, "GET", f"/kv/{key.strip('/') or 'x'}")[0] == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/kv/", 400),  # /kv would remove every key
        ("/collections//documents/", 404),
        ("/collections/", 405),
        ("/models/", 404),
        ("/models//", 405),
        ("/models//documents", 404),
    ],
)
def test_an_empty_value_is_not_taken_for_a_slash_too_many(running: Running, path: str, status: int) -> None:
    send(running, "PUT", "/kv/kept", {"value": 1})
    send(running, "POST", "/collections", {"name": "documents", "embedder": "none"})
    assert send(running, "DELETE", path)[0] == status
    assert send(running, "GET", "/kv/kept")[1]["value"] == 1
    assert send(running, "GET", "/collections/documents")[0] == 200


def test_a_path_that_no_route_has_stays_unknown(running: Running) -> None:
    assert send(running, "GET", "//nothing//")[0] == 404
    assert send(running, "GET", "/v1/models/Qwen//Qwen3/")[0] == 404


def test_the_limit_on_a_body_holds_under_any_spelling(gateway: Callable[..., Running]) -> None:
    running = gateway(api={"max_body_bytes": 100})
    big = {"value": "x" * 200}
    for path in ("/kv/a/collections/c/snapshot", "//kv/a"):
        assert send(running, "PUT", path, big)[0] == 413


@pytest.mark.parametrize("auth", [True, False])
def test_the_root_answers_everyone(gateway: Callable[..., Running], auth: bool) -> None:
    running = gateway(auth={"enabled": auth})
    plain = requests.get(running.url, timeout=10)
    assert (plain.status_code, plain.text) == (200, "SAGE Middleware is running\n")
    assert plain.headers["content-type"].startswith("text/plain")
    head = requests.head(running.url, timeout=10)
    assert (head.status_code, head.content) == (200, b"")
    browser = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    led = requests.get(running.url, headers=browser, timeout=10)
    assert led.url == f"{running.url}/console"
    assert "/console/main.js" in led.text


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/collections", {"GET", "HEAD", "POST"}),
        ("/collections/c", {"GET", "HEAD", "DELETE"}),
        ("/kv/a", {"GET", "HEAD", "PUT", "DELETE"}),
        ("/models/m", {"GET", "HEAD", "POST", "PATCH", "DELETE"}),
        ("/auth/keys", {"GET", "HEAD", "POST"}),
        ("/auth/users", {"GET", "HEAD", "POST", "PATCH"}),
        ("/generate", {"POST"}),
        ("/docs", {"GET", "HEAD"}),
    ],
)
def test_a_405_names_every_method_of_the_path(running: Running, path: str, methods: set[str]) -> None:
    answer = running.request("TRACE", path)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == methods
