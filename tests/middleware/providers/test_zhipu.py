"""Zhipu behind the gateway: OpenAI's SDK in front, the vendor's wire behind, as strict as the vendor."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
import zhipu_wire as wire
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from shared_gateway import PATIENT, SharedGateway
from upstream import Upstream

from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.providers.zhipu import ZhipuProvider
from sage.middleware.settings.providers import RemoteProvider

HELLO = [{"role": "user", "content": "hello out there"}]
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(24)).decode()
WEATHER, TIME = (
    {"type": "function", "function": {"name": name, "description": name, "parameters": {"type": "object"}}}
    for name in ("weather", "time")
)


def sections(up: Upstream) -> dict[str, Any]:
    """A gateway's models: ``glm``, ``loose`` (drops what the vendor cannot do), ``embed`` and ``rank``."""
    upstreams = {"glm": "glm-4.6", "loose": "glm-4.6", "embed": "embedding-3", "rank": "rerank"}
    models: dict[str, Any] = {
        name: {"deployments": [{"provider": "zhipu", "model": model}]} for name, model in upstreams.items()
    }
    models["loose"]["drop_unsupported"] = True
    provider = {"api_key": wire.KEY, "base_url": wire.base_url(up), "retries": 0}
    return {"llm": {"providers": {"zhipu": provider}, "models": models, "routing": PATIENT}}


@pytest.fixture
def up(shared: SharedGateway) -> Upstream:
    upstream = shared.up()
    upstream.handler = wire.zhipu_like
    return upstream


@pytest.fixture
def client(running: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as sdk:
        yield sdk


def ask(client: openai.OpenAI, model: str = "glm", messages: Any = None, **fields: Any) -> Any:
    return client.chat.completions.create(model=model, messages=messages or HELLO, **fields)


def strict(answer: Any) -> Any:
    """The answer, read once more by OpenAI's own types, which the SDK itself does not hold answers to."""
    kind = ChatCompletionChunk if answer.object.endswith("chunk") else ChatCompletion
    return kind.model_validate(answer.to_dict(), strict=True)


@pytest.mark.proves("zhipu", "chat", "system", "multi-turn", "usage", "seed", "stop")
def test_chat(up: Upstream, client: openai.OpenAI) -> None:
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "three"}], "refusal": None, "annotations": []},
        {"role": "user", "content": "four five"},
    ]
    answer = strict(
        ask(client, messages=turns, max_completion_tokens=50, seed=7, stop="END", temperature=0.3, top_p=0.9)
    )
    assert answer.choices[0].message.content == "four five"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "glm"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 3, 10)
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert up.requests[0].path == "/api/paas/v4/chat/completions"
    assert up.requests[0].body == {
        "model": "glm-4.6",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "one\ntwo"},
            {"role": "assistant", "content": "three"},
            {"role": "user", "content": "four five"},
        ],
        "max_tokens": 50,
        "seed": 7,
        "stop": ["END"],
        "temperature": 0.3,
        "top_p": 0.9,
    }


@pytest.mark.usefixtures("renewed")
@pytest.mark.proves("zhipu", "streaming", "usage")
def test_stream(up: Upstream, client: openai.OpenAI, running: Any) -> None:
    for options in ({}, {"stream_options": {"include_usage": True}}):
        chunks = [strict(chunk) for chunk in ask(client, stream=True, **options)]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hello out there"
        assert {chunk.model for chunk in chunks} == {"glm"}
        assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
        assert chunks[-1].usage.total_tokens == 10  # in the vendor's place, beside the finish
    # The vendor always tells the usage and knows no stream_options.
    assert up.requests[0].body == {"model": "glm-4.6", "messages": HELLO, "stream": True}
    assert 'sage_tokens_total{model="glm",type="completion"} 6.0' in running.get("/metrics").text


