"""Models of a hub in ONNX's format at every surface of a gateway: pulled, listed, embedding, reranking, removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from model_hub import ModelHub
from onnx_models import WORDS, cross_encoder_files, hub_in_use, put_model, tiny_embedder_files
from running_gateway import Running, run_gateway

from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # a child process pulls
TINY, CROSS = "hf:org/tiny", "hf:org/cross"
LATER = "hf:org/later"
"""Nobody pulls it by a command."""
DOCUMENTS = [{"id": "a", "text": "red apple"}, {"id": "b", "text": "blue river"}, {"id": "c", "text": "green stone"}]


@pytest.fixture(scope="module")
def hub() -> Iterator[ModelHub]:
    with pytest.MonkeyPatch.context() as patch, hub_in_use(patch) as hub:
        put_model(hub, "org/tiny", tiny_embedder_files())
        put_model(hub, "org/cross", cross_encoder_files())
        put_model(hub, "org/later", tiny_embedder_files(pooling="max_tokens"))
        yield hub


@pytest.fixture(scope="module")
def running(hub: ModelHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    data = {"data_dir": tmp_path_factory.mktemp("data"), "api": {"port": 0, "access_log": False}}
    with run_gateway(Settings.model_validate(data)) as running:
        for name in (TINY, CROSS):
            events = pull(running, name)
            assert events[-1]["model"] == name
            assert events[-2]["status"].startswith(f"{name} is {name}@{hub.repos[name[3:]].head}#sha256-")
        yield running


def pull(running: Running, source: str, **options: Any) -> list[dict[str, Any]]:
    answer = running.post(f"/models/{source}/pull", options)
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def found(running: Running, collection: str, query: str, **options: Any) -> list[str]:
    answer = running.post("/search", {"collection": collection, "query": query, **options})
    assert answer.status_code == 200, answer.text
    return [result["id"] for result in answer.json()["results"]]


def test_they_are_listed_and_embed(running: Running) -> None:
    assert {TINY, CROSS} <= {model["id"] for model in running.get("/v1/models").json()["data"]}
    assert running.get(f"/models/{TINY}").json()["state"] == "ready"
    answer = running.post("/v1/embeddings", {"model": TINY, "input": ["red", "blue"]}).json()
    vectors = np.array([item["embedding"] for item in answer["data"]])
    assert vectors.shape == (2, len(WORDS))
    assert vectors[0, WORDS.index("red")] == pytest.approx(1 / 3)
    assert answer["usage"]["total_tokens"] == 6
    assert answer["model"] == TINY


def test_they_rerank_in_coheres_order(running: Running) -> None:
    body = {"model": CROSS, "query": "red apple", "documents": ["blue river", "red apple", "red"], "top_n": 2}
    answer = running.post("/v1/rerank", {**body, "return_documents": True}).json()
    assert [(result["index"], result["document"]["text"]) for result in answer["results"]] == [
        (1, "red apple"),
        (2, "red"),
    ]
    assert answer["results"][0]["relevance_score"] == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-4)
    assert answer["usage"]["total_tokens"] == 7 + 7 + 6
    assert running.post("/v2/rerank", body).json()["results"][0]["index"] == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/rerank", {"model": TINY, "query": "q", "documents": ["d"]}, 400, "does not rerank them"),
        ("/v1/embeddings", {"model": CROSS, "input": "x"}, 400, "does not embed them"),
        ("/v1/embeddings", {"model": TINY, "input": "x", "dimensions": 2}, 400, "dimensions"),
        ("/v1/embeddings", {"model": LATER, "input": "x"}, 404, f"first: sage models pull {LATER}"),
        ("/v1/embeddings", {"model": "hf:a", "input": "x"}, 404, "is not a model of a hub"),
        (
            "/v1/chat/completions",
            {"model": TINY, "messages": [{"role": "user", "content": "x"}]},
            400,
            "is an embedder",
        ),
    ],
)
def test_what_they_cannot_do_is_told(
    running: Running, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    answer = running.post(path, body)
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text


def test_a_collection_keeps_the_exact_model(running: Running, hub: ModelHub) -> None:
    made = running.post("/collections", {"name": "pinned", "embedder": TINY})
    assert made.status_code == 201, made.text
    exact = made.json()["embedder"]
    assert exact.startswith(f"{TINY}@{hub.repos['org/tiny'].head}#sha256-")
    assert made.json()["options"]["embedder"] == exact
    assert made.json()["dimension"] == len(WORDS)
    running.post("/collections/pinned/documents", {"documents": DOCUMENTS})
    assert found(running, "pinned", "blue river", mode="dense", top_k=1) == ["b"]
    order = found(running, "pinned", "green stone", mode="dense", rerank={"model": CROSS})
    assert order[0] == "c"
    key = running.new_key(scopes=["generate", "search"], models=[TINY])
    assert running.post("/search", {"collection": "pinned", "query": "red"}, key=key).status_code == 200
    denied = running.post("/search", {"collection": "pinned", "query": "red", "rerank": {"model": CROSS}}, key=key)
    assert denied.json()["error"]["code"] == "model_not_allowed"


def test_only_who_may_pull_has_one_pulled_by_its_name(running: Running) -> None:
    key = running.new_key(scopes=["generate", "search", "collections:write"])
    refused = running.post("/collections", {"name": "later", "embedder": LATER}, key=key)
    assert refused.status_code == 404, refused.text
    assert "was not pulled yet" in refused.json()["error"]["message"]
    made = running.post("/collections", {"name": "later", "embedder": LATER})
    assert made.status_code == 201, made.text
    assert running.post("/collections", {"name": "later2", "embedder": LATER}, key=key).status_code == 201
    moved = running.post("/collections/later/reembed", {"embedder": TINY})
    assert moved.status_code == 200, moved.text
    assert running.get("/collections/later").json()["embedder"].startswith(f"{TINY}@")


def test_what_was_pulled_can_be_removed(running: Running, hub: ModelHub) -> None:
    put_model(hub, "org/gone", tiny_embedder_files())
    assert pull(running, "hf:org/gone@main")[-1]["model"] == "hf:org/gone"
    refused = pull(running, "hf:org/gone", name="other")
    assert "it keeps its name 'hf:org/gone'" in refused[-1]["error"]["message"]
    assert running.request("DELETE", "/models/hf:org/gone").status_code == 204
    assert running.get("/models/hf:org/gone").status_code == 404
    assert running.request("DELETE", "/models/hf:org/gone").status_code == 404
