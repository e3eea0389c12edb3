"""Anthropic behind OpenAI's surface: OpenAI's SDK as the client, behind it a scripted Anthropic that knows its wire."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from anthropic_wire import (
    KEY,
    anthropic_like,
    block,
    end,
    events,
    failure,
    message,
    one_byte,
    text_block,
    thinking_block,
    tool_block,
    usage,
)
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from running_gateway import Running
from shared_gateway import PATIENT, SharedGateway, share_gateway
from upstream import Upstream, reply

pytestmark = pytest.mark.slow  # Anthropic's SDK

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello out there"}]
PIXEL = f"data:image/png;base64,{base64.b64encode(b'pixel').decode()}"
PDF = f"data:application/pdf;base64,{base64.b64encode(b'%PDF-1.4').decode()}"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather of a city.", "parameters": PARAMETERS},
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
MODELS = {
    "bench": "claude-sonnet-4-5",
    "newer": "claude-opus-4-8",
    "older": "claude-3-5-haiku-20241022",
    "always": "claude-fable-5-1",
    "easy": "claude-sonnet-4-5",
}


def sections(up: Upstream) -> dict[str, Any]:
    provider = {"kind": "anthropic", "api_key": KEY, "base_url": up.url}
    models = {name: {"deployments": [{"provider": "claude", "model": theirs}]} for name, theirs in MODELS.items()}
    models["easy"]["drop_unsupported"] = True
    return {"llm": {"providers": {"claude": provider}, "models": models, "routing": PATIENT}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedGateway]:
    with share_gateway(tmp_path_factory.mktemp("shared"), sections) as started:
        yield started


@pytest.fixture
def up(shared: SharedGateway) -> Upstream:
    upstream = shared.up()
    upstream.handler = anthropic_like
    return upstream


@pytest.fixture
def running(shared: SharedGateway, up: Upstream) -> Running:
    return shared.running()


@pytest.fixture
def sdk(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, messages: Any = HELLO, model: str = "bench", **fields: Any) -> Any:
    return client.chat.completions.create(model=model, messages=messages, **fields)


def refused(client: openai.OpenAI, messages: Any = HELLO, **fields: Any) -> tuple[str, str]:
    """``(param, message)`` of the 400."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages, **fields)
    return caught.value.body["param"], caught.value.body["message"]


@pytest.mark.proves("anthropic", "chat", "usage", "system", "multi-turn")
def test_a_chat(up: Upstream, sdk: openai.OpenAI) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "one"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "three", "refusal": None, "annotations": []},
        *HELLO,
    ]
    answer = ask(sdk, chat)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("hello out there", "stop")
    assert (answer.model, answer.id) == ("bench", "msg_01")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (answer.usage.total_tokens - 3, 3)
    sent = up.requests[0]
    assert (sent.method, sent.path) == ("POST", "/v1/messages")
    assert (sent.headers["x-api-key"], sent.headers["anthropic-version"]) == (KEY, "2023-06-01")
    assert "authorization" not in sent.headers
    assert sent.body == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 64_000,
        "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "three"},
            {"role": "user", "content": "hello out there"},
        ],
    }


@pytest.mark.proves("anthropic", "streaming", "usage")
def test_a_stream_comes_piece_by_piece_and_usage_to_who_asks(up: Upstream, sdk: openai.OpenAI) -> None:
    plain = list(ask(sdk, stream=True))
    counted = list(ask(sdk, stream=True, stream_options={"include_usage": True}))
    for chunks in (plain, counted):
        choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
        assert [choice.delta.content for choice in choices if choice.delta.content] == ["hello ", "out ", "there "]
        assert choices[0].delta.role == "assistant"
        assert [choice.finish_reason for choice in choices] == [None, None, None, "stop"]
        assert {chunk.model for chunk in chunks} == {"bench"}
    assert all(chunk.usage is None for chunk in plain)
    assert counted[-1].choices == []
    assert counted[-1].usage.completion_tokens == 3
    assert up.requests[0].body["stream"] is True