@pytest.mark.proves("zhipu", "reasoning")
def test_thinking_in_whole_answers_and_in_streams(up: Upstream, client: openai.OpenAI) -> None:
    fields = {"extra_body": {"thinking": {"type": "enabled"}}, "reasoning_effort": "high"}
    assert ask(client, **fields).choices[0].message.reasoning_content == "hm"
    deltas = [chunk.choices[0].delta for chunk in ask(client, stream=True, **fields)]
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == "hm"
    assert "".join(delta.content or "" for delta in deltas) == "hello out there"
    back = [*HELLO, {"role": "assistant", "content": "yes", "reasoning_content": "hm"}, *HELLO]
    ask(client, messages=back)
    assert [request.body.get("thinking") for request in up.requests] == [{"type": "enabled"}] * 2 + [None]
    assert up.requests[0].body["reasoning_effort"] == "high"
    assert up.requests[2].body["messages"] == back


@pytest.mark.proves("zhipu", "tools", "parallel tools", "multi-turn")
def test_tools_and_their_results(up: Upstream, client: openai.OpenAI) -> None:
    fields = {"tools": [WEATHER, TIME], "tool_choice": "auto", "parallel_tool_calls": True}
    first = strict(ask(client, **fields))
    calls = first.choices[0].message.tool_calls
    assert first.choices[0].finish_reason == "tool_calls"
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("weather", {"city": "weather-ville"}),
        ("time", {"city": "time-ville"}),
    ]
    results = [{"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name}: 5"} for call in calls]
    said = [*HELLO, first.choices[0].message.to_dict(), *results]
    assert ask(client, messages=said, **fields).choices[0].message.content == "time: 5"
    assert up.requests[0].body["tools"] == [WEATHER, TIME]
    assert up.requests[0].body["tool_choice"] == "auto"
    assert up.requests[1].body["messages"][1]["tool_calls"] == [call.to_dict() for call in calls]
    assert up.requests[1].body["messages"][2:] == results


def test_one_call_a_turn(up: Upstream, client: openai.OpenAI) -> None:
    fields = {"tools": [WEATHER, TIME], "parallel_tool_calls": False}
    calls = strict(ask(client, **fields)).choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["weather"]
    assert "parallel_tool_calls" not in up.requests[0].body
    chunks = list(ask(client, **fields, stream=True))
    streamed = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert {call.index for call in streamed} == {0}


@pytest.mark.proves("zhipu", "streamed tool arguments", "parallel tools")
@pytest.mark.parametrize("tool_stream", [True, False])
def test_arguments_of_tools_in_streams(up: Upstream, client: openai.OpenAI, tool_stream: bool) -> None:
    extra = {"tool_stream": True} if tool_stream else {}
    pieces: dict[int, list[str]] = {}
    for chunk in ask(client, tools=[WEATHER, TIME], stream=True, extra_body=extra):
        for call in strict(chunk).choices[0].delta.tool_calls or ():
            pieces.setdefault(call.index, []).append(call.function.arguments)
    assert {i: "".join(parts) for i, parts in pieces.items()} == {
        0: '{"city": "weather-ville"}',
        1: '{"city": "time-ville"}',
    }
    assert {len(parts) for parts in pieces.values()} == {2 if tool_stream else 1}
    assert up.requests[0].body.get("tool_stream") is (True if tool_stream else None)


def test_no_tool_is_called_where_none_may_be(up: Upstream, client: openai.OpenAI) -> None:
    answer = ask(client, tools=[WEATHER], tool_choice="none")
    assert answer.choices[0].message.content == "hello out there"
    assert not {"tools", "tool_choice"} & set(up.requests[0].body)


def test_arguments_that_come_as_an_object_are_made_a_text(up: Upstream, client: openai.OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    up.reply(wire.answer("glm-4.6", message, "tool_calls"), times=1)
    del message["role"]
    assert json.loads(ask(client).choices[0].message.tool_calls[0].function.arguments) == {"city": "Köln"}


def test_calls_of_tools_that_come_without_a_number_get_one(up: Upstream, client: openai.OpenAI) -> None:
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": {"city": name}}}
        for i, name in enumerate(("weather", "time"))
    ]
    up.stream([wire.chunk("glm-4.6", {"tool_calls": calls}), wire.last("glm-4.6", "tool_calls")], times=1)
    first, _ = ask(client, stream=True)
    result = strict(first).choices[0].delta.tool_calls
    assert [(call.index, json.loads(call.function.arguments)) for call in result] == [
        (0, {"city": "weather"}),
        (1, {"city": "time"}),
    ]


