"""``/search`` over HTTP: what it takes, what it refuses, and that the way there is bounded."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, get_args

import pytest
import requests
from running_gateway import Running
from upstream import Received, Script, Upstream, openai_like, reply

from sage.errors import Unavailable
from sage.middleware.auth.teams.tenants import DEFAULT_TENANT
from sage.middleware.gateway.collections.requests import SearchFields
from sage.middleware.retrieval.types.search import Fusion, Mode

KEYWORDS = {"defaults": {"embedder": "none"}}
DOCUMENTS = [
    {"id": "1", "text": "This is document 1", "metadata": {"lang": "en", "n": 1}, "vector": [1, 0]},
    {"id": "2", "text": "This is document 2, a longer document", "metadata": {"lang": "en", "n": 2}, "vector": [0, 1]},
    {"id": "3", "text": "机器学习的文档", "metadata": {"lang": "zh", "n": 3}, "vector": [0.7, 0.7]},
]
KOREAN = ("한국어", "+한국어", '"한국어"', "한국어 -서울")


def with_documents(start: Callable[..., Running]) -> Running:
    started = start(retrieval=KEYWORDS)
    added = started.post("/collections/default/documents", {"documents": DOCUMENTS})
    assert added.status_code == 200, added.text
    return started


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running]) -> Running:
    """For tests that change nothing in it."""
    return with_documents(module_gateway)


@pytest.fixture
def own(gateway: Callable[..., Running]) -> Running:
    return with_documents(gateway)


@pytest.fixture(scope="module")
def of_three(module_gateway: Callable[..., Running]) -> Running:
    """Takes three searches in a batch."""
    return module_gateway(retrieval={**KEYWORDS, "limits": {"max_searches": 3}})


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def search(running: Running, query: str = "document", **fields: Any) -> dict[str, Any]:
    answer = running.post("/search", {"query": query, **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_threshold_leaves_out_what_is_not_relevant(running: Running) -> None:
    found = search(running, "longer document", score_threshold=0.9)
    assert ids(found) == ["2"]
    assert found["results"][0]["scores"]["relevance"] == pytest.approx(1)
    assert search(running, "longer nonsense", mode="bm25", score_threshold=0.9)["results"] == []
    near = search(running, vector=[1, 0], mode="dense", score_threshold=0.5)
    assert {result["id"]: result["scores"]["relevance"] for result in near["results"]} == pytest.approx(
        {"1": 1.0, "3": 0.5**0.5}
    )
    batch = [{"query": "longer document", "score_threshold": 0.9}, {"query": "longer document"}]
    answers = running.post("/search/batch", {"searches": batch}).json()["answers"]
    assert [ids(answer) for answer in answers] == [["2"], ["2", "1"]]
    for threshold in (-0.1, 1.5, "0.5", True):
        answer = running.post("/search", {"query": "document", "score_threshold": threshold})
        assert error(answer)["param"] == "score_threshold"


def test_signs_are_read_as_the_request_says(running: Running) -> None:
    unmet = search(running, '"longer nonsense"')
    assert ids(unmet) == ["2"]
    assert "asked without them" in unmet["warnings"][0]
    exact = search(running, '"longer nonsense"', syntax="query")
    assert (ids(exact), "warnings" in exact) == ([], False)
    assert ids(search(running, "document -longer")) == ["1"]
    plain = search(running, "document -longer", syntax="plain")
    assert (sorted(ids(plain)), "warnings" in plain) == (["1", "2"], False)
    batch = [{"query": "+nonsense longer"}, {"query": "+nonsense longer", "syntax": "query"}]
    answers = running.post("/search/batch", {"searches": batch}).json()["answers"]
    assert [(ids(answer), "warnings" in answer) for answer in answers] == [(["2"], True), ([], False)]
    assert error(running.post("/search", {"query": "x", "syntax": "lucene"}))["param"] == "syntax"


def ids(answer: dict[str, Any]) -> list[str]:
    return [result["id"] for result in answer["results"]]


def error(answer: requests.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


def test_words_find_documents(running: Running) -> None:
    answer = search(running)
    assert set(answer) == {"results", "total", "took_ms"}
    assert answer["total"] == 2
    assert 0 < answer["took_ms"] < 10_000
    assert sorted(ids(answer)) == ["1", "2"]
    first = answer["results"][0]
    assert set(first) == {"id", "score", "text", "metadata", "scores"}
    assert first["scores"]["bm25"] > 0
    assert first["scores"]["dense"] is None
    assert [result["score"] for result in answer["results"]] == sorted(
        (result["score"] for result in answer["results"]), reverse=True
    )
    assert ids(search(running, "学习")) == ["3"]


def test_decomposed_words_are_found_as_composed_ones(own: Running) -> None:
    documents = [{"id": "ko", "text": "한국어 수업"}, {"id": "seoul", "text": "한국어 서울"}]
    assert own.post("/collections/default/documents", {"documents": documents}).status_code == 200
    composed = [sorted(ids(search(own, query))) for query in KOREAN]
    assert composed == [["ko", "seoul"]] * 3 + [["ko"]]
    decomposed = [unicodedata.normalize("NFD", query) for query in KOREAN]
    assert [sorted(ids(search(own, query, highlight=True))) for query in decomposed] == composed
    answers = own.post("/search/batch", {"searches": [{"query": query} for query in decomposed]}).json()["answers"]
    assert [sorted(ids(answer)) for answer in answers] == composed
    assert own.post("/search", {"query": "+\u0e33"}).json()["results"] == []


def test_vectors_find_documents(running: Running) -> None:
    answer = search(running, "", vector=[0, 1], mode="dense", top_k=2)
    assert ids(answer) == ["2", "3"]
    assert answer["total"] == 3
    assert answer["results"][0]["score"] == pytest.approx(1)
    hybrid = search(running, "document", vector=[1, 0])
    assert ids(hybrid)[0] == "1"
    assert set(hybrid["results"][0]["scores"]) == {"dense", "bm25"}
    assert ids(search(running, vector=[0, 1], alpha=1))[0] == "2"


def test_filters_pages_explanations_and_highlights(running: Running) -> None:
    assert ids(search(running, filter={"n": {"$gte": 2}})) == ["2"]
    assert ids(search(running, filter={"lang": "zh"})) == []
    both = ids(search(running))
    assert [ids(search(running, top_k=1, offset=offset)) for offset in range(3)] == [[both[0]], [both[1]], []]
    result = search(running, explain=True, highlight=True, filter={"n": 1})["results"][0]
    assert result["explanation"]
    assert "<em>document</em>" in result["highlights"][0]


@pytest.mark.parametrize("fusion", [kind.value for kind in Fusion])
def test_every_fusion(running: Running, fusion: str) -> None:
    assert set(ids(search(running, vector=[1, 0], fusion=fusion))) == {"1", "2", "3"}


def test_what_http_takes_is_what_collections_know() -> None:
    fields = SearchFields.model_fields
    assert get_args(fields["mode"].annotation) == tuple(mode.value for mode in Mode)
    assert get_args(fields["fusion"].annotation) == tuple(kind.value for kind in Fusion)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": 5}, "query"),
        ({"query": "x" * 40_000}, "query"),
        ({"query": "x", "top_k": 0}, "top_k"),
        ({"query": "x", "top_k": True}, "top_k"),
        ({"query": "x", "top_k": 10_001}, "top_k"),
        ({"query": "x", "offset": -1}, "offset"),
        ({"query": "x", "offset": 10_000}, "offset"),
        ({"query": "x", "mode": "fuzzy"}, "mode"),
        ({"query": "x", "fusion": "none"}, "fusion"),
        ({"query": "x", "alpha": 1.5}, "alpha"),
        ({"query": "x", "vector": [1, "2"]}, "vector.1"),
        ({"query": "x", "vector": []}, "vector"),
        ({"query": "x", "vector": [1, 2, 3]}, "vector"),
        ({"query": "x", "filter": []}, "filter"),
        ({"query": "x", "filter": {"$no": 1}}, "filter"),
        ({"query": "x", "rerank": {"model": "m", "depth": 0}}, "rerank.depth"),
        ({"query": "x", "rerank": 5}, "rerank"),
        ({"query": "x", "topk": 3}, "topk"),
        ({"query": "x", "collection": "a/b"}, "collection"),
        ({"query": "x", "collection": ".."}, "collection"),
        ({"query": "x", "collection": "x" * 65}, "collection"),
        ({"query": "x", "mode": "dense"}, "mode"),
    ],
)
def test_bad_searches_name_their_field(running: Running, body: dict[str, Any], param: str) -> None:
    refusal = error(running.post("/search", body))
    assert str(refusal["param"]).removesuffix(".$no") == param, refusal


@pytest.mark.parametrize("raw", ["", "[]", "{", '{"query": NaN}', '{"query": "x", "top_k": 99999999999999999999}'])
def test_what_is_no_json_is_refused(running: Running, raw: str) -> None:
    headers = {**running.headers(), "Content-Type": "application/json"}
    answer = requests.post(f"{running.url}/search", data=raw, headers=headers, timeout=30)
    assert error(answer)["code"] == "invalid_json"


def test_a_missing_collection_says_what_there_is(running: Running) -> None:
    refusal = error(running.post("/search", {"query": "x", "collection": "nope"}), 404)
    assert refusal["code"] == "collection_not_found"
    assert "there are: default" in refusal["message"]


# Batches


def test_a_batch_answers_each_in_its_place(own: Running) -> None:
    own.post("/collections/other/documents", {"documents": [{"id": "o", "text": "another document"}]})
    searches = [{"query": "document"}, {"query": "document", "collection": "other"}, {"query": "学习", "top_k": 1}]
    answers = own.post("/search/batch", {"searches": searches}).json()["answers"]
    assert [ids(answer) for answer in answers] == [ids(search(own)), ["o"], ["3"]]
    assert all(answer["took_ms"] > 0 for answer in answers)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "searches"),
        ({"searches": []}, "searches"),
        ({"searches": [{"query": "x"}] * 4}, "searches"),
        ({"searches": [{"query": "x"}, {"query": "x", "top_k": "3"}]}, "searches[1].top_k"),
        ({"searches": [{"query": "x"}, {}]}, "searches[1].query"),
        ({"searches": [{"query": "x"}, 5]}, "searches[1]"),
        ({"searches": [{"query": "x"}], "more": 1}, "more"),
    ],
)
def test_bad_batches_name_their_place(of_three: Running, body: dict[str, Any], param: str) -> None:
    assert error(of_three.post("/search/batch", body))["param"] == param


# Models of the registry


def vectors(request: Received) -> Script:
    """Embeddings by a text's first letter, and an order that puts the longest first."""
    body = request.body
    if request.path.endswith("/embeddings"):
        data = [
            {"object": "embedding", "index": n, "embedding": [1.0, 0.0] if text[:1] == "a" else [0.0, 1.0]}
            for n, text in enumerate(body["input"])
        ]
        return reply({"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})
    if request.path.endswith("/rerank"):
        results = [{"index": n, "relevance_score": len(text) / 100} for n, text in enumerate(body["documents"])]
        return reply({"id": "r", "results": results})
    return openai_like(request)


def test_an_embedder_and_a_reranker_of_the_registry(up: Upstream, upstreams: Callable[..., Running]) -> None:
    up.handler = vectors
    running = upstreams(up, retrieval={"defaults": {"embedder": "bench"}})
    texts = ["apple pie", "a", "banana bread with a lot of butter"]
    running.post("/collections/default/documents", {"documents": [{"id": text[:2], "text": text} for text in texts]})
    assert running.get("/collections/default").json()["dimension"] == 2
    answer = search(running, "avocado", mode="dense")
    assert ids(answer)[:2] == ["ap", "a"]
    reranked = search(running, "avocado", mode="dense", rerank={"model": "bench", "depth": 3})
    assert ids(reranked) == ["ba", "ap", "a"]
    assert reranked["results"][0]["scores"]["rerank"] == pytest.approx(0.33)


def test_models_beyond_the_credential_are_not_used(up: Upstream, upstreams: Callable[..., Running]) -> None:
    up.handler = vectors
    running = upstreams(up, retrieval={"defaults": {"embedder": "bench"}})
    running.post("/collections/default/documents", {"documents": [{"text": "apple"}]})
    sent = len(up.requests)
    key = running.new_key(models=["chat-*"])
    assert error(running.post("/search", {"query": "x"}, key=key), 403)["code"] == "model_not_allowed"
    refusal = error(running.post("/search", {"query": "x", "mode": "bm25", "rerank": "bench"}, key=key), 403)
    assert refusal["param"] == "rerank"
    assert running.post("/search", {"query": "apple", "mode": "bm25"}, key=key).json()["total"] == 1
    assert running.post("/search", {"vector": [1, 0], "mode": "dense"}, key=key).json()["total"] == 1
    documents = {"documents": [{"text": "x"}]}
    assert error(running.post("/collections/default/documents", documents, key=key), 403)["param"] == "collection"
    assert error(running.post("/collections/new/documents", documents, key=key), 403)["param"] == "collection"
    assert error(running.post("/collections", {"name": "new"}, key=key), 403)["param"] == "embedder"
    assert error(running.post("/collections/default/reembed", {"embedder": "bench"}, key=key), 403)
    assert len(up.requests) == sent
    assert [collection["name"] for collection in running.get("/collections").json()["collections"]] == ["default"]


@pytest.mark.slow
def test_an_embedder_that_fails_leaves_the_words(up: Upstream, upstreams: Callable[..., Running]) -> None:
    up.handler = vectors
    running = upstreams(up, retrieval={"defaults": {"embedder": "bench"}})
    running.post("/collections/default/documents", {"documents": [{"id": "1", "text": "apple"}]})
    up.handler = lambda request: reply(status=500)
    answer = search(running, "apple")
    assert ids(answer) == ["1"]
    assert "by words alone" in answer["warnings"][0]
    assert error(running.post("/search", {"query": "apple", "mode": "dense"}), 502)["type"] == "upstream_error"


# Bounds


def test_the_line_before_searches_is_bounded(up: Upstream, upstreams: Callable[..., Running]) -> None:
    """Searches that wait for an embedder fill the threads and the line; one more is refused at once."""
    up.handler = vectors
    running = upstreams(up, retrieval={"defaults": {"embedder": "bench"}})
    running.post("/collections/default/documents", {"documents": [{"id": "1", "text": "apple"}]})
    gate = threading.Event()
    collections = running.edge.app.state.gateway.collections
    blocked = []
    with suppress(Unavailable):
        while True:
            blocked.append(collections._reading.submit(gate.wait, DEFAULT_TENANT))
    try:
        answer = running.post("/search", {"query": "apple"})
        refusal = error(answer, 503)
        assert refusal["code"] == "overloaded"
        assert int(answer.headers["retry-after"]) >= 1
        assert running.get("/health").status_code == 200
    finally:
        gate.set()
    assert [future.result(30) for future in blocked] == [True] * (8 + 256)
    up.handler = vectors
    assert ids(search(running, "apple")) == ["1"]


def test_searches_and_writes_are_counted(own: Running) -> None:
    search(own)
    own.post("/search", {"query": "x", "collection": "nope"})
    own.post("/search/batch", {"searches": [{"query": "a"}, {"query": "b"}]})
    own.post("/collections/default/documents/delete", {"ids": ["1"]})
    metrics = own.get("/metrics").text
    assert 'sage_searches_total{status="200"} 3.0' in metrics
    assert 'sage_searches_total{status="404"} 1.0' in metrics
    assert 'sage_documents_total{operation="write"} 3.0' in metrics
    assert 'sage_documents_total{operation="delete"} 1.0' in metrics
    assert "sage_search_duration_seconds_count 3.0" in metrics
