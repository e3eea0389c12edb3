"""What the vendors of PRESETS do differently, each as its documentation says it, on a scripted wire of its own.

The pages are named in the rows (:mod:`sage.middleware.settings.vendors.presets`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from running_gateway import Running, run_gateway
from upstream import Received, Script, Upstream, chat_chunk, openai_like, reply, usage, usage_chunk

from sage.middleware.providers.presets import PresetProvider, short_id
from sage.middleware.settings.kinds import PRESETS
from sage.middleware.settings.settings import Settings

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"id": "call_PTLP8xhu3uwZk4l3nlnrrJha", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(autouse=True)
def fresh(up: Upstream) -> None:
    up.reset()


@pytest.fixture(scope="module")
def running(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = up.url.removesuffix("/v1")
    keyless = ("lmstudio", "llamacpp", "sglang")
    providers: dict[str, Any] = {
        row.name: {"base_url": up.url} if row.name in keyless else {"base_url": up.url, "api_key": f"sk-{row.name}"}
        for row in PRESETS
    }
    providers["azure"] = {"base_url": root, "api_key": "az-key"}
    providers["dated"] = {"kind": "azure", "base_url": f"{root}/openai?api-version=2024-10-21", "api_key": "az-key"}
    for name, query in (("named", "api-version=v1"), ("preview", "api-version=2025-04-01-preview")):
        providers[name] = {"kind": "azure", "base_url": f"{root}/openai?{query}", "api_key": "az-key"}
    providers["preview"]["responses"] = True
    for kind in ("xai", "volcengine", "minimax"):
        providers[f"own-{kind}"] = {"kind": kind, "base_url": up.url, "api_key": "k", "responses": True}
    models: dict[str, Any] = {"two": {"deployments": [{"provider": "nvidia", "model": "one"}], "fallbacks": ["second"]}}
    models["second"] = {"deployments": [{"provider": "together", "model": "two"}]}
    kimi = [{"provider": "moonshot", "model": "kimi-k2.6"}]
    models["lenient-kimi"] = {"deployments": kimi, "drop_unsupported": True}
    data = {"data_dir": tmp_path_factory.mktemp("data"), "api": {"port": 0, "access_log": False}}
    with run_gateway(Settings.model_validate({**data, "llm": {"providers": providers, "models": models}})) as gateway:
        yield gateway


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as sdk:
        yield sdk


def chat(running: Running, model: str, messages: Any = None, **fields: Any) -> Any:
    return running.post("/v1/chat/completions", {"model": model, "messages": messages or HELLO, **fields})


# mistral


def test_mistral_has_other_names_and_short_ids(running: Running, up: Upstream) -> None:
    messages = [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": CALL["id"], "content": "sunny"},
    ]
    messages[1] |= {"reasoning_content": "hm", "refusal": None, "annotations": []}  # as other vendors' answers have it
    fields = {"max_completion_tokens": 9, "seed": 7, "user": "u", "store": False, "safe_prompt": True}
    fields |= {"prompt_cache_key": "k", "top_k": 4, "logprobs": True, "n": 2}
    assert chat(running, "mistral/mistral-small-latest", messages, tools=TOOLS, **fields).status_code == 200
    body = up.requests[0].body
    assert (body["max_tokens"], body["random_seed"], body["safe_prompt"]) == (9, 7, True)
    assert {"max_completion_tokens", "seed", "user", "store"}.isdisjoint(body)
    assert (body["prompt_cache_key"], body["top_k"], body["logprobs"], body["n"]) == ("k", 4, True, 2)
    assert body["messages"][1].keys() == {"role", "content", "tool_calls"}
    sent = body["messages"][1]["tool_calls"][0]["id"]
    assert sent == body["messages"][2]["tool_call_id"] == short_id(CALL["id"], 9)
    assert len(sent) == 9
    assert sent.isalnum()
    assert short_id("D681PevKs", 9) == "D681PevKs"  # its own stay


def test_mistral_sends_usage_unasked_and_errors_of_its_own_shape(client: openai.OpenAI, up: Upstream) -> None:
    last = chat_chunk(None, "stop", usage=usage(4, 3))  # it comes with the last choice
    up.stream([chat_chunk("hi"), last, "[DONE]"], times=1)
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(model="mistral/m", messages=HELLO, stream=True, stream_options=options)  # type: ignore[arg-type,call-overload]
    assert [chunk.usage.completion_tokens for chunk in stream if chunk.usage] == [3]
    assert "stream_options" not in up.requests[0].body
    said = {"object": "error", "message": "Tool call id was x", "type": "invalid_function_call", "code": "3280"}
    up.reply(said, status=400, times=1)
    with pytest.raises(openai.BadRequestError, match="Tool call id was x") as caught:
        client.chat.completions.create(model="mistral/m", messages=HELLO)  # type: ignore[arg-type]
    assert caught.value.code == "3280"


# perplexity


def test_perplexity_tells_its_sources(client: openai.OpenAI, up: Upstream) -> None:
    found = [{"title": "A page", "url": "https://example.com/a", "date": "2026-01-01"}]
    said = {"citations": ["https://example.com/a"], "search_results": found}
    answer = openai_answer("Paris [1]", **said)
    answer["usage"] = {**usage(4, 3), "search_context_size": "low", "cost": {"total_cost": 0.005}}
    up.reply(answer, times=1)
    told = client.chat.completions.create(model="sonar-pro", messages=HELLO).model_dump()  # type: ignore[arg-type]
    assert (told["citations"], told["search_results"]) == (said["citations"], found)
    up.stream([chat_chunk("Paris", **said), chat_chunk(None, "stop", **said), "[DONE]"], times=1)
    chunks = list(client.chat.completions.create(model="sonar-pro", messages=HELLO, stream=True))  # type: ignore[arg-type,call-overload]
    assert chunks[0].model_dump()["search_results"] == found


def openai_answer(text: str | None, message: dict[str, Any] | None = None, **extra: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, **(message or {})}
    choice = {"index": 0, "message": said, "finish_reason": "stop"}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "theirs"}
    return {**head, "choices": [choice], "usage": usage(4, 3), **extra}


# xai


@pytest.mark.parametrize(
    ("model", "field", "refused"),
    [
        ("grok-4", "stop", True),
        ("grok-4-fast-reasoning", "presence_penalty", True),
        ("grok-4-fast-non-reasoning", "stop", False),
        ("grok-3-mini", "frequency_penalty", True),
        ("grok-3-mini", "reasoning_effort", False),
        ("grok-4-fast-reasoning", "reasoning_effort", True),
        ("grok-4.20-reasoning", "reasoning_effort", True),
        ("grok-4.3", "reasoning_effort", False),
        ("grok-4.6", "reasoning_effort", False),
        ("grok-4.6", "stop", True),
        ("grok-3", "stop", False),
    ],
)
def test_xai_models_that_reason_refuse(running: Running, up: Upstream, model: str, field: str, refused: bool) -> None:
    value = {"stop": ["END"], "reasoning_effort": "low"}.get(field, 0.5)
    response = chat(running, f"xai/{model}", **{field: value})
    assert response.status_code == (400 if refused else 200), response.text
    if refused:
        assert response.json()["error"]["param"] == field
    else:
        assert up.requests[0].body[field] == value


# moonshot


@pytest.mark.parametrize(
    ("model", "field", "value", "refused"),
    [
        ("kimi-k2.5", "temperature", 0.3, True),
        ("kimi-k2.5", "temperature", 1, False),
        ("kimi-k2.6", "temperature", 0.6, False),  # as it is where it does not think
        ("kimi-k2.7-code", "temperature", 0.6, True),
        ("kimi-k3", "temperature", 0, True),
        ("kimi-k3", "n", 2, True),
        ("kimi-k2.6", "top_p", 0.9, True),
        ("kimi-k2.6", "top_p", 0.95, False),
        ("kimi-k2.6", "presence_penalty", 0.5, True),
        ("kimi-k2.6", "frequency_penalty", 0, False),
        ("kimi-k2.6", "max_tokens", 9, False),
        ("kimi-k2-0905-preview", "temperature", 0.3, False),
        ("moonshot-v1-8k", "n", 2, False),
    ],
)
def test_moonshot_models_that_think_have_fixed_numbers(
    running: Running, up: Upstream, model: str, field: str, value: float, refused: bool
) -> None:
    response = chat(running, f"moonshot/{model}", **{field: value})
    assert response.status_code == (400 if refused else 200), response.text
    if refused:
        assert response.json()["error"]["param"] == field
        assert f"'{model}'" in response.json()["error"]["message"]
    else:
        assert up.requests[0].body[field] == value


def test_moonshot_fixed_numbers_can_be_left_out(running: Running, up: Upstream) -> None:
    assert chat(running, "lenient-kimi", temperature=0.3, n=2, top_p=0.95, max_tokens=9).status_code == 200
    assert up.requests[0].body.keys() & {"temperature", "n", "top_p", "max_tokens"} == {"top_p", "max_tokens"}


# minimax


@pytest.mark.parametrize(("code", "status"), [(1002, 429), (1041, 429), (1004, 502), (2013, 400), (1033, 502)])
def test_minimax_errors_with_the_status_200(running: Running, up: Upstream, code: int, status: int) -> None:
    told = {"base_resp": {"status_code": code, "status_msg": "said so"}}
    up.reply({"id": "x", "choices": None, **told})
    response = chat(running, "minimax/MiniMax-M2")
    assert response.status_code == status, response.text
    # What is wrong with the gateway's own key is not the caller's to know.
    assert ("credential" if code == 1004 else "said so") in response.json()["error"]["message"]
    up.reset()
    up.stream([{"id": "x", "choices": [], **told}])
    streamed = chat(running, "minimax/MiniMax-M2", stream=True)
    assert streamed.status_code in (status, 429, 503), streamed.text  # a key that was refused cools down


def test_minimax_good_answers_have_a_code_too(client: openai.OpenAI, up: Upstream) -> None:
    good = {"base_resp": {"status_code": 0, "status_msg": ""}}
    up.reply(openai_answer("hi", **good), times=1)
    assert client.chat.completions.create(model="together/x", messages=HELLO).choices[0].message.content == "hi"  # type: ignore[arg-type]


# azure


@pytest.mark.proves("azure", "chat", "streaming", "usage", "SDK at the gateway")
def test_azure_with_its_v1_path(client: openai.OpenAI, up: Upstream) -> None:
    results = {"hate": {"filtered": False, "severity": "safe"}}
    first = {"choices": [], "created": 0, "id": "", "model": "", "object": ""}
    first["prompt_filter_results"] = [{"prompt_index": 0, "content_filter_results": results}]  # type: ignore[assignment]
    up.stream([first, chat_chunk("hi"), chat_chunk(None, "stop"), usage_chunk(4, 3), "[DONE]"], times=1)
    chunks = list(client.chat.completions.create(model="azure/my deployment", messages=HELLO, stream=True))  # type: ignore[arg-type,call-overload]
    assert "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices) == "hi"
    assert chunks[0].model_dump()["prompt_filter_results"][0]["content_filter_results"] == results
    assert {chunk.model for chunk in chunks} == {"azure/my deployment"}
    [sent] = up.requests
    assert (sent.path, sent.headers["api-key"]) == ("/openai/v1/chat/completions", "az-key")
    assert "authorization" not in sent.headers
    assert sent.body["model"] == "my deployment"


@pytest.mark.proves("azure", "chat", "transcriptions")
def test_azure_with_a_dated_version(running: Running, up: Upstream) -> None:
    up.handler = lambda _: reply(openai_answer("hi"))
    assert chat(running, "dated/gpt 4o").status_code == 200
    files = {"file": ("a.wav", b"RIFF")}
    running.post("/v1/audio/transcriptions", data={"model": "dated/whisper"}, files=files)
    paths = [request.path for request in up.requests]
    assert paths == [
        "/openai/deployments/gpt%204o/chat/completions?api-version=2024-10-21",
        "/openai/deployments/whisper/audio/transcriptions?api-version=2024-10-21",
    ]
    assert {request.headers["api-key"] for request in up.requests} == {"az-key"}


@pytest.mark.proves("azure", "errors")
def test_azure_filters_a_prompt(running: Running, up: Upstream) -> None:
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}
    said = {"message": "The response was filtered", "type": None, "param": "prompt", "code": "content_filter"}
    up.reply({"error": {**said, "status": 400, "innererror": inner}}, status=400, times=1)
    response = chat(running, "azure/x")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "content_filter")


# dashscope


@pytest.mark.parametrize(
    ("model", "fields"), [("qwq-plus", {}), ("qwen3-8b", {}), ("qwen-plus", {"enable_thinking": True})]
)
def test_dashscope_models_that_only_stream(running: Running, up: Upstream, model: str, fields: dict[str, Any]) -> None:
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "hm", "content": None}, "finish_reason": None}]}
    up.stream([chat_chunk(None, **thought), chat_chunk("hi"), chat_chunk(None, "stop"), usage_chunk(4, 3), "[DONE]"])
    answer = chat(running, f"dashscope/{model}", **fields).json()
    message = answer["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("hi", "hm")
    assert answer["usage"]["completion_tokens"] == 3
    assert (up.requests[0].body["stream"], up.requests[0].body["stream_options"]) == (True, {"include_usage": True})


def test_dashscope_models_that_need_not_stream(running: Running, up: Upstream) -> None:
    assert chat(running, "dashscope/qwen-plus", enable_thinking=False).status_code == 200
    assert "stream" not in up.requests[0].body
    refused = chat(running, "dashscope/qwen-plus", enable_search=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "hosted_tool_not_allowed")


# volcengine, deepseek, hunyuan, nvidia


def test_not_to_think_in_each_vendors_words(running: Running, up: Upstream) -> None:
    """Ollama's clients say `think: false`."""
    words: dict[str, dict[str, Any]] = {
        "volcengine": {"thinking": {"type": "disabled"}},
        "deepseek": {"thinking": {"type": "disabled"}},
        "dashscope": {"enable_thinking": False},
        "sglang": {"chat_template_kwargs": {"enable_thinking": False}},
    }
    for vendor, said in words.items():
        up.reset()
        body = {"model": f"{vendor}/ep-20260101-abcde", "messages": HELLO, "stream": False, "think": False}
        assert running.post("/api/chat", body).status_code == 200
        sent = up.requests[0].body
        assert sent["model"] == "ep-20260101-abcde"
        assert {name: sent.get(name) for name in said} == said


