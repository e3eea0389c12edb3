"""The routes around models: scores and tokens, models that are made at run time, pulls, and what would be chosen."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import requests
from running_gateway import Running
from shared_gateway import SharedGateway, one_model
from upstream import Received, Script, Upstream, reply, stream

from sage.middleware.app.main import openapi_document

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

QUESTION = "What is the capital of France?"
DOCUMENTS = ["Paris.", "Bread is baked."]


def sections(up: Upstream) -> dict[str, Any]:
    model = one_model(up, kind="vllm")
    return {"llm": {**model["llm"], "limits": {"max_inputs": 3, "max_tokens": 5}}}


# Scores and tokens


def vllm_like(request: Received) -> Script:
    """vLLM's own answers: each score is the length of its second text, each token the place of a character."""
    body, kind = request.body, request.path.rpartition("/")[2]
    if kind == "tokenize":
        tokens = [ord(char) for char in body.get("prompt") or body["messages"][0]["content"]]
        return reply({"count": len(tokens), "max_model_len": 256, "tokens": tokens, "token_strs": None})
    if kind == "detokenize":
        return reply({"prompt": "".join(map(chr, body["tokens"]))})
    data = [{"index": index, "object": "score", "score": len(text)} for index, text in enumerate(body["text_2"])]
    usage = {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0}
    head = {"id": "score-1", "object": "list", "created": 1_760_000_000, "model": body["model"]}
    return reply({**head, "data": data, "usage": usage})


@pytest.fixture
def vllm(up: Upstream, shared: SharedGateway) -> Running:
    up.handler = vllm_like
    return shared.running()


