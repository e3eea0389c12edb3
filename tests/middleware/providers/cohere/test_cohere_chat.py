"""Cohere behind OpenAI's surface: OpenAI's own SDK as the client, a scripted Cohere that knows its wire behind."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from cohere_wire import KEY, called, chat_answer, chat_stream, cohere_like, end, event, text_events, usage
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from running_gateway import Running
from shared_gateway import SharedGateway, one_model, share_gateway
from upstream import Upstream, reply

pytestmark = pytest.mark.slow  # Cohere's SDK

COHERE = {"kind": "cohere", "api_key": KEY}
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello out there"}]
PIXEL = f"data:image/png;base64,{base64.b64encode(b'pixel').decode()}"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


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
def start(up: Upstream, upstreams: Callable) -> Callable[..., Any]:
    def begin(*, retries: int = 2, **sections: Any) -> Any:
        return upstreams(up, provider={**COHERE, "retries": retries}, **sections)

    return begin


@pytest.fixture
def sdk(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, messages: Any = HELLO, **fields: Any) -> Any:
    return client.chat.completions.create(model="bench", messages=messages, **fields)


def refused(client: openai.OpenAI, messages: Any = HELLO, **fields: Any) -> tuple[str, str]:
    """``(param, message)`` of the 400."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages, **fields)
    return caught.value.body["param"], caught.value.body["message"]


@pytest.mark.proves("cohere", "chat", "usage")
def test_chat(up: Upstream, sdk: openai.OpenAI) -> None:
    answer = ask(sdk)
    assert answer.choices[0].message.content == "hello out there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "bench"
    assert answer.id == "c14c80c3"
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 4,
        "completion_tokens": 3,
        "total_tokens": 7,
        "billed_units": {"input_tokens": 3, "output_tokens": 3},
    }
    sent = up.requests[0]
    assert (sent.method, sent.path) == ("POST", "/v2/chat")
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.body == {"model": "theirs-0", "stream": False, "messages": HELLO}


@pytest.mark.proves("cohere", "streaming", "usage")
def test_a_stream_comes_piece_by_piece_and_usage_to_who_asks(up: Upstream, sdk: openai.OpenAI) -> None:
    plain = list(ask(sdk, stream=True))
    counted = list(ask(sdk, stream=True, stream_options={"include_usage": True}))
    for chunks in (plain, counted):
        pieces = [
            chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content
        ]
        assert pieces == ["hello ", "out ", "there "]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None, None, None, "stop"]
        assert {chunk.model for chunk in chunks} == {"bench"}
        assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in plain)
    assert counted[-1].choices == []
    assert (counted[-1].usage.prompt_tokens, counted[-1].usage.completion_tokens) == (4, 3)
    assert up.requests[0].body["stream"] is True


def test_answers_are_openais_types(start: Callable[..., Any]) -> None:
    running = start()
    answer = ChatCompletion.model_validate(running.chat().json(), strict=True)
    assert answer.choices[0].message.content == "hello"
    lines = running.chat(stream=True, stream_options={"include_usage": True}).text.split("\n\n")
    chunks = [ChatCompletionChunk.model_validate_json(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "hello "
    assert lines[-2:] == ["data: [DONE]", ""]


def test_a_piece_is_with_the_client_before_the_next_is_there(up: Upstream, sdk: openai.OpenAI) -> None:
    gate = threading.Event()
    up.use(chat_stream(*text_events("first ", "second"), end(), gate=gate, no_done=True))
    chunks = iter(ask(sdk, stream=True))
    assert next(chunks).choices[0].delta.content == "first "
    gate.set()
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"


@pytest.mark.usefixtures("renewed")
def test_the_usage_of_a_stream_is_counted_though_nobody_asks(up: Upstream, start: Callable[..., Any]) -> None:
    running = start()
    assert running.chat(stream=True).text.endswith("data: [DONE]\n\n")
    metrics = running.get("/metrics").text
    assert 'sage_tokens_total{model="bench",type="prompt"} 2.0' in metrics
    assert 'sage_tokens_total{model="bench",type="completion"} 1.0' in metrics


@pytest.mark.proves("cohere", "system", "multi-turn")
def test_a_conversation_with_a_system_message(up: Upstream, sdk: openai.OpenAI) -> None:
    ask(
        sdk,
        [
            {"role": "developer", "content": "Be brief."},
            {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": [{"type": "text", "text": "two"}], "refusal": None, "annotations": []},
            {"role": "assistant", "content": "three", "reasoning_content": "hm"},
            {"role": "user", "content": [{"type": "text", "text": "four"}]},
        ],
    )
    assert up.requests[0].body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "three"}]},
        {"role": "user", "content": [{"type": "text", "text": "four"}]},
    ]


