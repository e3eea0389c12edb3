"""A vLLM server behind the gateway, by OpenAI's SDK: the common wire, vLLM's own fields and its own operations."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from shared_gateway import PATIENT, SharedGateway
from upstream import Upstream, reply, usage_chunk
from vllm_wire import NO_ROUTE, VllmWire

HELLO = [{"role": "user", "content": "hello out there"}]
PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(24)).decode()
CALLS = [
    {"id": f"chatcmpl-tool-{i}", "type": "function", "function": {"name": name, "arguments": '{"city": "Köln"}'}}
    for i, name in enumerate(("weather", "time"))
]
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("weather", "time")
]


def sections(up: Upstream) -> dict[str, Any]:
    providers = {"gpu": {"kind": "vllm", "base_url": up.url, "api_key": "sk-upstream"}}
    models = {"bench": {"deployments": [{"provider": "gpu", "model": "theirs"}]}}
    return {"llm": {"providers": providers, "models": models, "routing": PATIENT}}


@pytest.fixture
def up(shared: SharedGateway) -> Upstream:
    upstream = shared.up()
    upstream.handler = VllmWire("theirs")
    return upstream


@pytest.fixture
def client(running: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as sdk:
        yield sdk


@pytest.mark.proves("vllm", "chat", "system", "usage", "SDK at the gateway")
def test_chat(up: Upstream, client: openai.OpenAI) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    answer = client.chat.completions.create(model="bench", messages=messages)
    assert answer.choices[0].message.content == "hello out there"
    assert answer.model == "bench"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 3)
    assert up.requests[0].path == "/v1/chat/completions"
    assert up.requests[0].body == {"model": "theirs", "messages": messages}
    assert up.requests[0].headers["authorization"] == "Bearer sk-upstream"


@pytest.mark.proves("vllm", "stop", "seed", "n", "logprobs", "tool_choice")
@pytest.mark.proves("vllm", "response_format json_schema", "response_format json_object")
@pytest.mark.parametrize(
    "fields",
    [
        {"guided_json": {"type": "object"}, "guided_decoding_backend": "xgrammar"},
        {"guided_regex": "[0-9]+"},
        {"guided_choice": ["yes", "no"]},
        {"guided_grammar": "root ::= 'a'"},
        {"structured_outputs": {"choice": ["yes", "no"], "whitespace_pattern": None}},
        {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "length_penalty": 1.0, "min_tokens": 2},
        {"ignore_eos": True, "stop_token_ids": [2], "bad_words": ["x"], "include_stop_str_in_output": True},
        {"chat_template_kwargs": {"enable_thinking": False}, "add_generation_prompt": True, "cache_salt": "s"},
        {"prompt_logprobs": 1, "return_token_ids": True, "truncate_prompt_tokens": 8, "skip_special_tokens": False},
        {"stop": ["a", "b"], "seed": 7, "n": 2, "logprobs": True, "top_logprobs": 3, "temperature": 0},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "time"}}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_fields_reach_the_server_unchanged(fields: dict, up: Upstream, client: openai.OpenAI) -> None:
    client.chat.completions.create(model="bench", messages=HELLO, extra_body=fields)
    assert up.requests[0].body == {"model": "theirs", "messages": HELLO, **fields}


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("vllm_xargs", {"kv_transfer_params": "x"}, "vllm_xargs"),
        ("kv_transfer_params", {"remote_host": "x"}, "kv_transfer_params"),
        ("ec_transfer_params", {"remote_host": "x"}, "ec_transfer_params"),
        ("chat_template", "{{ 1 }}", "chat_template"),
        ("chat_template_kwargs", {"chat_template": "{{ 1 }}"}, "chat_template"),
        ("logits_processors", ["os.system"], "logits_processors"),
        ("mm_processor_kwargs", {"x": 1}, "mm_processor_kwargs"),
        ("media_io_kwargs", {"video": {}}, "media_io_kwargs"),
        ("request_id", "mine", "request_id"),
        ("priority", -5, "priority"),
        ("prompt_embeds", "AAAA", "prompt_embeds"),
    ],
)
def test_fields_that_run_code_or_divert_the_call_are_refused(
    field: str, value: Any, named: str, up: Upstream, client: openai.OpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="bench", messages=HELLO, extra_body={field: value})
    assert caught.value.body["param"] == named
    assert caught.value.body["code"] == "field_not_allowed"
    assert up.requests == []


@pytest.mark.proves("vllm", "streaming", "usage")
def test_stream(up: Upstream, client: openai.OpenAI) -> None:
    asked = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="bench", messages=HELLO, stream=True, stream_options=asked))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "hellooutthere"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert {chunk.model for chunk in chunks} == {"bench"}
    assert chunks[-1].usage.total_tokens == 7
    assert up.requests[0].body["stream_options"] == asked


@pytest.mark.proves("vllm", "reasoning", "multi-turn")
def test_what_the_model_thinks_is_reasoning_content(up: Upstream, client: openai.OpenAI) -> None:
    think = {"chat_template_kwargs": {"enable_thinking": True}}
    answer = client.chat.completions.create(model="bench", messages=HELLO, extra_body=think)
    message = answer.choices[0].message.model_dump(exclude_none=True)
    assert message == {"role": "assistant", "content": "hello out there", "reasoning_content": "15 letters"}
    deltas = [
        chunk.choices[0].delta.model_dump(exclude_none=True)
        for chunk in client.chat.completions.create(model="bench", messages=HELLO, stream=True, extra_body=think)
    ]
    assert deltas[:4] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "15"},
        {"reasoning_content": "letters"},
        {"content": "hello"},
    ]
    client.chat.completions.create(model="bench", messages=[*HELLO, message, {"role": "user", "content": "why"}])
    sent = up.requests[-1].body["messages"]
    assert sent[1] == {**message, "reasoning": "15 letters"}
    assert sent[0] == HELLO[0]


def test_a_server_that_says_both_names_is_left_alone(up: Upstream, client: openai.OpenAI) -> None:
    delta = {"reasoning": "so", "reasoning_content": "so"}
    up.stream([{"id": "c", "model": "theirs", "choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}])
    (chunk,) = client.chat.completions.create(model="bench", messages=HELLO, stream=True)
    assert chunk.choices[0].delta.model_dump(exclude_none=True) == delta


@pytest.mark.proves("vllm", "images")
def test_images(up: Upstream, client: openai.OpenAI) -> None:
    content = [{"type": "text", "text": "what is it"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    answer = client.chat.completions.create(model="bench", messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == "what is it"
    assert up.requests[0].body["messages"][0]["content"] == content


@pytest.mark.proves("vllm", "tools", "parallel tools")
def test_tools(up: Upstream, client: openai.OpenAI) -> None:
    message = {"role": "assistant", "content": None, "reasoning": None, "tool_calls": CALLS}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}
    up.reply({"id": "c", "object": "chat.completion", "created": 1, "model": "theirs", "choices": [choice]}, times=1)
    answer = client.chat.completions.create(
        model="bench", messages=HELLO, tools=TOOLS, tool_choice="auto", parallel_tool_calls=True
    )
    calls = answer.choices[0].message.tool_calls
    assert [(call.id, call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("chatcmpl-tool-0", "weather", {"city": "Köln"}),
        ("chatcmpl-tool-1", "time", {"city": "Köln"}),
    ]
    assert up.requests[0].body["tools"] == TOOLS
    results = [{"role": "tool", "tool_call_id": call.id, "content": "12"} for call in calls]
    asked = [*HELLO, {"role": "assistant", "content": None, "tool_calls": CALLS}, *results]
    client.chat.completions.create(model="bench", messages=asked, tools=TOOLS)
    assert up.requests[1].body["messages"] == asked


@pytest.mark.proves("vllm", "streamed tool arguments")
def test_streamed_tool_arguments(up: Upstream, client: openai.OpenAI) -> None:
    def event(delta: dict, finish: str | None = None) -> dict:
        return {"id": "c", "model": "theirs", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    first = {"index": 0, "id": "chatcmpl-tool-0", "type": "function", "function": {"name": "time", "arguments": ""}}
    pieces = ['{"reasoning": ', '"model"', ": 1}"]
    events = [event({"role": "assistant", "content": None, "tool_calls": [first]})]
    events += [event({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in pieces]
    up.stream([*events, event({}, "tool_calls"), usage_chunk(3, 4)])
    chunks = list(client.chat.completions.create(model="bench", messages=HELLO, tools=TOOLS, stream=True))
    calls = [chunk.choices[0].delta.tool_calls[0] for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert calls[0].function.name == "time"
    assert [call.function.arguments for call in calls] == ["", *pieces]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.proves("vllm", "completions")
def test_completions(up: Upstream, client: openai.OpenAI) -> None:
    answer = client.completions.create(model="bench", prompt="once upon", extra_body={"top_k": 3})
    assert answer.choices[0].text == "once upon"
    assert answer.model == "bench"
    assert up.requests[0].body == {"model": "theirs", "prompt": "once upon", "top_k": 3}
    chunks = client.completions.create(model="bench", prompt="once upon", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "once upon"


@pytest.mark.proves("vllm", "embeddings", "embeddings base64", "dimensions")
def test_embeddings(up: Upstream, client: openai.OpenAI) -> None:
    floats = client.embeddings.create(model="bench", input=["a", "bcd"], encoding_format="float", dimensions=3)
    assert [item.embedding for item in floats.data] == [[1.0, 0.0, 1.0], [3.0, 1.0, 1.0]]
    assert up.requests[0].body == {
        "model": "theirs", "input": ["a", "bcd"], "encoding_format": "float", "dimensions": 3
    }  # fmt: skip
    packed = client.embeddings.create(model="bench", input="abcd", encoding_format="base64")
    assert struct.unpack("<3f", base64.b64decode(packed.data[0].embedding)) == (4.0, 0.0, 1.0)


@pytest.mark.proves("vllm", "rerank")
def test_rerank(up: Upstream, running: Any) -> None:
    documents = ["flour is white", "Paris is a capital", "the capital of France is Paris"]
    body = {"model": "bench", "query": "capital of France", "documents": documents, "top_n": 2}
    answer = running.post("/v1/rerank", {**body, "return_documents": True}).json()
    assert [(item["index"], round(item["relevance_score"], 3)) for item in answer["results"]] == [(2, 1.0), (1, 0.333)]
    assert answer["results"][0]["document"] == {"text": documents[2]}
    assert answer["model"] == "bench"
    assert up.requests[0].path == "/v1/rerank"
    assert up.requests[0].body == {**body, "model": "theirs"}


@pytest.mark.proves("vllm", "score")
def test_score(up: Upstream, running: Any) -> None:
    body = {"model": "bench", "text_1": "a b", "text_2": ["b c", "a b"]}
    answer = running.post("/v1/score", body).json()
    assert [item["score"] for item in answer["data"]] == [0.5, 1.0]
    assert answer["model"] == "bench"
    assert answer["usage"]["prompt_tokens"] == 7
    assert (up.requests[0].path, up.requests[0].body) == ("/v1/score", {**body, "model": "theirs"})


@pytest.mark.proves("vllm", "tokenize")
def test_tokenize_and_back(up: Upstream, running: Any) -> None:
    answer = running.post("/v1/tokenize", {"model": "bench", "prompt": "abc", "return_token_strs": True}).json()
    assert answer == {"count": 3, "max_model_len": 256, "tokens": [97, 98, 99], "token_strs": ["a", "b", "c"]}
    back = running.post("/v1/detokenize", {"model": "bench", "tokens": [97, 98]}).json()
    assert back == {"prompt": "ab"}
    chat = running.post("/v1/tokenize", {"model": "bench", "messages": [{"role": "user", "content": "hi"}]}).json()
    assert chat["tokens"] == [104, 105]
    assert [request.path for request in up.requests] == ["/tokenize", "/detokenize", "/tokenize"]
    assert up.requests[0].body["model"] == "theirs"
    assert up.requests[0].headers["authorization"] == "Bearer sk-upstream"


def test_nonsense_in_place_of_tokens_is_a_502(up: Upstream, running: Any) -> None:
    up.reply({"tokens": "none"})
    answer = running.post("/v1/tokenize", {"model": "bench", "prompt": "abc"})
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_nonsense"


@pytest.mark.proves("vllm", "errors")
@pytest.mark.parametrize(
    ("status", "raised"),
    [(400, openai.BadRequestError), (404, openai.NotFoundError), (429, openai.RateLimitError)],
)
def test_errors_keep_what_the_server_says(
    status: int, raised: type[openai.APIStatusError], up: Upstream, client: openai.OpenAI
) -> None:
    said = "This model's maximum context length is 256 tokens."
    error = {"message": said, "type": "BadRequestError", "param": "input_tokens", "code": status}
    up.reply({"error": error}, status=status)
    with pytest.raises(raised) as caught:
        client.chat.completions.create(model="bench", messages=HELLO)
    assert said in caught.value.message


@pytest.mark.proves("vllm", "errors")
def test_an_error_before_the_first_event_of_a_stream_has_its_status(up: Upstream, client: openai.OpenAI) -> None:
    up.stream([{"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}])
    with pytest.raises(openai.BadRequestError, match="too long"):
        list(client.chat.completions.create(model="bench", messages=HELLO, stream=True))


def test_an_operation_that_the_server_has_no_route_for_is_a_clear_400(up: Upstream, running: Any) -> None:
    up.reply(NO_ROUTE, status=404)
    answer = running.post("/v1/score", {"model": "bench", "text_1": "a", "text_2": "b"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported_operation"
    assert "'gpu'" in answer.json()["error"]["message"]
    assert "--runner" in answer.json()["error"]["message"]


def test_a_stream_that_is_cut_has_no_finish(up: Upstream, running: Any) -> None:
    up.stream(cut_after=1, clean=True)
    text = running.chat(stream=True).text
    assert '"content": "Hello"' in text
    assert '"finish_reason": "' not in text
    assert "[DONE]" not in text
    assert '"code":"upstream_broken"' in text


@pytest.mark.proves("vllm", "several keys")
def test_several_keys_are_taken_in_turn(up: Upstream, gateway: Callable) -> None:
    up.handler = VllmWire("theirs")
    provider = {"kind": "vllm", "base_url": up.url, "api_keys": ["key-one-1", "key-two-2"]}
    running = gateway(llm={"providers": {"gpu": provider}})
    for _ in range(4):
        assert running.chat("gpu/theirs").status_code == 200
    keys = {request.headers["authorization"] for request in up.requests if request.path.endswith("completions")}
    assert keys == {"Bearer key-one-1", "Bearer key-two-2"}


@pytest.mark.proves("vllm", "list models")
def test_a_model_is_found_by_the_servers_own_list(up: Upstream, running: Any) -> None:
    assert running.chat("theirs").json()["choices"][0]["message"]["content"] == "hello"
    assert up.requests[0].path == "/v1/models"


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/"])
def test_an_address_may_leave_v1_out(base: str, up: Upstream, gateway: Callable) -> None:
    provider = {"kind": "vllm", "base_url": up.url.removesuffix("/v1") + base}
    running = gateway(llm={"providers": {"gpu": provider}})
    assert running.chat("gpu/theirs").status_code == 200
    assert running.post("/v1/tokenize", {"model": "gpu/theirs", "prompt": "a"}).json()["tokens"] == [97]
    assert [request.path for request in up.requests] == ["/v1/chat/completions", "/tokenize"]


def test_a_refusal_at_one_deployment_is_answered_by_another(up: Upstream, gateway: Callable) -> None:
    with Upstream() as down:
        down.handler = lambda request: reply(status=503)
        providers = {
            "first": {"kind": "vllm", "base_url": down.url},
            "second": {"kind": "vllm", "base_url": up.url},
        }
        deployments = [
            {"provider": "first", "model": "theirs"},
            {"provider": "second", "model": "theirs", "priority": 1},
        ]
        running = gateway(llm={"providers": providers, "models": {"bench": {"deployments": deployments}}})
        answer = running.chat()
        assert answer.json()["choices"][0]["message"]["content"] == "hello"
        assert answer.headers["x-sage-deployment"] == "second/theirs"
