"""Ollama's own SDK at the gateway: what its clients ask is answered by any model, in their shapes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import ollama
import pytest
import requests
from ollama_wire import OllamaScript, chat_line, lines, tool_call, whole_chat
from upstream import Upstream, chat_chunk, openai_like, stream, usage_chunk

from sage.middleware.auth.principal import Scope

pytestmark = pytest.mark.slow  # Ollama's SDK

HELLO = [{"role": "user", "content": "hello out there"}]
PIXEL = b"\xff\xd8\xff\xe0" + bytes(16)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.fixture
def up() -> Iterator[Upstream]:
    """Speaks OpenAI's wire."""
    with Upstream() as upstream:
        upstream.handler = openai_like
        yield upstream


@pytest.fixture
def down() -> Iterator[Upstream]:
    """Speaks Ollama's wire."""
    with Upstream() as upstream:
        upstream.handler = OllamaScript()
        yield upstream


@pytest.fixture
def running(up: Upstream, down: Upstream, gateway: Callable) -> Any:
    """``bench`` is behind OpenAI's wire, ``llama`` behind Ollama's."""
    return gateway(
        llm={
            "providers": {
                "openai": {"base_url": up.url, "api_key": "sk-upstream"},
                "ollama": {"base_url": down.url, "allow_pull": ["phi*", "absent*"]},
            },
            "models": {
                "bench": {"deployments": [{"provider": "openai", "model": "theirs-0"}]},
                "llama": {"deployments": [{"provider": "ollama", "model": "llama3"}]},
            },
        }
    )


def sdk(running: Any, key: str | None = None) -> ollama.Client:
    return ollama.Client(host=running.url, headers=running.headers(key), trust_env=False)


@pytest.fixture
def client(running: Any) -> Iterator[ollama.Client]:
    with sdk(running) as found:
        yield found


@pytest.mark.proves("ollama", "SDK at the gateway", "chat", "usage")
@pytest.mark.parametrize("model", ["bench", "llama", "bench:latest", "ollama/llama3"])
def test_chat(model: str, client: ollama.Client, up: Upstream, down: Upstream) -> None:
    answer = client.chat(model, HELLO, keep_alive="10m")
    assert answer.message.content == "hello out there"
    assert answer.message.role == "assistant"
    assert (answer.done, answer.done_reason, answer.model) == (True, "stop", model.removesuffix(":latest"))
    assert (answer.prompt_eval_count, answer.eval_count) == ((4, 3) if "bench" in model else (7, 3))
    assert answer.total_duration > 0
    (request,) = up.requests + down.requests
    assert request.body["messages"] == HELLO
    assert "keep_alive" not in request.body


@pytest.mark.proves("ollama", "SDK at the gateway", "streaming")
@pytest.mark.parametrize("model", ["bench", "llama"])
def test_a_stream_of_lines(model: str, client: ollama.Client, running: Any) -> None:
    parts = list(client.chat(model, HELLO, stream=True))
    assert "".join(part.message.content or "" for part in parts) == "hello out there"
    assert [part.done for part in parts[-2:]] == [False, True]
    assert parts[-1].done_reason == "stop"
    assert parts[-1].eval_count == 3
    assert {part.model for part in parts} == {model}
    raw = running.post("/api/chat", {"model": model, "messages": HELLO})  # a stream unless told otherwise
    assert raw.headers["content-type"] == "application/x-ndjson"
    assert raw.headers["x-sage-deployment"]
    assert json.loads(raw.text.splitlines()[-1])["done"] is True


