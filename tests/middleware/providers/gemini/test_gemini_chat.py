"""Gemini behind OpenAI's surface: OpenAI's SDK as the client, behind it a scripted Gemini that knows its wire."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from gemini_wire import KEY, answer, called, candidate, events, failure, gemini_like, usage, wrong_key
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from running_gateway import Running
from shared_gateway import PATIENT, SharedGateway, share_gateway
from upstream import Upstream, reply

pytestmark = pytest.mark.slow  # Google's SDK

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello out there"}]
PIXEL = f"data:image/png;base64,{base64.b64encode(b'pixel').decode()}"
PARAMETERS = {"type": "object", "properties": {"city_name": {"type": "string"}}, "required": ["city_name"]}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather of a city.", "parameters": PARAMETERS},
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}
SCHEMA = {"type": "object", "properties": {"a_b": {"type": "integer"}}, "required": ["a_b"]}
SIGNED = base64.b64encode(b"signature").decode()
MODELS = {
    "bench": "gemini-2.5-flash",
    "newer": "gemini-3.1-flash-preview",
    "pro": "gemini-3.1-pro-preview",
    "older": "gemini-2.0-flash",
    "easy": "gemini-2.5-flash",
    "vectors": "gemini-embedding-001",
}


def sections(up: Upstream) -> dict[str, Any]:
    provider = {"kind": "gemini", "api_key": KEY, "base_url": f"http://127.0.0.1:{up.port}"}
    models = {name: {"deployments": [{"provider": "google", "model": theirs}]} for name, theirs in MODELS.items()}
    models["easy"]["drop_unsupported"] = True
    return {"llm": {"providers": {"google": provider}, "models": models, "routing": PATIENT}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedGateway]:
    with share_gateway(tmp_path_factory.mktemp("shared"), sections) as started:
        yield started


@pytest.fixture
def up(shared: SharedGateway) -> Upstream:
    upstream = shared.up()
    upstream.handler = gemini_like
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


def refused(client: openai.OpenAI, messages: Any = HELLO, **fields: Any) -> str:
    """The ``param`` of the 400."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages, **fields)
    return str(caught.value.body["param"])


def config(up: Upstream) -> Any:
    return up.requests[-1].body.get("generationConfig")


@pytest.mark.proves("gemini", "chat", "usage", "system", "multi-turn")
def test_a_chat(up: Upstream, sdk: openai.OpenAI) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "one"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "three", "refusal": None, "annotations": []},
        *HELLO,
    ]
    whole = ask(sdk, chat)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("hello out there", "stop")
    assert (whole.model, whole.id) == ("bench", "resp-1")
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (4, 3, 7)
    sent = up.requests[0]
    assert (sent.method, sent.path) == ("POST", "/v1beta/models/gemini-2.5-flash:generateContent")
    assert sent.headers["x-goog-api-key"] == KEY
    assert "authorization" not in sent.headers
    assert sent.body == {
        "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "Be kind."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "one"}, {"text": "two"}]},
            {"role": "model", "parts": [{"text": "three"}]},
            {"role": "user", "parts": [{"text": "hello out there"}]},
        ],
    }


@pytest.mark.proves("gemini", "streaming", "usage")
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
    assert (counted[-1].usage.prompt_tokens, counted[-1].usage.completion_tokens) == (4, 3)
    assert up.requests[0].path == "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"


@pytest.mark.proves("gemini", "images")
def test_pictures_sounds_and_files(up: Upstream, sdk: openai.OpenAI) -> None:
    parts = [
        {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": PIXEL}},
        {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}},
    ]
    ask(sdk, [{"role": "user", "content": parts}])
    assert up.requests[0].body["contents"][0]["parts"] == [
        {"text": "look"},
        {"inlineData": {"mimeType": "image/png", "data": PIXEL.partition(",")[2]}},
        {"inlineData": {"mimeType": "audio/mp3", "data": "aGk="}},
        {"inlineData": {"mimeType": "application/pdf", "data": "aGk="}},
    ]
    file = {"type": "file", "file": {"file_id": "file-1"}}
    assert refused(sdk, [{"role": "user", "content": [file]}]) == "messages[0].content[0].file"