@pytest.mark.proves("cohere", "images")
def test_images(up: Upstream, sdk: openai.OpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}
    answer = ask(sdk, [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, image]}])
    assert answer.choices[0].message.content == "what is it?"
    assert up.requests[0].body["messages"][0]["content"][1] == image


CALLS = [
    {"id": "w1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}},
    {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
]


@pytest.mark.proves("cohere", "tools", "parallel tools")
def test_parallel_tool_calls_and_their_results(up: Upstream, sdk: openai.OpenAI) -> None:
    up.reply(chat_answer(finish="TOOL_CALL", tool_calls=CALLS, tool_plan="I will look."), times=1)
    first = ask(sdk, tools=[WEATHER, CLOCK]).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.content is None
    assert first.message.tool_plan == "I will look."
    assert [call.model_dump() for call in first.message.tool_calls] == CALLS
    assert up.requests[0].body["tools"] == [
        WEATHER,
        {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}},
    ]
    results: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": "w1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "c1", "name": "clock", "content": [{"type": "text", "text": "noon"}]},
    ]
    second = ask(sdk, [*HELLO, first.message, *results], tools=[WEATHER, CLOCK])
    assert second.choices[0].message.content == "noon"
    assert up.requests[1].body["messages"][1:] == [
        {"role": "assistant", "tool_calls": CALLS, "tool_plan": "I will look."},
        {"role": "tool", "tool_call_id": "w1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "noon"}]},
    ]


def test_one_call_a_turn(up: Upstream, sdk: openai.OpenAI) -> None:
    up.reply(chat_answer(finish="TOOL_CALL", tool_calls=CALLS), times=1)
    asked: dict[str, Any] = {"tools": [WEATHER, CLOCK], "parallel_tool_calls": False}
    assert [call.id for call in ask(sdk, **asked).choices[0].message.tool_calls] == ["w1"]
    assert "parallel_tool_calls" not in up.requests[0].body
    up.use(chat_stream(*called(0, "weather", "{}"), *called(1, "clock", "{}"), end("TOOL_CALL")))
    chunks = [chunk.choices[0] for chunk in ask(sdk, **asked, stream=True)]
    assert {call.index for chunk in chunks for call in chunk.delta.tool_calls or ()} == {0}
    assert chunks[-1].finish_reason == "tool_calls"


def test_what_is_said_beside_tool_calls_is_their_plan(up: Upstream, sdk: openai.OpenAI) -> None:
    ask(
        sdk,
        [
            *HELLO,
            {"role": "assistant", "content": "I look.", "tool_calls": CALLS[:1]},
            {
                "role": "tool",
                "tool_call_id": "w1",
                "content": [{"type": "document", "document": {"id": "d1", "data": {"text": "sunny"}}}],
            },
            {"role": "user", "content": "and?"},
        ],
        tools=[WEATHER],
    )
    sent = up.requests[0].body["messages"]
    assert sent[1] == {"role": "assistant", "tool_calls": CALLS[:1], "tool_plan": "I look."}
    assert sent[2]["content"] == [{"type": "document", "document": {"id": "d1", "data": {"text": "sunny"}}}]


@pytest.mark.proves("cohere", "streamed tool arguments", "parallel tools")
def test_arguments_of_parallel_calls_are_streamed(up: Upstream, sdk: openai.OpenAI) -> None:
    plan = event("tool-plan-delta", {"tool_plan": "I will look."})
    calls = [*called(0, "weather", '{"city"', ': "Paris"}'), *called(1, "clock", "{}")]
    up.use(chat_stream(plan, *calls, end("TOOL_CALL")))
    chunks = [chunk.choices[0] for chunk in ask(sdk, tools=[WEATHER, CLOCK], stream=True)]
    assert chunks[0].delta.tool_plan == "I will look."
    deltas = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    assert [(d.index, d.id, d.function.name, d.function.arguments) for d in deltas] == [
        (0, "weather_0", "weather", ""),
        (0, None, None, '{"city"'),
        (0, None, None, ': "Paris"}'),
        (1, "clock_1", "clock", ""),
        (1, None, None, "{}"),
    ]
    assert chunks[-1].finish_reason == "tool_calls"


@pytest.mark.proves("cohere", "tool_choice")
@pytest.mark.parametrize(
    ("choice", "sent", "tools"),
    [
        ("required", "REQUIRED", ["weather", "clock"]),
        ("none", "NONE", ["weather", "clock"]),
        ("auto", None, ["weather", "clock"]),
        ({"type": "function", "function": {"name": "clock"}}, "REQUIRED", ["clock"]),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [WEATHER]}},
            None,
            ["weather"],
        ),
    ],
)
def test_tool_choice(up: Upstream, sdk: openai.OpenAI, choice: Any, sent: str | None, tools: list[str]) -> None:
    ask(sdk, tools=[WEATHER, CLOCK], tool_choice=choice)
    body = up.requests[0].body
    assert body.get("tool_choice") == sent
    assert [tool["function"]["name"] for tool in body["tools"]] == tools


