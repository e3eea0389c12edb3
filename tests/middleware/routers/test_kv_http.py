"""``/kv`` over HTTP: values by key, each tenant its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import requests
from hypothesis import given
from hypothesis import settings as limited
from hypothesis import strategies as st
from running_gateway import Running

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


@pytest.fixture
def running(gateway: Callable[..., Running]) -> Running:
    return gateway()


def ask(running: Running, method: str, key: str, body: Any = None, credential: str | None = None) -> requests.Response:
    url = f"{running.url}/kv/{quote(key, safe='')}"
    return requests.request(method, url, json=body, headers=running.headers(credential), timeout=30)


def error(answer: requests.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


def keys(running: Running, credential: str | None = None, **query: Any) -> dict[str, Any]:
    answer = running.get("/kv", key=credential, params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_value_is_put_read_and_deleted(running: Running) -> None:
    value = {"theme": "深色", "sizes": [1, 2.5, None, True]}
    put = ask(running, "PUT", "users/42/style", {"value": value})
    assert (put.status_code, put.json()) == (200, {"key": "users/42/style"})
    assert running.get("/kv/users/42/style").json() == {"key": "users/42/style", "value": value}
    assert ask(running, "PUT", "users/42/style", {"value": None}).status_code == 200
    assert ask(running, "GET", "users/42/style").json()["value"] is None
    assert ask(running, "DELETE", "users/42/style").json() == {"deleted": True}
    assert ask(running, "DELETE", "users/42/style").json() == {"deleted": False}
    assert error(ask(running, "GET", "users/42/style"), 404)["code"] == "key_not_found"


@pytest.mark.slow
def test_keys_may_hold_what_text_may(running: Running) -> None:
    @limited(max_examples=25)
    @given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=20))
    def holds(key: str) -> None:
        key = f"k{key}"  # what begins with a dot is another path already for a client
        assert ask(running, "PUT", key, {"value": key}).json() == {"key": key}
        assert ask(running, "GET", key).json() == {"key": key, "value": key}

    holds()


def test_lists_are_paged_in_order_and_patterns_mean_nothing(running: Running) -> None:
    names = sorted(["a/1", "a/2", "a/3", "a%", "a*", "a_", "b"])
    for name in names:
        ask(running, "PUT", name, {"value": 1})
    assert keys(running) == {"keys": names, "next": None}
    assert keys(running, prefix="a/") == {"keys": ["a/1", "a/2", "a/3"], "next": None}
    assert keys(running, prefix="a*")["keys"] == ["a*"]
    assert keys(running, prefix="a_")["keys"] == ["a_"]
    paged, after = [], None
    while True:
        page = keys(running, limit=2, **({"after": after} if after is not None else {}))
        paged += page["keys"]
        assert len(page["keys"]) <= 2
        if (after := page["next"]) is None:
            break
    assert paged == names
    cleared = requests.delete(f"{running.url}/kv?prefix=a/", headers=running.headers(), timeout=30)
    assert cleared.json() == {"deleted": 3}
    assert keys(running)["keys"] == ["a%", "a*", "a_", "b"]


def test_a_value_may_be_put_only_where_another_is(running: Running) -> None:
    assert ask(running, "PUT", "n", {"value": 1, "expected": None}).status_code == 200
    assert error(ask(running, "PUT", "n", {"value": 2, "expected": None}), 409)["code"] == "value_changed"
    assert error(ask(running, "PUT", "n", {"value": 2, "expected": 5}), 409)["param"] == "expected"
    assert ask(running, "PUT", "n", {"value": 2, "expected": 1}).status_code == 200
    assert ask(running, "PUT", "null", {"value": None, "expected": None}).status_code == 200
    assert error(ask(running, "PUT", "null", {"value": None, "expected": None}), 409)["code"] == "value_changed"
    assert ask(running, "GET", "n").json()["value"] == 2


@pytest.mark.slow
def test_a_value_with_a_time_goes_when_it_is_over(running: Running) -> None:
    ask(running, "PUT", "brief", {"value": 1, "ttl": 0.2})
    ask(running, "PUT", "long", {"value": 1, "ttl": 600})
    while ask(running, "GET", "brief").status_code == 200:
        pass
    assert keys(running)["keys"] == ["long"]


BAD: list[tuple[Any, str | None]] = [
    ({}, "value"),
    ([], None),
    ({"value": 1, "time": 5}, "time"),
    ({"value": 1, "ttl": "5"}, "ttl"),
    ({"value": 1, "ttl": 0}, "ttl"),
    ({"value": 1, "ttl": -1}, "ttl"),
    ({"value": "x" * (2**20 + 1)}, "value"),
    ({"value": 2**70}, None),
]


def test_bad_bodies_are_refused(running: Running) -> None:
    for body, param in BAD:
        assert error(ask(running, "PUT", "k", body), 400)["param"] == param, body
    assert keys(running)["keys"] == []


def test_bad_requests_are_refused(running: Running) -> None:
    ask(running, "PUT", "k", {"value": 1})
    for method in ("GET", "PUT", "DELETE"):
        assert error(ask(running, method, "", {"value": 1}), 400)["param"] == "key"
    for query in ({"limit": 0}, {"limit": 1001}, {"limit": "x"}):
        assert error(running.get("/kv", params=query), 400)["param"] == "limit"
    bare = requests.delete(f"{running.url}/kv", headers=running.headers(), timeout=30)
    assert error(bare, 400)["param"] == "prefix"
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    answer = requests.put(
        f"{running.url}/kv/deep", data=json.dumps({"value": deep}), headers=running.headers(), timeout=30
    )
    assert error(answer, 400)["param"] == "value"
    assert keys(running)["keys"] == ["k"]


def test_tenants_never_meet(running: Running) -> None:
    one, two = running.new_key(tenant="one"), running.new_key(tenant="two")
    for name, credential in (("one", one), ("two", two)):
        for key in ("shared", f"only/{name}"):
            assert ask(running, "PUT", key, {"value": name}, credential).status_code == 200
    assert ask(running, "GET", "shared", credential=one).json()["value"] == "one"
    assert ask(running, "GET", "only/two", credential=one).status_code == 404
    assert ask(running, "DELETE", "only/two", credential=one).json() == {"deleted": False}
    assert keys(running, one)["keys"] == ["only/one", "shared"]
    cleared = requests.delete(f"{running.url}/kv?prefix=", headers=running.headers(one), timeout=30)
    assert cleared.json() == {"deleted": 2}
    assert keys(running, two)["keys"] == ["only/two", "shared"]
    assert keys(running)["keys"] == []


def test_it_needs_its_scope(running: Running) -> None:
    without = running.new_key(scopes=["memory"])
    assert error(running.get("/kv", key=without), 403)["code"] == "missing_scope"
    assert running.get("/kv", key=running.new_key(scopes=["kv"])).status_code == 200


def test_values_outlive_the_gateway(gateway: Callable[..., Running], tmp_path: Any) -> None:
    data = {"data_dir": tmp_path / "kept"}
    ask(gateway(**data), "PUT", "k", {"value": [1]})
    assert ask(gateway(**data), "GET", "k").json()["value"] == [1]


def test_memory_forgets_with_the_process(gateway: Callable[..., Running], tmp_path: Any) -> None:
    running = gateway(services={"kv": {"backend_type": "memory", "max_size": 2}})
    for key in "abc":
        ask(running, "PUT", key, {"value": 1})
    assert keys(running)["keys"] == ["b", "c"]
    assert not list((running.settings.data_dir / "services").rglob("*kv*.sqlite*"))
