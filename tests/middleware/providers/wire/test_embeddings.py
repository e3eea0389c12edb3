"""Embeddings are what the caller asked for, whatever the upstream made of it: for every kind and surface."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import openai
import pytest
from shared_gateway import each_kind
from upstream import Upstream

OPENAI_WIRE = ("openai", "vllm", "zhipu", "siliconflow")
KINDS = (*OPENAI_WIRE, "ollama", "cohere")
VECTORS = [[3.0, 4.0, 12.0], [0.5, 0.25, 0.0]]


def sections(up: Upstream) -> dict[str, Any]:
    """A provider of each kind at ``up``, each with a model of its name, and one model that may be cut."""
    made = each_kind(up, KINDS)
    models = made["llm"]["models"]
    models |= {f"{kind}-embed-v4": models[kind] for kind in KINDS}
    return made


def packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def openai_answer(vectors: list[Any], indexes: list[Any] | None = None) -> dict[str, Any]:
    numbers = range(len(vectors)) if indexes is None else indexes
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in zip(numbers, vectors, strict=True)]
    return {"object": "list", "data": data, "model": "theirs", "usage": {"prompt_tokens": 2, "total_tokens": 2}}


def answer_of(kind: str, vectors: list[list[float]], *, as_base64: bool = False) -> dict[str, Any]:
    """An answer in the wire of ``kind`` that takes no notice of what was asked."""
    sent: list[Any] = [packed(vector) for vector in vectors] if as_base64 else vectors
    if kind == "ollama":
        return {"model": "theirs", "embeddings": vectors, "prompt_eval_count": 2}
    if kind == "cohere":
        return {"id": "e", "embeddings": {"base64" if as_base64 else "float": sent}, "meta": {}}
    return openai_answer(sent)


def embed(running: Any, model: str, **fields: Any) -> Any:
    return running.post("/v1/embeddings", {"model": model, "input": ["a", "b"], **fields})


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoding_is_the_one_asked_for(kind: str, running: Any, up: Upstream) -> None:
    for sends_base64 in (False, True):
        if kind == "ollama" and sends_base64:
            continue  # its wire has numbers alone
        for asked in ({"encoding_format": "base64"}, {"encoding_format": "float"}, {}):
            up.reset()
            up.reply(answer_of(kind, VECTORS, as_base64=sends_base64))
            data = embed(running, kind, **asked).json()["data"]
            wanted = [packed(v) for v in VECTORS] if asked.get("encoding_format") == "base64" else VECTORS
            assert [item["embedding"] for item in data] == wanted
            assert [item["index"] for item in data] == [0, 1]


def test_openais_sdk_reads_numbers_of_servers_that_have_no_base64(running: Any, up: Upstream) -> None:
    up.reply(openai_answer(VECTORS))
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key) as client:
        assert [item.embedding for item in client.embeddings.create(model="openai", input=["a", "b"]).data] == VECTORS
    assert up.requests[0].body["encoding_format"] == "base64"


@pytest.mark.parametrize("kind", OPENAI_WIRE)
def test_the_order_is_that_of_the_index(kind: str, running: Any, up: Upstream) -> None:
    up.reply(openai_answer(VECTORS[::-1], [1, 0]))
    assert [item["embedding"] for item in embed(running, kind).json()["data"]] == VECTORS
    cohere = running.post("/v2/embed", {"model": kind, "texts": ["a", "b"], "input_type": "x"}).json()
    assert cohere["embeddings"]["float"] == VECTORS
    assert running.post("/api/embed", {"model": kind, "input": ["a", "b"]}).json()["embeddings"] == VECTORS


@pytest.mark.parametrize("indexes", [[0, 0], [None, None], ["1", "0"], [1, None]])
def test_indexes_that_say_nothing_keep_the_order_of_arrival(indexes: list[Any], running: Any, up: Upstream) -> None:
    up.reply(openai_answer(VECTORS, indexes))
    assert [item["embedding"] for item in embed(running, "openai").json()["data"]] == VECTORS


@pytest.mark.parametrize("kind", KINDS)
def test_dimensions_that_the_upstream_ignores(kind: str, running: Any, up: Upstream) -> None:
    for number in (2, 4):
        up.reset()
        up.reply(answer_of(kind, VECTORS))
        answer = embed(running, kind, dimensions=number)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "dimensions")
        assert f"vectors of 3 numbers though 'dimensions' asked for {number}" in error["message"]
    up.reset()
    up.reply(answer_of(kind, VECTORS))
    assert embed(running, kind, dimensions=3).json()["data"][0]["embedding"] == VECTORS[0]


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_models_that_may_be_cut_are_cut(kind: str, running: Any, up: Upstream) -> None:
    up.reply(answer_of(kind, VECTORS))
    model = f"{kind}-embed-v4"
    whole = embed(running, model, dimensions=2).json()["data"]
    assert whole[0]["embedding"] == pytest.approx([0.6, 0.8])
    assert math.hypot(*whole[1]["embedding"]) == pytest.approx(1)
    text = embed(running, model, dimensions=2, encoding_format="base64").json()["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(text)) == pytest.approx((0.6, 0.8))
    fields = {"model": model, "texts": ["a", "b"], "input_type": "x", "output_dimension": 2}
    for types in (["float"], ["base64"], ["float", "base64"]):
        found = running.post("/v2/embed", {**fields, "embedding_types": types}).json()["embeddings"]
        assert sorted(found) == sorted(types)
        for encoding, (first, _) in found.items():
            read = struct.unpack("<2f", base64.b64decode(first)) if encoding == "base64" else first
            assert read == pytest.approx([0.6, 0.8])
    cut = running.post("/api/embed", {"model": model, "input": ["a", "b"], "dimensions": 2}).json()["embeddings"]
    assert cut[0] == pytest.approx([0.6, 0.8])
    assert embed(running, model, dimensions=4).status_code == 400


@pytest.mark.parametrize("vector", [None, "no base64!", "AAA=", [1.0, None], [1e39], [[1.0]], ["x"]])
def test_what_is_no_vector_is_the_upstreams_fault(vector: Any, running: Any, up: Upstream) -> None:
    up.reply(openai_answer([vector]))
    asked = {"encoding_format": "float" if isinstance(vector, str) else "base64"}
    answer = running.post("/v1/embeddings", {"model": "openai", "input": "a", **asked})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_nonsense")


def test_vectors_of_other_types_go_as_they_are(running: Any, up: Upstream) -> None:
    up.reply(openai_answer(["AQID"]))
    for asked in ({"embedding_type": "int8"}, {"output_dtype": "binary"}, {"encoding_format": "base64_int8"}):
        answer = running.post("/v1/embeddings", {"model": "openai", "input": "a", **asked})
        assert answer.json()["data"][0]["embedding"] == "AQID"