def test_a_choice_of_what_is_no_tool_is_refused(sdk: openai.OpenAI) -> None:
    choice = {"type": "function", "function": {"name": "other"}}
    assert refused(sdk, tools=[CLOCK], tool_choice=choice)[0] == "tool_choice"


def test_one_strict_tool_makes_all_strict(up: Upstream, sdk: openai.OpenAI) -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    ask(sdk, tools=[strict, CLOCK])
    assert up.requests[0].body["strict_tools"] is True
    assert up.requests[0].body["tools"][0] == WEATHER


@pytest.mark.proves("cohere", "response_format json_schema", "response_format json_object")
def test_response_formats(up: Upstream, sdk: openai.OpenAI) -> None:
    up.reply(chat_answer('{"a": 1}'), times=1)
    wrapped = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA, "strict": True}}
    assert ask(sdk, response_format=wrapped).choices[0].message.content == '{"a": 1}'
    ask(sdk, response_format={"type": "json_object"})
    ask(sdk, response_format={"type": "text"})
    assert [request.body.get("response_format") for request in up.requests] == [
        {"type": "json_object", "json_schema": SCHEMA},
        {"type": "json_object"},
        None,
    ]


@pytest.mark.proves("cohere", "stop", "seed")
def test_fields_under_coheres_names(up: Upstream, sdk: openai.OpenAI) -> None:
    up.reply(chat_answer("one", finish="STOP_SEQUENCE"), times=1)
    answer = ask(
        sdk,
        stop="two",
        seed=7,
        temperature=0.2,
        top_p=1,
        max_completion_tokens=9,
        max_tokens=8,
        frequency_penalty=0.5,
        presence_penalty=0.1,
        n=1,
        logprobs=False,
        parallel_tool_calls=True,
        logit_bias={},
        user="someone",
        metadata={"a": "b"},
        extra_body={"top_k": 20},
    )
    assert answer.choices[0].finish_reason == "stop"
    expected = {
        "stop_sequences": ["two"],
        "seed": 7,
        "temperature": 0.2,
        "p": 0.99,
        "k": 20,
        "max_tokens": 9,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.1,
        "logprobs": False,
    }
    assert up.requests[0].body == expected | {"model": "theirs-0", "stream": False, "messages": HELLO}