def test_volcengine_takes_its_own_words_for_thinking(client: openai.OpenAI, up: Upstream) -> None:
    up.reply(openai_answer("hi", {"reasoning_content": "hm"}), times=1)
    thinking = {"thinking": {"type": "enabled"}}
    answer = client.chat.completions.create(model="doubao-seed-1-6-250615", messages=HELLO, extra_body=thinking)  # type: ignore[arg-type]
    assert answer.choices[0].message.model_dump()["reasoning_content"] == "hm"
    assert up.requests[0].body == {"model": "doubao-seed-1-6-250615", "messages": HELLO, **thinking}


def test_deepseek_gets_its_reasoning_back_and_prefixes(running: Running, up: Upstream) -> None:
    """Its page on the thinking mode asks for the reasoning of turns with tool calls; without it the answer is a 400."""
    turn = {"role": "assistant", "content": "", "reasoning_content": "I need the weather", "tool_calls": [CALL]}
    prefix = {"role": "assistant", "content": "It is", "prefix": True}
    messages = [*HELLO, turn, {"role": "tool", "tool_call_id": CALL["id"], "content": "sunny"}, prefix]
    assert chat(running, "deepseek/deepseek-v4-pro", messages, tools=TOOLS).status_code == 200
    assert up.requests[0].body["messages"] == messages
    cached = {**usage(9, 3), "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 5}
    up.reply(openai_answer("hi", usage=cached), times=1)
    assert chat(running, "deepseek/deepseek-chat").json()["usage"]["prompt_cache_hit_tokens"] == 4


def test_hunyuan_does_not_search_unless_it_may(running: Running, up: Upstream) -> None:
    refused = chat(running, "hunyuan/hunyuan-turbos-latest", enable_enhancement=True)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "enable_enhancement")
    assert chat(running, "hunyuan/hunyuan-turbos-latest", enable_enhancement=False).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_nvidias_answer_that_comes_later_is_asked_for(running: Running, up: Upstream, stream: bool) -> None:
    """A hosted model may answer 202, and its result is at ``/status`` later."""
    queued = {"nvcf-reqid": "7f2c-1", "nvcf-status": "pending-evaluation"}
    up.reply({"requestId": "7f2c-1"}, status=202, headers=queued, times=1)
    up.reply({}, status=202, headers=queued, times=1)
    up.reply(openai_answer("hi", {}, usage=usage(4, 3)), times=1)
    answer = chat(running, "nvidia/one", stream=stream)
    assert answer.status_code == 200, answer.text
    assert '"hi"' in answer.text
    asked = [(request.method, request.path) for request in up.requests]
    assert asked == [("POST", "/v1/chat/completions"), ("GET", "/v1/status/7f2c-1"), ("GET", "/v1/status/7f2c-1")]
    assert {request.headers["authorization"] for request in up.requests} == {"Bearer sk-nvidia"}