@pytest.mark.proves("zhipu", "images")
def test_images(up: Upstream, client: openai.OpenAI) -> None:
    parts = [
        {"type": "text", "text": "what is it"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "high"}},
    ]
    assert ask(client, messages=[{"role": "user", "content": parts}]).choices[0].message.content == "what is it"
    assert up.requests[0].body["messages"][0]["content"] == [
        {"type": "text", "text": "what is it"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
    ]


@pytest.mark.proves("zhipu", "response_format json_object")
def test_json(up: Upstream, client: openai.OpenAI) -> None:
    assert ask(client, response_format={"type": "json_object"}).choices[0].message.content == '{"echo": true}'
    assert ask(client, response_format={"type": "text"}).choices[0].message.content == "hello out there"
    assert up.requests[0].body["response_format"] == {"type": "json_object"}


def test_temperature_zero_is_no_sampling(up: Upstream, client: openai.OpenAI) -> None:
    ask(client, temperature=0, top_p=0)
    assert up.requests[0].body == {"model": "glm-4.6", "messages": HELLO, "do_sample": False, "top_p": 0.01}


def test_what_asks_for_nothing_is_no_fault(up: Upstream, client: openai.OpenAI) -> None:
    nothing = {"n": 1, "logprobs": False, "top_logprobs": None, "logit_bias": {}, "frequency_penalty": 0, "tools": []}
    hints = {"user": "someone", "metadata": {"a": "b"}, "store": False, "tool_choice": "auto", "stop": []}
    ask(client, **nothing, **hints)
    assert up.requests[0].body == {"model": "glm-4.6", "messages": HELLO}


SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
CANNOT = [
    pytest.param("n", {"n": 2}, marks=pytest.mark.proves("zhipu", "n", refused=True)),
    pytest.param("logprobs", {"logprobs": True}, marks=pytest.mark.proves("zhipu", "logprobs", refused=True)),
    pytest.param(
        "response_format",
        {"response_format": SCHEMA},
        marks=pytest.mark.proves("zhipu", "response_format json_schema", refused=True),
    ),
    pytest.param(
        "tool_choice",
        {"tools": [WEATHER], "tool_choice": "required"},
        marks=pytest.mark.proves("zhipu", "tool_choice", refused=True),
    ),
    ("frequency_penalty", {"frequency_penalty": 0.5}),
    ("presence_penalty", {"presence_penalty": 0.5}),
    ("logit_bias", {"logit_bias": {"1": 2}}),
    ("temperature", {"temperature": 1.5}),
    ("stop", {"stop": ["a", "b"]}),
    ("top_k", {"extra_body": {"top_k": 3}}),
    ("tools", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}),
    (
        "messages[0].content[0]",
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]}]},
    ),
]


@pytest.mark.parametrize(("field", "fields"), CANNOT)
def test_what_the_vendor_cannot_do_is_refused_by_name(
    up: Upstream, client: openai.OpenAI, field: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **fields)
    assert refused.value.param == field
    assert refused.value.code == "unsupported_field"
    assert f"'{field}'" in refused.value.message
    assert "the provider 'zhipu' " in refused.value.message
    assert up.requests == []


@pytest.mark.proves("zhipu", "drop_unsupported")
def test_what_the_vendor_cannot_do_is_left_out_where_the_model_says_so(up: Upstream, client: openai.OpenAI) -> None:
    fields = {"n": 2, "logprobs": True, "temperature": 1.5, "stop": ["a", "b"], "response_format": SCHEMA}
    ask(client, "loose", tools=[WEATHER], tool_choice="required", extra_body={"top_k": 3}, **fields)
    assert up.requests[0].body == {
        "model": "glm-4.6",
        "messages": HELLO,
        "stop": ["a"],  # as near as it comes
        "response_format": {"type": "json_object"},
        "tools": [WEATHER],
    }


@pytest.mark.proves("zhipu", "completions", "score", "tokenize", refused=True)
def test_operations_that_the_vendor_has_not(up: Upstream, client: openai.OpenAI, running: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=r"the provider 'zhipu' has no completions"):
        client.completions.create(model="glm", prompt="once")
    for path, body in (("score", {"text_1": "a", "text_2": "b"}), ("tokenize", {"prompt": "a"})):
        answer = running.post(f"/v1/{path}", {"model": "glm", **body})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_operation")
        assert f"the provider 'zhipu' has no {path}" in answer.json()["error"]["message"]
    assert up.requests == []


