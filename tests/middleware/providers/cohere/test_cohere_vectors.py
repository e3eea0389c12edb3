"""Cohere's embeddings, ranks and tokenizer behind the other surfaces."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from cohere_wire import KEY, cohere_like
from shared_gateway import SharedGateway, one_model, share_gateway
from upstream import Upstream, reply

COHERE = {"kind": "cohere", "api_key": KEY}
PIXEL = f"data:image/png;base64,{base64.b64encode(b'pixel').decode()}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedGateway]:
    with share_gateway(tmp_path_factory.mktemp("shared"), lambda up: one_model(up, **COHERE)) as started:
        yield started


@pytest.fixture
def up(shared: SharedGateway) -> Upstream:
    upstream = shared.up()
    upstream.handler = cohere_like
    return upstream


@pytest.fixture
def sdk(running: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client:
        yield client


@pytest.mark.proves("cohere", "embeddings", "embeddings base64", "usage")
def test_embeddings_as_numbers_and_as_base64(up: Upstream, sdk: openai.OpenAI) -> None:
    floats = sdk.embeddings.create(model="bench", input=["a", "bcd"], encoding_format="float")
    packed = sdk.embeddings.create(model="bench", input="abc")  # the SDK asks for base64 and reads it
    assert [(item.index, item.embedding) for item in floats.data] == [(0, [1.0, 0.0, 1.0]), (1, [3.0, 1.0, 1.0])]
    assert packed.data[0].embedding == [3.0, 0.0, 1.0]
    assert (floats.model, floats.usage.prompt_tokens, floats.usage.total_tokens) == ("bench", 10, 10)
    assert [request.path for request in up.requests] == ["/v2/embed"] * 2
    expected = {"model": "theirs-0", "input_type": "search_document"}
    assert up.requests[0].body == {**expected, "texts": ["a", "bcd"], "embedding_types": ["float"]}
    assert up.requests[1].body == {**expected, "texts": ["abc"], "embedding_types": ["base64"]}


def test_base64_is_four_bytes_a_number(running: Any) -> None:
    answer = running.post("/v1/embeddings", {"model": "bench", "input": "abc", "encoding_format": "base64"}).json()
    assert struct.unpack("<3f", base64.b64decode(answer["data"][0]["embedding"])) == (3.0, 0.0, 1.0)


@pytest.mark.proves("cohere", "dimensions")
def test_dimensions_and_coheres_own_fields(up: Upstream, sdk: openai.OpenAI) -> None:
    own = {"input_type": "search_query", "truncate": "START"}
    answer = sdk.embeddings.create(model="bench", input="abc", dimensions=2, user="me", extra_body=own)
    assert answer.data[0].embedding == [3.0, 0.0]
    sent = up.requests[0].body
    assert (sent["output_dimension"], sent["input_type"], sent["truncate"]) == (2, "search_query", "START")
    assert "user" not in sent


def test_further_types_of_embeddings_stand_beside(running: Any) -> None:
    body = {"model": "bench", "input": "abc", "embedding_types": ["float", "int8"]}
    answer = running.post("/v1/embeddings", body).json()
    assert answer["data"][0]["embedding"] == [3.0, 0.0, 1.0]
    assert answer["embeddings"] == {"float": [[3.0, 0.0, 1.0]], "int8": [[3, 0, 1]]}


def test_images_are_embedded(up: Upstream, running: Any) -> None:
    image = {"type": "image_url", "image_url": {"url": PIXEL}}
    alone = running.post("/v1/embeddings", {"model": "bench", "input": [image]}).json()
    mixed = running.post("/v1/embeddings", {"model": "bench", "input": ["abc", image]}).json()
    assert [item["embedding"][0] for item in alone["data"]] == [-1.0]
    assert [item["embedding"][0] for item in mixed["data"]] == [3.0, -1.0]
    assert [request.body["input_type"] for request in up.requests] == ["image", "search_document"]
    assert up.requests[1].body["inputs"] == [{"content": [{"type": "text", "text": "abc"}]}, {"content": [image]}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [1, 2, 3]}, "input"),
        ({"encoding_format": "int4"}, "encoding_format"),
        ({"late_chunking": True}, "late_chunking"),
    ],
)
def test_what_cohere_cannot_embed_is_refused(up: Upstream, running: Any, fields: dict[str, Any], param: str) -> None:
    answer = running.post("/v1/embeddings", {"model": "bench", "input": "abc", **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert "'up0' (cohere)" in answer.json()["error"]["message"]
    assert not up.requests


@pytest.mark.parametrize("embeddings", [None, {}, {"float": [[1.0], [2.0]]}, [[1.0]]])
def test_vectors_that_are_not_those_asked_for_are_nonsense(up: Upstream, running: Any, embeddings: Any) -> None:
    up.reply({"id": "e1", "embeddings": embeddings})
    answer = running.post("/v1/embeddings", {"model": "bench", "input": "abc"})
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_nonsense"


RANK = {"model": "bench", "query": "red car", "documents": ["a boat", {"text": "a red car", "id": 7}, "my car"]}


@pytest.mark.proves("cohere", "rerank")
@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_rerank(up: Upstream, running: Any, path: str) -> None:
    answer = running.post(path, RANK).json()
    assert answer["model"] == "bench"
    assert answer["id"] == "r1"
    assert answer["results"] == [
        {"index": 1, "relevance_score": 1.0},
        {"index": 2, "relevance_score": 0.5},
        {"index": 0, "relevance_score": 0.0},
    ]
    assert answer["meta"]["billed_units"] == {"search_units": 1}
    sent = up.requests[0]
    assert sent.path == "/v2/rerank"
    assert sent.body == {"model": "theirs-0", "query": "red car", "documents": ["a boat", "a red car", "my car"]}


def test_rerank_with_documents_and_bounds(up: Upstream, running: Any) -> None:
    body = {**RANK, "top_n": 2, "return_documents": True, "max_tokens_per_doc": 50}
    answer = running.post("/v1/rerank", body).json()
    assert [result["document"] for result in answer["results"]] == [{"text": "a red car", "id": 7}, {"text": "my car"}]
    assert (up.requests[0].body["top_n"], up.requests[0].body["max_tokens_per_doc"]) == (2, 50)
    assert "return_documents" not in up.requests[0].body


@pytest.mark.usefixtures("renewed")
def test_ranks_are_in_order_and_no_more_than_asked_for(up: Upstream, running: Any) -> None:
    given = [{"index": 0, "relevance_score": 0.1, "document": {"text": "x"}}, {"index": 2, "relevance_score": 0.9}]
    up.reply({"results": given, "meta": {"tokens": {"input_tokens": 7}}})
    answer = running.post("/v1/rerank", {**RANK, "top_n": 1}).json()
    assert answer["results"] == [{"index": 2, "relevance_score": 0.9}]
    assert answer["id"].startswith("rerank-")
    assert answer["usage"]["prompt_tokens"] == 7
    assert 'sage_tokens_total{model="bench",type="prompt"} 7.0' in running.get("/metrics").text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "a boat"}, "documents"),
        ({"documents": ["x", 1]}, "documents[1]"),
        ({"documents": ["x", {"title": "y"}]}, "documents[1]"),
        ({"documents": ["x"] * 4}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": True}, "top_n"),
        ({"max_tokens_per_doc": "9"}, "max_tokens_per_doc"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"model": ""}, "model"),
    ],
)
def test_a_rerank_that_cannot_be_is_refused(
    up: Upstream, upstreams: Callable, fields: dict[str, Any], param: str
) -> None:
    running = upstreams(up, provider=COHERE, llm={"limits": {"max_inputs": 3}})
    answer = running.post("/v1/rerank", {**RANK, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not up.requests


@pytest.mark.parametrize(
    "results",
    [None, ["x"], [{"index": 3, "relevance_score": 0.5}], [{"index": 0}], [{"index": "0", "relevance_score": 1}]],
)
def test_an_order_of_other_documents_is_nonsense(up: Upstream, running: Any, results: Any) -> None:
    up.reply({"id": "r1", "results": results})
    answer = running.post("/v1/rerank", RANK)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_nonsense"


def test_errors_of_a_rerank(up: Upstream, running: Any) -> None:
    up.use(reply({"message": "too many"}, status=429, headers={"retry-after": "3"}))
    answer = running.post("/v1/rerank", RANK)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


@pytest.mark.proves("cohere", "tokenize")
def test_tokenize_and_back(up: Upstream, running: Any) -> None:
    plain = running.post("/v1/tokenize", {"model": "bench", "prompt": "añ"}).json()
    report = running.post("/v1/tokenize", {"model": "bench", "prompt": "ab", "return_token_strs": True}).json()
    back = running.post("/v1/detokenize", {"model": "bench", "tokens": [97, 241]}).json()
    assert plain == {"count": 2, "max_model_len": None, "tokens": [97, 241]}
    assert report["token_strs"] == ["a", "b"]
    assert back == {"prompt": "añ"}
    assert up.requests[0].body == {"model": "theirs-0", "text": "añ"}


def test_messages_cannot_be_tokenized(up: Upstream, running: Any) -> None:
    answer = running.post("/v1/tokenize", {"model": "bench", "messages": [{"role": "user", "content": "x"}]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
    answer = running.post("/v1/tokenize", {"model": "bench", "prompt": "x", "add_special_tokens": True})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "add_special_tokens")
    assert not up.requests


@pytest.mark.proves("cohere", "score", refused=True)
def test_scores_are_refused(up: Upstream, running: Any) -> None:
    answer = running.post("/v1/score", {"model": "bench", "text_1": "x", "text_2": "y"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported_operation"
    assert not up.requests
