"""Cohere's own SDK at the gateway: before an OpenAI-compatible upstream, and before Cohere's wire itself."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cohere
import pydantic
import pytest
from cohere.errors import (
    BadRequestError,
    NotFoundError,
    ServiceUnavailableError,
    TooManyRequestsError,
    UnauthorizedError,
)
from cohere_wire import KEY, called, chat_answer, chat_stream, cohere_like, end, event, extras, text_events
from upstream import Upstream, chat_chunk, reply, usage, usage_chunk

pytestmark = pytest.mark.slow  # Cohere's SDK

COHERE = {"kind": "cohere", "api_key": KEY}
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello out there"}]
PIXEL = f"data:image/png;base64,{base64.b64encode(b'pixel').decode()}"
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "w1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}
CITATION = {
    "start": 0,
    "end": 5,
    "text": "Paris",
    "sources": [{"type": "document", "id": "d1", "document": {"id": "d1"}}],
}


@pytest.fixture
def openai_up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def cohere_up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        upstream.handler = cohere_like
        yield upstream


@contextmanager
def sdk(running: Any, key: str | None = None) -> Iterator[cohere.ClientV2]:
    with cohere.ClientV2(api_key=key or running.key, base_url=running.url, max_retries=0) as client:
        yield client


@pytest.fixture
def other(openai_up: Upstream, upstreams: Callable) -> Iterator[cohere.ClientV2]:
    """The SDK before an OpenAI-compatible upstream."""
    with sdk(upstreams(openai_up)) as client:
        yield client


@pytest.fixture
def same(cohere_up: Upstream, upstreams: Callable) -> Iterator[cohere.ClientV2]:
    """The SDK before Cohere's wire."""
    with sdk(upstreams(cohere_up, provider=COHERE)) as client:
        yield client


def validated(kind: Any, data: Any) -> Any:
    """``data`` read by the SDK's type with its validation switched on, and without a field that it does not know."""
    read = pydantic.TypeAdapter(kind).validate_python(data)
    assert not extras(read)
    return read


@pytest.mark.proves("cohere", "SDK at the gateway")
def test_chat_before_another_wire(openai_up: Upstream, other: cohere.ClientV2) -> None:
    answer = other.chat(
        model="bench",
        messages=[{"role": "system", "content": "Be brief."}, *HELLO],
        p=0.5,
        k=0,
        stop_sequences=["x"],
        max_tokens=9,
        seed=3,
        citation_options={"mode": "OFF"},
    )
    assert answer.message.content[0].text == "hello out there"
    assert answer.finish_reason == "COMPLETE"
    assert (answer.usage.tokens.input_tokens, answer.usage.tokens.output_tokens) == (4, 3)
    sent = openai_up.requests[0]
    assert sent.path == "/v1/chat/completions"
    assert sent.body == {
        "model": "theirs-0",
        "messages": [{"role": "system", "content": "Be brief."}, *HELLO],
        "top_p": 0.5,
        "stop": ["x"],
        "max_tokens": 9,
        "seed": 3,
        "stream": False,
    }


@pytest.mark.proves("cohere", "SDK at the gateway")
def test_chat_is_sent_unchanged_to_providers_of_coheres_wire(cohere_up: Upstream, same: cohere.ClientV2) -> None:
    cohere_up.reply(chat_answer("Paris", citations=[CITATION]), times=1)
    fields: dict[str, Any] = {
        "messages": [
            *HELLO,
            {"role": "assistant", "tool_calls": [CALL], "tool_plan": "I look."},
            {
                "role": "tool",
                "tool_call_id": "w1",
                "content": [{"type": "document", "document": {"id": "d1", "data": {"url": "https://example.org"}}}],
            },
        ],
        "documents": [{"id": "d1", "data": {"text": "Paris is in France."}}],
        "citation_options": {"mode": "ACCURATE"},
        "safety_mode": "OFF",
        "thinking": {"type": "disabled"},
        "tools": [WEATHER],
        "strict_tools": True,
        "tool_choice": "NONE",
        "response_format": {"type": "json_object", "json_schema": {"type": "object"}},
        "stop_sequences": ["x"],
        "p": 0.7,
        "k": 5,
        "logprobs": True,
    }
    answer = same.chat(model="bench", **fields)
    assert answer.message.content[0].text == "Paris"
    assert answer.message.citations[0].sources[0].id == "d1"
    assert cohere_up.requests[0].body == {**fields, "model": "theirs-0", "stream": False}