@pytest.mark.proves("zhipu", "embeddings", "embeddings base64", "dimensions")
def test_embeddings(up: Upstream, client: openai.OpenAI, running: Any) -> None:
    floats = client.embeddings.create(model="embed", input=["a", "bcd"], encoding_format="float")
    assert [item.embedding for item in floats.data] == [[1.0, 0.0, 0.1, 0.1], [3.0, 1.0, 0.1, 0.1]]
    assert (floats.model, floats.usage.prompt_tokens) == ("embed", 7)
    CreateEmbeddingResponse.model_validate(floats.to_dict(), strict=True)
    body = {"model": "embed", "input": "abc", "dimensions": 3, "encoding_format": "base64"}
    packed = running.post("/v1/embeddings", body).json()["data"][0]["embedding"]
    assert base64.b64decode(packed) == struct.pack("<3f", 3.0, 0.0, 0.1)
    # What the SDK asks for by itself is base64, too.
    assert client.embeddings.create(model="embed", input="ab").data[0].embedding[:2] == [2.0, 0.0]
    assert [request.body for request in up.requests] == [
        {"model": "embedding-3", "input": ["a", "bcd"]} | extra
        for extra in ({}, {"input": "abc", "dimensions": 3}, {"input": "ab"})
    ]


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=6), max_size=3))
def test_packed_vectors_hold_the_same_numbers(vectors: list[list[float]]) -> None:
    provider = ZhipuProvider("zhipu", RemoteProvider(kind="zhipu", api_key=wire.PLAIN_KEY))
    call = ModelCall(Operation.EMBEDDINGS, {"input": ["x"] * len(vectors), "encoding_format": "base64"}, "embed")
    answer = {"object": "list", "data": [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]}
    body, _ = provider.decode(call, json.dumps(answer).encode())
    packed = [base64.b64decode(item["embedding"]) for item in json.loads(body)["data"]]
    assert packed == [np.array(vector, "<f4").tobytes() for vector in vectors]


def test_embeddings_of_tokens_are_refused(up: Upstream, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="takes no tokens") as refused:
        client.embeddings.create(model="embed", input=[1, 2, 3])
    assert refused.value.param == "input"
    assert up.requests == []


@pytest.mark.proves("zhipu", "rerank")
def test_rerank(up: Upstream, running: Any) -> None:
    documents = ["bread is baked", {"text": "the capital of France is Paris"}, "France is warm"]
    body = {"model": "rank", "query": "capital of France", "documents": documents, "top_n": 2}
    answer = running.post("/v1/rerank", body | {"return_documents": True})
    assert answer.status_code == 200, answer.text
    assert [(found["index"], found["relevance_score"]) for found in answer.json()["results"]] == [
        (1, 1.0),
        (2, pytest.approx(1 / 3)),
    ]
    assert answer.json()["results"][0]["document"] == {"text": "the capital of France is Paris"}
    assert answer.json()["id"] == "rank-1"
    assert up.requests[0].body == {
        "model": "rerank",
        "query": "capital of France",
        "documents": ["bread is baked", "the capital of France is Paris", "France is warm"],
        "top_n": 2,
    }
    refused = running.post("/v1/rerank", body | {"max_tokens_per_doc": 10})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens_per_doc")