def test_nvidias_later_failure_is_one_and_another_is_asked(running: Running, up: Upstream) -> None:
    def answers(request: Received) -> Script:
        if request.method == "GET":
            return reply({"detail": "the invocation ended with an error"}, status=500)
        if request.body["model"] == "one":
            return reply({}, status=202, headers={"nvcf-reqid": "7f2c-2"})
        return openai_like(request)

    up.handler = answers
    assert chat(running, "two").status_code == 200
    assert [request.body and request.body["model"] for request in up.requests] == ["one", None, "two"]


# groq, openrouter, moonshot, siliconflow, stepfun, together, fireworks


def test_groq_tells_its_own_things_and_its_errors(client: openai.OpenAI, up: Upstream) -> None:
    timed = {**usage(4, 3), "queue_time": 0.01, "prompt_time": 0.001, "total_time": 0.02}
    up.reply(openai_answer("hi", {"reasoning": "hm"}, usage=timed, x_groq={"id": "req_1"}), times=1)
    told = client.chat.completions.create(model="groq/x", messages=HELLO).model_dump()  # type: ignore[arg-type]
    assert (told["x_groq"], told["usage"]["queue_time"]) == ({"id": "req_1"}, 0.01)
    assert told["choices"][0]["message"]["reasoning_content"] == "hm"
    up.stream([chat_chunk("hi"), chat_chunk(None, "stop", x_groq={"id": "r", "usage": usage(4, 3)}), "[DONE]"], times=1)
    stream = client.chat.completions.create(model="groq/x", messages=HELLO, stream=True)  # type: ignore[arg-type,call-overload]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "hi"