def test_both_wires_answer_in_coheres_shape(openai_up: Upstream, cohere_up: Upstream, upstreams: Callable) -> None:
    for running in (upstreams(openai_up), upstreams(cohere_up, provider=COHERE)):
        answer = running.post("/v2/chat", {"model": "bench", "messages": HELLO})
        read = validated(cohere.V2ChatResponse, answer.json())
        assert read.message.content[0].text == "hello out there"
        assert answer.headers["x-sage-deployment"] == "up0/theirs-0"


@pytest.mark.parametrize("wire", ["other", "same"])
def test_a_stream_comes_as_coheres_events(wire: str, request: pytest.FixtureRequest) -> None:
    client: cohere.ClientV2 = request.getfixturevalue(wire)
    events = list(client.chat_stream(model="bench", messages=HELLO))
    assert [item.type for item in events] == [
        "message-start",
        "content-start",
        *["content-delta"] * 3,
        "content-end",
        "message-end",
    ]
    assert "".join(item.delta.message.content.text for item in events[2:5]).rstrip() == "hello out there"
    assert events[0].delta.message.role == "assistant"
    assert events[1].delta.message.content.type == "text"
    assert events[-1].delta.finish_reason == "COMPLETE"
    assert (events[-1].delta.usage.tokens.input_tokens, events[-1].delta.usage.tokens.output_tokens) == (4, 3)


def test_the_asynchronous_sdk_streams(openai_up: Upstream, upstreams: Callable) -> None:
    running = upstreams(openai_up)

    async def talk() -> str:
        client = cohere.AsyncClientV2(api_key=running.key, base_url=running.url, max_retries=0)
        async with client:
            stream = client.chat_stream(model="bench", messages=HELLO)
            return "".join([item.delta.message.content.text async for item in stream if item.type == "content-delta"])

    assert asyncio.run(talk()) == "hello out there"


def read_events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, each of which the SDK's types know."""
    events = [json.loads(line[5:]) for line in text.split("\n") if line.startswith("data: {")]
    names = [line[7:] for line in text.split("\n") if line.startswith("event: ")]
    assert names == [item["type"] for item in events]
    for item in events[1:]:  # the first one carries more than the SDK knows, at Cohere too
        validated(cohere.V2ChatStreamResponse, item)
    return events