@pytest.mark.slow
@pytest.mark.proves("zhipu", "errors")
@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (wire.error("1002", "bad token", 401), 502, "upstream_credential_refused"),
        (wire.error("1302", "too many", 429, **{"retry-after": "3"}), 429, "1302"),
        (wire.error("1113", "in arrears", 429), 429, "1113"),
        (wire.error("1210", "parameter", 400), 400, "1210"),
        (wire.error("1234", "network", 500), 502, "1234"),
        # Errors under the status 200: the business code decides.
        (wire.error("1302", "too many", 200), 429, "1302"),
        (wire.error("1301", "unsafe", 200), 400, "1301"),
        (wire.error("1234", "network", 200), 502, "1234"),
        (wire.reply({"code": 401, "msg": "expired", "success": False}), 502, "upstream_credential_refused"),
        (wire.reply(wire.answer("m", {"content": "half"}, "network_error")), 502, "upstream_failed"),
        (wire.reply({"choices": [{"message": {"tool_calls": [7]}}]}), 502, "upstream_nonsense"),
    ],
)
def test_errors(up: Upstream, client: openai.OpenAI, script: Any, status: int, code: str) -> None:
    up.use(script, times=1)
    with pytest.raises(openai.APIStatusError) as refused:
        ask(client)
    assert (refused.value.status_code, refused.value.code) == (status, code)
    if code == "1302" and script.writes[0][1].startswith(b"HTTP/1.1 429"):
        assert refused.value.response.headers["retry-after"] == "3"


def test_vectors_that_are_none_are_nonsense(up: Upstream, client: openai.OpenAI) -> None:
    up.reply({"data": [{"index": 0, "embedding": ["x"]}]}, times=1)
    with pytest.raises(openai.InternalServerError) as refused:
        client.embeddings.create(model="embed", input="x")
    assert refused.value.code == "upstream_nonsense"


@pytest.mark.proves("zhipu", "errors")
@pytest.mark.parametrize(
    ("broken", "code"),
    [
        ({"error": {"code": "1234", "message": "it broke"}}, "1234"),
        (wire.chunk("glm-4.6", {"content": " and"}, "network_error"), "upstream_failed"),
    ],
)
def test_a_stream_that_breaks_has_no_finish(up: Upstream, running: Any, broken: Any, code: str) -> None:
    first, half = (wire.chunk("glm-4.6", {"content": text}) for text in ("one", "half"))
    up.stream([_packet(half, broken)], times=1)
    early = running.chat("glm", stream=True)
    assert (early.status_code, early.json()["error"]["code"]) == (502, code)  # nothing had gone out yet
    up.stream([first, _packet(half, broken, wire.last("glm-4.6"))], delay=0.05, times=1)
    events = [json.loads(line[6:]) for line in running.chat("glm", stream=True).iter_lines() if line]
    assert [event["choices"][0]["delta"]["content"] for event in events[:-1]] == ["one", "half"]
    assert not any(event["choices"][0].get("finish_reason") for event in events[:-1])
    assert events[-1]["error"]["code"] == code


def _packet(*events: dict[str, Any]) -> bytes:
    """Events that arrive together."""
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()


def test_a_stream_that_is_cut_has_no_finish(up: Upstream, client: openai.OpenAI) -> None:
    up.stream([wire.chunk("glm-4.6", {"content": "half"}), wire.last("glm-4.6")], cut_after=1)
    chunks = ask(client, stream=True)
    assert next(chunks).choices[0].delta.content == "half"
    with pytest.raises(openai.APIError):
        list(chunks)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("sensitive", "content_filter"), ("model_context_window_exceeded", "length")]
)
def test_its_own_ways_to_end(up: Upstream, client: openai.OpenAI, theirs: str, ours: str) -> None:
    up.reply(wire.answer("glm-4.6", {"role": "assistant", "content": "x"}, theirs), times=1)
    assert strict(ask(client)).choices[0].finish_reason == ours
    up.stream([wire.last("glm-4.6", theirs)], times=1)
    assert [chunk.choices[0].finish_reason for chunk in ask(client, stream=True)] == [ours]


def test_fields_that_are_denied_stay_denied(up: Upstream, running: Any) -> None:
    answer = running.chat("glm", request_id="mine-123")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "field_not_allowed")
    assert up.requests == []


def test_it_is_not_asked_for_a_list_that_it_does_not_document(up: Upstream, running: Any) -> None:
    assert running.chat("somebodys-model").status_code == 404
    assert up.requests == []


def test_families_of_names_are_its(up: Upstream, client: openai.OpenAI) -> None:
    assert ask(client, "glm-4.5-air").model == "glm-4.5-air"
    assert client.embeddings.create(model="zhipu/embedding-3", input="x").model == "zhipu/embedding-3"
    assert [request.body["model"] for request in up.requests] == ["glm-4.5-air", "embedding-3"]
