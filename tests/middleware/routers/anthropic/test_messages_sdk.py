"""Anthropic's own SDK at the gateway, before an upstream of OpenAI's wire."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import anthropic
import pytest
import requests
from shared_gateway import PATIENT
from upstream import Received, Script, Upstream, chat_chunk, reply, stream, usage_chunk

pytestmark = pytest.mark.slow  # Anthropic's SDK

HELLO: Any = [{"role": "user", "content": "hello out there"}]
PIXEL = base64.b64encode(b"\x89PNG pixel").decode()
PDF = base64.b64encode(b"%PDF-1.4").decode()
WEATHER: Any = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SF, NY = {"city": "SF"}, {"city": "NY"}
CACHED = {"type": "ephemeral"}


def sections(up: Upstream) -> dict[str, Any]:
    providers = {"up0": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream", "retries": 0}}
    models = {
        name: {"deployments": [{"provider": "up0", "model": f"theirs-{name}"}]} for name in ("bench", "team/other")
    }
    models["thinker"] = {"deployments": [{"provider": "up0", "model": "gpt-5-mini"}]}
    limits = {"image_hosts": ["pictures.example"]}
    llm = {"providers": providers, "models": models, "limits": limits, "routing": PATIENT}
    return {"llm": llm, "api": {"port": 0, "access_log": False, "max_body_bytes": 2**21}}


@pytest.fixture
def client(running: Any) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key=running.key, base_url=running.url, max_retries=0) as sdk:
        yield sdk


def call(name: str, arguments: str, identity: str, index: int = 0) -> dict[str, Any]:
    return {"index": index, "id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return chat_chunk(None, choices=[{"index": 0, "delta": fields, "finish_reason": finish}])


def whole(finish: str = "stop", usage: dict[str, Any] | None = None, **message: Any) -> dict[str, Any]:
    fields = {"content": None, **message}
    choice = {"index": 0, "message": {"role": "assistant", **fields}, "finish_reason": finish}
    counted = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14} if usage is None else usage
    return {"id": "chatcmpl-7", "object": "chat.completion", "model": "theirs", "choices": [choice], "usage": counted}


def sent(up: Upstream) -> dict[str, Any]:
    body: dict[str, Any] = up.requests[-1].body
    return body


# What is asked


def test_a_question_and_its_answer(client: anthropic.Anthropic, up: Upstream) -> None:
    answer = client.messages.create(
        model="bench",
        max_tokens=9,
        system="Be brief.",
        messages=HELLO,
        stop_sequences=["x"],
        metadata={"user_id": "u-1"},
        service_tier="standard_only",
        extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 5},  # which versions of the API before 2026 have
    )
    assert [block.to_dict() for block in answer.content] == [{"type": "text", "text": "hello out there"}]
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "bench")
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 3)
    assert answer.id.startswith("msg_")
    assert answer._request_id
    assert sent(up) == {
        "model": "theirs-bench",
        "messages": [{"role": "system", "content": "Be brief."}, *HELLO],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "stop": ["x"],
        "user": "u-1",
        "service_tier": "default",
    }
    assert up.requests[-1].path == "/v1/chat/completions"


def test_blocks_become_parts(client: anthropic.Anthropic, up: Upstream) -> None:
    content: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        {"type": "image", "source": {"type": "url", "url": "https://pictures.example/a.png"}},
        {
            "type": "document",
            "title": "a.pdf",
            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
        },
        {
            "type": "document",
            "title": "T",
            "context": "C",
            "source": {"type": "text", "media_type": "text/plain", "data": "D"},
        },
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "E"}]}},
        {
            "type": "search_result",
            "title": "F",
            "source": "https://docs.example/f",
            "content": [{"type": "text", "text": "G"}],
        },
    ]
    client.messages.create(model="bench", max_tokens=9, messages=[{"role": "user", "content": content}])
    assert sent(up)["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
                {"type": "text", "text": "T\nC\nD"},
                {"type": "text", "text": "E"},
                {"type": "text", "text": "F\nhttps://docs.example/f\nG"},
            ],
        }
    ]


def test_a_loop_of_tools_whole(client: anthropic.Anthropic, up: Upstream) -> None:
    up.reply(whole("tool_calls", content="I look.", reasoning_content="Hm.", tool_calls=[
        call("weather", json.dumps(SF), "c1"), call("weather", json.dumps(NY), "c2", 1)]), times=1)  # fmt: skip
    first = client.messages.create(
        model="bench", max_tokens=9, messages=HELLO, tools=[WEATHER], tool_choice={"type": "any"}
    )
    assert first.stop_reason == "tool_use"
    assert [block.to_dict() for block in first.content] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "c1", "name": "weather", "input": SF},
        {"type": "tool_use", "id": "c2", "name": "weather", "input": NY},
    ]
    function = {"name": "weather", "description": WEATHER["description"], "parameters": WEATHER["input_schema"]}
    assert sent(up)["tools"] == [{"type": "function", "function": function}]
    assert sent(up)["tool_choice"] == "required"
    results: Any = [
        {"type": "tool_result", "tool_use_id": "c1", "content": "Sun"},
        {"type": "tool_result", "tool_use_id": "c2", "is_error": True, "content": [
            {"type": "text", "text": "No such city"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}]},
        {"type": "text", "text": "And now?"},
    ]  # fmt: skip
    history = [*HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    choice: Any = {"type": "auto", "disable_parallel_tool_use": True}
    client.messages.create(model="bench", max_tokens=9, messages=history, tools=[WEATHER], tool_choice=choice)
    assert sent(up)["parallel_tool_calls"] is False
    assert sent(up)["messages"][1:] == [
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": name, "type": "function", "function": {"name": "weather", "arguments": arguments}}
                for name, arguments in (("c1", '{"city":"SF"}'), ("c2", '{"city":"NY"}'))
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "Sun"},
        {
            "role": "tool",
            "tool_call_id": "c2",
            "content": "Error: No such city\n\n(the picture is in the next message)",
        },
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                {"type": "text", "text": "And now?"},
            ],
        },
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_the_choice_of_a_tool(client: anthropic.Anthropic, up: Upstream, choice: Any, expected: Any) -> None:
    client.messages.create(model="bench", max_tokens=9, messages=HELLO, tools=[WEATHER], tool_choice=choice)
    assert sent(up)["tool_choice"] == expected
    assert "parallel_tool_calls" not in sent(up)


def test_a_schema_of_the_answer(client: anthropic.Anthropic, up: Upstream) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    config: Any = {"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    client.messages.create(model="bench", max_tokens=9, messages=HELLO, output_config=config)
    assert sent(up)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 30_000}}, "high"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "high"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, None),
    ],
)
def test_how_much_to_think(running: Any, up: Upstream, fields: dict[str, Any], effort: str | None) -> None:
    """A model that takes an effort is told one; to others nothing is sent that they would refuse."""
    for model, expected in (("thinker", effort), ("bench", None)):
        answer = running.post("/v1/messages", {"model": model, "max_tokens": 9, "messages": HELLO, **fields})
        assert answer.status_code == 200
        assert sent(up).get("reasoning_effort") == expected


# What comes back


@pytest.mark.parametrize(
    ("finish", "message", "expected"),
    [
        ("stop", {"content": "a"}, ("end_turn", None)),
        ("length", {"content": "a"}, ("max_tokens", None)),
        ("content_filter", {"content": "a"}, ("refusal", None)),
        ("stop", {"refusal": "I will not."}, ("refusal", None)),
        ("stop", {"tool_calls": [call("weather", "{}", "c1")]}, ("tool_use", None)),
        ("function_call", {"function_call": {"name": "weather", "arguments": "{}"}}, ("tool_use", None)),
    ],
)
def test_why_an_answer_ended(
    client: anthropic.Anthropic, up: Upstream, finish: str, message: dict[str, Any], expected: Any
) -> None:
    up.reply(whole(finish, **message), times=1)
    answer = client.messages.create(model="bench", max_tokens=9, messages=HELLO)
    assert (answer.stop_reason, answer.stop_sequence) == expected
    if "refusal" in message:
        assert answer.content[0].text == "I will not."  # type: ignore[union-attr]


def test_the_stop_sequence_that_a_server_names(client: anthropic.Anthropic, up: Upstream) -> None:
    choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop", "stop_reason": "END"}
    up.reply({**whole(), "choices": [choice]}, times=1)
    answer = client.messages.create(model="bench", max_tokens=9, messages=HELLO, stop_sequences=["END"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "END")
    chunk = chat_chunk(None, choices=[{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "END"}])
    up.stream([chat_chunk("a"), chunk], times=1)
    with client.messages.stream(model="bench", max_tokens=9, messages=HELLO, stop_sequences=["END"]) as events:
        streamed = events.get_final_message()
    assert (streamed.stop_reason, streamed.stop_sequence) == ("stop_sequence", "END")


def test_tokens_of_the_cache_and_of_thinking(client: anthropic.Anthropic, up: Upstream) -> None:
    counted = {
        "prompt_tokens": 100,
        "completion_tokens": 40,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 25},
    }
    up.reply(whole(usage=counted, content="a"), times=1)
    used = client.messages.create(model="bench", max_tokens=9, messages=HELLO).usage
    assert (used.input_tokens, used.cache_read_input_tokens, used.cache_creation_input_tokens) == (10, 60, 30)
    assert used.output_tokens == 40
    assert used.output_tokens_details is not None
    assert used.output_tokens_details.thinking_tokens == 25


# Streams

ANSWER = (
    delta(role="assistant", content=""),
    delta(reasoning_content="Hm"),
    delta(reasoning_content="."),
    delta(content="I "),
    delta(content="look."),
    delta(tool_calls=[call("weather", "", "c1")]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city":'}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '"SF"}'}}]),
    delta(tool_calls=[call("weather", "", "c2", 1)]),
    delta(tool_calls=[{"index": 1, "function": {"arguments": '{"city":"NY"}'}}]),
    delta("tool_calls"),
    usage_chunk(9, 5),
)
BLOCKS = [
    {"type": "thinking", "thinking": "Hm.", "signature": ""},
    {"type": "text", "text": "I look."},
    {"type": "tool_use", "id": "c1", "name": "weather", "input": SF},
    {"type": "tool_use", "id": "c2", "name": "weather", "input": NY},
]


def raw_events(running: Any, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    """The events as they came, each with the name in its line ``event:``."""
    body = {"model": "bench", "max_tokens": 9, "messages": HELLO, "stream": True, **fields}
    answer = running.post("/v1/messages", body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    answer.encoding = "utf-8"
    events = []
    for event in answer.text.removesuffix("\n\n").split("\n\n"):
        name, _, data = event.partition("\ndata: ")
        events.append((name.removeprefix("event: "), json.loads(data)))
    return events


def test_every_event_in_order(running: Any, up: Upstream) -> None:
    up.stream(ANSWER, times=1)
    events = raw_events(running, tools=[WEATHER])
    assert all(name == event["type"] for name, event in events)
    start = {"type": "content_block_start"}
    step = {"type": "content_block_delta"}
    stop = {"type": "content_block_stop"}
    assert [event for _, event in events[1:]] == [
        {"type": "ping"},
        {**start, "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
        {**step, "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
        {**step, "index": 0, "delta": {"type": "thinking_delta", "thinking": "."}},
        {**stop, "index": 0},
        {**start, "index": 1, "content_block": {"type": "text", "text": ""}},
        {**step, "index": 1, "delta": {"type": "text_delta", "text": "I "}},
        {**step, "index": 1, "delta": {"type": "text_delta", "text": "look."}},
        {**stop, "index": 1},
        {**start, "index": 2, "content_block": {"type": "tool_use", "id": "c1", "name": "weather", "input": {}}},
        {**step, "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"city":'}},
        {**step, "index": 2, "delta": {"type": "input_json_delta", "partial_json": '"SF"}'}},
        {**stop, "index": 2},
        {**start, "index": 3, "content_block": {"type": "tool_use", "id": "c2", "name": "weather", "input": {}}},
        {**step, "index": 3, "delta": {"type": "input_json_delta", "partial_json": '{"city":"NY"}'}},
        {**stop, "index": 3},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {
                "input_tokens": 9,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 5,
            },
        },
        {"type": "message_stop"},
    ]
    message = events[0][1]["message"]
    assert {name: message[name] for name in ("type", "role", "model", "content", "stop_reason", "stop_sequence")} == {
        "type": "message",
        "role": "assistant",
        "model": "bench",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
    assert message["usage"]["input_tokens"] > 0
    assert message["usage"]["output_tokens"] == 0


def test_the_stream_helper_gathers_what_a_whole_answer_has(client: anthropic.Anthropic, up: Upstream) -> None:
    up.stream(ANSWER, times=1)
    with client.messages.stream(model="bench", max_tokens=9, messages=HELLO, tools=[WEATHER]) as events:
        text = "".join(events.text_stream)
        message = events.get_final_message()
    assert text == "I look."
    assert [block.to_dict() for block in message.content] == BLOCKS
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (9, 5)


def test_chunks_of_one_byte_make_the_same_stream(running: Any, up: Upstream) -> None:
    up.stream(ANSWER, times=1)
    at_once = raw_events(running, tools=[WEATHER])
    whole_stream = stream(ANSWER).writes
    head, body = whole_stream[0][1], b"".join(part for _, part in whole_stream[1:])
    data = b"".join(line for line in dechunked(body))
    torn = b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n"
    up.handler = lambda _: Script(((0.0, head), *((0.0, torn[at : at + 6]) for at in range(0, len(torn), 6))))
    assert raw_events(running, tools=[WEATHER]) == at_once


def dechunked(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        yield rest[:length]
        body = rest[length + 2 :]


def test_a_client_that_reads_slowly_gets_every_piece(running: Any, up: Upstream) -> None:
    """More than the buffers between hold: pieces wait until the client takes them."""
    pieces = [f"{number} {'x' * 2000} " for number in range(1500)]
    up.stream([chat_chunk(piece) for piece in pieces] + [chat_chunk(None, "stop")], times=1)
    body = json.dumps({"model": "bench", "max_tokens": 9, "messages": HELLO, "stream": True})
    address = urlsplit(running.url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect((address.hostname, address.port))
        head = (
            f"POST /v1/messages HTTP/1.1\r\nhost: {address.netloc}\r\nx-api-key: {running.key}\r\nconnection: close\r\n"
        )
        client.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        up.wait_requests(1)
        received = bytearray()
        while data := client.recv(4096):
            received += data
    texts = re.findall(
        rb'"text_delta","text":"([^"]*)"', b"".join(dechunked(bytes(received).partition(b"\r\n\r\n")[2]))
    )
    assert b"".join(texts).decode() == "".join(pieces)
    assert b'data: {"type":"message_stop"}\n\n' in received[-80:]


def test_interleaved_calls_come_one_after_the_other(running: Any, up: Upstream) -> None:
    up.stream(
        [
            delta(tool_calls=[call("weather", '{"city":', "c1"), call("weather", '{"city":', "c2", 1)]),
            delta(tool_calls=[{"index": 1, "function": {"arguments": '"NY"}'}}]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": '"SF"}'}}]),
            delta(tool_calls=[call("clock", "", "c3", 2)]),
            delta("tool_calls"),
        ],
        times=1,
    )
    events = [event for _, event in raw_events(running, tools=[WEATHER])]
    blocks: dict[int, list[Any]] = {}
    is_open = None
    for event in events:
        if event["type"] == "content_block_start":
            assert is_open is None
            is_open = event["index"]
            blocks[is_open] = [event["content_block"]["id"], event["content_block"]["name"], ""]
        elif event["type"] == "content_block_delta":
            assert event["index"] == is_open
            blocks[is_open][2] += event["delta"]["partial_json"]
        elif event["type"] == "content_block_stop":
            assert event["index"] == is_open
            is_open = None
    assert list(blocks) == [0, 1, 2]
    assert list(blocks.values()) == [
        ["c1", "weather", '{"city":"SF"}'],
        ["c2", "weather", '{"city":"NY"}'],
        ["c3", "clock", ""],
    ]


@pytest.mark.parametrize("say_again", ["", "Hm."])
def test_thinking_with_signatures_in_a_stream(client: anthropic.Anthropic, up: Upstream, say_again: str) -> None:
    signed = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    up.stream(
        [
            delta(reasoning_content="H"),
            delta(reasoning_content="m."),
            delta(thinking_blocks=[{**signed, "thinking": say_again}]),
            delta(thinking_blocks=[{"type": "redacted_thinking", "data": "b3Bh"}]),
            delta(thinking_blocks=[{**signed, "thinking": "More.", "signature": "c2"}]),
            delta("stop", content="Yes."),
        ],
        times=1,
    )
    with client.messages.stream(model="bench", max_tokens=9, messages=HELLO) as events:
        message = events.get_final_message()
    assert [block.to_dict() for block in message.content] == [
        signed,
        {"type": "redacted_thinking", "data": "b3Bh"},
        {"type": "thinking", "thinking": "More.", "signature": "c2"},
        {"type": "text", "text": "Yes."},
    ]


def test_a_stream_that_breaks_ends_with_an_error(client: anthropic.Anthropic, running: Any, up: Upstream) -> None:
    up.stream([chat_chunk("Hel"), chat_chunk("lo")], cut_after=1, times=1)
    name, event = raw_events(running)[-1]
    assert (name, event["type"], event["error"]["type"]) == ("error", "error", "api_error")
    assert event["request_id"]
    up.stream([chat_chunk("Hel"), chat_chunk("lo")], cut_after=1, times=1)
    with (
        pytest.raises(anthropic.APIStatusError, match="cut"),
        client.messages.stream(model="bench", max_tokens=9, messages=HELLO) as events,
    ):
        events.get_final_message()


def test_an_upstream_that_counts_nothing(client: anthropic.Anthropic, up: Upstream) -> None:
    up.stream([chat_chunk("Hello there, how are you?"), chat_chunk(None, "stop")], times=1)
    with client.messages.stream(model="bench", max_tokens=9, messages=HELLO) as events:
        used = events.get_final_message().usage
    assert (used.input_tokens, used.output_tokens) == (8, 7)
    answer = whole(content="Hello there, how are you?")
    del answer["usage"]
    up.reply(answer, times=1)
    used = client.messages.create(model="bench", max_tokens=9, messages=HELLO).usage
    assert used.input_tokens == 8
    assert used.output_tokens > 0


def test_the_async_client(running: Any, up: Upstream) -> None:
    asyncio.run(ask_async(running, up))


async def ask_async(running: Any, up: Upstream) -> None:
    async with anthropic.AsyncAnthropic(api_key=running.key, base_url=running.url, max_retries=0) as client:
        answers = await asyncio.gather(
            *(client.messages.create(model="bench", max_tokens=9, messages=HELLO) for _ in range(4))
        )
        assert {answer.content[0].text for answer in answers} == {"hello out there"}  # type: ignore[union-attr]
        up.stream(ANSWER, times=1)
        async with client.messages.stream(model="bench", max_tokens=9, messages=HELLO, tools=[WEATHER]) as events:
            kinds = [event.type async for event in events if event.type.startswith(("message", "content_block_st"))]
            message = await events.get_final_message()
        assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
        assert [block.to_dict() for block in message.content] == BLOCKS


# Errors

UPSTREAM_ERRORS = [
    (400, anthropic.BadRequestError, "invalid_request_error"),
    (429, anthropic.RateLimitError, "rate_limit_error"),
    (500, anthropic.InternalServerError, "api_error"),
]


@pytest.mark.parametrize(("status", "kind", "name"), UPSTREAM_ERRORS)
def test_errors_of_the_upstream(client: anthropic.Anthropic, up: Upstream, status: int, kind: Any, name: str) -> None:
    up.reply(status=status)
    for streams in (False, True):
        with pytest.raises(kind) as caught:
            client.messages.create(model="bench", max_tokens=9, messages=HELLO, stream=streams)
        assert caught.value.body["error"]["type"] == name
        assert caught.value.body["request_id"] == caught.value.request_id


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"messages": []}, "messages"),
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0]"),
        ({"tools": [{"name": "a"}]}, "tools[0].input_schema"),
        ({"tools": [WEATHER], "tool_choice": {"type": "some"}}, "tool_choice"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tools": [WEATHER, {"type": "bash_20250124", "name": "bash"}]}, "tools[1]"),
        ({"tools": [{"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"}]}, "tools[0]"),
        ({"tools": [{"type": "computer_20250124", "name": "computer", "display_width_px": 1}]}, "tools[0]"),
        ({"container": "c1"}, "container"),
        ({"mcp_servers": [{"type": "url", "url": "https://a.example", "name": "a"}]}, "mcp_servers"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "id": "f"}}]}]},
            "messages[0].content[0].source",
        ),
        ({"messages": [{"role": "assistant", "content": [{"type": "server_tool_use", "id": "s", "name": "web_search",
          "input": {}}]}]}, "messages[0].content[0]"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(running: Any, up: Upstream, fields: dict[str, Any], where: str) -> None:
    answer = running.post("/v1/messages", {"model": "bench", "max_tokens": 9, "messages": HELLO, **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", where)
    for name in ("web_search_20250305", "bash_20250124", "text_editor_20250728", "computer_20250124", "hologram"):
        if name in str(fields):
            assert f"'{name}'" in error["message"]
    assert not up.requests


def test_errors_before_a_handler_runs(running: Any, up: Upstream, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="nobody", max_tokens=9, messages=HELLO)
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.get("/v1/messages/batches", cast_to=object)
    assert unknown.value.body["type"] == "error"
    for answer, status, kind in (
        (running.get("/v1/messages"), 405, "invalid_request_error"),
        (running.post("/v1/messages", headers={"content-type": "application/json"}), 400, "invalid_request_error"),
        (running.post("/v1/messages", data=b"{", headers={"host": "a b"}), 400, "invalid_request_error"),
        (running.post("/v1/messages", {"model": "x" * 2**21}), 413, "request_too_large"),
        (requests.post(running.url + "/v1/messages", json={}), 401, "authentication_error"),
        (running.get("/v1/models/nobody", headers={"anthropic-version": "2023-06-01"}), 404, "not_found_error"),
    ):
        said = answer.json()
        assert (answer.status_code, said["type"], said["error"]["type"]) == (status, "error", kind), said
        assert said["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
    assert "type" not in running.get("/v1/models/nobody").json()


# Credentials


def test_x_api_key_is_taken_here_alone(running: Any, up: Upstream) -> None:
    def post(path: str, headers: dict[str, str]) -> requests.Response:
        body = {"model": "bench", "max_tokens": 9, "messages": HELLO}
        return requests.post(running.url + path, json=body, headers=headers)

    key, other = running.key, running.new_key(name="other")
    assert post("/v1/messages", {"x-api-key": key}).status_code == 200
    assert post("/v1/messages?beta=true", {"x-api-key": key}).status_code == 200
    assert post("/v1/messages/count_tokens", {"x-api-key": key}).status_code == 200
    assert post("/v1/messages", {"x-api-key": key, "authorization": f"Bearer {key}"}).status_code == 200
    differ = post("/v1/messages", {"x-api-key": key, "authorization": f"Bearer {other}"})
    assert (differ.status_code, differ.json()["error"]["code"]) == (401, "two_credentials")
    assert post("/v1/messages", {"x-api-key": "sk-sage-no"}).status_code == 401
    assert post("/v1/chat/completions", {"x-api-key": key}).status_code == 401
    assert requests.get(running.url + "/v1/models", headers={"x-api-key": key}).status_code == 401
    assert requests.get(running.url + "/auth/keys", headers={"x-api-key": key}).status_code == 401


def test_x_api_key_holds_for_each_request_of_a_connection(running: Any) -> None:
    """Heads of one connection that are alike share what was found in them, whatever the length of their bodies."""
    key, other = running.key, running.new_key(name="elsewhere", models=["team/*"])
    with requests.Session() as session:

        def post(text: str, key: str, **headers: str) -> requests.Response:
            body = {"model": "bench", "max_tokens": 9, "messages": [{"role": "user", "content": text}]}
            return session.post(running.url + "/v1/messages", json=body, headers={"x-api-key": key, **headers})

        assert [post("a" * size, key).status_code for size in (1, 1, 30, 300, 1)] == [200] * 5
        assert post("a", other).status_code == 403
        assert [post("a" * size, key).status_code for size in (1, 1, 30)] == [200] * 3
        differ = post("a", key, authorization=f"Bearer {other}")
        assert (differ.status_code, differ.json()["error"]["code"]) == (401, "two_credentials")
        both = [post("a" * size, key, authorization=f"Bearer {key}") for size in (1, 1, 30)]
        assert [(answer.status_code, answer.headers["request-id"]) for answer in both] == [
            (200, answer.headers["x-request-id"]) for answer in both
        ]


def test_a_key_without_the_right(running: Any, up: Upstream) -> None:
    key = running.new_key(name="narrow", models=["team/*"])
    with anthropic.Anthropic(api_key=key, base_url=running.url, max_retries=0) as client:
        with pytest.raises(anthropic.PermissionDeniedError):
            client.messages.create(model="bench", max_tokens=9, messages=HELLO)
        assert [model.id for model in client.models.list()] == ["team/other"]


# Models and tokens


def test_models_are_paged(client: anthropic.Anthropic, running: Any, up: Upstream) -> None:
    names = [model["id"] for model in running.get("/v1/models").json()["data"]]
    assert len(names) > 2
    assert [model.id for model in client.models.list(limit=1)] == names
    last = client.models.list(limit=2, before_id=names[-1])
    assert [model.id for model in last.data] == names[-3:-1]
    model = client.models.retrieve("team/other")
    assert (model.id, model.type, model.display_name) == ("team/other", "model", "team/other")
    listed = running.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert listed.headers["request-id"] == listed.headers["x-request-id"]
    with pytest.raises(anthropic.BadRequestError, match="after_id"):
        client.models.list(after_id="nobody")
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("nobody")
    assert running.get("/v1/models").json()["object"] == "list"


def test_tokens_are_estimated_where_there_is_no_tokenizer(client: anthropic.Anthropic, up: Upstream) -> None:
    answer = client.messages.with_raw_response.count_tokens(model="bench", messages=HELLO, system="Be brief.")
    assert answer.headers["x-sage-token-count"] == "estimate"
    assert answer.parse().input_tokens == 4 + 4 + 6
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="nobody", messages=HELLO)
    assert not [request for request in up.requests if request.method == "POST"]


# What a coding agent sends


def agent_request(**fields: Any) -> dict[str, Any]:
    """A request as Claude Code sends it: blocks of system with marks, many tools, betas and hints."""
    tools = [{**WEATHER, "name": f"tool{number}", "input_examples": [SF]} for number in range(40)]
    tools[-1]["cache_control"] = CACHED
    return {
        "model": "bench",
        "max_tokens": 32000,
        "system": [
            {"type": "text", "text": "You are an agent."},
            {"type": "text", "text": "Rules.", "cache_control": {**CACHED, "ttl": "1h"}},
        ],
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "<system-reminder>Today is Monday.</system-reminder>"},
                {"type": "text", "text": "Fix it.", "cache_control": CACHED}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "I read.", "signature": "/9c2ln"},
                {"type": "redacted_thinking", "data": "/b3Bh"},
                {"type": "tool_use", "id": "t1", "name": "tool1", "input": {"path": "/etc/hosts"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "127.0.0.1"}],
                 "cache_control": CACHED}]},
        ],
        "tools": tools,
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "metadata": {"user_id": "user_" + "a" * 64 + "_account__session_" + "b" * 36},
        "temperature": 1,
        "stream": True,
        **fields,
    }  # fmt: skip


def test_a_coding_agent_before_any_model(running: Any, up: Upstream) -> None:
    headers = {
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
        "anthropic-version": "2023-06-01",
    }
    answer = running.post("/v1/messages?beta=true", agent_request(), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')
    body = sent(up)
    assert body["messages"] == [
        {"role": "system", "content": "You are an agent.\n\nRules."},
        {"role": "user", "content": "<system-reminder>Today is Monday.</system-reminder>\n\nFix it."},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "I read.",
            "tool_calls": [
                {
                    "id": "t1",
                    "type": "function",
                    "function": {"name": "tool1", "arguments": '{"path":"/etc/hosts"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "127.0.0.1"},
    ]
    assert len(body["user"]) == 64
    assert not {"thinking", "output_config", "context_management", "metadata", "system", "cache_control"} & body.keys()
    assert all(tool.keys() == {"type", "function"} for tool in body["tools"])
    count = running.post("/v1/messages/count_tokens?beta=true", agent_request(), headers=headers)
    assert count.json()["input_tokens"] > 360


def echo_of_tools(request: Received) -> Script:
    return reply(whole("tool_calls", tool_calls=[call(request.body["tools"][0]["function"]["name"], "{}", "c1")]))


def test_a_fallback_answers_in_the_same_shape(running: Any, up: Upstream) -> None:
    up.handler = echo_of_tools
    body = {"model": "bench", "models": ["team/other"], "max_tokens": 9, "messages": HELLO, "tools": [WEATHER]}
    answer = running.post("/v1/messages", body).json()
    assert answer["content"] == [{"type": "tool_use", "id": "c1", "name": "weather", "input": {}}]