def test_every_kind_of_event_is_translated_there_and_back(cohere_up: Upstream, upstreams: Callable) -> None:
    sent = [
        *text_events("h", "m", kind="thinking"),
        event("tool-plan-delta", {"tool_plan": "I look."}),
        *text_events("Paris", index=1),
        event("citation-start", {"citations": CITATION}, index=0),
        event("citation-end", index=0),
        *called(0, "weather", '{"city"', ':"Paris"}'),
        *called(1, "clock", "{}"),
        end("TOOL_CALL"),
    ]
    cohere_up.use(chat_stream(*sent))
    running = upstreams(cohere_up, provider=COHERE)
    answer = running.post("/v2/chat", {"model": "bench", "messages": HELLO, "stream": True})
    events = read_events(answer.text)
    assert answer.text.endswith("data: [DONE]\n\n")

    def whole(items: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        return [(item["type"], item.get("index"), json.dumps(item.get("delta"), sort_keys=True)) for item in items]

    # The same events; only where one block ends and the plan begins is not told by OpenAI's chunks.
    assert set(whole(events[1:])) == set(whole(sent))
    assert [item["type"] for item in events if item["type"].startswith("tool-call")] == [
        *("tool-call-start", "tool-call-delta", "tool-call-delta", "tool-call-end"),
        *("tool-call-start", "tool-call-delta", "tool-call-end"),
    ]


def test_tools_before_another_wire(openai_up: Upstream, other: cohere.ClientV2) -> None:
    message = {"role": "assistant", "content": "I look.", "tool_calls": [CALL]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    head = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m"}
    openai_up.reply({**head, "choices": [choice], "usage": usage(5, 2)}, times=1)
    first = other.chat(model="bench", messages=HELLO, tools=[WEATHER], tool_choice="REQUIRED", strict_tools=True)
    assert first.finish_reason == "TOOL_CALL"
    assert first.message.tool_plan == "I look."
    assert first.message.content is None
    assert first.message.tool_calls[0].function.arguments == '{"city":"Paris"}'
    sent = openai_up.requests[0].body
    assert sent["tool_choice"] == "required"
    assert sent["tools"] == [{"type": "function", "function": {**WEATHER["function"], "strict": True}}]
    result = {
        "role": "tool",
        "tool_call_id": "w1",
        "content": [{"type": "document", "document": {"data": {"sky": "blue"}}}, {"type": "text", "text": "warm"}],
    }
    second = other.chat(model="bench", messages=[*HELLO, first.message, result], tools=[WEATHER])
    assert second.message.content[0].text == '{"data":{"sky":"blue"}}\nwarm'
    assert openai_up.requests[1].body["messages"][1:] == [
        message,
        {"role": "tool", "tool_call_id": "w1", "content": '{"data":{"sky":"blue"}}\nwarm'},
    ]


def test_streamed_tools_and_reasoning_of_another_wire(openai_up: Upstream, upstreams: Callable) -> None:
    def delta(**fields: Any) -> dict[str, Any]:
        return chat_chunk(None, choices=[{"index": 0, "delta": fields, "finish_reason": None}])

    def call(index: int, arguments: str, **fields: Any) -> dict[str, Any]:
        name = {"name": f"f{index}"} if fields else {}
        return delta(tool_calls=[{"index": index, **fields, "function": {**name, "arguments": arguments}}])

    openai_up.stream(
        [
            delta(role="assistant", content=""),
            delta(reasoning_content="hm"),
            delta(content="I look."),
            call(0, "", id="a", type="function"),
            call(0, '{"x"'),
            call(0, ":1}"),
            call(1, "{}", id="b", type="function"),
            chat_chunk(None, "tool_calls"),
            usage_chunk(7, 5),
        ]
    )
    answer = upstreams(openai_up).post("/v2/chat", {"model": "bench", "messages": HELLO, "stream": True})
    events = read_events(answer.text)
    assert [(item["type"], item.get("index")) for item in events] == [
        ("message-start", None),
        ("content-start", 0),
        ("content-delta", 0),
        ("content-end", 0),
        ("content-start", 1),
        ("content-delta", 1),
        ("content-end", 1),
        ("tool-call-start", 0),
        ("tool-call-delta", 0),
        ("tool-call-delta", 0),
        ("tool-call-end", 0),
        ("tool-call-start", 1),
        ("tool-call-delta", 1),
        ("tool-call-end", 1),
        ("message-end", None),
    ]
    assert events[1]["delta"]["message"]["content"]["type"] == "thinking"
    assert events[7]["delta"]["message"]["tool_calls"]["id"] == "a"
    assert events[-1]["delta"] == {
        "finish_reason": "TOOL_CALL",
        "usage": {"tokens": {"input_tokens": 7, "output_tokens": 5}},
    }


def test_schemas_images_and_reasoning_before_another_wire(openai_up: Upstream, other: cohere.ClientV2) -> None:
    schema = {"type": "object", "properties": {}}
    image = {"type": "image_url", "image_url": {"url": PIXEL}}
    other.chat(
        model="bench",
        messages=[
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "one"}]},
            {"role": "user", "content": [{"type": "text", "text": "two"}, image]},
        ],
        response_format={"type": "json_object", "json_schema": schema},
        thinking={"type": "disabled"},
    )
    sent = openai_up.requests[0].body
    assert sent["messages"] == [
        {"role": "assistant", "content": "one", "reasoning_content": "hm"},
        {"role": "user", "content": [{"type": "text", "text": "two"}, image]},
    ]
    assert sent["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert not {"thinking", "reasoning_effort"} & sent.keys(), "nobody asked this vendor to think"
    assert "thinking" not in sent


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_go_through_and_back(cohere_up: Upstream, upstreams: Callable, stream: bool) -> None:
    items = [
        {"text": "He", "token_ids": [5], "logprobs": [-0.5]},
        {"text": "é", "token_ids": [6, 7], "logprobs": [-1.0, -2.0]},
    ]
    if stream:
        events = text_events("He", "é")
        events[1]["logprobs"], events[2]["logprobs"] = items
        cohere_up.use(chat_stream(*events, end()))
    else:
        cohere_up.reply(chat_answer("Heé", logprobs=items))
    running = upstreams(cohere_up, provider=COHERE)
    answer = running.post("/v2/chat", {"model": "bench", "messages": HELLO, "logprobs": True, "stream": stream})
    if stream:
        deltas = [item for item in read_events(answer.text) if item["type"] == "content-delta"]
        assert [item["logprobs"] for item in deltas] == items
    else:
        assert validated(cohere.V2ChatResponse, answer.json()).logprobs[1].token_ids == [6, 7]
        assert answer.json()["logprobs"] == items


def test_embed_before_another_wire(openai_up: Upstream, other: cohere.ClientV2) -> None:
    answer = other.embed(
        model="bench", input_type="search_document", texts=["a", "bcd"], embedding_types=["float", "base64"]
    )
    assert answer.embeddings.float_ == [[1.0, 0.0, 1.0], [3.0, 1.0, 1.0]]
    assert struct.unpack("<3f", base64.b64decode(answer.embeddings.base64[1])) == (3.0, 1.0, 1.0)
    assert answer.texts == ["a", "bcd"]
    assert answer.meta.billed_units.input_tokens == 2
    packed = other.embed(
        model="bench",
        input_type="x",
        inputs=[{"content": [{"type": "text", "text": "ab"}]}],
        embedding_types=["base64"],
    )
    assert struct.unpack("<3f", base64.b64decode(packed.embeddings.base64[0])) == (2.0, 0.0, 1.0)
    plain = other.embed(model="bench", input_type="x", texts=["abcd"], output_dimension=3)
    assert plain.embeddings.float_ == [[4.0, 0.0, 1.0]]
    assert [request.body for request in openai_up.requests] == [
        {"model": "theirs-0", "input": ["a", "bcd"]},
        {"model": "theirs-0", "input": ["ab"], "encoding_format": "base64"},
        {"model": "theirs-0", "input": ["abcd"], "dimensions": 3},
    ]


def test_embed_is_sent_unchanged_to_providers_of_coheres_wire(cohere_up: Upstream, same: cohere.ClientV2) -> None:
    answer = same.embed(
        model="bench",
        input_type="classification",
        texts=["abc"],
        embedding_types=["float", "int8", "base64"],
        truncate="END",
    )
    assert answer.embeddings.float_ == [[3.0, 0.0, 1.0]]
    assert answer.embeddings.int8 == [[3, 0, 1]]
    assert struct.unpack("<3f", base64.b64decode(answer.embeddings.base64[0])) == (3.0, 0.0, 1.0)
    assert answer.meta.billed_units.input_tokens == 5
    image = same.embed(model="bench", input_type="image", images=[PIXEL])
    assert image.embeddings.float_ == [[-1.0, 0.0, 1.0]]
    small = same.embed(model="bench", input_type="x", texts=["abc"], embedding_types=["int8"])
    assert small.embeddings.int8 == [[3, 0, 1]]
    assert cohere_up.requests[0].body == {
        "model": "theirs-0",
        "input_type": "classification",
        "texts": ["abc"],
        "embedding_types": ["float", "int8", "base64"],
        "truncate": "END",
    }
    assert cohere_up.requests[1].body == {"model": "theirs-0", "input_type": "image", "images": [PIXEL]}


def test_a_type_of_embedding_that_another_wire_has_not_is_refused(other: cohere.ClientV2) -> None:
    with pytest.raises(BadRequestError) as caught:
        other.embed(model="bench", input_type="x", texts=["abc"], embedding_types=["int8"])
    assert caught.value.body["error"]["param"] == "embedding_types"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "texts"),
        ({"texts": ["x"], "images": [PIXEL]}, "images"),
        ({"texts": []}, "texts"),
        ({"texts": [1]}, "texts[0]"),
        ({"inputs": [{"content": []}]}, "inputs[0]"),
        ({"images": ["https://example.org/x.png"]}, "input[0].image_url"),
        ({"texts": ["x"], "embedding_types": "float"}, "embedding_types"),
        ({"texts": ["x"], "priority": 1}, "priority"),
    ],
)
def test_an_embed_that_cannot_be_is_refused(
    cohere_up: Upstream, upstreams: Callable, fields: dict[str, Any], param: str
) -> None:
    answer = upstreams(cohere_up, provider=COHERE).post("/v2/embed", {"model": "bench", "input_type": "x", **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not cohere_up.requests


def test_rerank(cohere_up: Upstream, same: cohere.ClientV2) -> None:
    answer = same.rerank(model="bench", query="red car", documents=["a boat", "a red car"], top_n=1)
    assert [(item.index, item.relevance_score) for item in answer.results] == [(1, 1.0)]
    assert answer.meta.billed_units.search_units == 1
    assert answer.id == "r1"
    assert cohere_up.requests[0].path == "/v2/rerank"


def test_rerank_before_another_wire(openai_up: Upstream, other: cohere.ClientV2) -> None:
    ranked = [{"index": 1, "document": {"text": "b"}, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]
    openai_up.reply({"id": "score-1", "model": "theirs-0", "usage": {"total_tokens": 9}, "results": ranked})
    answer = other.rerank(model="bench", query="q", documents=["a", "b"])
    assert [(item.index, item.relevance_score) for item in answer.results] == [(1, 0.9), (0, 0.1)]
    assert openai_up.requests[0].path == "/v1/rerank"
    assert openai_up.requests[0].body == {"model": "theirs-0", "query": "q", "documents": ["a", "b"]}


@pytest.mark.parametrize(("provider", "up"), [(None, "openai_up"), (COHERE, "cohere_up")], ids=["other", "same"])
def test_errors_are_those_of_the_sdk(
    provider: dict[str, Any] | None, up: str, upstreams: Callable, request: pytest.FixtureRequest
) -> None:
    upstream: Upstream = request.getfixturevalue(up)
    # Each is asked of a model at a provider of its own, since one that says when to come again is left alone so long.
    running = upstreams(*[upstream] * 7, provider=provider)
    models = (f"bench{number}" for number in range(1, 7))
    with sdk(running) as client:
        for status, kind in ((422, BadRequestError), (429, TooManyRequestsError), (503, ServiceUnavailableError)):
            upstream.use(reply({"message": "so it is"}, status=status, headers={"retry-after": "7"}), times=2)
            with pytest.raises(kind) as caught:
                client.chat(model=next(models), messages=HELLO)
            assert "so it is" in caught.value.body["error"]["message"]
            if status != 422:
                assert caught.value.headers["retry-after"] == "7"
            with pytest.raises(kind):
                list(client.chat_stream(model=next(models), messages=HELLO))


def test_refusals_of_the_gateways_own(same: cohere.ClientV2, cohere_up: Upstream, upstreams: Callable) -> None:
    with pytest.raises(NotFoundError):
        same.chat(model="nothing", messages=HELLO)
    with pytest.raises(BadRequestError) as caught:
        same.chat(model="bench", messages=[])
    assert caught.value.body["error"]["param"] == "messages"
    with pytest.raises(BadRequestError) as caught:
        same.chat(
            model="bench",
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/x"}}]}],
        )
    assert caught.value.body["error"]["code"] == "url_not_allowed"
    with pytest.raises(BadRequestError) as caught:
        same.chat(model="bench", messages=HELLO, priority=1)
    assert caught.value.body["error"]["param"] == "priority"
    running = upstreams(cohere_up, provider=COHERE)
    with sdk(running, "sk-sage-wrong") as stranger, pytest.raises(UnauthorizedError):
        stranger.chat(model="bench", messages=HELLO)
    assert all(request.path.startswith("/v1/models") for request in cohere_up.requests)


HIDDEN = {"type": "image_url", "image_url": {"url": "http://10.0.0.1/x"}}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v2/chat", {"messages": [*HELLO, {"role": "assistant", "content": [HIDDEN]}]}),
        ("/v2/chat", {"messages": [*HELLO, {"role": "tool", "tool_call_id": "x", "content": [HIDDEN]}]}),
        (
            "/v2/chat",
            {"messages": [*HELLO, {"role": "assistant", "content": [{**HIDDEN, "type": "text", "text": ""}]}]},
        ),
        ("/v2/embed", {"inputs": [{"content": [HIDDEN]}]}),
        ("/v2/embed", {"inputs": [{"content": [{"type": "text", "text": "x"}, HIDDEN]}]}),
        ("/v2/embed", {"inputs": [{"content": [{**HIDDEN, "text": "x"}]}]}),
        ("/v2/embed", {"images": ["http://10.0.0.1/x"]}),
    ],
)
def test_no_body_carries_an_address_past_the_check(
    cohere_up: Upstream, upstreams: Callable, path: str, fields: dict[str, Any]
) -> None:
    answer = upstreams(cohere_up, provider=COHERE).post(path, {"model": "bench", "input_type": "image", **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "url_not_allowed"
    assert not cohere_up.requests


@pytest.mark.parametrize("wire", ["other", "same"])
def test_a_stream_that_breaks_ends_with_coheres_error(wire: str, request: pytest.FixtureRequest) -> None:
    client: cohere.ClientV2 = request.getfixturevalue(wire)
    up: Upstream = request.getfixturevalue({"other": "openai_up", "same": "cohere_up"}[wire])
    gate = threading.Event()
    if wire == "other":
        up.stream([chat_chunk("half"), {"error": {"message": "the model broke"}}], gate=gate, no_done=True)
    else:
        up.use(chat_stream(*text_events("half"), end("ERROR", error="the model broke"), gate=gate, no_done=True))
    events = client.chat_stream(model="bench", messages=HELLO)
    received = [next(events), next(events), next(events)]
    gate.set()
    received += events
    assert received[2].delta.message.content.text == "half"
    assert received[-1].type == "message-end"
    assert received[-1].delta.finish_reason == "ERROR"
    assert "the model broke" in received[-1].delta.error


def test_a_cut_stream_is_not_taken_for_a_complete_one(openai_up: Upstream, other: cohere.ClientV2) -> None:
    openai_up.stream([chat_chunk("half"), chat_chunk("more"), chat_chunk(None, "stop")], cut_after=1)
    events = list(other.chat_stream(model="bench", messages=HELLO))
    assert events[-1].delta.finish_reason == "ERROR"


def test_another_model_answers_when_one_fails(openai_up: Upstream, cohere_up: Upstream, gateway: Callable) -> None:
    """Each gets the request in its own wire."""
    cohere_up.reply({"message": "down"}, status=500)
    running = gateway(
        llm={
            "providers": {
                "co": {**COHERE, "base_url": cohere_up.url},
                "oa": {"kind": "openai", "base_url": openai_up.url, "api_key": "sk-upstream"},
            },
            "models": {
                "first": {"deployments": [{"provider": "co", "model": "command-a"}]},
                "second": {"deployments": [{"provider": "oa", "model": "gpt"}]},
            },
        }
    )
    body = {"model": "first", "messages": HELLO, "p": 0.5, "models": ["second"]}
    answer = running.post("/v2/chat", body)
    assert answer.json()["message"]["content"] == [{"type": "text", "text": "hello out there"}]
    assert cohere_up.requests[0].body == {"model": "command-a", "messages": HELLO, "p": 0.5}
    assert openai_up.requests[0].body == {"model": "gpt", "messages": HELLO, "top_p": 0.5}