@pytest.mark.proves("gemini", "tools", "parallel tools", "multi-turn", "reasoning")
def test_a_loop_of_tools_keeps_its_signatures(up: Upstream, sdk: openai.OpenAI) -> None:
    thought = {"text": "hm", "thought": True}
    calls = [called("weather", {"city_name": "Köln"}, SIGNED, "c1"), called("clock", {}, identity="c2")]
    counted = usage(4, 3, thoughtsTokenCount=2, cachedContentTokenCount=1)
    up.use(reply(answer(thought, {"text": "I look."}, *calls, counted=counted)), times=1)
    whole = ask(sdk, tools=[WEATHER, CLOCK], model="newer", reasoning_effort="medium")
    first = whole.choices[0]
    assert (first.finish_reason, first.message.content) == ("tool_calls", "I look.")
    assert [
        (call.id, call.function.name, json.loads(call.function.arguments)) for call in first.message.tool_calls
    ] == [
        ("c1", "weather", {"city_name": "Köln"}),
        ("c2", "clock", {}),
    ]
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (4, 5, 9)
    assert whole.usage.prompt_tokens_details.cached_tokens == 1
    assert whole.usage.completion_tokens_details.reasoning_tokens == 2
    assert config(up)["thinkingConfig"] == {"thinkingLevel": "MEDIUM", "includeThoughts": True}
    turn = first.message.model_dump()
    assert turn["reasoning_content"] == "hm"
    assert turn["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": SIGNED}}
    assert turn["thinking_blocks"] == [{"type": "thinking", "thinking": "hm", "signature": f"gemini:{SIGNED}"}]
    results = [
        {"role": "tool", "tool_call_id": "c1", "content": '{"sky": "grey"}'},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "noon"}]},
    ]
    without_extra = {**turn, "tool_calls": [{**call, "extra_content": None} for call in turn["tool_calls"]]}
    foreign = {**without_extra, "thinking_blocks": [{"type": "thinking", "thinking": "x", "signature": "c2ln"}]}
    for sent_back, signature in (
        (turn, SIGNED),
        (without_extra, SIGNED),
        (foreign, "skip_thought_signature_validator"),
    ):
        ask(sdk, [*HELLO, sent_back, *results], model="newer", tools=[WEATHER, CLOCK])
        assert up.requests[-1].body["contents"][1:] == [
            {
                "role": "model",
                "parts": [
                    {"text": "I look."},
                    called("weather", {"city_name": "Köln"}, signature, "c1"),
                    called("clock", {}, identity="c2"),
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "c1", "name": "weather", "response": {"sky": "grey"}}},
                    {"functionResponse": {"id": "c2", "name": "clock", "response": {"output": "noon"}}},
                ],
            },
        ]
    ask(sdk, [*HELLO, foreign, *results], tools=[WEATHER, CLOCK])  # 2.5 asks for none
    assert "thoughtSignature" not in json.dumps(up.requests[-1].body)
    lost = [*HELLO, {"role": "tool", "tool_call_id": "c9", "content": "x"}]
    assert refused(sdk, lost) == "messages[1].tool_call_id"


def test_the_tools_as_they_are_sent(up: Upstream, sdk: openai.OpenAI) -> None:
    ask(sdk, tools=[WEATHER, CLOCK])
    assert up.requests[0].body["tools"] == [
        {
            "functionDeclarations": [
                {"name": "weather", "description": "The weather of a city.", "parametersJsonSchema": PARAMETERS},
                {"name": "clock", "description": ""},
            ]
        }
    ]
    assert "toolConfig" not in up.requests[0].body


@pytest.mark.proves("gemini", "tool_choice")
def test_the_choice_of_a_tool(up: Upstream, sdk: openai.OpenAI) -> None:
    function = {"type": "function", "function": {"name": "clock"}}
    strict = {"type": "function", "function": {"name": "s", "strict": True, "parameters": SCHEMA}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [function]}}
    for tools, given, sent in (
        ([WEATHER, CLOCK], "auto", {"mode": "AUTO"}),
        ([WEATHER, CLOCK], "none", {"mode": "NONE"}),
        ([WEATHER, CLOCK], "required", {"mode": "ANY"}),
        ([WEATHER, CLOCK], function, {"mode": "ANY", "allowedFunctionNames": ["clock"]}),
        ([WEATHER, CLOCK], allowed, {"mode": "ANY", "allowedFunctionNames": ["clock"]}),
        ([strict], "auto", {"mode": "VALIDATED"}),
    ):
        ask(sdk, tools=tools, tool_choice=given)
        assert up.requests[-1].body["toolConfig"] == {"functionCallingConfig": sent}
    assert refused(sdk, tools=[CLOCK], tool_choice={"type": "function", "function": {"name": "x"}}) == "tool_choice"