def test_an_answer_that_is_too_long_ends_by_length(up: Upstream, sdk: openai.OpenAI) -> None:
    up.reply(chat_answer("one", finish="MAX_TOKENS"))
    assert ask(sdk, max_tokens=1).choices[0].finish_reason == "length"


@pytest.mark.proves("cohere", "logprobs")
def test_log_probabilities(up: Upstream, sdk: openai.OpenAI) -> None:
    items = [
        {"text": "He", "token_ids": [5], "logprobs": [-0.5]},
        {"text": "é", "token_ids": [6, 7], "logprobs": [-1.0, -2.0]},
    ]
    up.reply(chat_answer("Heé", logprobs=items), times=1)
    entries = ask(sdk, logprobs=True).choices[0].logprobs.content
    events = text_events("He", "é")
    events[1]["logprobs"], events[2]["logprobs"] = items
    up.use(chat_stream(*events, end()), times=1)
    streamed = [chunk.choices[0].logprobs for chunk in ask(sdk, logprobs=True, stream=True)]
    for content in (entries, [entry for part in streamed if part for entry in part.content]):
        assert [(entry.token, entry.logprob, entry.token_id) for entry in content] == [
            ("He", -0.5, 5),
            ("é", -1.0, 6),
            ("", -2.0, 7),
        ]
        assert content[1].bytes == list("é".encode())
    assert up.requests[0].body["logprobs"] is True


@pytest.mark.proves("cohere", "reasoning")
def test_reasoning(up: Upstream, sdk: openai.OpenAI) -> None:
    blocks = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}]
    up.reply(chat_answer(content=blocks), times=1)
    message = ask(sdk, reasoning_effort="high").choices[0].message
    assert (message.reasoning_content, message.content) == ("hm", "yes")
    up.use(chat_stream(*text_events("h", "m", kind="thinking"), *text_events("yes", index=1), end()), times=1)
    thinking = {"type": "enabled", "token_budget": 50}
    deltas = [c.choices[0].delta for c in ask(sdk, stream=True, extra_body={"thinking": thinking})]
    assert [getattr(delta, "reasoning_content", None) for delta in deltas] == ["h", "m", None, None]
    assert [delta.content for delta in deltas] == [None, None, "yes", None]
    ask(sdk, reasoning_effort="none")
    assert [request.body["thinking"] for request in up.requests] == [
        {"type": "enabled"},
        thinking,
        {"type": "disabled"},
    ]


CITATION = {
    "start": 0,
    "end": 5,
    "text": "Paris",
    "sources": [{"type": "document", "id": "d1", "document": {"id": "d1", "text": "Paris is in France."}}],
    "type": "TEXT_CONTENT",
}
DOCUMENTS = [{"id": "d1", "data": {"text": "Paris is in France.", "url": "https://example.org/paris"}}, "Bread."]


def test_documents_go_and_citations_come(up: Upstream, sdk: openai.OpenAI) -> None:
    native = {
        "documents": DOCUMENTS,
        "citation_options": {"mode": "ACCURATE"},
        "safety_mode": "STRICT",
    }
    up.reply(chat_answer("Paris", citations=[CITATION]), times=1)
    assert ask(sdk, extra_body=native).choices[0].message.citations == [CITATION]
    cited = [event("citation-start", {"citations": CITATION}, index=0), event("citation-end", index=0)]
    up.use(chat_stream(*text_events("Paris"), *cited, end()), times=1)
    deltas = [chunk.choices[0].delta for chunk in ask(sdk, stream=True, extra_body=native)]
    assert [getattr(delta, "citations", None) for delta in deltas] == [None, [CITATION], None]
    for request in up.requests:
        assert {name: request.body[name] for name in native} == native


