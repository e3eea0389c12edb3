"""An OpenAI-compatible server behind the gateway: what OpenAI's SDK sends and reads is the same as without it.

Each request is made twice, at the scripted server itself and at the gateway before it. What arrives must be equal but
for the model's name (and the usage that streams are always asked for), and so must what comes back.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel
from shared_gateway import SharedGateway
from upstream import Received, Script, Upstream, chat_chunk, openai_like, reply, usage, usage_chunk

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

HELLO = [{"role": "user", "content": "hello out there"}]
PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(24)).decode()
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The {name}.",
            "strict": True,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name in ("weather", "time")
]
CALLS = [
    {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": '{"city": "Köln"}'}}
    for i, name in enumerate(("weather", "time"))
]
LOGPROB = {"token": "Hi", "logprob": -0.25, "bytes": [72, 105]}
LOGPROBS = {"content": [{**LOGPROB, "top_logprobs": [LOGPROB]}], "refusal": None}


class City(BaseModel):
    """What the json_schema of a request is made of."""

    city: str
    people: int


class Pair:
    """OpenAI's SDK at the scripted server, and at the gateway before it."""

    def __init__(self, up: Upstream, running: Any) -> None:
        self.up = up
        self.running = running
        self.direct = openai.OpenAI(base_url=up.url, api_key="sk-upstream", max_retries=0)
        self.through = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)

    def both(self, ask: Callable[[openai.OpenAI, str], Any]) -> Any:
        """The answer through the gateway, after it and its request were found equal to those without it."""
        direct, through = _read(ask(self.direct, "theirs-0")), _read(ask(self.through, "bench"))
        first, second = self.up.requests[-2:]
        expected = dict(first.body)
        if expected.get("stream"):
            expected["stream_options"] = {**expected.get("stream_options", {}), "include_usage": True}
        assert second.body == expected
        assert (second.method, second.path) == (first.method, first.path)
        assert _nameless(through) == _nameless(direct)
        return through

    def chat(self, **fields: Any) -> Any:
        fields = {"messages": HELLO, **fields}
        return self.both(lambda client, model: client.chat.completions.create(model=model, **fields))


def _read(answer: Any) -> Any:
    return list(answer) if isinstance(answer, openai.Stream) else answer


def _nameless(answer: Any) -> Any:
    """An answer, or a stream's, as plain data without the model's name and without what streams are not asked for."""
    if not isinstance(answer, list):
        return answer.to_dict(warnings=False) | {"model": None}
    return [chunk.to_dict(warnings=False) | {"model": None} for chunk in answer]


@pytest.fixture
def pair(up: Upstream, shared: SharedGateway) -> Iterator[Pair]:
    clients = Pair(up, shared.running())
    yield clients
    clients.direct.close()
    clients.through.close()


def answer(*choices: dict[str, Any], **extra: Any) -> dict[str, Any]:
    """A whole chat answer."""
    complete = [
        {"index": i, "finish_reason": "stop", "logprobs": None, **choice, "message": {"role": "assistant", **message}}
        for i, choice in enumerate(choices)
        for message in [choice["message"]]
    ]
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "theirs-0-2026"}
    return {**head, "choices": complete, "usage": usage(3, 2), **extra}


def delta(fields: dict[str, Any], index: int = 0, finish: str | None = None, **extra: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": fields, "logprobs": None, "finish_reason": finish, **extra}
    return chat_chunk(None, choices=[choice], model="theirs-0-2026")


@pytest.mark.proves("openai", "SDK at the gateway", "chat", "system", "multi-turn", "stop", "seed", "usage")
def test_chat(pair: Pair) -> None:
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "one", "name": "ann"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "text", "text": "three"}, {"type": "text", "text": " four"}]},
    ]
    response = pair.chat(
        messages=turns,
        stop=["END", "\n"],
        seed=7,
        temperature=0,
        top_p=0.5,
        max_completion_tokens=9,
        frequency_penalty=0.1,
        presence_penalty=-0.1,
        logit_bias={"5": 1},
        user="ann",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        prediction={"type": "content", "content": "x"},
    )
    assert response.choices[0].message.content == "three four"
    assert (response.model, response.usage.prompt_tokens, response.usage.completion_tokens) == ("bench", 3, 2)
    ChatCompletion.model_validate(response.to_dict(), strict=True)