@pytest.mark.proves("gemini", "streamed tool arguments", "parallel tools", "tools", "reasoning")
def test_streamed_calls_and_thoughts(up: Upstream, sdk: openai.OpenAI) -> None:
    up.use(
        events(
            answer({"text": "h", "thought": True}, finish=None),
            answer({"text": "m", "thought": True}, finish=None),
            answer(called("weather", {"city_name": "K"}, SIGNED), finish=None),
            answer(called("clock", {}), finish=None),
            answer({"text": "", "thoughtSignature": SIGNED}),
        ),
        times=1,
    )
    choices = [chunk.choices[0] for chunk in ask(sdk, tools=[WEATHER, CLOCK], stream=True)]
    calls = [call for choice in choices for call in choice.delta.tool_calls or ()]
    assert [(call.index, call.function.name, call.function.arguments) for call in calls] == [
        (0, "weather", '{"city_name":"K"}'),
        (1, "clock", "{}"),
    ]
    assert len({call.id for call in calls}) == 2
    assert all(call.id for call in calls)
    deltas = [choice.delta.model_dump() for choice in choices]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "hm"
    assert [kept for delta in deltas for kept in delta.get("thinking_blocks") or ()] == [
        {"type": "thinking", "thinking": "hm", "signature": f"gemini:{SIGNED}"}
    ]
    assert choices[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("streams", [False, True])
def test_one_call_a_turn(up: Upstream, sdk: openai.OpenAI, streams: bool) -> None:
    """Google has no such option, and Codex asks for it always: the first call is kept."""
    calls = [called("weather", {"city_name": "K"}, SIGNED), called("clock", {})]
    if streams:
        up.use(events(answer(*calls, finish=None), answer(called("clock", {}), finish=None), answer({"text": "x"})))
    else:
        up.use(reply(answer(*calls, {"text": "x"})))
    asked = {"tools": [WEATHER, CLOCK], "parallel_tool_calls": False, "stream": streams}
    if streams:
        chunks = list(ask(sdk, **asked))
        kept = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        finish = [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1]
    else:
        [choice] = ask(sdk, **asked).choices
        kept, text, finish = choice.message.tool_calls, choice.message.content, choice.finish_reason
    assert [call.function.name for call in kept] == ["weather"]
    assert kept[0].extra_content == {"google": {"thought_signature": SIGNED}}
    assert (text, finish) == ("x", "tool_calls")
    assert "parallel_tool_calls" not in up.requests[0].body


def test_how_hard_a_model_thinks(up: Upstream, sdk: openai.OpenAI) -> None:
    for model, effort, thinking in (
        ("bench", "low", {"thinkingBudget": 1024, "includeThoughts": True}),
        ("bench", "none", {"thinkingBudget": 0}),
        ("newer", "minimal", {"thinkingLevel": "MINIMAL", "includeThoughts": True}),
        ("newer", "none", {"thinkingLevel": "MINIMAL"}),
        ("pro", "minimal", {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("pro", "xhigh", {"thinkingLevel": "HIGH", "includeThoughts": True}),
    ):
        ask(sdk, model=model, reasoning_effort=effort)
        assert config(up) == {"thinkingConfig": thinking}
    assert refused(sdk, model="older", reasoning_effort="low") == "reasoning_effort"
    assert refused(sdk, model="pro", reasoning_effort="none") == "reasoning_effort"
    ask(sdk, model="older", reasoning_effort="none")
    assert config(up) is None


@pytest.mark.proves("gemini", "response_format json_schema", "response_format json_object", "stop", "seed", "n")
def test_what_an_answer_is_to_be_like(up: Upstream, sdk: openai.OpenAI) -> None:
    ask(sdk, response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}})
    assert config(up) == {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}
    ask(sdk, response_format={"type": "json_object"})
    assert config(up) == {"responseMimeType": "application/json"}
    ask(
        sdk,
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.9,
        stop=["x", ""],
        seed=7,
        n=2,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        extra_body={"top_k": 3},
        user="u",
        store=True,
    )
    assert config(up) == {
        "maxOutputTokens": 9,
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 3,
        "stopSequences": ["x"],
        "seed": 7,
        "candidateCount": 2,
        "presencePenalty": 0.1,
        "frequencyPenalty": 0.2,
    }
    two = [candidate({"text": "a"}), candidate({"text": "b"}, index=1, finish="MAX_TOKENS")]
    up.use(reply({"candidates": two}), times=1)
    whole = ask(sdk, n=2)
    assert [(c.index, c.message.content, c.finish_reason) for c in whole.choices] == [
        (0, "a", "stop"),
        (1, "b", "length"),
    ]
    up.use(events({"candidates": two[:1]}, {"candidates": two[1:]}), times=1)
    last = {chunk.choices[0].index: chunk.choices[0].finish_reason for chunk in ask(sdk, n=2, stream=True)}
    assert last == {0: "stop", 1: "length"}
    up.use(events({"candidates": two[:1]}), times=1)
    with pytest.raises(openai.APIError, match="before the answer was whole"):
        list(ask(sdk, n=2, stream=True))


@pytest.mark.proves("gemini", "logprobs")
def test_logprobs(up: Upstream, sdk: openai.OpenAI) -> None:
    chosen = {"token": "é", "tokenId": 5, "logProbability": -0.25}
    result = {"chosenCandidates": [chosen], "topCandidates": [{"candidates": [chosen]}]}
    up.use(reply(answer({"text": "é"}, logprobsResult=result)), times=1)
    entry = ask(sdk, logprobs=True, top_logprobs=1).choices[0].logprobs.content[0]
    assert (entry.token, entry.logprob, entry.bytes) == ("é", -0.25, [195, 169])
    assert [(top.token, top.logprob) for top in entry.top_logprobs] == [("é", -0.25)]
    assert config(up) == {"responseLogprobs": True, "logprobs": 1}
    ask(sdk, logprobs=False, top_logprobs=0)
    assert config(up) is None


@pytest.mark.proves("gemini", "drop_unsupported")
def test_what_gemini_does_not_have(up: Upstream, sdk: openai.OpenAI) -> None:
    for field, value in (
        ("logit_bias", {"1": 1}),
        ("modalities", ["text", "audio"]),
        ("verbosity", "low"),
        ("web_search_options", {}),
    ):
        assert refused(sdk, **{field: value}) == field
    for tool in ({"google_search": {}}, {"googleSearch": {}}, {"url_context": {}}):
        assert refused(sdk, tools=[tool]) == "tools[0]"
    assert not up.requests
    ask(sdk, model="easy", logit_bias={"1": 1}, verbosity="low")
    assert up.requests[0].body.keys() == {"contents"}


def test_a_model_that_the_caller_names_leads_nowhere_else(up: Upstream, running: Running) -> None:
    running.chat("google/../../v1/x?y=#z")
    assert up.requests[-1].path == "/v1beta/models/..%2F..%2Fv1%2Fx%3Fy%3D%23z:generateContent"


def test_hosted_tools_that_are_allowed_go_on(up: Upstream, upstreams: Any) -> None:
    provider = {"kind": "gemini", "api_key": KEY, "base_url": f"http://127.0.0.1:{up.port}"}
    running = upstreams(up, provider={**provider, "hosted_tools": ["google_search"]})
    found = {"webSearchQueries": ["x"]}
    up.use(reply(answer({"text": "x"}, groundingMetadata=found)), times=1)
    message = running.chat(tools=[{"google_search": {}}, CLOCK]).json()["choices"][0]["message"]
    assert message["grounding_metadata"] == found
    assert up.requests[0].body["tools"][1] == {"googleSearch": {}}


@pytest.mark.proves("gemini", "several keys", "list models", "tokenize")
def test_keys_models_and_counts(up: Upstream, upstreams: Any) -> None:
    provider = {"kind": "gemini", "base_url": f"http://127.0.0.1:{up.port}"}
    running = upstreams(up, provider={**provider, "api_keys": ["wrong-key-1"], "api_key": KEY})
    assert [running.chat().status_code for _ in range(4)] == [200] * 4  # the wrong key is a 400 there, and ours
    assert running.chat("gemini-2.5-flash").status_code == 200  # which the provider lists
    alone = upstreams(up, provider={**provider, "api_key": KEY})
    counted = alone.post("/v1/tokenize", {"model": "bench", "messages": HELLO, "max_tokens": 5}).json()
    assert counted == {"count": 7, "max_model_len": None, "tokens": []}
    assert up.requests[-1].body["generateContentRequest"].keys() == {"model", "contents"}
    assert alone.post("/v1/tokenize", {"model": "bench", "prompt": "a b"}).json()["count"] == 6
    up.use(wrong_key(), times=1)
    refusal = upstreams(up, provider={**provider, "api_key": "wrong-key-2", "retries": 0}).chat()
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (502, "upstream_credential_refused")


@pytest.mark.proves("gemini", "embeddings", "embeddings base64", "dimensions")
def test_vectors(up: Upstream, sdk: openai.OpenAI) -> None:
    made = sdk.embeddings.create(model="vectors", input=["abc", "de"], encoding_format="float")
    assert [item.embedding for item in made.data] == [[3.0, 0.0, 1.0], [2.0, 1.0, 1.0]]
    assert up.requests[0].path == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    part = {"content": {"parts": [{"text": "abc"}]}, "model": "models/gemini-embedding-001"}
    assert up.requests[0].body["requests"][0] == part
    short = sdk.embeddings.create(model="vectors", input="abc", dimensions=2, extra_body={"input_type": "search_query"})
    assert short.data[0].embedding == [3.0, 0.0]  # the SDK asks for base64, and reads it
    assert up.requests[1].body["requests"] == [{**part, "outputDimensionality": 2, "taskType": "RETRIEVAL_QUERY"}]
    with pytest.raises(openai.BadRequestError, match="takes no tokens"):
        sdk.embeddings.create(model="vectors", input=[1, 2])


def test_why_an_answer_ended(up: Upstream, sdk: openai.OpenAI) -> None:
    for reason, finish in (
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("OTHER", "other"),
    ):
        up.use(reply(answer({"text": "x"}, finish=reason)), times=1)
        up.use(events(answer({"text": "x"}, finish=reason)), times=1)
        assert ask(sdk).choices[0].finish_reason == finish
        assert list(ask(sdk, stream=True))[-1].choices[0].finish_reason == finish
    prompt = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}}
    up.use(reply(prompt), times=1)
    up.use(events(prompt), times=1)
    whole = ask(sdk).choices[0]
    last = list(ask(sdk, stream=True))[-1].choices[0]
    assert (whole.finish_reason, last.finish_reason) == ("content_filter", "content_filter")
    assert whole.message.refusal == last.delta.refusal == "the prompt was blocked (SAFETY)"
    assert whole.message.content is None