def test_groq_is_sent_nothing_that_it_does_not_know(running: Running, up: Upstream) -> None:
    turn = {"role": "assistant", "content": "hi", "reasoning": "hm", "reasoning_content": "hm"}
    fields = {"store": False, "metadata": {"a": "b"}, "presence_penalty": 0}
    assert chat(running, "groq/x", [*HELLO, turn, *HELLO], **fields).status_code == 200
    sent = up.requests[0].body
    assert sent.keys() == {"model", "messages"}
    assert sent["messages"][1] == {"role": "assistant", "content": "hi", "reasoning": "hm"}
    refused = chat(running, "groq/x", presence_penalty=0.5)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "presence_penalty")


@pytest.mark.parametrize("vendor", ["siliconflow", "together", "mistral"])
def test_vendors_that_know_one_bound_of_tokens(running: Running, up: Upstream, vendor: str) -> None:
    assert chat(running, f"{vendor}/x", max_completion_tokens=7).status_code == 200
    assert up.requests[0].body["max_tokens"] == 7
    assert "max_completion_tokens" not in up.requests[0].body


# responses


RESPONSE = {
    "id": "resp_theirs",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "theirs",
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "hi", "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 4, "output_tokens": 3, "total_tokens": 7},
}


def respond(running: Running, up: Upstream, provider: str, **fields: Any) -> Any:
    """What the server is sent for a response."""
    up.handler = lambda request: reply(RESPONSE if "/responses" in request.path else openai_answer("hi"))
    answer = running.post("/v1/responses", {"model": f"{provider}/my one", "input": "hello", **fields})
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"][-1]["content"][0]["text"] == "hi"
    [sent] = up.requests
    return sent


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ("azure", "/openai/v1/responses"),
        ("named", "/openai/v1/responses?api-version=v1"),
        ("dated", "/openai/deployments/my%20one/chat/completions?api-version=2024-10-21"),
        ("preview", "/openai/responses?api-version=2025-04-01-preview"),
    ],
)
def test_responses_at_azure(running: Running, up: Upstream, provider: str, path: str) -> None:
    sent = respond(running, up, provider)
    assert (sent.path, sent.body["model"], sent.headers["api-key"]) == (path, "my one", "az-key")