@pytest.mark.proves("openai", "streaming", "usage")
def test_stream(pair: Pair) -> None:
    response = pair.chat(stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in response if chunk.choices) == "hello out there"
    assert {chunk.model for chunk in response} == {"bench"}
    assert response[-1].usage.total_tokens == 7
    for chunk in response:
        ChatCompletionChunk.model_validate(chunk.to_dict(), strict=True)


@pytest.mark.proves("openai", "tools", "parallel tools", "tool_choice", "multi-turn")
@pytest.mark.parametrize(
    "choice", ["auto", "required", "none", {"type": "function", "function": {"name": "weather"}}], ids=str
)
def test_tools(pair: Pair, choice: Any) -> None:
    pair.up.reply(answer({"message": {"content": None, "tool_calls": CALLS}, "finish_reason": "tool_calls"}))
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "5"} for call in CALLS]
    response = pair.chat(
        messages=[*HELLO, {"role": "assistant", "content": None, "tool_calls": CALLS}, *results],
        tools=TOOLS,
        tool_choice=choice,
        parallel_tool_calls=True,
    )
    assert [call.to_dict() for call in response.choices[0].message.tool_calls] == CALLS
    assert response.choices[0].finish_reason == "tool_calls"
    assert pair.up.requests[1].body["tool_choice"] == choice
    assert pair.up.requests[1].body["tools"] == TOOLS


@pytest.mark.proves("openai", "streamed tool arguments", "parallel tools")
def test_arguments_of_tools_in_streams(pair: Pair) -> None:
    events = []
    for i, call in enumerate(CALLS):
        events.append(delta({"tool_calls": [{"index": i, **call, "function": {"name": f"f{i}", "arguments": ""}}]}))
        argument_text = call["function"]["arguments"]
        events += [delta({"tool_calls": [{"index": i, "function": {"arguments": c}}]}) for c in argument_text]
    pair.up.stream([*events, delta({}, finish="tool_calls")])
    response = pair.chat(tools=TOOLS, stream=True)
    said: dict[int, str] = {}
    for call in (call for chunk in response for call in chunk.choices[0].delta.tool_calls or ()):
        said[call.index] = said.get(call.index, "") + call.function.arguments
    assert said == {0: '{"city": "Köln"}', 1: '{"city": "Köln"}'}
    assert len(response) == len(events) + 1  # none joined, none lost


@pytest.mark.proves("openai", "images")
def test_images(pair: Pair) -> None:
    parts = [
        {"type": "text", "text": "what is it"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
    ]
    assert pair.chat(messages=[{"role": "user", "content": parts}]).choices[0].message.content == "what is it"


@pytest.mark.proves("openai", "response_format json_object", "response_format json_schema")
def test_response_formats(pair: Pair) -> None:
    pair.up.reply(answer({"message": {"content": '{"city": "Köln", "people": 1}', "refusal": None}}))
    response = pair.chat(response_format={"type": "json_object"})
    assert response.choices[0].message.content == '{"city": "Köln", "people": 1}'
    parsed = pair.both(
        lambda client, model: client.chat.completions.parse(model=model, messages=HELLO, response_format=City)
    )
    assert parsed.choices[0].message.parsed == City(city="Köln", people=1)
    sent = pair.up.requests[-1].body["response_format"]
    assert sent["json_schema"]["strict"] is True
    assert sent["json_schema"]["schema"]["required"] == ["city", "people"]


@pytest.mark.proves("openai", "logprobs", "n")
def test_logprobs_and_several_answers(pair: Pair) -> None:
    pair.up.reply(answer(*({"message": {"content": text}, "logprobs": LOGPROBS} for text in ("Hi", "Ho"))), times=2)
    response = pair.chat(n=2, logprobs=True, top_logprobs=1)
    assert [choice.message.content for choice in response.choices] == ["Hi", "Ho"]
    assert response.choices[1].logprobs.content[0].top_logprobs[0].logprob == -0.25
    events = [delta({"content": text}, i, logprobs=LOGPROBS) for i, text in enumerate(("Hi", "Ho"))]
    pair.up.stream([*events, *(delta({}, i, finish="stop") for i in (0, 1)), usage_chunk(3, 2)])
    asked = {"n": 2, "logprobs": True, "top_logprobs": 1, "stream": True, "stream_options": {"include_usage": True}}
    chunks = pair.chat(**asked)
    assert [chunk.choices[0].index for chunk in chunks[:-1]] == [0, 1, 0, 1]
    assert chunks[1].choices[0].logprobs.content[0].bytes == [72, 105]


@pytest.mark.proves("openai", "reasoning")
def test_reasoning(pair: Pair) -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 4}}
    pair.up.reply(
        answer({"message": {"content": "4", "reasoning_content": "2+2"}}, usage=usage(3, 5) | details), times=2
    )
    response = pair.chat(reasoning_effort="low", verbosity="low", extra_body={"thinking": {"type": "enabled"}})
    assert response.choices[0].message.reasoning_content == "2+2"
    assert response.usage.completion_tokens_details.reasoning_tokens == 4
    pair.up.stream([delta({"reasoning_content": "2+2"}), delta({"content": "4"}, finish="stop")])
    chunks = pair.chat(stream=True, extra_body={"chat_template_kwargs": {"enable_thinking": True}})
    assert chunks[0].choices[0].delta.reasoning_content == "2+2"