@pytest.mark.proves("vllm", "score")
@pytest.mark.parametrize("sides", [("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2")])
def test_scores_under_every_name_that_vllm_has_for_them(up: Upstream, vllm: Running, sides: tuple[str, str]) -> None:
    body = {"model": "bench", sides[0]: QUESTION, sides[1]: DOCUMENTS, "stream": True, "use_activation": True}
    answer = vllm.post("/v1/score", body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-sage-deployment"] == "up0/theirs-0"
    assert [item["score"] for item in answer.json()["data"]] == [6, 15]
    assert answer.json()["model"] == "bench"
    sent = up.requests[0].body
    assert (sent["model"], sent["text_1"], sent["text_2"]) == ("theirs-0", QUESTION, DOCUMENTS)
    assert sent["use_activation"] is True
    assert sides == ("text_1", "text_2") or not set(sides) & set(sent)


@pytest.mark.proves("vllm", "tokenize")
def test_tokens_there_and_back(up: Upstream, vllm: Running) -> None:
    tokenized = vllm.post("/v1/tokenize", {"model": "bench", "prompt": "héé", "add_special_tokens": False})
    assert tokenized.json()["tokens"] == [104, 233, 233]
    assert (tokenized.json()["count"], tokenized.json()["max_model_len"]) == (3, 256)
    back = vllm.post("/v1/detokenize", {"model": "bench", "tokens": tokenized.json()["tokens"]})
    assert back.json()["prompt"] == "héé"
    chat = vllm.post("/v1/tokenize", {"model": "bench", "messages": [{"role": "user", "content": "a"}]})
    assert chat.json()["tokens"] == [97]
    assert [request.body["model"] for request in up.requests] == ["theirs-0"] * 3
    assert up.requests[0].body["add_special_tokens"] is False


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("score", {}, "text_1"),
        ("score", {"text_1": QUESTION}, "text_2"),
        ("score", {"text_1": QUESTION, "text_2": []}, "text_2"),
        ("score", {"text_1": QUESTION, "text_2": ["x"] * 4}, "text_2"),
        ("score", {"text_1": ["x"] * 4, "text_2": ["x"] * 4}, "text_1"),
        ("score", {"text_1": ["x"] * 2, "text_2": ["x"] * 3}, "text_1"),
        ("score", {"text_1": ["x"] * 2, "text_2": "x"}, "text_1"),
        ("score", {"text_1": QUESTION, "text_2": [1]}, "text_2"),
        ("score", {"text_1": QUESTION, "text_2": ["x"], "documents": ["y"]}, "documents"),
        (
            "score",
            {
                "text_1": "x",
                "text_2": {"content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]},
            },
            "text_2[0].image_url",
        ),
        ("score", {"text_1": "x", "text_2": [{"image_url": "http://169.254.169.254/"}]}, "text_2[0].image_url"),
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": ["a"]}, "prompt"),
        ("tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("tokenize", {"messages": []}, "messages"),
        ("tokenize", {"prompt": "a", "chat_template": "{{ 1 }}"}, "chat_template"),
        ("detokenize", {}, "tokens"),
        ("detokenize", {"tokens": "abc"}, "tokens"),
        ("detokenize", {"tokens": [1, True]}, "tokens"),
        ("detokenize", {"tokens": [-1]}, "tokens"),
        ("detokenize", {"tokens": [1] * 6}, "tokens"),
    ],
)
def test_what_is_read_is_bounded(up: Upstream, vllm: Running, path: str, fields: dict[str, Any], param: str) -> None:
    answer = vllm.post(f"/v1/{path}", {"model": "bench", **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith(param)
    assert up.requests == []


PICTURE = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
HELLO = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v2/chat", {"messages": [{"role": "assistant", "content": [PICTURE]}, HELLO]}, "messages[0].content[0]"),
        ("/v2/chat", {"messages": [HELLO, {"role": "tool", "content": [PICTURE]}]}, "messages[1].content[0]"),
        ("/v2/embed", {"inputs": [{"content": [{**PICTURE, "text": "x"}]}]}, "inputs[0].content[0]"),
        ("/v2/embed", {"images": ["http://169.254.169.254/"]}, "input[0]"),
    ],
)
def test_urls_that_a_translation_omits_are_not_fetched_either(
    up: Upstream, upstreams: Callable, path: str, body: dict[str, Any], param: str
) -> None:
    """A body in Cohere's wire goes to Cohere as it came: what is checked is that body, not only its translation."""
    answer = upstreams(up, provider={"kind": "cohere"}).post(path, {"model": "bench", **body})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "url_not_allowed"
    assert answer.json()["error"]["param"].startswith(param)
    assert up.requests == []


def test_openapi_says_which_operations_stream() -> None:
    paths = openapi_document()["paths"]
    streaming = {
        path
        for path, operations in paths.items()
        for operation in operations.values()
        if "text/event-stream" in operation["responses"].get("200", {}).get("content", {})
    }
    assert {"/generate", "/v1/chat/completions", "/v1/completions", "/models/{name}/pull"} <= streaming
    assert not {"/v1/score", "/v1/tokenize", "/v1/detokenize", "/v1/embeddings"} & streaming
    assert paths["/v1/score"]["post"]["requestBody"]["content"]["application/json"]["example"]["text_1"] == QUESTION


# Models that are made at run time


def deployment(model: str = "other-model", **fields: Any) -> dict[str, Any]:
    return {"provider": "up0", "model": model, **fields}


def test_a_model_is_made_used_replaced_and_removed(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    created = running.post("/models/team/quick", {"deployments": [deployment(weight=2)], "fallbacks": ["bench"]})
    assert created.status_code == 201, created.text
    assert created.json()["name"] == "team/quick"
    assert created.json()["source"] == "runtime"
    assert running.get("/models/bench").json()["source"] == "config"
    assert running.chat("team/quick").headers["x-sage-deployment"] == "up0/other-model"
    assert up.requests[-1].body["model"] == "other-model"
    shown = running.get("/models/team/quick").json()
    assert (shown["deployments"][0]["weight"], shown["fallbacks"]) == (2, ["bench"])
    again = running.post("/models/team/quick", {"deployments": [deployment("third-model")]})
    assert again.status_code == 200
    assert running.chat("team/quick").headers["x-sage-deployment"] == "up0/third-model"
    assert "team/quick" in [model["name"] for model in running.get("/models").json()["models"]]
    removed = _delete(running, "/models/team/quick")
    assert (removed.status_code, removed.content) == (204, b"")
    assert running.chat("team/quick").status_code == 404
    assert _delete(running, "/models/team/quick").status_code == 404


@pytest.mark.slow
def test_a_second_name_stands_on_the_engine_that_runs(gateway: Callable[..., Running]) -> None:
    """Also when the model's file came only with its load, after which more is known of it."""
    running = gateway()
    assert running.post("/models/gemma-3-270m/load").json()["state"] == "ready"
    created = running.post("/models/fast", {"deployments": [{"provider": "local", "model": "gemma-3-270m"}]})
    assert (created.status_code, created.json()["state"], created.json()["error"]) == (201, "ready", None)
    answer = running.post("/generate", {"model": "fast", "prompt": "What is the capital of France?"})
    assert "Paris" in answer.json()["text"]
    assert _delete(running, "/models/fast").status_code == 204
    assert running.get("/models/gemma-3-270m").json()["state"] == "ready"


def test_the_models_of_the_configuration_stay(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    taken = running.post("/models/bench", {"deployments": [deployment()]})
    assert taken.status_code == 409
    assert _delete(running, "/models/bench").status_code == 409
    assert running.chat("bench").headers["x-sage-deployment"] == "up0/theirs-0"


@pytest.mark.parametrize(
    "body",
    [
        {"deployments": [deployment("secret-model")]},
        {"deployments": [deployment("open-model"), deployment("secret-model")]},
        {"deployments": [deployment("open-model")], "fallbacks": ["bench"]},
        {"deployments": [deployment("open-model", lora="secret-adapter")]},
        {"deployments": [{"provider": "up0"}]},
        {"deployments": [{"provider": ["up0"], "model": "open-model"}]},
        {"deployments": "up0/secret-model"},
        {},
    ],
)
def test_a_caller_cannot_register_models_that_it_may_not_use(
    up: Upstream, upstreams: Callable, body: dict[str, Any]
) -> None:
    running = upstreams(up)
    key = running.new_key(models=["mine*", "up0/open-*"], scopes=["models:write", "models:read", "generate"])
    refused = running.post("/models/mine", body, key=key)
    assert refused.status_code in (400, 403), refused.text
    assert running.get("/models/mine").status_code == 404
    assert running.post("/models/yours", {"deployments": [deployment("open-model")]}, key=key).status_code == 403
    created = running.post("/models/mine", {"deployments": [deployment("open-model")]}, key=key)
    assert created.status_code == 201, created.text
    assert running.chat("mine", key=key).status_code == 200
    assert _delete(running, "/models/bench", key).status_code == 404  # as one that is not there


def test_who_may_only_read_registers_nothing(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    key = running.new_key(scopes=["models:read", "generate"])
    for path in ("/models/mine", "/models/bench/pull", "/models/bench/load"):
        refused = running.post(path, {"deployments": [deployment()]}, key=key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
    assert _delete(running, "/models/bench", key).status_code == 403


def test_a_model_without_a_name_is_none(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    before = running.get("/models").json()["models"]
    for path in ("/models/", "/models/" + "x" * 300, "/models/up0/other-model"):
        assert running.post(path, {"deployments": [deployment()]}).status_code == 400
    assert running.get("/models").json()["models"] == before


def _delete(running: Running, path: str, key: str | None = None) -> requests.Response:
    return requests.delete(running.url + path, headers=running.headers(key), timeout=30)


# What would be chosen


def test_explain_names_the_deployments_and_sends_nothing(up: Upstream, upstreams: Callable) -> None:
    with Upstream() as spare:
        running = upstreams(up, spare)
        for body in (None, {}, {"messages": [HELLO], "stream": True}, {"input": "x"}, {"prompt": "x"}):
            answer = running.post("/models/bench/explain", body)
            assert answer.status_code == 200, answer.text
            explanation = answer.json()
            assert (explanation["model"], explanation["chosen"]) == ("bench", "up0/theirs-0")
            assert [(c["of"], c["deployment"]) for c in explanation["candidates"]] == [
                ("bench", "up0/theirs-0"),
                ("bench1", "up1/theirs-1"),
            ]
        key = running.new_key(models=["bench"])
        alone = running.post("/models/bench/explain", key=key).json()
        assert [c["deployment"] for c in alone["candidates"]] == ["up0/theirs-0"]
        named = running.post("/models/bench1/explain", {"models": ["up0/theirs-9"]}).json()
        assert [c["deployment"] for c in named["candidates"]] == ["up1/theirs-1", "up0/theirs-9"]
        assert up.requests == spare.requests == []


def test_explain_gives_the_error_that_the_request_would_get(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    for body, param in (
        ({"n": 1000}, "n"),
        ({"model": "other"}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"models": [1]}, "models"),
        ({"messages": []}, "messages"),
    ):
        answer = running.post("/models/bench/explain", body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param
    assert running.post("/models/nothing/explain").status_code == 404
    key = running.new_key(models=["other"])
    assert running.post("/models/bench/explain", key=key).status_code == 404


# Pulls


class OllamaLike:
    """Enough of Ollama's wire to pull: what each ``/api/pull`` gets is ``steps``."""

    def __init__(self, up: Upstream) -> None:
        self.steps: Script = stream()
        up.handler = self._answer
        self.url = up.url.removesuffix("/v1")

    def pulls(self, *steps: dict[str, Any], **options: Any) -> None:
        lines = [json.dumps(step).encode() + b"\n" for step in steps]
        self.steps = stream(lines, no_done=True, headers={"content-type": "application/x-ndjson"}, **options)

    def _answer(self, request: Received) -> Script:
        return self.steps if request.path == "/api/pull" else reply({"models": []})


@pytest.fixture
def ollama(up: Upstream) -> OllamaLike:
    return OllamaLike(up)


@pytest.fixture
def running(ollama: OllamaLike, gateway: Callable[..., Running]) -> Running:
    provider = {"kind": "ollama", "base_url": ollama.url, "allow_pull": ["llama3*"]}
    models = {"small": {"deployments": [{"provider": "house", "model": "llama3:1b"}]}}
    return gateway(llm={"providers": {"house": provider}, "models": models})


MANIFEST = {"status": "pulling manifest"}
HALF = {"status": "pulling abc", "digest": "sha256:abc", "total": 1000, "completed": 500}
DONE = {"status": "success"}


def events(answer) -> list[Any]:
    data = [line[6:] for line in answer.iter_lines() if line.startswith(b"data: ")]
    return [json.loads(line) if line != b"[DONE]" else "[DONE]" for line in data]


@pytest.mark.proves("ollama", "pull")
@pytest.mark.parametrize("name", ["house/llama3:1b", "small"])
def test_a_pull_reports_its_steps(up: Upstream, ollama: OllamaLike, running: Running, name: str) -> None:
    ollama.pulls(MANIFEST, HALF, DONE)
    answer = running.post(f"/models/{name}/pull", stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events(answer) == [
        {"status": "pulling manifest", "completed": None, "total": None},
        {"status": "pulling abc", "completed": 500, "total": 1000},
        {"status": "success", "completed": None, "total": None},
        "[DONE]",
    ]
    pulls = [request.body for request in up.requests if request.path == "/api/pull"]
    assert [body.get("model") or body.get("name") for body in pulls] == ["llama3:1b"]


def test_a_pull_that_cannot_begin_has_a_status_of_its_own(up: Upstream, ollama: OllamaLike, running: Running) -> None:
    refused = running.post("/models/house/qwen/pull")
    assert refused.status_code == 403, refused.text
    assert "allow_pull" in refused.json()["error"]["message"]
    assert [request for request in up.requests if request.path == "/api/pull"] == []
    ollama.steps = reply({"error": "no such model"}, status=404)
    assert running.post("/models/small/pull").status_code >= 400
    assert running.post("/models/nothing/pull").status_code == 404
    key = running.new_key(models=["other"])
    assert running.post("/models/small/pull", key=key).status_code == 404


def test_a_pull_that_breaks_says_so_and_never_done(ollama: OllamaLike, running: Running) -> None:
    ollama.pulls(MANIFEST, {"error": "disk full"})
    first, last = events(running.post("/models/small/pull", stream=True))
    assert first["status"] == "pulling manifest"
    assert "disk full" in last["error"]["message"]
    ollama.pulls(MANIFEST, HALF, DONE, cut_after=1)
    received = events(running.post("/models/small/pull", stream=True))
    assert received[0]["status"] == "pulling manifest"
    assert received[-1]["error"]["type"] in ("upstream_error", "timeout_error")


def test_a_client_that_disconnects_ends_the_pull(up: Upstream, ollama: OllamaLike, running: Running) -> None:
    ollama.pulls(MANIFEST, HALF, hang_after=1)
    with running.post("/models/small/pull", stream=True) as answer:
        assert next(answer.iter_lines()).startswith(b"data: ")
    pulls = [request for request in up.wait_requests() if request.path == "/api/pull"]
    assert pulls[0].closed.wait(10)


@pytest.mark.slow
def test_a_pull_that_runs_at_shutdown_gets_an_error(
    ollama: OllamaLike, gateway: Callable[..., Running], up: Upstream
) -> None:
    provider = {"kind": "ollama", "base_url": ollama.url, "allow_pull": ["*"]}
    running = gateway(llm={"providers": {"house": provider}}, api={"shutdown_grace": "200ms"})
    ollama.pulls(MANIFEST, HALF, hang_after=1)
    received: list[Any] = []
    with running.post("/models/house/m/pull", stream=True) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith(b"data: ")
        reader = threading.Thread(target=lambda: received.extend(events(answer)))
        running.server.should_exit = True
        reader.start()
        reader.join(20)
    assert received[-1]["error"]["code"] == "shutting_down"
