"""Sharded collections over HTTP: the answers of one store, for every route, on threads of the gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from running_gateway import Running, run_gateway
from upstream import Received, Script, Upstream, openai_like, reply

from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow

KEYWORDS = {"defaults": {"embedder": "none"}}
WORDS = ("amber", "birch", "cedar", "delta", "ember")
PAIR = ("one", "many")
"""The same documents in one store, and over shards."""


@pytest.fixture
def running(gateway: Callable[..., Running]) -> Running:
    started = gateway(retrieval=KEYWORDS)
    for name, shards in zip(PAIR, (0, 3), strict=True):
        made = started.post("/collections", {"name": name, "shards": shards})
        assert made.status_code == 201, made.text
        assert made.json()["shards"] == (shards or None)
        added = started.post(f"/collections/{name}/documents", {"documents": documents()})
        assert (added.status_code, added.json()["inserted"]) == (200, 120), added.text
    return started


def documents() -> list[dict[str, Any]]:
    generator = np.random.default_rng(2)
    return [
        {
            "id": f"d{n}",
            "text": " ".join(generator.choice(WORDS, size=1 + n % 5)),
            "metadata": {"n": n % 4},
            "vector": generator.choice([-1.0, 0.5, 2.0], size=6).tolist(),
        }
        for n in range(120)
    ]


VECTOR = [1, 2, -1, 0.5, 0, 1]
SEARCHES: list[dict[str, Any]] = [
    {"query": "amber delta", "vector": VECTOR, "exact": True, "top_k": 20},
    *({"query": "amber", "vector": VECTOR, "fusion": fusion, "exact": True} for fusion in ("rrf", "dbsf", "zscore")),
    {"query": "+birch -cedar", "vector": VECTOR, "offset": 5, "filter": {"n": {"$gte": 2}}, "exact": True},
    {"query": "ember", "mode": "bm25", "explain": True, "highlight": True},
    {"vector": VECTOR, "mode": "dense", "exact": True, "top_k": 30, "filter": {"$not": {"n": 1}}},
]


def both(running: Running, ask: Callable[[str], requests.Response], status: int = 200) -> list[Any]:
    answers = [ask(name) for name in PAIR]
    for answer in answers:
        assert answer.status_code == status, answer.text
    return [answer.json() for answer in answers]


def check_same(running: Running, pair: tuple[str, str] = PAIR) -> None:
    for search in SEARCHES:
        one, many = (running.post("/search", {**search, "collection": name}).json() for name in pair)
        assert [result["id"] for result in many["results"]] == [result["id"] for result in one["results"]]
        assert many["total"] == one["total"]
        for ours, expected in zip(many["results"], one["results"], strict=True):
            assert ours["score"] == pytest.approx(expected["score"], abs=1e-9)
            assert ours.get("highlights") == expected.get("highlights")
            assert (ours.get("explanation") is None) == (expected.get("explanation") is None)


def pages(running: Running, name: str, **query: str) -> list[dict[str, Any]]:
    documents_of_pages: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        given = {"limit": "37", **query, **({"cursor": cursor} if cursor else {})}
        answer = running.get(f"/collections/{name}/documents", params=given).json()
        documents_of_pages += answer["documents"]
        if (cursor := answer["cursor"]) is None:
            return documents_of_pages


def error(answer: requests.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


def delete(running: Running, path: str, key: str | None = None) -> requests.Response:
    return requests.delete(f"{running.url}{path}", headers=running.headers(key), timeout=30)


def restore(running: Running, name: str, snapshot: bytes, shards: int | None = None) -> requests.Response:
    query = "" if shards is None else f"?shards={shards}"
    headers = {**running.headers(), "Content-Type": "application/octet-stream"}
    return requests.put(f"{running.url}/collections/{name}/snapshot{query}", data=snapshot, headers=headers, timeout=60)


def test_searches_answer_as_one_store_would(running: Running) -> None:
    check_same(running)
    batch = {"searches": [{**SEARCHES[0], "collection": name} for name in PAIR]}
    one, many = running.post("/search/batch", batch).json()["answers"]
    assert [result["id"] for result in one["results"]] == [result["id"] for result in many["results"]]


def test_documents_are_listed_shown_and_deleted_as_in_one_store(running: Running) -> None:
    one, many = (pages(running, name) for name in PAIR)
    assert many == one == [{key: d[key] for key in ("id", "text", "metadata")} for d in documents()]
    one, many = (pages(running, name, filter='{"n": 2}') for name in PAIR)
    assert many == one
    one, many = both(running, lambda name: running.get(f"/collections/{name}/documents/d7?vector=true"))
    assert many == one
    gone = error(running.get("/collections/many/documents/nowhere"), 404)
    assert (gone["code"], gone["message"]) == ("document_not_found", "collection 'many' has no document 'nowhere'")
    for body in ({"ids": ["d1", "d2", "nowhere"]}, {"filter": {"n": 3}}):
        one, many = both(running, lambda name, body=body: running.post(f"/collections/{name}/documents/delete", body))
        assert many == one
    assert delete(running, "/collections/many/documents/d5").status_code == 204
    assert delete(running, "/collections/one/documents/d5").status_code == 204
    error(delete(running, "/collections/many/documents/d5"), 404)
    changed = {"documents": [{"id": "d8", "text": "amber amber", "vector": VECTOR}, {"id": "new", "text": "delta"}]}
    one, many = both(running, lambda name: running.post(f"/collections/{name}/documents", changed))
    assert many == one == {"ids": ["d8", "new"], "inserted": 1, "updated": 1}
    check_same(running)
    assert pages(running, "many") == pages(running, "one")


def test_what_is_refused_names_the_collection(running: Running) -> None:
    for body, param in (
        ({"documents": [{"text": "x", "vector": [1]}]}, "documents"),
        ({"documents": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]}, "documents"),
    ):
        one, many = (error(running.post(f"/collections/{name}/documents", body)) for name in PAIR)
        assert (many["param"], many["code"]) == (one["param"], one["code"]) == (param, many["code"])
    for search in ({"query": "x", "filter": {"$what": 1}}, {"vector": [1], "mode": "dense"}):
        one, many = (error(running.post("/search", {**search, "collection": name})) for name in PAIR)
        assert many == one
    error(running.post("/collections/many/documents/delete", {"filter": {}}))
    refusal = error(running.post("/collections/many/reembed", {"embedder": "local"}))
    assert (refusal["code"], "?shards=0" in refusal["message"]) == ("unsupported_field", True)
    for bad in (-1, 65, 1025, 1.5, "3", True):
        assert error(running.post("/collections", {"name": "bad", "shards": bad}))["param"] == "shards"
    refusal = error(running.post("/collections", {"name": "bad", "shards": 2, "keywords": {"variant": "okapi"}}))
    assert "a sharded collection takes lucene, plus or l" in refusal["message"]
    assert error(running.post("/collections", {"name": "many", "shards": 2}), 409)["code"] == "collection_exists"
    assert error(running.post("/collections", {"name": "one", "shards": 2}), 409)["code"] == "collection_exists"
    assert {c["name"] for c in running.get("/collections").json()["collections"]} == set(PAIR)


def test_a_collection_is_described_optimized_and_deleted(running: Running, tmp_path: Path) -> None:
    one, many = both(running, lambda name: running.get(f"/collections/{name}"))
    for field in ("documents", "dimension", "embedder", "metric", "options", "reembedding", "languages"):
        assert many[field] == one[field], field
    assert (many["shards"], sum(many["shard_documents"]), many["bytes"] > 0) == (3, 120, True)
    optimized = running.post("/collections/many/optimize")
    assert (optimized.status_code, optimized.json()["documents"]) == (200, 120)
    check_same(running)
    files = tmp_path / "data1" / "collections"
    assert len(list(files.glob("*/.shards-*/*/truth.db"))) == 3
    assert delete(running, "/collections/many").status_code == 204
    assert list(files.glob("*/.shards-*")) == []
    assert [c["name"] for c in running.get("/collections").json()["collections"]] == ["one"]
    assert error(running.get("/collections/many"), 404)["code"] == "collection_not_found"
    assert error(delete(running, "/collections/many"), 404)["code"] == "collection_not_found"
    assert running.post("/collections", {"name": "many", "shards": 2}).json()["documents"] == 0


def test_snapshots_go_from_one_store_to_shards_and_back(running: Running) -> None:
    running.post("/collections/many/documents/delete", {"filter": {"n": 3}})
    running.post("/collections/one/documents/delete", {"filter": {"n": 3}})
    one, many = (running.get(f"/collections/{name}/snapshot").content for name in PAIR)
    for name, snapshot, shards in (("a", many, 0), ("b", many, 4), ("c", one, 2), ("d", one, None)):
        made = restore(running, name, snapshot, shards)
        assert (made.status_code, made.json()["documents"], made.json()["shards"]) == (201, 90, shards or None)
        check_same(running, ("one", name))
        assert pages(running, name) == pages(running, "one")
    assert error(restore(running, "b", many, 2), 409)["code"] == "collection_exists"
    assert error(restore(running, "e", many[: len(many) // 2], 2))["code"] == "bad_snapshot"
    assert error(running.get("/collections/e"), 404)


def test_tenants_do_not_meet(running: Running) -> None:
    other = running.new_key(tenant="other", scopes=["search", "collections:write"])
    error(running.get("/collections/many", key=other), 404)
    error(running.post("/search", {"query": "amber", "collection": "many"}, key=other), 404)
    assert running.post("/collections", {"name": "many", "shards": 3}, key=other).status_code == 201
    added = {"documents": [{"id": "mine", "text": "amber"}]}
    assert running.post("/collections/many/documents", added, key=other).status_code == 200
    answer = running.post("/search", {"query": "amber", "collection": "many"}, key=other).json()
    assert [result["id"] for result in answer["results"]] == ["mine"]
    assert delete(running, "/collections/many", other).status_code == 204
    check_same(running)


def test_a_restarted_gateway_finds_them_again(tmp_path: Path) -> None:
    data = {"data_dir": tmp_path, "api": {"port": 0, "access_log": False}, "retrieval": {**KEYWORDS, "shards": 2}}
    for turn in range(3):
        with run_gateway(Settings.model_validate(data)) as running:
            if turn == 0:  # the first write makes it, over as many shards as the configuration says
                body = {"documents": [{"id": f"d{n}", "text": f"document {n}"} for n in range(30)]}
                assert running.post("/collections/default/documents", body).status_code == 200
            if turn == 1:
                listed = running.get("/collections").json()["collections"]
                assert [(c["name"], c["shards"], c["documents"]) for c in listed] == [("default", 2, None)]
            answer = running.post("/search", {"query": "document", "top_k": 50}).json()
            assert [result["id"] for result in answer["results"]] == [f"d{n}" for n in range(30)]
            assert running.get("/collections").json()["collections"][0]["documents"] == 30
        data["retrieval"] = KEYWORDS


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def fruit(request: Received) -> Script:
    if request.path.endswith("/rerank"):
        texts = request.body["documents"]
        scores = [{"index": n, "relevance_score": len(text) / 100} for n, text in enumerate(texts)]
        return reply({"id": "r", "results": scores})
    if request.path.endswith("/embeddings"):
        vectors = [[float(text.count(word)) for word in ("apple", "banana")] for text in request.body["input"]]
        return reply(
            {"data": [{"index": n, "embedding": v} for n, v in enumerate(vectors)], "model": "m", "object": "list"}
        )
    return openai_like(request)


def test_an_embedder_and_a_reranker_of_the_registry(up: Upstream, upstreams: Callable[..., Running]) -> None:
    up.handler = fruit
    running = upstreams(up, retrieval={"defaults": {"embedder": "bench"}})
    texts = ["apple", "banana apple", "apple apple pear", "banana", "apple banana banana fig"]
    body = {"documents": [{"id": str(n), "text": text} for n, text in enumerate(texts)]}
    for name, shards in zip(PAIR, (0, 2), strict=True):
        assert running.post("/collections", {"name": name, "shards": shards}).status_code == 201
        assert running.post(f"/collections/{name}/documents", body).status_code == 200
    for fields in ({"mode": "dense"}, {}, {"rerank": {"model": "bench", "depth": 3}}, {"rerank": "bench", "offset": 1}):
        one, many = (
            running.post("/search", {"query": "apple", "exact": True, "collection": name, **fields}).json()["results"]
            for name in PAIR
        )
        assert [(r["id"], r["scores"]) for r in many] == [(r["id"], pytest.approx(r["scores"])) for r in one]
        assert ("rerank" in many[0]["scores"]) == ("rerank" in fields)
    key = running.new_key(scopes=["search"], models=["other"])
    assert error(running.post("/search", {"query": "apple", "collection": "many"}, key=key), 403)


def test_auto_chooses_by_the_first_documents_or_for_every_language(gateway: Callable[..., Running]) -> None:
    running = gateway(retrieval={"shards": 2})
    chinese = ["上班坐地铁比开车快，早高峰尤其如此。", "猫在沙发上睡觉。", "公司食堂中午十二点开门。"]
    for name, texts in (("zh", chinese), ("en", ["The cat sleeps on the sofa.", "Take the metro to work."])):
        documents = {"documents": [{"text": text} for text in texts]}
        assert running.post(f"/collections/{name}/documents", documents).status_code == 200
    assert running.post("/collections", {"name": "empty"}).status_code == 201
    embedders = {
        name: running.get(f"/collections/{name}").json()["options"]["embedder"] for name in ("zh", "en", "empty")
    }
    assert embedders == {"zh": "local-multilingual", "en": "local", "empty": "local-multilingual"}
    results = running.post("/search", {"collection": "zh", "query": "上班通勤方式"}).json()["results"]
    assert [results[0]["text"], results[-1]["text"]] == chinese[:2]
