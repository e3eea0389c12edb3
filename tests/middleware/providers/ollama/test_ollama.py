"""The gateway in front of Ollama: OpenAI's own SDK as the client, a script of Ollama's wire behind."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import requests
from ollama_wire import (
    OllamaScript,
    chat_end,
    chat_line,
    lines,
    text_end,
    text_line,
    tool_call,
    whole_chat,
    whole_text,
)
from shared_gateway import SharedGateway, one_model, share_gateway
from upstream import Upstream, reply

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

HELLO = [{"role": "user", "content": "hello out there"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedGateway]:
    with share_gateway(tmp_path_factory.mktemp("shared"), lambda up: one_model(up, kind="ollama")) as started:
        yield started


@pytest.fixture
def up(shared: SharedGateway) -> Upstream:
    upstream = shared.up()
    upstream.handler = OllamaScript()
    return upstream


@pytest.fixture
def client(running: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as sdk:
        yield sdk


def sent(up: Upstream) -> dict[str, Any]:
    """The body of the last request that Ollama got."""
    return up.requests[-1].body


@pytest.mark.proves("ollama", "chat", "usage")
def test_chat(up: Upstream, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="bench", messages=HELLO)
    assert answer.choices[0].message.content == "hello out there"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "bench"
    assert answer.object == "chat.completion"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 3, 10)
    assert up.requests[-1].path == "/api/chat"
    assert up.requests[-1].headers["authorization"] == "Bearer sk-upstream"
    assert sent(up) == {"model": "theirs-0", "messages": HELLO, "stream": False}


@pytest.mark.usefixtures("renewed")
@pytest.mark.proves("ollama", "streaming", "usage")
def test_a_stream_with_and_without_usage(up: Upstream, client: openai.OpenAI, running: Any) -> None:
    plain = list(client.chat.completions.create(model="bench", messages=HELLO, stream=True))
    counted = list(
        client.chat.completions.create(
            model="bench", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    for chunks in (plain, counted):
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "hello out there"
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None, None, None, "stop"]
        assert {chunk.model for chunk in chunks} == {"bench"}
        assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.choices for chunk in plain)
    assert (counted[-1].usage.prompt_tokens, counted[-1].usage.completion_tokens) == (7, 3)
    assert sent(up) == {"model": "theirs-0", "messages": HELLO, "stream": True}
    metrics = running.get("/metrics").text  # counted though the first did not ask for it
    assert 'sage_tokens_total{model="bench",type="prompt"} 14.0' in metrics


@pytest.mark.proves("ollama", "streaming")
def test_a_stream_may_be_torn_anywhere(up: Upstream, running: Any) -> None:
    up.use(lines(chat_line("Grüße"), chat_line(" 世界"), chat_end(), split=(7, 120, 133, 134, 135, 260, 400)))
    answer = running.chat(stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [line[6:] for line in answer.content.decode().split("\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == "Grüße 世界"


def test_a_last_line_without_its_line_end_counts(up: Upstream, running: Any) -> None:
    up.use(lines(chat_line("Hi"), json.dumps(chat_end("length")).encode()))
    text = running.chat(stream=True).text
    assert '"finish_reason":"length"' in text
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.proves("ollama", "system", "multi-turn")
def test_a_conversation(up: Upstream, client: openai.OpenAI) -> None:
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three", "refusal": None, "annotations": []},
        {"role": "user", "content": "and now?"},
    ]
    assert client.chat.completions.create(model="bench", messages=messages).choices[0].message.content == "and now?"
    assert sent(up)["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "one\ntwo"},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "and now?"},
    ]


@pytest.mark.proves("ollama", "images")
def test_images_go_as_base64(up: Upstream, client: openai.OpenAI) -> None:
    parts = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/svg+xml,%3Csvg%2F%3E"}},
    ]
    client.chat.completions.create(model="bench", messages=[{"role": "user", "content": parts}])
    (message,) = sent(up)["messages"]
    assert message == {
        "role": "user",
        "content": "what is it?",
        "images": [PIXEL, base64.b64encode(b"<svg/>").decode()],
    }


def test_images_by_address_are_refused(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up, provider={"kind": "ollama"}, llm={"limits": {"image_hosts": ["pics.example"]}})
    part = {"type": "image_url", "image_url": {"url": "https://pics.example/a.png"}}
    answer = running.chat(messages=[{"role": "user", "content": [part]}])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[0].content[0].image_url"
    assert "'up0' (ollama)" in answer.json()["error"]["message"]
    assert up.requests == []


@pytest.mark.proves("ollama", "tools", "parallel tools", "multi-turn")
def test_tools_and_their_results(up: Upstream, client: openai.OpenAI) -> None:
    calls = [tool_call("weather", {"city": "Köln"}), {**tool_call("weather", {"city": "Rom"}, 1), "id": "call_own"}]
    up.reply(whole_chat("", tool_calls=calls), times=1)
    answer = client.chat.completions.create(model="bench", messages=HELLO, tools=[WEATHER], tool_choice="auto")
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [{"city": "Köln"}, {"city": "Rom"}]
    assert [call.function.name for call in message.tool_calls] == ["weather", "weather"]
    first, second = (call.id for call in message.tool_calls)
    assert first.startswith("call_")
    assert second == "call_own"
    assert sent(up)["tools"] == [WEATHER]

    results = [{"role": "tool", "tool_call_id": i, "content": text} for i, text in ((first, "rain"), (second, "sun"))]
    client.chat.completions.create(
        model="bench", messages=[*HELLO, message.model_dump(), *results], tools=[WEATHER], parallel_tool_calls=True
    )
    asked, answered, *given = sent(up)["messages"]
    assert asked == HELLO[0]
    assert answered == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": first, "function": {"name": "weather", "arguments": {"city": "Köln"}}},
            {"id": "call_own", "function": {"name": "weather", "arguments": {"city": "Rom"}}},
        ],
    }
    assert given == [
        {"role": "tool", "content": "rain", "tool_name": "weather", "tool_call_id": first},
        {"role": "tool", "content": "sun", "tool_name": "weather", "tool_call_id": "call_own"},
    ]


def test_one_call_a_turn(up: Upstream, client: openai.OpenAI) -> None:
    places = [tool_call("weather", {"city": city}) for city in ("Köln", "Rom")]
    up.use(lines(*(chat_line(tool_calls=[place]) for place in places), chat_end()))
    asked: dict[str, Any] = {"tools": [WEATHER], "parallel_tool_calls": False}
    with client.chat.completions.stream(model="bench", messages=HELLO, **asked) as events:
        choice = events.get_final_completion().choices[0]
    assert [json.loads(call.function.arguments) for call in choice.message.tool_calls] == [{"city": "Köln"}]
    assert choice.finish_reason == "tool_calls"


@pytest.mark.proves("ollama", "tools", "parallel tools", "streamed tool arguments", "streaming")
def test_streamed_tools(up: Upstream, client: openai.OpenAI) -> None:
    up.use(
        lines(
            chat_line("Let me see."),
            chat_line(tool_calls=[tool_call("weather", {"city": "Köln"})]),
            chat_line(tool_calls=[tool_call("weather", {"city": "Rom"})]),
            chat_end(),
        )
    )
    with client.chat.completions.stream(model="bench", messages=HELLO, tools=[WEATHER]) as events:
        message = events.get_final_completion().choices[0]
    assert message.finish_reason == "tool_calls"
    assert message.message.content == "Let me see."
    assert [json.loads(call.function.arguments) for call in message.message.tool_calls] == [
        {"city": "Köln"},
        {"city": "Rom"},
    ]
    assert len({call.id for call in message.message.tool_calls}) == 2


@pytest.mark.proves("ollama", "tool_choice", refused=True)
def test_a_forced_tool_is_refused_and_none_sends_no_tools(up: Upstream, running: Any) -> None:
    assert running.chat(tools=[WEATHER], tool_choice="none").status_code == 200
    assert "tools" not in sent(up)
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        answer = running.chat(tools=[WEATHER], tool_choice=choice)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "tool_choice"
        assert answer.json()["error"]["code"] == "unsupported_field"
        assert "'up0' (ollama)" in answer.json()["error"]["message"]
    assert len(up.requests) == 1


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.mark.proves("ollama", "response_format json_schema", "response_format json_object")
def test_formats(up: Upstream, client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
    client.chat.completions.create(model="bench", messages=HELLO, response_format=form)
    assert sent(up)["format"] == SCHEMA
    client.chat.completions.create(model="bench", messages=HELLO, response_format={"type": "json_object"})
    assert sent(up)["format"] == "json"
    client.chat.completions.create(model="bench", messages=HELLO, response_format={"type": "text"})
    assert "format" not in sent(up)


@pytest.mark.proves("ollama", "stop", "seed")
def test_options_from_openais_names_and_from_its_own(up: Upstream, client: openai.OpenAI) -> None:
    client.chat.completions.create(
        model="bench",
        messages=HELLO,
        stop="END",
        seed=42,
        temperature=0.1,
        top_p=0.9,
        max_completion_tokens=20,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        extra_body={"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "num_ctx": 2048, "options": {"num_keep": 4}},
    )
    assert sent(up)["options"] == {
        "stop": ["END"],
        "seed": 42,
        "temperature": 0.1,
        "top_p": 0.9,
        "num_predict": 20,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "top_k": 40,
        "min_p": 0.05,
        "repeat_penalty": 1.1,
        "num_ctx": 2048,
        "num_keep": 4,
    }
    client.chat.completions.create(model="bench", messages=HELLO, stop=["a", "b"], max_tokens=5)
    assert sent(up)["options"] == {"stop": ["a", "b"], "num_predict": 5}


def test_the_bound_on_tokens_holds_for_ollamas_own_names(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up, provider={"kind": "ollama"}, llm={"limits": {"max_tokens": 100}})
    for fields in ({"num_predict": 101}, {"options": {"num_predict": 101}}, {"options": {"num_predict": -3}}):
        answer = running.chat(**fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "num_predict")
    for bound in (100, -1):  # no bound means ours
        assert running.chat(options={"num_predict": bound}).status_code == 200
        assert sent(up)["options"] == {"num_predict": 100}


@pytest.mark.proves("ollama", "reasoning", "streaming")
def test_thinking(up: Upstream, client: openai.OpenAI) -> None:
    up.reply(whole_chat("4", thinking="2 and 2"), times=1)
    answer = client.chat.completions.create(model="bench", messages=HELLO, reasoning_effort="high")
    assert answer.choices[0].message.reasoning_content == "2 and 2"
    assert answer.choices[0].message.content == "4"
    assert sent(up)["think"] is True
    up.use(lines(chat_line(thinking="2 "), chat_line(thinking="and 2"), chat_line("4"), chat_end()), 1)
    chunks = list(client.chat.completions.create(model="bench", messages=HELLO, reasoning_effort="none", stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "2 and 2"
    assert "".join(delta.content or "" for delta in deltas) == "4"
    assert sent(up)["think"] is False
    history = [*HELLO, {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}, *HELLO]
    client.chat.completions.create(model="bench", messages=history, extra_body={"think": "low"})
    assert sent(up)["messages"][1] == {"role": "assistant", "content": "4", "thinking": "2 and 2"}
    assert sent(up)["think"] == "low"


def test_only_gpt_oss_is_told_how_much_to_think(up: Upstream, gateway: Callable) -> None:
    up.reply(whole_chat("4"))
    running = gateway(llm={"providers": {"ollama": {"base_url": up.url}}})
    for effort, level in (("minimal", "low"), ("medium", "medium"), ("none", False)):
        assert running.chat("ollama/gpt-oss:20b", reasoning_effort=effort).status_code == 200
        assert sent(up)["think"] == level
    answer = running.chat("ollama/gpt-oss:20b", reasoning_effort="extreme")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "reasoning_effort")


LOGPROBS = [
    {"token": "He", "logprob": -0.25, "bytes": [72, 101], "top_logprobs": [{"token": "Ha", "logprob": -1.5}]},
    {"token": "y", "logprob": -0.5},
]


@pytest.mark.proves("ollama", "logprobs", "streaming")
def test_logprobs(up: Upstream, client: openai.OpenAI) -> None:
    up.reply({**whole_chat("Hey"), "logprobs": LOGPROBS}, times=1)
    answer = client.chat.completions.create(model="bench", messages=HELLO, logprobs=True, top_logprobs=1)
    first, second = answer.choices[0].logprobs.content
    assert (first.token, first.logprob, first.bytes, first.top_logprobs[0].token) == ("He", -0.25, [72, 101], "Ha")
    assert (second.token, second.logprob, second.bytes, second.top_logprobs) == ("y", -0.5, [121], [])
    assert (sent(up)["logprobs"], sent(up)["top_logprobs"]) == (True, 1)
    up.use(lines({**chat_line("Hey"), "logprobs": LOGPROBS}, chat_end()), 1)
    chunks = list(client.chat.completions.create(model="bench", messages=HELLO, logprobs=True, stream=True))
    assert [token.token for token in chunks[0].choices[0].logprobs.content] == ["He", "y"]
    assert "top_logprobs" not in sent(up)


@pytest.mark.proves("ollama", "completions", "streaming", "usage")
def test_completions_are_raw(up: Upstream, client: openai.OpenAI) -> None:
    answer = client.completions.create(model="bench", prompt="once upon", max_tokens=5)
    assert (answer.choices[0].text, answer.choices[0].finish_reason, answer.model) == ("once upon", "stop", "bench")
    assert answer.usage.total_tokens == 10
    assert up.requests[-1].path == "/api/generate"
    assert sent(up) == {
        "model": "theirs-0",
        "prompt": "once upon",
        "raw": True,
        "options": {"num_predict": 5},
        "stream": False,
    }
    chunks = list(client.completions.create(model="bench", prompt=["once upon"], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "once upon"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_suffix_needs_the_models_template(up: Upstream, client: openai.OpenAI) -> None:
    client.completions.create(model="bench", prompt="def f():", suffix="return 1")
    assert sent(up)["suffix"] == "return 1"
    assert "raw" not in sent(up)


@pytest.mark.proves("ollama", "completions", "logprobs")
def test_logprobs_of_completions(up: Upstream, client: openai.OpenAI) -> None:
    up.reply({**whole_text("Hey"), "logprobs": LOGPROBS}, times=1)
    answer = client.completions.create(model="bench", prompt="x", logprobs=1).choices[0].logprobs
    assert answer.tokens == ["He", "y"]
    assert answer.token_logprobs == [-0.25, -0.5]
    assert answer.top_logprobs == [{"Ha": -1.5}, {}]
    assert answer.text_offset == [0, 2]
    assert (sent(up)["logprobs"], sent(up)["top_logprobs"]) == (True, 1)
    up.use(lines({**text_line("Hey"), "logprobs": LOGPROBS}, {**text_line("y"), "logprobs": LOGPROBS[1:]}, text_end()))
    chunks = list(client.completions.create(model="bench", prompt="x", logprobs=0, stream=True))
    assert [chunk.choices[0].logprobs.text_offset for chunk in chunks[:2]] == [[0, 2], [3]]


@pytest.mark.proves("ollama", "embeddings", "embeddings base64", "dimensions", "usage")
def test_embeddings(up: Upstream, client: openai.OpenAI) -> None:
    floats = client.embeddings.create(model="bench", input=["a", "b c d"], encoding_format="float", dimensions=2)
    assert [item.embedding for item in floats.data] == [[1.0, 0.0], [5.0, 1.0]]
    assert [item.index for item in floats.data] == [0, 1]
    assert (floats.model, floats.usage.prompt_tokens, floats.usage.total_tokens) == ("bench", 4, 4)
    assert up.requests[-1].path == "/api/embed"
    assert sent(up) == {"model": "theirs-0", "input": ["a", "b c d"], "dimensions": 2}
    packed = client.embeddings.create(model="bench", input="abc")  # the SDK asks for base64, and unpacks it
    assert packed.data[0].embedding == [3.0, 0.0, 0.5]


def test_embeddings_in_base64_are_float32_little_end_first(running: Any) -> None:
    answer = running.post("/v1/embeddings", {"model": "bench", "input": "abc", "encoding_format": "base64"})
    assert base64.b64decode(answer.json()["data"][0]["embedding"]) == struct.pack("<3f", 3.0, 0.0, 0.5)


def test_an_answer_with_too_few_vectors_is_none(up: Upstream, running: Any) -> None:
    up.reply({"model": "theirs-0", "embeddings": [[1.0]], "prompt_eval_count": 2})
    answer = running.post("/v1/embeddings", {"model": "bench", "input": ["a", "b"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_nonsense")


@pytest.mark.proves("ollama", "n", refused=True)
def test_several_answers_are_refused(up: Upstream, running: Any) -> None:
    answer = running.chat(n=2)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
    assert "'up0' (ollama)" in answer.json()["error"]["message"]
    assert up.requests == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"guided_json": {}, "best_of": 2}, "best_of"),
        ({"something_else": 1}, "something_else"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]"),
        ({"tools": [{**WEATHER, "function": {**WEATHER["function"], "strict": True}}]}, "tools[0].function.strict"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA"}}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "user", "content": "x", "audio": {"id": "a"}}]}, "messages[0].audio"),
    ],
)
@pytest.mark.proves("ollama", "drop_unsupported")
def test_what_it_cannot_do_is_refused_or_dropped(
    fields: dict[str, Any], param: str, up: Upstream, gateway: Callable
) -> None:
    deployments = [{"provider": "ollama", "model": "theirs-0"}]
    running = gateway(
        llm={
            "providers": {"ollama": {"base_url": up.url}},
            "models": {
                "strict": {"deployments": deployments},
                "lenient": {"deployments": deployments, "drop_unsupported": True},
            },
        }
    )
    refused = running.chat("strict", **fields)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert refused.json()["error"]["code"] == "unsupported_field"
    assert f"the provider 'ollama' does not support '{param}'" in refused.json()["error"]["message"]
    assert up.requests == []
    assert running.chat("lenient", **fields).status_code == 200
    assert set(sent(up)) - {"tools"} == {"model", "messages", "stream"}
    assert sent(up).get("tools") in (None, [WEATHER])  # without its 'strict'


def test_what_asks_for_nothing_is_no_fault(up: Upstream, running: Any) -> None:
    nothing = {
        "n": 1,
        "logprobs": False,
        "tools": [],
        "stop": None,
        "logit_bias": {},
        "user": "me",
        "metadata": {"a": "b"},
        "store": True,
        "modalities": ["text"],
        "top_logprobs": None,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }
    assert running.chat(**nothing).status_code == 200
    assert set(sent(up)) == {"model", "messages", "stream"}


@pytest.mark.parametrize("field", ["keep_alive", "template", "options"])
def test_what_is_the_administrators_is_never_passed_on(field: str, up: Upstream, gateway: Callable) -> None:
    running = gateway(llm={"providers": {"ollama": {"base_url": up.url, "deny_fields": ["num_gpu"]}}})
    value = {"options": {"num_gpu": 1}}.get(field, "-1")
    answer = running.chat("ollama/theirs-0", **{field: value})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "field_not_allowed")
    assert up.requests == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": ["a", "b"]}, "prompt"),
        ("/v1/completions", {"prompt": [1, 2]}, "prompt"),
        ("/v1/completions", {"prompt": ""}, "prompt"),
        ("/v1/completions", {"prompt": "", "suffix": "return 1"}, "prompt"),
        ("/v1/embeddings", {"input": [1, 2]}, "input"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ("/v1/chat/completions", {"messages": HELLO, "options": 5}, "options"),
        ("/v1/chat/completions", {"messages": HELLO, "stop": 5}, "stop"),
        (
            "/v1/chat/completions",
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_what_cannot_be_left_out_is_refused_in_any_case(
    path: str, body: dict[str, Any], param: str, up: Upstream, gateway: Callable
) -> None:
    lenient = {"deployments": [{"provider": "ollama", "model": "theirs-0"}], "drop_unsupported": True}
    running = gateway(llm={"providers": {"ollama": {"base_url": up.url}}, "models": {"bench": lenient}})
    answer = running.post(path, {"model": "bench", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert up.requests == []


@pytest.mark.proves("ollama", "rerank", "score", "tokenize", refused=True)
def test_operations_that_it_does_not_have(up: Upstream, running: Any) -> None:
    asked = {
        "/v1/rerank": {"query": "a", "documents": ["b"]},
        "/v1/score": {"text_1": "a", "text_2": "b"},
        "/v1/tokenize": {"prompt": "a"},
    }
    for path, body in asked.items():
        answer = running.post(path, {"model": "bench", **body})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_operation")
        assert "'up0' (ollama) has no" in answer.json()["error"]["message"]
    assert up.requests == []


@pytest.mark.slow
@pytest.mark.proves("ollama", "errors")
def test_errors_have_their_status_and_ollamas_words(up: Upstream, running: Any, gateway: Callable) -> None:
    there = gateway(llm={"providers": {"ollama": {"base_url": up.url}}})
    answer = there.chat("ollama/absent")
    assert answer.status_code == 404
    assert "model 'absent' not found" in answer.json()["error"]["message"]
    cases = [(400, 400), (500, 502), (429, 429), (503, 503), (401, 502)]
    for status, expected in cases:
        up.reset()
        up.reply({"error": "llama runner process has terminated"}, status=status)
        answer = running.chat()
        assert answer.status_code == expected
        assert ("llama runner process has terminated" in answer.text) == (status != 401)


@pytest.mark.slow
@pytest.mark.proves("ollama", "errors", "streaming")
def test_an_error_line_before_any_text_is_a_real_status(up: Upstream, running: Any) -> None:
    up.use(lines({"error": "out of memory"}))
    answer = running.chat(stream=True)
    assert answer.status_code == 502
    assert "out of memory" in answer.json()["error"]["message"]


@pytest.mark.slow
@pytest.mark.proves("ollama", "errors", "streaming")
@pytest.mark.parametrize(
    ("told", "options", "code"),
    [
        ([chat_line("Hel"), {"error": "out of memory"}], {}, "upstream_failed"),
        ([chat_line("Hel"), chat_line("lo"), chat_end()], {"cut_after": 1}, "upstream_broken"),
        ([chat_line("Hel"), chat_line("lo"), chat_end()], {"cut_after": 1, "clean": True}, "upstream_broken"),
        ([chat_line("Hel"), chat_line("lo")], {}, "upstream_broken"),
        ([chat_line("Hel"), b"garbage\n"], {}, "upstream_nonsense"),
        ([chat_line("Hel"), chat_end("load")], {}, "upstream_nonsense"),
    ],
)
def test_a_broken_stream_never_ends_well(
    told: list[Any], options: dict[str, Any], code: str, up: Upstream, running: Any
) -> None:
    first, *rest = told
    up.use(lines(first, *rest, delay=0.05, **options))
    text = running.chat(stream=True).text
    events = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    assert json.loads(events[0])["choices"][0]["delta"]["content"] == "Hel"
    assert json.loads(events[-1])["error"]["code"] == code
    assert "[DONE]" not in text
    assert '"finish_reason":"' not in text


@pytest.mark.parametrize("answer", [{"done": True}, whole_chat("x", "load"), {**whole_chat("x"), "done": False}, []])
def test_what_is_no_whole_answer_is_none(answer: Any, up: Upstream, running: Any) -> None:
    up.reply(answer)
    got = running.chat()
    assert (got.status_code, got.json()["error"]["code"]) == (502, "upstream_nonsense")


def test_reasons_to_end(up: Upstream, client: openai.OpenAI) -> None:
    for reason, expected in (("length", "length"), ("stop", "stop"), ("", "stop")):
        up.reply(whole_chat("x", reason), times=1)
        assert client.chat.completions.create(model="bench", messages=HELLO).choices[0].finish_reason == expected


def test_how_long_a_model_stays_is_the_configurations_to_say(up: Upstream, gateway: Callable) -> None:
    deployments = [{"provider": "ollama", "model": "theirs-0"}]
    running = gateway(
        llm={
            "providers": {"ollama": {"base_url": up.url}},
            "models": {
                "pinned": {"deployments": deployments, "pin": True, "keep_alive": "1m"},
                "short": {"deployments": deployments, "keep_alive": "90s"},
                "plain": {"deployments": deployments},
            },
        }
    )
    for name, kept in (("pinned", -1), ("short", 90), ("plain", None)):
        assert running.chat(name).status_code == 200
        assert sent(up).get("keep_alive") == kept


@pytest.mark.proves("ollama", "list models")
@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/api"])
def test_models_are_found_by_its_list_wherever_the_address_ends(suffix: str, up: Upstream, gateway: Callable) -> None:
    running = gateway(llm={"providers": {"ollama": {"base_url": f"http://127.0.0.1:{up.port}{suffix}"}}})
    for name in ("llama3", "llama3:latest", "qwen3:0.6b"):
        answer = running.chat(name)
        assert (answer.status_code, answer.json()["model"]) == (200, name)
        assert sent(up)["model"] == name
    assert up.requests[0].path == "/api/tags"
    assert running.chat("qwen3").status_code == 404  # only a tag that is `latest` goes without saying


@pytest.mark.slow
@pytest.mark.proves("ollama", "errors")
def test_an_ollama_that_is_down_is_told_as_such(gateway: Callable) -> None:
    running = gateway(llm={"providers": {"ollama": {"base_url": "http://127.0.0.1:9"}}})
    answer: requests.Response = running.chat("ollama/llama3")
    assert answer.status_code == 502
    assert "'ollama'" in answer.json()["error"]["message"]


def test_a_refusal_never_shows_the_key(up: Upstream, running: Any) -> None:
    up.use(reply({"error": "bad key sk-upstream"}, status=400))
    assert "sk-upstream" not in running.chat().text