@pytest.mark.proves("openai", "completions")
def test_completions(pair: Pair) -> None:
    fields = {"prompt": "once upon", "suffix": "end", "logprobs": 1, "echo": False, "stop": "x", "seed": 3}
    answer = pair.both(lambda client, model: client.completions.create(model=model, **fields))
    assert (answer.choices[0].text, answer.model) == ("once upon", "bench")
    chunks = pair.both(
        lambda client, model: client.completions.create(
            model=model, stream=True, stream_options={"include_usage": True}, **fields
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "once upon"


@pytest.mark.proves("openai", "embeddings", "embeddings base64", "dimensions")
def test_embeddings(pair: Pair) -> None:
    vectors = [[1.0, 0.0, 1.0], [3.0, 1.0, 1.0]]
    for fields in ({"encoding_format": "float"}, {"encoding_format": "base64"}, {}, {"dimensions": 3, "user": "ann"}):
        answer = pair.both(
            lambda client, model, f=fields: client.embeddings.create(model=model, input=["a", "bcd"], **f)
        )
        if fields.get("encoding_format") == "base64":
            assert base64.b64decode(answer.data[1].embedding) == b"\0\0@@\0\0\x80?\0\0\x80?"
        else:
            assert [item.embedding for item in answer.data] == vectors
    assert pair.up.requests[-1].body["dimensions"] == 3
    tokens = pair.both(lambda client, model: client.embeddings.create(model=model, input=[[1, 2], [3]]))
    assert len(tokens.data) == 2


@pytest.mark.proves("openai", "rerank")
def test_rerank_is_passed_on_as_it_is(up: Upstream, upstreams: Callable) -> None:
    """The shape of Jina, of vLLM and of llama.cpp's server."""
    results = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": -2.5}]
    answer = {"id": "rank-1", "model": "theirs-0", "usage": {"prompt_tokens": 4, "total_tokens": 4}, "results": results}
    up.reply(answer, times=1)
    body = {"model": "bench", "query": "q", "documents": ["a", "b"], "top_n": 2}
    running = upstreams(up)
    response = running.post("/v1/rerank", body | {"truncate_prompt_tokens": 5})
    assert response.status_code == 200, response.text
    assert response.json() == answer | {"model": "bench"}
    assert up.requests[0].path == "/v1/rerank"
    assert up.requests[0].body == body | {"model": "theirs-0", "truncate_prompt_tokens": 5}
    up.reply({"detail": "no ranking here"})
    assert running.post("/v1/rerank", body).json()["error"]["code"] == "upstream_nonsense"


@pytest.mark.proves("openai", "score", "tokenize", refused=True)
def test_operations_that_are_not_of_openais_wire(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    asked = {"score": {"text_1": "a", "text_2": "b"}, "tokenize": {"prompt": "a"}, "detokenize": {"tokens": [1]}}
    for operation, body in asked.items():
        response = running.post(f"/v1/{operation}", {"model": "bench", **body})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported_operation"), operation
        assert response.json()["error"]["message"].startswith(f"the provider 'up0' (openai) has no {operation};")
    assert up.requests == []


@pytest.mark.usefixtures("renewed")
@pytest.mark.proves("openai", "list models")
def test_a_model_that_only_the_upstream_lists(pair: Pair) -> None:
    answer = pair.through.chat.completions.create(model="upstream-model", messages=HELLO)
    assert answer.model == "upstream-model"
    assert [request.path for request in pair.up.requests] == ["/v1/models", "/v1/chat/completions"]


@pytest.mark.proves("openai", "errors")
@pytest.mark.parametrize(
    ("status", "raised", "ours"),
    [
        (400, openai.BadRequestError, 400),
        (401, openai.InternalServerError, 502),
        (403, openai.InternalServerError, 502),
        (404, openai.NotFoundError, 404),
        (422, openai.BadRequestError, 400),
        (429, openai.RateLimitError, 429),
        (500, openai.InternalServerError, 502),
        (503, openai.InternalServerError, 503),
    ],
)
def test_errors(up: Upstream, upstreams: Callable, status: int, raised: type[openai.APIStatusError], ours: int) -> None:
    failure = {"message": "it said no", "type": "x", "param": "stop", "code": "no_can_do"}
    up.reply({"error": failure}, status=status, headers={"retry-after": "2"})
    running = upstreams(up, provider={"retries": 0})
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)
    with client, pytest.raises(raised) as caught:
        client.chat.completions.create(model="bench", messages=HELLO)
    assert caught.value.status_code == ours
    secret = status in (401, 403)  # about our key, so its text, which may quote it, stays here
    assert ("it said no" in caught.value.message) != secret
    assert caught.value.code == ("upstream_credential_refused" if secret else "no_can_do")
    if status in (429, 503):
        assert caught.value.response.headers["retry-after"] == "2"


def test_organization_and_project_are_told(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up, provider={"organization": "org-abcdefgh", "project": "proj_12345678"})
    running.chat()
    headers = up.requests[0].headers
    assert (headers["openai-organization"], headers["openai-project"]) == ("org-abcdefgh", "proj_12345678")
    assert headers["authorization"] == "Bearer sk-upstream"
    up.reply({"error": {"message": "no proj_12345678 in org-abcdefgh"}}, status=400, times=1)
    report = running.chat().json()["error"]["message"]
    assert report == "the provider 'up0' answered 400: no [key] in [key]"
    with openai.OpenAI(base_url=up.url, api_key="k", organization="org-abcdefgh", project="proj_12345678") as client:
        client.models.list()  # as the SDK names them
    names = {name for name in up.requests[-1].headers if name.startswith("openai-")}
    assert names == {"openai-organization", "openai-project"}


def test_neither_is_told_where_neither_is_set(up: Upstream, upstreams: Callable) -> None:
    upstreams(up).chat()
    assert not [name for name in up.requests[0].headers if name.startswith("openai-")]


def _key(request: Received) -> str:
    return request.headers["authorization"].removeprefix("Bearer ")


KEYS = {"api_key": "sk-first-key", "api_keys": ["sk-second-key", "sk-third-key"]}


@pytest.mark.proves("openai", "several keys")
def test_requests_go_over_all_keys(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up, provider=KEYS)
    for _ in range(9):
        assert running.chat().status_code == 200
    assert Counter(map(_key, up.requests)) == {"sk-first-key": 3, "sk-second-key": 3, "sk-third-key": 3}


@pytest.mark.slow
@pytest.mark.proves("openai", "several keys")
@pytest.mark.parametrize("status", [401, 429])
def test_a_key_that_is_refused_is_passed_over(up: Upstream, upstreams: Callable, status: int) -> None:
    def one_good_key(request: Received) -> Script:
        good = _key(request) == "sk-third-key"
        return openai_like(request) if good else reply(status=status, headers={"retry-after": "30"})

    up.handler = one_good_key
    running = upstreams(up, provider=KEYS)
    for _ in range(4):
        before = len(up.requests)
        assert running.chat().status_code == 200
        tried = [_key(request) for request in up.requests[before:]]
        assert len(tried) == len(set(tried))  # none twice in one request
        assert tried[-1] == "sk-third-key"
    # Once they are known to be refused, requests go to the good one at once.
    assert tried == ["sk-third-key"]