def test_pictures_in_an_answer(up: Upstream, sdk: openai.OpenAI) -> None:
    up.use(reply(answer({"text": "look"}, {"inlineData": {"mimeType": "image/png", "data": "aGk="}})), times=1)
    message = ask(sdk, modalities=["text", "image"]).choices[0].message
    assert message.model_extra["images"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]
    assert config(up) == {"responseModalities": ["TEXT", "IMAGE"]}


@pytest.mark.proves("gemini", "errors")
def test_errors(up: Upstream, upstreams: Any) -> None:
    provider = {"kind": "gemini", "api_key": KEY, "retries": 0, "base_url": f"http://127.0.0.1:{up.port}"}
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}
    for status, kind, ours in (
        (400, "INVALID_ARGUMENT", 400),
        (403, "PERMISSION_DENIED", 502),
        (404, "NOT_FOUND", 404),
        (429, "RESOURCE_EXHAUSTED", 429),
        (500, "INTERNAL", 502),
        (503, "UNAVAILABLE", 503),
        (504, "DEADLINE_EXCEEDED", 504),
    ):
        up.use(failure(status, kind, "so it is", [retry] if status == 429 else ()), times=1)
        refusal = upstreams(up, provider=provider).chat()
        assert refusal.status_code == ours, refusal.text
        assert status == 403 or "so it is" in refusal.json()["error"]["message"]
        if status == 429:
            assert refusal.headers["retry-after"] == "7"
    running = upstreams(up, provider=provider, llm={"routing": PATIENT})
    up.use(reply(answer({"text": "x"}, finish="MALFORMED_FUNCTION_CALL")), times=1)
    assert running.chat().status_code == 502
    error = {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}
    up.use(events(error), times=1)
    assert running.chat(stream=True).status_code == 503
    for rest in ([error], [answer(finish="MALFORMED_FUNCTION_CALL")], []):
        up.use(events(answer({"text": "half"}, finish=None), *rest, delay=0.05), times=1)
        text = running.chat(stream=True).text
        assert '"half"' in text
        assert '"error"' in text
        assert "[DONE]" not in text


def test_answers_are_openais_types_byte_by_byte(up: Upstream, running: Running) -> None:
    whole = ChatCompletion.model_validate(running.chat().json(), strict=True)
    assert whole.choices[0].message.content == "hello"
    made = [answer({"text": "hm", "thought": True}, finish=None), answer({"text": "grün"}, called("f", {}))]
    data = b"".join(f"data: {json.dumps(each)}\r\n\r\n".encode() for each in made)
    up.use(events(*(bytes([byte]) for byte in data)), times=1)
    lines = running.chat(stream=True).text.split("\n\n")
    chunks = [ChatCompletionChunk.model_validate_json(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "grün"
    assert lines[-2:] == ["data: [DONE]", ""]
    up.use(reply(answer({"text": "whole"})), times=1)
    assert '"content":"whole"' in running.chat(stream=True).text
    up.use(events(answer({"text": "str"}, finish=None), answer({"text": "eam"})), times=1)
    assert running.chat().json()["choices"][0]["message"]["content"] == "stream"
