"""Models of the registry as embedders and rerankers of collections, over a scripted upstream."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_thread import GatewayThread
from upstream import Received, Script, Upstream, reply

from sage.errors import DeadlineExceeded, InvalidRequest, NotFound, SageError, Unavailable, UpstreamFailed
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.collections.embedders import RegistryModels
from sage.middleware.gateway.collections.on_behalf import on_behalf_of
from sage.middleware.retrieval.embedding.builtin import builtin_embedder
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow

Open = Callable[..., RegistryModels]


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def opened(up: Upstream, tmp_path: Path) -> Iterator[Open]:
    """``opened(providers=…, models=…)``: the registry of a gateway that runs on a thread of its own."""
    with ExitStack() as stack:

        def start(
            kind: str = "openai", models: dict[str, Any] | None = None, retries: int = 0, **options: Any
        ) -> RegistryModels:
            provider = {"kind": kind, "base_url": up.url, "api_key": "k", "retries": retries}
            llm = {"providers": {"up": provider}, "models": models or {}}
            settings = Settings.model_validate({"data_dir": tmp_path, "llm": llm})
            return RegistryModels(stack.enter_context(GatewayThread(settings)).running_gateway, **options)

        yield start


def model(*deployments: str, **options: Any) -> dict[str, Any]:
    return {"deployments": [{"provider": "up", "model": name} for name in deployments], **options}


def vectors_reply(*vectors: Any, **options: Any) -> dict[str, Any]:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}, **options}


# Embedders


def test_a_model_embeds_in_batches_in_the_order_of_the_texts(opened: Open, up: Upstream) -> None:
    embedder = opened().embedder("up/bge-m3")
    assert embedder is not None
    assert (embedder.name, embedder.dimension, embedder.languages) == ("up/bge-m3", None, None)
    texts = ["x" * length for length in range(1, 151)]
    vectors = embedder.embed(texts)
    assert vectors.dtype == np.float32
    assert vectors[:, 0].tolist() == list(range(1, 151))  # the scripted upstream gives a text's length first
    assert sorted(len(request.body["input"]) for request in up.requests) == [22, 64, 64]
    assert {request.body["model"] for request in up.requests} == {"bge-m3"}
    assert set(up.requests[0].body) == {"model", "input"}
    assert embedder.dimension == 3
    assert embedder.embed([]).shape == (0, 3)


def test_a_query_is_embedded_once_for_each_tenant(opened: Open, up: Upstream) -> None:
    """Pages of results ask for the same vector again. Documents are not remembered."""
    embedder = opened().embedder("up/m")
    assert embedder is not None
    callers = [Principal("a", tenant, frozenset({Scope.SEARCH})) for tenant in ("red", "red", "blue")]
    for caller in callers:
        vector = on_behalf_of(caller, lambda: embedder.embed(["what is it"], query=True))()
        assert vector.tolist() == embedder.embed(["what is it"]).tolist()
    assert len(up.requests) == 2 + 3


def test_a_batch_is_bounded_in_bytes_too(opened: Open, up: Upstream) -> None:
    vectors = opened().embedder("up/m").embed(["字" * 40_000, "b", "字" * 60_000, "字" * 100_000])
    assert vectors[:, 0].tolist() == [40_000, 1, 60_000, 100_000]
    assert sorted(len(request.body["input"]) for request in up.requests) == [1, 1, 2]


def test_no_more_than_four_batches_run_at_a_time(opened: Open, up: Upstream) -> None:
    gate = threading.Event()
    running = threading.Semaphore(0)

    def handler(request: Received) -> Script:
        running.release()
        return reply(vectors_reply(*([len(text), 1.0] for text in request.body["input"])), gate=gate)

    up.handler = handler
    done: list[np.ndarray] = []
    embedder = opened().embedder("up/m")
    worker = threading.Thread(target=lambda: done.append(embedder.embed(["x"] * 64 * 6)))
    worker.start()
    for _ in range(4):
        assert running.acquire(timeout=10)
    assert not running.acquire(timeout=0.2)
    gate.set()
    worker.join(20)
    assert done[0].shape == (384, 2)


def test_base64_and_any_order_of_entries_are_read(opened: Open, up: Upstream) -> None:
    packed = [base64.b64encode(struct.pack("<2f", *pair)).decode() for pair in ((1.5, -2.0), (0.0, 4.0))]
    answer = vectors_reply(*packed)
    answer["data"].reverse()
    up.reply(answer)
    assert opened().embedder("up/m").embed(["a", "b"]).tolist() == [[1.5, -2.0], [0.0, 4.0]]


def test_cohere_is_told_queries_from_documents(opened: Open, up: Upstream) -> None:
    up.reply({"id": "1", "embeddings": {"float": [[1.0, 2.0]]}, "meta": {"billed_units": {"input_tokens": 1}}})
    embedder = opened(kind="cohere").embedder("up/embed-v4.0")
    assert embedder.embed(["question"], query=True).tolist() == [[1.0, 2.0]]
    embedder.embed(["text"])
    query, stored = (request.body for request in up.requests)
    assert query == {
        "model": "embed-v4.0",
        "texts": ["question"],
        "input_type": "search_query",
        "embedding_types": ["float"],
    }
    assert (stored["texts"], stored["input_type"]) == (["text"], "search_document")


@pytest.mark.parametrize(
    "answer",
    [
        vectors_reply([1.0, 2.0]),
        vectors_reply([1.0], [2.0], [3.0]),
        vectors_reply([1.0], [2.0, 3.0]),
        vectors_reply([], []),
        vectors_reply([1.0], ["a"]),
        vectors_reply([1.0], None),
        vectors_reply("AAAA", "AAAA"),
        vectors_reply("!!!!", "AAAAAA=="),
        vectors_reply([1.0], [True]),
        vectors_reply([1e300], [1.0]),
        {**vectors_reply(), "data": [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}]},
        {**vectors_reply(), "data": [{"embedding": [1.0]}, {"embedding": [1.0]}]},
        {**vectors_reply(), "data": "none"},
    ],
)
def test_an_answer_that_is_not_one_vector_a_text_is_refused(opened: Open, up: Upstream, answer: Any) -> None:
    up.reply(answer)
    with pytest.raises(UpstreamFailed) as caught:
        opened().embedder("up/m").embed(["a", "b"])
    assert caught.value.code == "upstream_nonsense"
    assert "'up" in caught.value.message


def test_vectors_of_another_dimension_than_before_are_refused(opened: Open, up: Upstream) -> None:
    up.reply(vectors_reply([1.0, 2.0]), times=1)
    up.reply(vectors_reply([1.0, 2.0, 3.0]), times=1)
    embedder = opened().embedder("up/m")
    embedder.embed(["a"])
    with pytest.raises(UpstreamFailed, match="3 dimensions, and of 2 before"):
        embedder.embed(["a"])


def test_what_the_upstream_refuses_is_told_as_it_is(opened: Open, up: Upstream) -> None:
    up.reply({"error": {"message": "input is too long", "type": "invalid_request_error"}}, status=400)
    with pytest.raises(InvalidRequest, match="input is too long"):
        opened().embedder("up/m").embed(["a" * 10])


def test_one_batch_that_fails_ends_the_others(opened: Open, up: Upstream) -> None:
    def handler(request: Received) -> Script:
        return reply(status=400) if "bad" in request.body["input"] else Script(end="hang")

    up.handler = handler
    with pytest.raises(SageError) as caught:
        opened().embedder("up/m").embed(["x"] * 64 + ["bad"])
    assert caught.value.status == 400
    for request in up.requests:
        if "bad" not in request.body["input"]:
            assert request.closed.wait(5)


# Names


def test_a_public_name_is_known_by_what_is_behind_it(opened: Open, up: Upstream) -> None:
    models = opened(models={"notes": model("bge-m3"), "bge-m3": model("bge-m3"), "either": model("a", "b")})
    assert models.embedder("notes").name == "notes@bge-m3"
    assert models.embedder("bge-m3").name == "bge-m3"
    assert models.embedder("notes").embed(["abc"]).tolist() == [[3.0, 0.0, 1.0]]
    with pytest.raises(InvalidRequest, match=r"several models \(a, b\), whose vectors are not comparable"):
        models.embedder("either")
    with pytest.raises(NotFound, match="'nothing' is not registered"):
        models.embedder("nothing")
    with pytest.raises(NotFound, match="'nothing' is not registered"):
        models.reranker("nothing")
    with pytest.raises(NotFound, match="ollama"):
        models.embedder("ollama/bge-m3")


def test_local_names_need_no_gateway() -> None:
    def no_gateway() -> Any:
        raise Unavailable("the gateway does not run")

    models = RegistryModels(no_gateway)
    assert models.embedder("none") is None
    assert models.embedder("auto") is models.embedder("local") is builtin_embedder("local")
    assert models.embedder("local/minilm-l6-v2-int8x8") is builtin_embedder("local")
    assert models.embedder("local/minilm-l6-v2-int8") is not builtin_embedder("local")
    assert models.embedder("local-multilingual") is builtin_embedder("local-multilingual")
    with pytest.raises(Unavailable, match="does not run"):
        models.embedder("up/m")


def test_a_fallback_does_not_answer_for_another_models_vectors(opened: Open, up: Upstream) -> None:
    def handler(request: Received) -> Script:
        return reply(status=503) if request.body["model"] == "first" else reply(vectors_reply([1.0]))

    up.handler = handler
    models = opened(retries=2, models={"a": model("first", fallbacks=["b"]), "b": model("second")})
    with pytest.raises(UpstreamFailed) as caught:
        models.embedder("a").embed(["x"])
    assert caught.value.code == "fallback_answered"
    assert "up/second" in caught.value.message


# The gateway's loop


def test_a_call_that_takes_too_long_is_given_up_and_ended(opened: Open, up: Upstream) -> None:
    up.hang()
    with pytest.raises(DeadlineExceeded, match=r"'up/m' did not answer a collection within 0\.3 s"):
        opened(timeout=0.3).embedder("up/m").embed(["a"])
    up.wait_closed()


def test_under_another_loop_it_embeds_as_elsewhere(opened: Open, up: Upstream) -> None:
    embedder = opened().embedder("up/m")

    async def inside() -> None:
        assert embedder.embed(["abcd"]).tolist() == [[4.0, 0.0, 1.0]]
        assert (await asyncio.to_thread(embedder.embed, ["abcde"])).tolist() == [[5.0, 0.0, 1.0]]

    asyncio.run(inside())
    assert len(up.requests) == 2


def test_a_gateway_that_was_stopped_says_so(up: Upstream, tmp_path: Path) -> None:
    provider = {"kind": "openai", "base_url": up.url, "api_key": "k"}
    settings = Settings.model_validate({"data_dir": tmp_path, "llm": {"providers": {"up": provider}}})
    with GatewayThread(settings) as running:
        embedder = RegistryModels(running.running_gateway).embedder("up/m")
        running.stop()
        with pytest.raises(Unavailable, match="was stopped"):
            embedder.embed(["a"])


# Rerankers


def ranked(*pairs: tuple[int, float]) -> dict[str, Any]:
    return {"id": "1", "results": [{"index": index, "relevance_score": score} for index, score in pairs]}


def test_a_model_reranks(opened: Open, up: Upstream) -> None:
    up.reply(ranked((2, 0.9), (0, 0.5), (1, -3.0)))
    scores = opened().reranker("up/rerank").rerank("what?", ["a", "b", "c"])
    assert scores == [0.5, -3.0, 0.9]
    assert up.requests[0].body == {"model": "rerank", "query": "what?", "documents": ["a", "b", "c"], "top_n": 3}
    assert opened().reranker("up/rerank").rerank("what?", []) == []


def test_many_texts_are_reranked_in_batches(opened: Open, up: Upstream) -> None:
    def handler(request: Received) -> Script:
        lengths = [(index, float(len(text))) for index, text in enumerate(request.body["documents"])]
        return reply(ranked(*reversed(lengths)))

    up.handler = handler
    scores = opened().reranker("up/rerank").rerank("q", ["x" * length for length in range(1, 101)])
    assert scores == [float(length) for length in range(1, 101)]
    assert sorted(len(request.body["documents"]) for request in up.requests) == [36, 64]


@pytest.mark.parametrize(
    "answer",
    [ranked((0, 1.0)), ranked((0, 1.0), (0, 2.0)), ranked((0, 1.0), (5, 2.0)), {"results": [{"index": 0}] * 2}, {}],
)
def test_an_answer_that_is_not_one_score_a_text_is_refused(opened: Open, up: Upstream, answer: Any) -> None:
    up.reply(answer)
    with pytest.raises(UpstreamFailed):
        opened().reranker("up/rerank").rerank("q", ["a", "b"])


def test_tenants_call_in_their_own_name(opened: Open) -> None:
    models = opened()
    assert models.of("acme").embedder("up/m").embed(["a"]).shape == (1, 3)
    assert math.isclose(models.of("acme").embedder("up/m").embed(["ab"])[0, 0], 2)