def test_responses_at_a_server_of_ones_own(running: Running, up: Upstream) -> None:
    sent = respond(running, up, "lmstudio", text={"format": {"type": "text"}})
    assert (sent.path, sent.body["store"], sent.body["input"]) == ("/v1/responses", False, "hello")


@pytest.mark.parametrize(
    ("provider", "kept"),
    [("own-xai", {"include"}), ("own-volcengine", set()), ("own-minimax", {"include", "metadata"})],
)
def test_responses_lose_what_a_vendor_refuses(running: Running, up: Upstream, provider: str, kept: set[str]) -> None:
    fields = {"metadata": {"a": "b"}, "include": ["reasoning.encrypted_content"], "store": False}
    assert respond(running, up, provider, **fields).body.keys() == {"model", "input", "store"} | kept


def test_vendors_with_responses_at_their_own_address() -> None:
    """Which these are; at another address a provider says so itself."""
    having = {row.name for row in PRESETS if row.responses}
    assert having == {"deepseek", "openrouter", "volcengine", "minimax", "fireworks", "xai", "azure", "lmstudio"}
    for row in PRESETS:
        if row.default_url is not None:
            own, other = ({"api_key": "k"}, {"api_key": "k", "base_url": "https://elsewhere.example/v1"})
            for section, has in ((own, row.responses), (other, False)):
                provider = PresetProvider(row.name, row.settings.model_validate({"kind": row.name, **section}))
                assert bool(provider.native_answers) == has, row.name