@pytest.mark.proves("anthropic", "images")
def test_pictures_and_files(up: Upstream, sdk: openai.OpenAI) -> None:
    text = base64.b64encode("größe".encode()).decode()
    parts = [
        {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": PIXEL}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}},
        {"type": "file", "file": {"filename": "a.txt", "file_data": f"data:text/plain;base64,{text}"}},
    ]
    ask(sdk, [{"role": "user", "content": parts}])
    pixel, pdf = PIXEL.partition(",")[2], PDF.partition(",")[2]
    assert up.requests[0].body["messages"][0]["content"] == [
        {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": pixel}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": pdf},
            "title": "a.pdf",
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "größe"}, "title": "a.txt"},
    ]
    for part, field in (
        ({"type": "file", "file": {"file_id": "file-1"}}, "messages[0].content[0].file"),
        ({"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}, "messages[0].content[0]"),
        ({"type": "file", "file": {"file_data": "data:application/zip;base64,aGk="}}, "messages[0].content[0].file"),
    ):
        assert refused(sdk, [{"role": "user", "content": [part]}])[0] == field


@pytest.mark.proves("anthropic", "tools", "parallel tools", "multi-turn")
def test_a_loop_of_tools(up: Upstream, sdk: openai.OpenAI) -> None:
    used = [
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln"}},
        {"type": "tool_use", "id": "toolu_2", "name": "clock", "input": {}},
    ]
    up.use(reply(message({"type": "text", "text": "I look."}, *used, stop="tool_use")), times=1)
    first = ask(sdk, tools=[WEATHER, CLOCK]).choices[0]
    assert (first.finish_reason, first.message.content) == ("tool_calls", "I look.")
    assert [
        (call.id, call.function.name, json.loads(call.function.arguments)) for call in first.message.tool_calls
    ] == [
        ("toolu_1", "weather", {"city": "Köln"}),
        ("toolu_2", "clock", {}),
    ]
    up.reset()
    up.handler = anthropic_like
    results = [
        {"role": "tool", "tool_call_id": "toolu_1", "content": "rain"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": [{"type": "text", "text": "noon"}]},
    ]
    turn = first.message.model_dump()
    answer = ask(sdk, [*HELLO, turn, *results, *HELLO], tools=[WEATHER, CLOCK], parallel_tool_calls=False)
    assert answer.choices[0].message.content == "hello out there"
    sent = up.requests[0].body
    assert sent["tools"] == [
        {"name": "weather", "description": "The weather of a city.", "input_schema": PARAMETERS},
        {"name": "clock", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert sent["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert sent["messages"][1:] == [
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, *used]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "noon"},
                {"type": "text", "text": "hello out there"},
            ],
        },
    ]
    ask(sdk, [*HELLO, turn, *results])  # without tools, which Anthropic asks for where they were called
    sent = up.requests[1].body
    assert [tool["name"] for tool in sent["tools"]] == ["weather", "clock"]
    assert sent["tool_choice"] == {"type": "none"}


def test_a_loop_that_another_vendor_has_begun(up: Upstream, sdk: openai.OpenAI) -> None:
    call = {"id": "call:1.2", "type": "function", "function": {"name": "clock", "arguments": ""}}
    chat = [*HELLO, {"role": "assistant", "content": "\n\n", "tool_calls": [call], "reasoning_content": "hm"}]
    ask(
        sdk, [*chat, {"role": "tool", "tool_call_id": "call:1.2", "content": ""}], tools=[CLOCK], reasoning_effort="low"
    )
    sent = up.requests[0].body
    assert sent["messages"][1]["content"] == [{"type": "tool_use", "id": "call_1_2", "name": "clock", "input": {}}]
    assert sent["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "call_1_2"}]
    assert "thinking" not in sent  # Anthropic refuses it where the loop's own thoughts are missing
    call["function"]["arguments"] = "[1]"
    assert refused(sdk, chat, tools=[CLOCK])[0] == "messages[1].tool_calls[0].function.arguments"


@pytest.mark.proves("anthropic", "tool_choice")
def test_the_choice_of_a_tool(up: Upstream, sdk: openai.OpenAI) -> None:
    function = {"type": "function", "function": {"name": "clock"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [function]}}
    for given, sent in (
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        (function, {"type": "tool", "name": "clock"}),
        (allowed, {"type": "any"}),
    ):
        ask(sdk, tools=[WEATHER, CLOCK], tool_choice=given, reasoning_effort="low" if sent["type"] == "any" else None)
        assert up.requests[-1].body["tool_choice"] == sent
    assert [tool["name"] for tool in up.requests[-1].body["tools"]] == ["clock"]
    assert refused(sdk, tools=[CLOCK], tool_choice={"type": "function", "function": {"name": "x"}})[0] == "tool_choice"


@pytest.mark.proves("anthropic", "streamed tool arguments", "parallel tools", "tools")
def test_streamed_calls(up: Upstream, sdk: openai.OpenAI) -> None:
    blocks = [
        *text_block("I look."),
        *tool_block("weather", '{"ci', 'ty":"K"}', index=1),
        *tool_block("clock", index=2, identity="toolu_02"),
    ]
    up.use(events(*blocks, *end("tool_use")), times=1)
    chunks = list(ask(sdk, tools=[WEATHER, CLOCK], stream=True))
    calls = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or ()]
    assert [(call.index, call.id, call.function.name, call.function.arguments) for call in calls] == [
        (0, "toolu_01", "weather", ""),
        (0, None, None, '{"ci'),
        (0, None, None, 'ty":"K"}'),
        (1, "toolu_02", "clock", ""),
        (1, None, None, "{}"),
    ]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.proves("anthropic", "reasoning")
def test_thoughts_are_kept_through_a_loop_of_tools(up: Upstream, sdk: openai.OpenAI, running: Running) -> None:
    thought = {"type": "thinking", "thinking": "hm, the clock", "signature": "c2lnbg=="}
    hidden = {"type": "redacted_thinking", "data": "ZW5jcnlwdGVk"}
    used = {"type": "tool_use", "id": "toolu_1", "name": "clock", "input": {}}
    details = {"output_tokens_details": {"thinking_tokens": 2}}
    up.use(reply(message(thought, hidden, used, stop="tool_use", counted=usage(4, 3, **details))), times=1)
    whole = ask(sdk, tools=[CLOCK], reasoning_effort="high")
    turn = whole.choices[0].message.model_dump()
    assert turn["reasoning_content"] == "hm, the clock"
    assert turn["thinking_blocks"] == [thought, hidden]
    assert whole.usage.completion_tokens_details.reasoning_tokens == 2
    assert up.requests[0].body["thinking"] == {"type": "enabled", "budget_tokens": 16_384}
    stream = [
        *thinking_block("hm, ", "the clock"),
        *block(hidden, index=1),
        *tool_block("clock", index=2, identity="toolu_1"),
    ]
    up.use(events(*stream, *end("tool_use")), times=1)
    deltas = [chunk.choices[0].delta.model_dump() for chunk in ask(sdk, tools=[CLOCK], stream=True)]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "hm, the clock"
    assert [kept for delta in deltas for kept in delta.get("thinking_blocks") or ()] == [thought, hidden]
    up.reset()
    up.handler = anthropic_like
    foreign = {"type": "thinking", "thinking": "another's"}
    turn["thinking_blocks"] = [foreign, *turn["thinking_blocks"]]
    result = {"role": "tool", "tool_call_id": "toolu_1", "content": "noon"}
    ask(sdk, [*HELLO, turn, result], tools=[CLOCK], reasoning_effort="high")
    assert up.requests[0].body["messages"][1]["content"] == [thought, hidden, used]
    assert up.requests[0].body["thinking"]["type"] == "enabled"


def test_how_hard_a_model_thinks(up: Upstream, sdk: openai.OpenAI) -> None:
    for model, effort, bound, thinking, output in (
        ("bench", "low", 9000, {"type": "enabled", "budget_tokens": 2048}, None),
        ("bench", "high", 5000, {"type": "enabled", "budget_tokens": 4999}, None),
        ("bench", "high", 1000, None, None),
        ("bench", "none", 1000, None, None),
        ("newer", "minimal", 1000, {"type": "adaptive", "display": "summarized"}, {"effort": "low"}),
        ("newer", "xhigh", 1000, {"type": "adaptive", "display": "summarized"}, {"effort": "xhigh"}),
        ("newer", "none", 1000, {"type": "disabled"}, None),
        ("always", "medium", 1000, {"type": "adaptive", "display": "summarized"}, {"effort": "medium"}),
    ):
        ask(sdk, model=model, reasoning_effort=effort, max_completion_tokens=bound)
        sent = up.requests[-1].body
        assert (sent.get("thinking"), sent.get("output_config"), sent["max_tokens"]) == (thinking, output, bound)
    assert refused(sdk, model="older", reasoning_effort="low")[0] == "reasoning_effort"
    assert refused(sdk, model="always", reasoning_effort="none")[0] == "reasoning_effort"
    assert refused(sdk, reasoning_effort="very")[0] == "reasoning_effort"
    ask(sdk, model="older", reasoning_effort="none")
    assert up.requests[-1].body["max_tokens"] == 8192


@pytest.mark.proves("anthropic", "response_format json_schema")
def test_a_schema_for_the_answer(up: Upstream, sdk: openai.OpenAI) -> None:
    ask(sdk, response_format=FORM)
    closed = {**SCHEMA, "additionalProperties": False}
    assert up.requests[0].body["output_config"] == {"format": {"type": "json_schema", "schema": closed}}
    called = {"type": "tool_use", "id": "toolu_1", "name": "give_answer", "input": {"a": 1}}
    up.use(reply(message(called, stop="tool_use")), times=1)
    whole = ask(sdk, model="older", response_format=FORM).choices[0]
    assert (whole.message.content, whole.message.tool_calls, whole.finish_reason) == ('{"a":1}', None, "stop")
    sent = up.requests[1].body
    assert [(tool["name"], tool["input_schema"]) for tool in sent["tools"]] == [("give_answer", SCHEMA)]
    assert sent["tool_choice"] == {"type": "tool", "name": "give_answer"}
    up.use(events(*tool_block("give_answer", '{"a"', ":1}"), *end("tool_use")), times=1)
    choices = [chunk.choices[0] for chunk in ask(sdk, model="older", response_format=FORM, stream=True)]
    assert "".join(choice.delta.content or "" for choice in choices) == '{"a":1}'
    assert choices[-1].finish_reason == "stop"
    assert refused(sdk, model="older", response_format=FORM, tools=[CLOCK])[0] == "response_format"


@pytest.mark.proves("anthropic", "response_format json_object", "seed", "n", "logprobs", refused=True)
def test_what_anthropic_does_not_have(up: Upstream, sdk: openai.OpenAI) -> None:
    for field, value in (
        ("response_format", {"type": "json_object"}),
        ("seed", 1),
        ("n", 2),
        ("logprobs", True),
        ("frequency_penalty", 0.5),
        ("temperature", 1.5),
        ("web_search_options", {}),
    ):
        assert refused(sdk, **{field: value})[0] == field
    assert refused(sdk, model="newer", temperature=0.5) == (
        "temperature",
        "the provider 'claude' (anthropic) does not support 'temperature' for this model; leave it out, or have an "
        "administrator set drop_unsupported: true for the model",
    )
    assert refused(sdk, temperature=0.5, reasoning_effort="low")[0] == "temperature"
    assert refused(sdk, tools=[{"type": "web_search_20250305", "name": "web_search"}])[0] == "tools[0]"
    assert not up.requests


@pytest.mark.proves("anthropic", "drop_unsupported", "stop")
def test_fields_that_are_left_out_or_have_another_name(up: Upstream, sdk: openai.OpenAI) -> None:
    ask(sdk, model="easy", seed=1, n=2, logprobs=True, temperature=0.5, stop=["x", ""], user="u-1", max_tokens=7)
    sent = up.requests[0].body
    assert {name: value for name, value in sent.items() if name not in ("model", "messages")} == {
        "max_tokens": 7,
        "temperature": 0.5,
        "stop_sequences": ["x"],
        "metadata": {"user_id": "u-1"},
    }
    ask(sdk, model="newer", temperature=1, top_p=1, n=1, frequency_penalty=0, store=True)
    assert up.requests[1].body.keys() == {"model", "messages", "max_tokens"}


@pytest.mark.proves("anthropic", "several keys", "list models", "tokenize")
def test_a_token_models_and_counts(up: Upstream, upstreams: Any) -> None:
    running = upstreams(up, provider={"kind": "anthropic", "api_key": None, "auth_token": KEY})
    assert running.chat("up0/claude-opus-4-8").status_code == 200
    assert up.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    assert "x-api-key" not in up.requests[-1].headers
    counted = running.post("/v1/tokenize", {"model": "bench", "messages": HELLO, "max_tokens": 5}).json()
    assert counted == {"count": 6, "max_model_len": None, "tokens": []}
    assert up.requests[-1].path == "/v1/messages/count_tokens"
    assert up.requests[-1].body == {"model": "theirs-0", "messages": HELLO}
    assert running.chat("claude-sonnet-4-5").status_code == 200  # which the provider lists
    several = upstreams(up, provider={"kind": "anthropic", "api_keys": ["wrong-key-1"], "api_key": KEY})
    assert [several.chat().status_code for _ in range(4)] == [200] * 4


@pytest.mark.proves("anthropic", "usage")
def test_cached_tokens_are_of_the_prompt(up: Upstream, sdk: openai.OpenAI) -> None:
    counts = usage(4, 3, cache_read_input_tokens=100, cache_creation_input_tokens=20)
    up.use(reply(message({"type": "text", "text": "x"}, counted=counts)), times=1)
    whole = ask(sdk).usage
    up.use(
        events(*text_block("x"), *end(counted={"output_tokens": 3}), counted={**counts, "output_tokens": 1}), times=1
    )
    streamed = list(ask(sdk, stream=True, stream_options={"include_usage": True}))[-1].usage
    for told in (whole, streamed):
        assert (told.prompt_tokens, told.completion_tokens, told.total_tokens) == (124, 3, 127)
        assert told.prompt_tokens_details.cached_tokens == 100
        assert told.prompt_tokens_details.model_extra["cache_creation_tokens"] == 20


def test_why_an_answer_ended(up: Upstream, sdk: openai.OpenAI) -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "I will not."}
    for stop, fields, finish in (
        ("max_tokens", {}, "length"),
        ("model_context_window_exceeded", {}, "length"),
        ("stop_sequence", {"stop_sequence": "END"}, "stop"),
        ("pause_turn", {}, "stop"),
        ("refusal", {"stop_details": details}, "content_filter"),
    ):
        up.use(reply(message({"type": "text", "text": "x"}, stop=stop, **fields)), times=1)
        whole = ask(sdk).choices[0]
        up.use(events(*text_block("x"), *end(stop, **fields)), times=1)
        last = list(ask(sdk, stream=True))[-1].choices[0]
        assert (whole.finish_reason, last.finish_reason) == (finish, finish)
        assert whole.message.refusal == last.delta.refusal == ("I will not." if stop == "refusal" else None)
        told = fields.get("stop_sequence")
        assert (whole.model_extra.get("stop_reason"), last.model_extra.get("stop_reason")) == (told, told)


