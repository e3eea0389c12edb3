"""``/vdb`` over HTTP: items with vectors, each tenant its own."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import requests
from running_gateway import Running

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

ITEMS = [
    {"id": "a/1", "vector": [1.0, 0.0], "metadata": {"lang": "en", "year": 2020}, "text": "tea"},
    {"id": "a/2", "vector": [0.8, 0.6], "metadata": {"lang": "zh", "year": 2021}, "text": "茶"},
    {"id": "b", "vector": [0.0, 1.0], "metadata": {"lang": "en", "year": 2022}},
]


@pytest.fixture
def running(gateway: Callable[..., Running]) -> Running:
    return gateway()


def ask(running: Running, method: str, path: str, body: Any = None, credential: str | None = None) -> requests.Response:
    return requests.request(
        method, f"{running.url}/vdb/{path}", json=body, headers=running.headers(credential), timeout=30
    )


def error(answer: requests.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


def fill(running: Running, collection: str = "notes", credential: str | None = None) -> None:
    answer = ask(running, "POST", collection, {"items": ITEMS}, credential)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"ids": [item["id"] for item in ITEMS]}


def search_ids(running: Running, credential: str | None = None, **search: Any) -> list[str]:
    answer = ask(running, "POST", "notes/search", {"vector": [1.0, 0.1], **search}, credential)
    assert answer.status_code == 200, answer.text
    return [result["id"] for result in answer.json()["results"]]


def test_items_are_added_searched_changed_and_deleted(running: Running) -> None:
    fill(running)
    results = ask(running, "POST", "notes/search", {"vector": [1.0, 0.0], "n_results": 2}).json()["results"]
    assert [result["id"] for result in results] == ["a/1", "a/2"]
    assert results[0]["score"] == pytest.approx(1.0, abs=1e-3)
    assert results[1]["score"] == pytest.approx(0.8, abs=1e-2)
    assert results[1]["metadata"] == {"lang": "zh", "year": 2021}
    assert search_ids(running, where={"lang": "en"}) == ["a/1", "b"]
    assert search_ids(running, where={"$or": [{"year": {"$gt": 2021}}, {"lang": "zh"}]}, n_results=1) == ["a/2"]
    item = ask(running, "GET", "notes/a/1?vector=true").json()
    assert (item["id"], item["text"], item["metadata"]) == ("a/1", "tea", {"lang": "en", "year": 2020})
    assert item["vector"] == pytest.approx([1.0, 0.0])
    changed = ask(running, "PATCH", "notes/a/1", {"metadata": {"lang": "de"}, "vector": [0.0, 1.0]})
    assert (changed.status_code, changed.json()["metadata"]) == (200, {"lang": "de"})
    assert search_ids(running, n_results=1) == ["a/2"]
    assert ask(running, "DELETE", "notes/a/1").json() == {"deleted": True}
    assert ask(running, "DELETE", "notes/a/1").json() == {"deleted": False}
    error(ask(running, "GET", "notes/a/1"), 404)
    error(ask(running, "PATCH", "notes/a/1", {"text": "x"}), 404)
    assert ask(running, "POST", "notes/delete", {"where": {"lang": "zh"}}).json() == {"deleted": 1}
    assert search_ids(running) == ["b"]
    assert ask(running, "DELETE", "notes").status_code == 204
    assert running.get("/vdb").json() == {"collections": []}


def test_decomposed_words_are_found_as_composed_ones(running: Running) -> None:
    items = [
        {"id": "ko", "vector": [1.0, 0.0], "text": "한국어 수업"},
        {"id": "seoul", "vector": [1.0, 0.0], "text": "서울"},
        {"id": "en", "vector": [1.0, 0.0], "text": "tea"},
    ]
    assert ask(running, "POST", "notes", {"items": items}).status_code == 200
    for text, found in (("+한국어", ["ko"]), ("-한국어 -tea", ["seoul"]), ('"한국어"', ["ko"])):
        assert search_ids(running, text=unicodedata.normalize("NFD", text), syntax="query") == found


def test_items_are_listed_in_pages(running: Running) -> None:
    fill(running)
    first = ask(running, "GET", "notes?limit=2").json()
    assert [item["id"] for item in first["items"]] == ["a/1", "a/2"]
    second = ask(running, "GET", f"notes?limit=2&cursor={quote(first['cursor'])}").json()
    assert ([item["id"] for item in second["items"]], second["cursor"]) == (["b"], None)
    where = quote('{"year": {"$lt": 2021}}')
    only = ask(running, "GET", f"notes?where={where}&vector=true").json()
    assert [(item["id"], item["vector"]) for item in only["items"]] == [("a/1", [1.0, 0.0])]


BAD: list[tuple[str, Any, str]] = [
    ("notes", {}, "items"),
    ("notes", {"items": {}}, "items"),
    ("notes", {"items": [], "more": 1}, "more"),
    ("notes", {"items": [5]}, "items"),
    ("notes", {"items": [{"vector": [1.0, 0.0], "meta": {}}]}, "items[0].meta"),
    ("notes", {"items": [{"vector": [1.0, 0.0]}] * 10_001}, "items"),
    ("notes/search", {}, "vector"),
    ("notes/search", {"vector": "x"}, "vector"),
    ("notes/search", {"vector": [1.0, 0.0], "n": 5}, "n"),
    ("notes/search", {"vector": [1.0, 0.0], "n_results": 0}, "n_results"),
    ("notes/search", {"vector": [1.0, 0.0], "n_results": 1001}, "n_results"),
    ("notes/delete", {}, "ids"),
    ("notes/delete", {"ids": ["a/1"], "where": {}}, "ids"),
]


def test_bad_bodies_name_their_field(running: Running) -> None:
    for path, body, param in BAD:
        assert error(ask(running, "POST", path, body))["param"] == param, param
    assert running.get("/vdb").json() == {"collections": []}


def test_what_is_refused_leaves_nothing(running: Running) -> None:
    fill(running)
    for items in (
        [{"id": "new", "vector": [1.0, 0.0]}, {"id": "bad", "vector": [1.0]}],
        [{"id": "new", "vector": [1.0, 0.0]}, {"id": "bad", "vector": ["x", "y"]}],
        [{"id": "new", "vector": [1.0, 0.0]}, {"id": 5, "vector": [1.0, 0.0]}],
        [{"id": "new", "vector": [1.0, 0.0]}, {"id": "bad"}],
    ):
        error(ask(running, "POST", "notes", {"items": items}))
    error(ask(running, "PATCH", "notes/b", {"vector": [1.0]}))
    error(ask(running, "PATCH", "notes/b", {}))
    error(ask(running, "GET", "notes?where=[]"))
    error(ask(running, "POST", "notes/search", {"vector": [1.0, 0.0], "where": {"year": {"$near": 5}}}))
    error(ask(running, "POST", "none/search", {"vector": [1.0, 0.0]}), 404)
    assert len(ask(running, "GET", "notes").json()["items"]) == 3


def test_tenants_never_meet(running: Running) -> None:
    one, two = running.new_key(tenant="one"), running.new_key(tenant="two")
    fill(running, credential=one)
    error(ask(running, "POST", "notes/search", {"vector": [1.0, 0.0]}, two), 404)
    assert running.get("/vdb", key=two).json() == {"collections": []}
    own = {"items": [{"id": "mine", "vector": [1.0, 0.0]}]}
    assert ask(running, "POST", "notes", own, two).status_code == 200
    assert search_ids(running, two) == ["mine"]
    error(ask(running, "GET", "notes/mine", credential=one), 404)
    assert ask(running, "POST", "notes/delete", {"where": {}}, two).status_code in (200, 400)
    assert ask(running, "DELETE", "notes", credential=two).status_code == 204
    assert search_ids(running, one) == ["a/1", "a/2", "b"]


def test_signs_of_a_text_are_read_as_the_request_says(running: Running) -> None:
    ask(running, "POST", "signs", {"items": [{"id": "t", "text": "green tea", "vector": [1, 0]}]})

    def found(**fields: Any) -> list[str]:
        body = {"text": '"tea green"', "mode": "bm25", **fields}
        return [item["id"] for item in ask(running, "POST", "signs/search", body).json()["results"]]

    assert (found(), found(syntax="query"), found(syntax="plain")) == (["t"], [], ["t"])
    assert error(ask(running, "POST", "signs/search", {"text": "tea", "syntax": "x"}))["param"] == "syntax"


def test_it_needs_its_scope(running: Running) -> None:
    assert error(running.get("/vdb", key=running.new_key(scopes=["kv"])), 403)["code"] == "missing_scope"
    assert running.get("/vdb", key=running.new_key(scopes=["vdb"])).status_code == 200


def test_a_threshold_leaves_out_what_is_not_relevant(running: Running) -> None:
    fill(running)
    found = ask(running, "POST", "notes/search", {"vector": [1, 0], "score_threshold": 0.7}).json()["results"]
    assert {result["id"]: result["scores"]["relevance"] for result in found} == pytest.approx({"a/1": 1.0, "a/2": 0.8})
    assert ask(running, "POST", "notes/search", {"text": "coffee", "score_threshold": 0.1}).json() == {"results": []}
    assert error(ask(running, "POST", "notes/search", {"vector": [1, 0], "score_threshold": 2}))["param"]