def test_openrouter_keeps_a_connection_alive_and_fails_inside_a_choice(running: Running, up: Upstream) -> None:
    up.stream([b": OPENROUTER PROCESSING\n\n", chat_chunk("hi"), chat_chunk(None, "stop"), "[DONE]"], times=1)
    assert '"content":"hi"' in chat(running, "openrouter/x", stream=True).text.replace(": ", ":")
    failed = openai_answer("")
    failed["choices"][0] = {**failed["choices"][0], "error": {"code": 502, "message": "the model failed"}}
    up.reply(failed)
    assert chat(running, "openrouter/x").status_code == 502
    up.reset()
    plugins = chat(running, "openrouter/x", plugins=[{"id": "web"}])
    assert plugins.json()["error"]["code"] == "hosted_tool_not_allowed"


def test_moonshot_counts_cached_tokens_at_the_top(running: Running, up: Upstream) -> None:
    up.reply(openai_answer("hi", usage={**usage(9, 3), "cached_tokens": 5}), times=1)
    assert chat(running, "kimi-k2-turbo-preview").json()["usage"]["cached_tokens"] == 5
    partial = [*HELLO, {"role": "assistant", "content": "{", "partial": True}]
    assert chat(running, "moonshot/kimi-k2", partial).status_code == 200
    assert up.requests[-1].body["messages"] == partial


def test_siliconflow_answers_errors_without_an_envelope(running: Running, up: Upstream) -> None:
    up.reply({"code": 20012, "message": "Model does not exist.", "data": None}, status=400, times=1)
    response = chat(running, "siliconflow/x")
    assert response.status_code == 400
    assert "Model does not exist." in response.json()["error"]["message"]


def test_fireworks_and_together_have_names_with_slashes(running: Running, up: Upstream) -> None:
    model = "accounts/fireworks/models/llama-v3p1-8b-instruct"
    assert chat(running, model, top_k=4).json()["model"] == model
    assert (up.requests[0].body["model"], up.requests[0].body["top_k"]) == (model, 4)
    assert chat(running, "together/openai/gpt-oss-20b", repetition_penalty=1.1).status_code == 200
    assert up.requests[1].body["model"] == "openai/gpt-oss-20b"


def test_stepfun_speaks(running: Running, up: Upstream) -> None:
    up.reply(body=b"ID3sound", headers={"content-type": "audio/mpeg"}, times=1)
    body = {"model": "step-tts-mini", "input": "你好", "voice": "cixingnansheng"}
    response = running.post("/v1/audio/speech", body)
    assert (response.content, response.headers["content-type"]) == (b"ID3sound", "audio/mpeg")
    assert up.requests[0].headers["authorization"] == "Bearer sk-stepfun"


# llamacpp, sglang, lmstudio


@pytest.mark.parametrize("kind", ["llamacpp", "sglang", "lmstudio"])
def test_servers_of_ones_own_need_no_key_and_tell_more(running: Running, up: Upstream, kind: str) -> None:
    extra = {"timings": {"predicted_per_second": 42.5}, "metadata": {"weight_version": "default"}, "stats": {"ttft": 1}}
    up.reply(openai_answer("hi", **extra), times=1)
    fields = {"llamacpp": {"min_p": 0.1}, "sglang": {"top_k": 9, "separate_reasoning": True}, "lmstudio": {"top_k": 9}}
    answer = chat(running, f"{kind}/local", **fields[kind]).json()
    assert answer["timings"] == extra["timings"]
    assert answer["stats"] == {"ttft": 1}
    assert "authorization" not in up.requests[0].headers
    assert {name: up.requests[0].body[name] for name in fields[kind]} == fields[kind]