@pytest.mark.proves("ollama", "SDK at the gateway")
def test_options_become_openais_fields(client: ollama.Client, up: Upstream, down: Upstream) -> None:
    options = {
        "temperature": 0.5,
        "top_p": 0.25,
        "seed": 7,
        "stop": ["END"],
        "num_predict": 9,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
    }
    client.chat("bench", HELLO, options=options)
    fields = {**options, "max_tokens": 9}
    del fields["num_predict"]
    assert up.requests[-1].body == {"model": "theirs-0", "messages": HELLO, **fields}
    client.chat("llama", HELLO, options={**options, "num_ctx": 512, "top_k": 3})
    assert down.requests[-1].body["options"] == {**options, "num_ctx": 512, "top_k": 3}
    client.chat("bench", HELLO, options={"num_predict": -1})  # Ollama's word for no bound
    assert "max_tokens" not in up.requests[-1].body


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
      a: The first one.
      b: The second one.

    Returns:
      int: Their sum.
    """
    return a + b


def called(index: int, call: str, arguments: str) -> dict[str, Any]:
    return {"index": index, "id": call, "type": "function", "function": {"name": "add", "arguments": arguments}}


@pytest.mark.proves("ollama", "SDK at the gateway", "tools", "parallel tools", "multi-turn")
def test_tools_and_their_results(client: ollama.Client, up: Upstream) -> None:
    calls = [called(0, "call_a", '{"a": 1, "b": 2}'), called(1, "call_b", '{"a": 3, "b": 4}')]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    up.reply(
        {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
        | {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]},
        times=1,
    )
    answer = client.chat("bench", HELLO, tools=[add])
    assert [call.function.arguments for call in answer.message.tool_calls] == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert [call.function.name for call in answer.message.tool_calls] == ["add", "add"]
    (tool,) = up.requests[-1].body["tools"]
    assert tool["function"]["parameters"]["required"] == ["a", "b"]
    results = [{"role": "tool", "tool_name": "add", "content": text} for text in ("3", "7")]
    client.chat("bench", [*HELLO, answer.message, *results])
    _, asked, *given = up.requests[-1].body["messages"]
    ids = [call["id"] for call in asked["tool_calls"]]
    assert len(set(ids)) == 2
    assert [json.loads(call["function"]["arguments"]) for call in asked["tool_calls"]] == [
        {"a": 1, "b": 2},
        {"a": 3, "b": 4},
    ]
    assert [(result["tool_call_id"], result["content"]) for result in given] == list(zip(ids, ("3", "7"), strict=True))


@pytest.mark.proves("ollama", "SDK at the gateway", "tools", "streamed tool arguments")
def test_arguments_that_come_in_pieces_are_given_out_whole(client: ollama.Client, up: Upstream) -> None:
    def delta(**fields: Any) -> dict[str, Any]:
        return chat_chunk(None, choices=[{"index": 0, "delta": fields, "finish_reason": None}])

    pieces = [called(0, "call_a", '{"a": 1, '), {"index": 0, "function": {"arguments": '"b": 2}'}}]
    other = called(1, "call_b", '{"a": 3, "b": 4}')
    events = [delta(role="assistant"), *(delta(tool_calls=[piece]) for piece in (*pieces, other))]
    up.use(stream([*events, chat_chunk(None, "tool_calls"), usage_chunk(3, 2)]))
    parts = list(client.chat("bench", HELLO, tools=[add], stream=True))
    calls = [call.function.arguments for part in parts for call in part.message.tool_calls or ()]
    assert calls == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert (parts[-1].done, parts[-1].done_reason, parts[-1].eval_count) == (True, "stop", 2)


def test_arguments_that_are_no_json_break_the_answer(client: ollama.Client, up: Upstream) -> None:
    piece = chat_chunk(None, choices=[{"index": 0, "delta": {"tool_calls": [called(0, "c", "{")]}}])
    up.use(stream([piece, chat_chunk(None, "tool_calls")]))
    with pytest.raises(ollama.ResponseError, match="not a JSON"):
        list(client.chat("bench", HELLO, stream=True))


@pytest.mark.proves("ollama", "SDK at the gateway", "tools")
def test_tools_through_ollama_and_back(client: ollama.Client, down: Upstream) -> None:
    down.reply(whole_chat(tool_calls=[tool_call("add", {"a": 1, "b": 2})]), times=1)
    answer = client.chat("llama", HELLO, tools=[add])
    assert answer.message.tool_calls[0].function.arguments == {"a": 1, "b": 2}
    result = {"role": "tool", "tool_name": "add", "content": "3"}
    client.chat("llama", [*HELLO, answer.message, result], tools=[add])
    assert down.requests[-1].body["messages"][-1]["tool_name"] == "add"


@pytest.mark.proves("ollama", "SDK at the gateway", "images")
def test_images(client: ollama.Client, up: Upstream, down: Upstream) -> None:
    message = {"role": "user", "content": "what is it?", "images": [PIXEL]}
    encoded = base64.b64encode(PIXEL).decode()
    client.chat("bench", [message])
    assert up.requests[-1].body["messages"][0]["content"] == [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}},
    ]
    client.generate("llama", "what is it?", images=[PIXEL])
    assert down.requests[-1].body["messages"] == [{"role": "user", "content": "what is it?", "images": [encoded]}]


@pytest.mark.proves("ollama", "SDK at the gateway", "response_format json_schema", "response_format json_object")
def test_formats(client: ollama.Client, up: Upstream, down: Upstream) -> None:
    client.chat("bench", HELLO, format=SCHEMA)
    assert up.requests[-1].body["response_format"]["json_schema"]["schema"] == SCHEMA
    client.chat("bench", HELLO, format="json")
    assert up.requests[-1].body["response_format"] == {"type": "json_object"}
    client.chat("llama", HELLO, format=SCHEMA)
    assert down.requests[-1].body["format"] == SCHEMA


@pytest.mark.proves("ollama", "SDK at the gateway", "reasoning")
def test_thinking(client: ollama.Client, up: Upstream, down: Upstream) -> None:
    down.reply(whole_chat("4", thinking="2 and 2"), times=1)
    answer = client.chat("llama", HELLO, think=True)
    assert (answer.message.thinking, answer.message.content) == ("2 and 2", "4")
    assert down.requests[-1].body["think"] is True
    down.use(lines(chat_line(thinking="2 and"), chat_line(thinking=" 2"), {**whole_chat("4")}), 1)
    parts = list(client.chat("llama", [*HELLO, answer.message, *HELLO], think=False, stream=True))
    assert "".join(part.message.thinking or "" for part in parts) == "2 and 2"
    assert "".join(part.message.content or "" for part in parts) == "4"
    assert down.requests[-1].body["think"] is False
    assert down.requests[-1].body["messages"][1]["thinking"] == "2 and 2"
    client.chat("bench", HELLO, think="high")
    assert up.requests[-1].body["reasoning_effort"] == "high"


@pytest.mark.proves("ollama", "SDK at the gateway", "logprobs")
def test_logprobs(client: ollama.Client, down: Upstream) -> None:
    logprobs = [{"token": "x", "logprob": -0.5, "top_logprobs": [{"token": "y", "logprob": -1.0}]}]
    down.reply({**whole_chat("x"), "logprobs": logprobs}, times=1)
    (token,) = client.chat("llama", HELLO, logprobs=True, top_logprobs=1).logprobs
    assert (token.token, token.logprob, token.top_logprobs[0].token) == ("x", -0.5, "y")
    assert down.requests[-1].body["top_logprobs"] == 1


@pytest.mark.proves("ollama", "SDK at the gateway", "completions", "system")
def test_generate_is_a_chat_and_raw_a_text_to_go_on_with(client: ollama.Client, up: Upstream) -> None:
    answer = client.generate("bench", "once upon", system="Be short.")
    assert (answer.response, answer.done_reason, answer.eval_count) == ("once upon", "stop", 2)
    assert up.requests[-1].path == "/v1/chat/completions"
    assert up.requests[-1].body["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "once upon"},
    ]
    parts = list(client.generate("bench", "once upon", raw=True, stream=True))
    assert "".join(part.response or "" for part in parts) == "once upon"
    assert parts[-1].done
    assert up.requests[-1].path == "/v1/completions"
    assert up.requests[-1].body["prompt"] == "once upon"
    client.generate("bench", "def f():", suffix="return 1")
    assert up.requests[-1].body["suffix"] == "return 1"


@pytest.mark.proves("ollama", "SDK at the gateway", "embeddings", "dimensions")
def test_embeddings(client: ollama.Client, up: Upstream, down: Upstream) -> None:
    many = client.embed("bench", ["a", "bcd"], dimensions=3)
    assert many.embeddings == [[1.0, 0.0, 1.0], [3.0, 1.0, 1.0]]
    assert (many.model, many.prompt_eval_count) == ("bench", 2)
    assert up.requests[-1].body == {"model": "theirs-0", "input": ["a", "bcd"], "dimensions": 3}
    assert client.embeddings("bench", "bcd").embedding == [3.0, 0.0, 1.0]
    assert client.embed("ollama/all-minilm", "a", truncate=False).embeddings == [[1.0, 0.0, 0.5]]
    assert down.requests[-1].body["truncate"] is False


@pytest.mark.proves("ollama", "SDK at the gateway", "list models")
def test_what_there_is(client: ollama.Client, running: Any) -> None:
    assert {"bench", "llama"} <= {model.model for model in client.list().models}
    assert {model.details.family for model in client.list().models if model.model in ("bench", "llama")} == {
        "openai",
        "ollama",
    }
    shown = client.show("llama")
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.details.parameter_size == "8.0B"
    assert shown.capabilities == ["completion", "tools"]
    assert not shown.modelfile
    assert "secret" not in running.post("/api/show", {"model": "llama"}).text
    assert client.show("bench").capabilities == ["completion"]
    assert running.get("/api/version").json()["version"].startswith("0.")
    with sdk(running, running.new_key(models=["bench"], scopes=[Scope.MODELS_READ])) as narrow:
        assert [model.model for model in narrow.list().models] == ["bench"]
        with pytest.raises(ollama.ResponseError, match="not one that this credential reaches"):
            narrow.show("llama")


@pytest.mark.proves("ollama", "SDK at the gateway", "load and unload")
def test_load_and_unload_by_an_empty_prompt(client: ollama.Client, running: Any, down: Upstream) -> None:
    assert client.generate("llama", "").done_reason == "load"
    assert down.handler.loaded == {"llama3:latest": None}
    assert [model.model for model in client.ps().models] == ["llama"]
    assert client.chat("llama", [], keep_alive=0).done_reason == "unload"
    assert down.handler.loaded == {}
    assert client.ps().models == []
    assert [part.done_reason for part in client.generate("bench", "", stream=True)] == ["load"]
    with sdk(running, running.new_key(scopes=[Scope.GENERATE])) as narrow:
        with pytest.raises(ollama.ResponseError, match="models:write") as caught:
            narrow.generate("llama", "")
        assert caught.value.status_code == 403


@pytest.mark.proves("ollama", "SDK at the gateway", "pull")
def test_pull(client: ollama.Client, running: Any, down: Upstream) -> None:
    steps = list(client.pull("phi", stream=True))
    assert [step.completed for step in steps] == [None, 0, 5, 10, None, None]
    assert {step.total for step in steps if step.completed is not None} == {10}
    assert steps[-1].status == "success"
    assert client.pull("ollama/phi4").status == "success"
    assert client.chat("phi", HELLO).message.content == "hello out there"
    asked = len(down.requests)
    with pytest.raises(ollama.ResponseError, match=r"llm\.providers\.ollama\.allow_pull") as caught:
        list(client.pull("gemma", stream=True))
    assert caught.value.status_code == 403
    with pytest.raises(ollama.ResponseError, match="insecure") as caught:
        client.pull("phi", insecure=True)
    assert caught.value.status_code == 400
    assert [request.path for request in down.requests[asked:] if request.path == "/api/pull"] == []
    with pytest.raises(ollama.ResponseError, match="file does not exist"):
        list(client.pull("absent", stream=True))


@pytest.mark.proves("ollama", "SDK at the gateway", "errors")
def test_errors_are_texts_with_their_status(client: ollama.Client, running: Any, up: Upstream) -> None:
    cases: list[tuple[Callable[[], Any], int, str]] = [
        (lambda: client.chat("absent", HELLO), 404, "model 'absent' is not registered"),
        (lambda: list(client.chat("absent", HELLO, stream=True)), 404, "model 'absent' is not registered"),
        (lambda: client.generate("bench", "x", context=[1]), 400, "'context' is not supported"),
        (lambda: client.chat("bench", HELLO, options={"num_predict": 10**9}), 400, "'max_tokens' must be from 1"),
        (lambda: client.create("mine", from_="bench"), 400, "makes, copies, publishes and removes no models"),
        (lambda: client.delete("bench"), 400, "makes, copies, publishes and removes no models"),
        (lambda: client.copy("bench", "mine"), 400, "makes, copies, publishes and removes no models"),
        (lambda: client.push("bench"), 400, "makes, copies, publishes and removes no models"),
    ]
    for ask, status, text in cases:
        with pytest.raises(ollama.ResponseError) as caught:
            ask()
        assert caught.value.status_code == status
        assert isinstance(caught.value.error, str)
        assert text in caught.value.error
    for key in ("nonsense", running.new_key(scopes=[Scope.METRICS])):
        with sdk(running, key) as other:
            for ask in (lambda: other.chat("bench", HELLO), other.list):
                with pytest.raises(ollama.ResponseError) as caught:
                    ask()
                assert caught.value.status_code == (401 if key == "nonsense" else 403)
                assert isinstance(caught.value.error, str)
    up.reply(status=429, headers={"retry-after": "7"}, times=1)
    limited = running.post("/api/chat", {"model": "bench", "messages": HELLO})
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
    assert limited.json()["code"] == "rate_limited"


FORM = b'{"model": "bench", "messages": [{"role": "user", "content": "x"}], "format": "yaml", "prompt": "x"}'


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": 5}', b'{"model": "bench", "messages": "x"}', b"{}", FORM])
def test_invalid_requests_are_refused(body: bytes, running: Any) -> None:
    for path in ("chat", "generate", "embed", "embeddings", "show", "pull"):
        if path == "generate" and body.endswith(b'"messages": "x"}'):
            continue  # a request to load the model
        headers = {**running.headers(), "content-type": "application/json"}
        answer = requests.post(f"{running.url}/api/{path}", data=body, headers=headers, timeout=10)
        if path in ("show", "pull") and b'"bench"' in body:
            assert answer.status_code in (200, 409)
            continue
        assert answer.status_code == 400, (path, answer.text)
        assert isinstance(answer.json()["error"], str)


@pytest.mark.proves("ollama", "SDK at the gateway", "errors", "streaming")
def test_a_stream_that_breaks_ends_with_an_error_line(client: ollama.Client, up: Upstream) -> None:
    up.stream([chat_chunk("Hel"), chat_chunk("lo")], cut_after=1, delay=0.05)
    parts: list[Any] = []

    def read() -> None:
        for part in client.chat("bench", HELLO, stream=True):
            parts.append(part)

    with pytest.raises(ollama.ResponseError, match="'openai'"):
        read()
    assert [part.message.content for part in parts] == ["Hel"]
    assert not any(part.done for part in parts)


def test_a_client_that_disconnects_ends_the_upstreams_work(running: Any, up: Upstream) -> None:
    up.stream([chat_chunk("Hel")] * 3, hang_after=1)
    with requests.post(
        f"{running.url}/api/chat",
        json={"model": "bench", "messages": HELLO},
        headers=running.headers(),
        stream=True,
        timeout=10,
    ) as answer:
        assert b"Hel" in next(answer.iter_lines())
    assert up.wait_closed().path == "/v1/chat/completions"


def test_a_client_that_disconnects_ends_its_pull(running: Any, down: Upstream) -> None:
    down.use(lines({"status": "pulling manifest"}, {"status": "pulling aabb"}, hang_after=1), 1)
    answer = running.post("/api/pull", {"model": "ollama/phi"}, stream=True)
    with answer:
        assert json.loads(next(answer.iter_lines())) == {"status": "pulling manifest"}
    assert down.wait_closed().path == "/api/pull"


def test_fallbacks_of_a_request_hold_here_too(running: Any, up: Upstream) -> None:
    up.reply(status=500, times=1)
    body = {"model": "bench", "messages": HELLO, "stream": False, "models": ["llama"]}
    answer = running.post("/api/chat", body)
    assert answer.json()["message"]["content"] == "hello out there"
    assert answer.headers["x-sage-deployment"] == "ollama/llama3"