@pytest.mark.proves("cohere", "n", refused=True)
def test_several_answers_are_refused(up: Upstream, sdk: openai.OpenAI) -> None:
    param, message = refused(sdk, n=2)
    assert param == "n"
    assert "'up0' (cohere)" in message
    assert not up.requests


@pytest.mark.proves("cohere", "completions", refused=True)
def test_completions_are_refused(up: Upstream, sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"'up0' \(cohere\) has no completions"):
        sdk.completions.create(model="bench", prompt="once")
    assert not up.requests


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": True, "top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]"),
        ({"tools": [CLOCK], "tool_choice": {"type": "custom"}}, "tool_choice"),
        ({"extra_body": {"guided_regex": "a+"}}, "guided_regex"),
        ({"messages": [{"role": "user", "content": "x", "name": "me"}]}, "messages[0].name"),
        ({"messages": [{"role": "function", "content": "x", "name": "f"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA=="}}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ],
)
def test_what_cohere_cannot_do_is_refused_by_name(
    up: Upstream, sdk: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    assert refused(sdk, **fields)[0] == param
    assert not up.requests


@pytest.mark.proves("cohere", "drop_unsupported")
def test_a_model_may_leave_out_what_cohere_cannot_do(up: Upstream, gateway: Callable) -> None:
    model = {"deployments": [{"provider": "co", "model": "command-a"}], "drop_unsupported": True}
    running = gateway(
        llm={"providers": {"co": {**COHERE, "base_url": up.url}}, "models": {"bench": model}},
    )
    audio = {"type": "input_audio", "input_audio": {"data": "AA=="}}
    messages = [{"role": "user", "name": "me", "content": [{"type": "text", "text": "hi"}, audio]}]
    answer = running.chat(messages=messages, n=2, logit_bias={"1": 1}, guided_regex="a+", seed=1)
    assert answer.json()["choices"][0]["message"]["content"] == "hi"
    assert up.requests[0].body == {
        "model": "command-a",
        "stream": False,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "seed": 1,
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.proves("cohere", "errors")
@pytest.mark.parametrize(
    ("status", "ours", "kind"),
    [
        (401, 502, "upstream_error"),
        (422, 400, "invalid_request_error"),
        (429, 429, "rate_limit_error"),
        (500, 502, "upstream_error"),
    ],
)
def test_errors(up: Upstream, start: Callable[..., Any], status: int, ours: int, kind: str, stream: bool) -> None:
    up.use(reply({"message": f"about {KEY} it is"}, status=status, headers={"retry-after": "7"}))
    answer = start().chat(stream=stream)
    assert answer.status_code == ours
    error = answer.json()["error"]
    assert error["type"] == kind
    assert KEY not in answer.text
    if status != 401:
        assert error["message"].endswith(f"the provider 'up0' answered {status}: about [key] it is")
    if status == 429:
        assert answer.headers["retry-after"] == "7"


@pytest.mark.parametrize(("finish", "status"), [("ERROR", 502), ("TIMEOUT", 504), (None, 502)])
def test_an_answer_that_failed_is_no_answer(up: Upstream, start: Callable[..., Any], finish: Any, status: int) -> None:
    up.reply(chat_answer("half", finish=finish), times=1)
    up.use(chat_stream(end(finish)), times=1)  # nothing was said: no byte has gone to the client yet
    running = start(retries=0)
    assert running.chat().status_code == status
    assert running.chat(stream=True).status_code == status


@pytest.mark.parametrize(
    "last",
    [
        end("ERROR", error="the model broke"),
        {"type": "message-end", "delta": {"error": "the model broke"}},
        {"message": "the model broke"},
    ],
)
def test_an_error_in_mid_stream_ends_it_without_a_finish(
    up: Upstream, start: Callable[..., Any], last: dict[str, Any]
) -> None:
    gate = threading.Event()
    up.use(chat_stream(*text_events("half"), last, gate=gate, no_done=True))
    answer = start().chat(stream=True)
    lines = answer.iter_lines(decode_unicode=True)
    first = next(lines)
    gate.set()
    text = "\n".join([first, *lines])
    assert answer.status_code == 200
    assert '"content":"half"' in first
    assert "the model broke" in text.rpartition("data: ")[2]
    assert '"finish_reason":"' not in text
    assert "[DONE]" not in text


@pytest.mark.parametrize("clean", [False, True])
def test_a_cut_stream_has_no_finish(up: Upstream, start: Callable[..., Any], clean: bool) -> None:
    up.use(chat_stream(*text_events("half", "more"), end(), cut_after=4, clean=clean))
    text = start().chat(stream=True).text
    assert '"content":"half"' in text
    assert '"error"' in text.rpartition("data: ")[2]
    assert '"finish_reason":"' not in text
    assert "[DONE]" not in text


def test_a_whole_stream_without_done_is_whole(up: Upstream, start: Callable[..., Any]) -> None:
    up.use(chat_stream(*text_events("all"), end(), no_done=True))
    text = start().chat(stream=True).text
    assert '"finish_reason":"stop"' in text
    assert text.endswith("data: [DONE]\n\n")


def test_torn_bytes_are_put_together(up: Upstream, sdk: openai.OpenAI) -> None:
    text = "你好，世界 🙂"
    up.use(chat_stream(*text_events(text), end(), split=tuple(range(1, 900, 11))))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in ask(sdk, stream=True)) == text


@pytest.mark.parametrize("answer", [[], {"message": "text"}, {"finish_reason": "COMPLETE"}, "x"])
def test_nonsense_is_no_answer(up: Upstream, start: Callable[..., Any], answer: Any) -> None:
    up.reply(answer)
    refused = start().chat()
    assert refused.status_code == 502
    assert refused.json()["error"]["code"] == "upstream_nonsense"


def test_cached_tokens_and_billed_units_stand_in_for_tokens(up: Upstream, sdk: openai.OpenAI) -> None:
    counted = {"billed_units": {"input_tokens": 2.0, "output_tokens": 1.0}, "cached_tokens": 1}
    up.reply(chat_answer("x", counted=counted))
    report = ask(sdk).usage
    assert (report.prompt_tokens, report.completion_tokens, report.prompt_tokens_details.cached_tokens) == (2, 1, 1)
    assert usage(4, 3)["tokens"] == {"input_tokens": 4, "output_tokens": 3}


@pytest.mark.parametrize("field", ["priority", "base_url"])
def test_what_is_never_passed_on(up: Upstream, sdk: openai.OpenAI, field: str) -> None:
    assert refused(sdk, extra_body={field: 1})[0] == field
    assert not up.requests


@pytest.mark.proves("cohere", "list models")
def test_a_model_that_cohere_lists_is_found_by_its_name(up: Upstream, start: Callable[..., Any]) -> None:
    answer = start().chat(model="command-a")
    assert answer.json()["model"] == "command-a"
    assert [request.path for request in up.requests] == ["/v1/models?page_size=1000", "/v2/chat"]


@pytest.mark.proves("cohere", "several keys")
def test_several_keys_are_used(up: Upstream, gateway: Callable) -> None:
    up.handler = lambda request: reply(chat_answer("x"))
    provider = {"kind": "cohere", "api_keys": ["co-first-key", "co-second-key"], "base_url": up.url}
    models = {"bench": {"deployments": [{"provider": "co", "model": "command-a"}]}}
    running = gateway(llm={"providers": {"co": provider}, "models": models})
    for _ in range(4):
        assert running.chat().status_code == 200
    assert {request.headers["authorization"] for request in up.requests} == {
        "Bearer co-first-key",
        "Bearer co-second-key",
    }
