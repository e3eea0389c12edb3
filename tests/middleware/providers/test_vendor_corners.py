"""Corners that the vendors' translations share: odd bodies, odd answers, torn streams, and what may not leak."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from ollama_wire import chat_end, chat_line, lines
from upstream import Upstream, chat_chunk, usage_chunk

from sage.errors import SageError
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.providers.cohere.provider import CohereProvider
from sage.middleware.providers.ollama.provider import OllamaProvider
from sage.middleware.providers.openai import OpenAIProvider
from sage.middleware.settings.providers import OllamaSettings, OpenAISettings, RemoteProvider

pytestmark = pytest.mark.slow  # every vendor

USER: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.mark.parametrize("images", [5, True, "aGk=", {"a": "b"}])
def test_images_that_are_no_list_are_a_400(up: Upstream, upstreams: Callable, images: Any) -> None:
    running = upstreams(up)
    for path, body in (
        ("chat", {"messages": [{**USER[0], "images": images}]}),
        ("generate", {"prompt": "x", "images": images}),
    ):
        answer = running.post(f"/api/{path}", {"model": "bench", **body})
        assert answer.status_code == 400, answer.text
        assert answer.json()["param"].endswith(".images")
    assert not up.requests


def test_ollamas_surface_has_numbers_whatever_encoding_is_asked_for(up: Upstream, upstreams: Callable) -> None:
    body = {"model": "bench", "input": "x", "encoding_format": "base64"}
    answer = upstreams(up).post("/api/embed", body)
    assert answer.status_code == 200, answer.text
    assert all(isinstance(number, float) for number in answer.json()["embeddings"][0])


@pytest.mark.parametrize("kind", ["ollama", "cohere"])
@pytest.mark.parametrize(("given", "sent"), [("", None), ([""], None), (["", "x"], ["x"])])
def test_an_empty_stop_stops_nothing(up: Upstream, upstreams: Callable, kind: str, given: Any, sent: Any) -> None:
    up.reply({"error": "enough"}, status=400)
    upstreams(up, provider={"kind": kind}).chat(stop=given)
    body = up.requests[0].body
    assert (body.get("stop_sequences") or body.get("options", {}).get("stop")) == sent
    assert "stop_sequences" not in body or sent


@pytest.mark.parametrize("kind", ["openai", "vllm"])
@pytest.mark.parametrize("field", ["chat_template", "tokenize"])
def test_what_steers_a_templates_renderer_is_refused(up: Upstream, upstreams: Callable, kind: str, field: str) -> None:
    running = upstreams(up, provider={"kind": kind})
    answer = running.chat(chat_template_kwargs={"enable_thinking": False, field: "{{ x }}"})
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (field, "field_not_allowed")
    assert not up.requests
    assert running.chat(chat_template_kwargs={"enable_thinking": False}).status_code == 200
    assert up.requests[0].body["chat_template_kwargs"] == {"enable_thinking": False}


def test_tools_that_are_no_list_are_a_400_before_zhipu(up: Upstream, upstreams: Callable) -> None:
    answer = upstreams(up, provider={"kind": "zhipu"}).chat(tools={"type": "function"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
    assert not up.requests


@pytest.mark.parametrize("kind", ["openai", "ollama", "cohere"])
def test_a_list_of_models_that_is_none_lists_nothing(up: Upstream, upstreams: Callable, kind: str) -> None:
    up.reply({"data": 5, "models": 5})
    answer = upstreams(up, provider={"kind": kind}).chat("unheard-of")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert [request.method for request in up.requests] == ["GET"]


def test_vectors_and_counts_that_are_none_are_no_fault_of_ours(up: Upstream, upstreams: Callable) -> None:
    body = {"model": "bench", "texts": ["x"], "input_type": "search_query"}
    running = upstreams(up)
    up.reply({"data": [{"index": 0, "embedding": [1.0]}], "usage": 5}, times=1)
    assert running.post("/v2/embed", body).json()["embeddings"] == {"float": [[1.0]]}
    up.reply({"data": [{"index": 0, "embedding": [1e308]}]}, times=1)
    answer = running.post("/v2/embed", {**body, "embedding_types": ["base64"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_nonsense")


def test_a_meta_of_coheres_that_is_none_tells_no_usage(up: Upstream, upstreams: Callable) -> None:
    up.reply({"id": "1", "embeddings": {"float": [[1.0]]}, "meta": "none"})
    answer = upstreams(up, provider={"kind": "cohere"}).post("/v1/embeddings", {"model": "bench", "input": "x"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"] == {"prompt_tokens": 0, "total_tokens": 0}


def test_counts_that_no_json_holds_together_end_no_stream(up: Upstream, upstreams: Callable) -> None:
    up.stream([chat_chunk("hi"), chat_chunk(None, "stop"), usage_chunk(2**63, 2**63)])
    answer = upstreams(up).post("/generate", {"model": "bench", "prompt": "x", "stream": True})
    assert answer.text.endswith("data: [DONE]\n\n")


def test_a_key_is_taken_out_of_every_part_of_a_refusal(up: Upstream, upstreams: Callable) -> None:
    key = "3f9a-a-key-without-a-head"
    up.reply({"error": {"message": f"no {key}", "param": f"key {key}", "code": f"bad-{key}"}}, status=400)
    answer = upstreams(up, provider={"api_key": key}).chat()
    assert answer.status_code == 400
    assert key not in answer.text
    assert answer.json()["error"]["param"] == "key [key]"


def test_what_follows_the_end_of_an_answer_breaks_nothing(up: Upstream, upstreams: Callable) -> None:
    up.use(lines(chat_line("one"), json.dumps(chat_end()).encode() + b"\nno line\n"))
    answer = upstreams(up, provider={"kind": "ollama"}).chat(stream=True)
    assert answer.text.endswith("data: [DONE]\n\n")
    assert '"error"' not in answer.text


WORDS = "eins\u2028zwei é 😀"
OPENAI = [chat_chunk(WORDS), chat_chunk(None, "stop"), usage_chunk(1, 2)]
COHERE = [
    {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": WORDS}}}},
    {
        "type": "message-end",
        "delta": {"finish_reason": "COMPLETE", "usage": {"tokens": {"input_tokens": 1, "output_tokens": 2}}},
    },
]
STREAMS: dict[str, tuple[Any, bytes]] = {
    "openai": (
        OpenAIProvider("p", OpenAISettings(base_url="http://127.0.0.1:9/v1")),
        b"".join(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in OPENAI) + b"data: [DONE]\n\n",
    ),
    "ollama": (
        OllamaProvider("p", OllamaSettings()),
        b"".join(orjson.dumps(line) + b"\n" for line in (chat_line(WORDS), chat_end())),
    ),
    "cohere": (
        CohereProvider("p", RemoteProvider(kind="cohere")),
        b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in COHERE),
    ),
}


def relayed(kind: str, pieces: list[bytes]) -> tuple[str, bool, str | None, int]:
    """``(text, whole, code of the error, usage chunks)``."""
    relay = STREAMS[kind][0].relay(ModelCall(Operation.CHAT, {"messages": USER}, "m", stream=True, wants_usage=True))
    told, code = b"", None
    try:
        for piece in pieces:
            told += relay.feed(piece)
            if relay.error is not None:
                raise relay.error
        told += relay.close() if not relay.finished else b""
    except SageError as error:
        code = error.code
    chunks = [orjson.loads(line[6:]) for line in told.split(b"\n") if line.startswith(b"data: {")]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    return text, b"[DONE]" in told, code, sum(1 for chunk in chunks if chunk.get("usage"))


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
@pytest.mark.parametrize("kind", sorted(STREAMS))
def test_a_stream_torn_or_cut_at_every_byte(kind: str, ends: bytes) -> None:
    data = STREAMS[kind][1].replace(b"\n", ends)
    assert relayed(kind, [data[i : i + 1] for i in range(len(data))])[:3] == (WORDS, True, None)
    finish = data.index(b'"stop"' if kind != "cohere" else b"COMPLETE")
    for cut in range(len(data) + 1):
        assert relayed(kind, [data[:cut], data[cut:]]) == (WORDS, True, None, 1), cut
        text, whole, code, _ = relayed(kind, [data[:cut]])
        assert whole == (code is None), cut
        assert text in ("", WORDS)
        if cut <= finish:
            assert code == "upstream_broken" or not whole, cut


@pytest.mark.parametrize("kind", ["ollama", "cohere"])
def test_what_came_before_a_broken_line_is_told(kind: str) -> None:
    first, rest = STREAMS[kind][1].split(b"\n", 1)
    assert relayed(kind, [first + b"\nno line of a stream\n" + rest]) == (WORDS, False, "upstream_nonsense", 0)