def test_citations_stay_with_the_text(up: Upstream, sdk: openai.OpenAI) -> None:
    cited = {
        "type": "char_location",
        "cited_text": "x",
        "document_index": 0,
        "document_title": "d",
        "start_char_index": 0,
        "end_char_index": 1,
        "file_id": None,
    }
    up.use(reply(message({"type": "text", "text": "x", "citations": [cited]})), times=1)
    assert ask(sdk).choices[0].message.model_extra["citations"] == [cited]
    deltas = [{"type": "text_delta", "text": "x"}, {"type": "citations_delta", "citation": cited}]
    up.use(events(*block({"type": "text", "text": "", "citations": []}, *deltas), *end()), times=1)
    chunks = [chunk.choices[0].delta.model_extra or {} for chunk in ask(sdk, stream=True)]
    assert [chunk["citations"] for chunk in chunks if "citations" in chunk] == [[cited]]


def test_answers_are_openais_types_byte_by_byte(up: Upstream, running: Running) -> None:
    answer = ChatCompletion.model_validate(running.chat().json(), strict=True)
    assert answer.choices[0].message.content == "hello"
    up.use(
        one_byte([*thinking_block("hm"), *text_block("grün", index=1), *tool_block("f", "{}", index=2), *end()]),
        times=1,
    )
    lines = running.chat(stream=True).text.split("\n\n")
    chunks = [ChatCompletionChunk.model_validate_json(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "grün"
    assert lines[-2:] == ["data: [DONE]", ""]


@pytest.mark.proves("anthropic", "errors")
def test_errors(up: Upstream, running: Running, upstreams: Any) -> None:
    for status, kind, ours in (
        (400, "invalid_request_error", 400),
        (401, "authentication_error", 502),
        (403, "permission_error", 502),
        (404, "not_found_error", 404),
        (413, "request_too_large", 413),
        (429, "rate_limit_error", 429),
        (500, "api_error", 502),
        (504, "timeout_error", 504),
        (529, "overloaded_error", 503),
    ):
        alone = upstreams(up, provider={"kind": "anthropic", "api_key": KEY, "retries": 0})
        up.use(failure(status, kind, "so it is", **({"retry-after": "7"} if ours in (429, 503) else {})), times=1)
        answer = alone.chat()
        assert answer.status_code == ours, answer.text
        assert answer.headers.get("retry-after") == ("7" if ours in (429, 503) else None)
        if status not in (401, 403):
            assert "so it is" in answer.json()["error"]["message"]
    up.reset()
    up.handler = anthropic_like
    up.use(failure(529, "overloaded_error", "Overloaded"), times=1)
    assert running.chat().status_code == 503 or up.requests  # another attempt is made where there is another


def test_a_stream_that_fails(up: Upstream, upstreams: Any) -> None:
    running = upstreams(up, provider={"kind": "anthropic", "api_key": KEY, "retries": 0}, llm={"routing": PATIENT})
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    up.use(events(overloaded), times=1)
    assert running.chat(stream=True).status_code == 503
    up.use(events(*text_block("half")[:2], overloaded, delay=0.05), times=1)
    text = running.chat(stream=True).text
    assert '"half"' in text
    assert "Overloaded" in text
    assert "[DONE]" not in text
    for cut in (text_block("half")[:2], text_block("half"), [*tool_block("f", '{"a"')[:2], end("tool_use")[0]]):
        up.use(events(*cut), times=1)
        text = running.chat(stream=True).text
        assert "upstream_broken" in text, text
        assert '"finish_reason":"stop"' not in text
    up.use(events(*text_block("all"), end()[0]))  # nothing is missing but the last event
    assert running.chat(stream=True).text.endswith("data: [DONE]\n\n")


def test_an_answer_of_the_other_sort(up: Upstream, running: Running) -> None:
    up.use(reply(message({"type": "text", "text": "whole"})), times=1)
    text = running.chat(stream=True).text
    assert '"content":"whole"' in text
    assert text.endswith("data: [DONE]\n\n")
    up.use(events(*thinking_block("hm"), *text_block("str", "eam", index=1), *end("max_tokens")), times=1)
    answer = running.chat().json()["choices"][0]
    assert (answer["message"]["content"], answer["finish_reason"]) == ("stream", "length")
    assert answer["message"]["thinking_blocks"] == [{"type": "thinking", "thinking": "hm", "signature": "c2lnbg=="}]
