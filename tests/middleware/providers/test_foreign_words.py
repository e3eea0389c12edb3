"""Words of one wire at another: hints ask nothing of a vendor, and ``drop_unsupported`` leaves out what it lacks."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from running_gateway import Running
from shared_gateway import each_kind
from upstream import Received, Upstream, openai_like

from sage.middleware.providers.base import Operation
from sage.middleware.providers.openai_fields import DOCUMENTED

HELLO = [{"role": "user", "content": "hello"}]
LOADING = {
    "tfs_z": 1.0,
    "penalize_newline": True,
    "num_ctx": 8192,
    "num_gpu": 1,
    "num_thread": 4,
    "num_batch": 64,
    "use_mmap": True,
    "low_vram": False,
}
KINDS = ("openai", "vllm", "zhipu", "deepseek", "openrouter", "ollama", "cohere", "anthropic", "gemini")


def sections(up: Upstream) -> dict[str, Any]:
    """A model for each kind, named as it is, and one that drops what is not supported, ``drop-…``."""
    made = each_kind(up, KINDS)
    models = made["llm"]["models"]
    models |= {f"drop-{kind}": {**models[kind], "drop_unsupported": True} for kind in KINDS}
    return made


def sent(running: Running, up: Upstream, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What the upstream gets of that request."""
    answer = running.post(path, body)
    assert up.requests, answer.text
    received: dict[str, Any] = up.requests[-1].body
    return received


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ollama"])
@pytest.mark.parametrize("stream", [True, False])
def test_hints_of_loading_go_to_no_other_vendor(running: Running, up: Upstream, kind: str, stream: bool) -> None:
    options = {**LOADING, "temperature": 0.5, "unheard_of": 7}
    received = sent(running, up, "/api/chat", {"model": kind, "messages": HELLO, "options": options, "stream": stream})
    assert received.get("generationConfig", received)["temperature"] == 0.5
    assert not {"options", "unheard_of", *LOADING} & received.keys()
    received = sent(running, up, "/api/generate", {"model": kind, "prompt": "hello", "options": options})
    assert not {"options", *LOADING} & received.keys()


def test_an_ollama_server_gets_them(running: Running, up: Upstream) -> None:
    body = {"model": "ollama", "messages": HELLO, "options": {**LOADING, "mirostat": 1, "top_k": 3}, "think": False}
    received = sent(running, up, "/api/chat", body)
    assert received["options"] == {**LOADING, "mirostat": 1, "top_k": 3}
    assert received["think"] is False


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("openai", {}),
        ("deepseek", {"thinking": {"type": "disabled"}}),
        ("openrouter", {}),
        ("vllm", {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}),
        ("zhipu", {"thinking": {"type": "disabled"}}),
        ("cohere", {"thinking": {"type": "disabled"}}),
        ("anthropic", {}),
    ],
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"messages": HELLO, "think": False, "stream": False}),
        ("/api/generate", {"prompt": "hello", "think": False, "stream": False}),
        ("/v2/chat", {"messages": HELLO, "thinking": {"type": "disabled"}}),
    ],
)
def test_not_to_think_asks_nothing_of_a_vendor_without_thoughts(
    running: Running, up: Upstream, kind: str, fields: dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    received = sent(running, up, path, {"model": kind, **body})
    thinking = {"think", "thinking", "reasoning_effort", "chat_template_kwargs"}
    assert {name: value for name, value in received.items() if name in thinking} == fields


def test_a_wish_to_think_goes_on(running: Running, up: Upstream) -> None:
    for think, effort in ((True, "medium"), ("high", "high")):
        body = {"model": "openai", "messages": HELLO, "think": think, "stream": False}
        assert sent(running, up, "/api/chat", body)["reasoning_effort"] == effort
    body = {"model": "openai", "messages": HELLO, "reasoning_effort": "none"}
    assert sent(running, up, "/v1/chat/completions", body)["reasoning_effort"] == "none"


@pytest.mark.parametrize(("kind", "cut"), [("openai", None), ("vllm", None), ("cohere", "NONE"), ("ollama", False)])
def test_not_to_cut_texts_asks_nothing_of_a_vendor_that_never_does(
    running: Running, up: Upstream, kind: str, cut: Any
) -> None:
    assert sent(running, up, "/api/embed", {"model": kind, "input": "a", "truncate": False}).get("truncate") == cut


FOREIGN = {
    **{"top_k": 40, "min_p": 0.1, "repeat_penalty": 1.1, "typical_p": 0.9, "repeat_last_n": 64},
    **{"mirostat": 1, "tfs_z": 1.0, "penalize_newline": True},
}


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("openai", set()),
        ("deepseek", set()),
        ("openrouter", {"top_k", "min_p", "repetition_penalty"}),
        ("zhipu", set()),
        ("cohere", {"k"}),
    ],
)
def test_what_a_vendor_lacks_is_dropped_where_the_model_says_so(
    running: Running, up: Upstream, kind: str, kept: set[str]
) -> None:
    words = {*FOREIGN, "repetition_penalty", "k", "options"}
    body = {"model": f"drop-{kind}", "messages": HELLO, "stream": False}
    received = sent(running, up, "/api/chat", {**body, "options": {**FOREIGN, "seed": 1}})
    assert words & received.keys() == kept
    received = sent(running, up, "/v1/chat/completions", {**body, **FOREIGN})
    assert words & received.keys() == kept


@pytest.mark.proves("openai", "drop_unsupported")
def test_coheres_k_and_its_own_fields_are_dropped(running: Running, up: Upstream) -> None:
    own = {"k": 5, "safety_mode": "OFF", "thinking": {"type": "enabled", "token_budget": 9}, "raw_prompting": True}
    received = sent(running, up, "/v2/chat", {"model": "drop-openai", "messages": HELLO, **own, "p": 0.5})
    assert received == {"model": "theirs", "messages": HELLO, "top_p": 0.5}


def test_reasoning_of_another_model_is_dropped_from_messages(running: Running, up: Upstream) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "hi", "reasoning_content": "hm", "name": "a"}, *HELLO]
    received = sent(running, up, "/v1/chat/completions", {"model": "drop-openai", "messages": messages})
    assert received["messages"] == [*HELLO, {"role": "assistant", "content": "hi", "name": "a"}, *HELLO]
    received = sent(running, up, "/v1/chat/completions", {"model": "openai", "messages": messages})
    assert received["messages"] == messages


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/v1/completions", {"prompt": "a", "suffix": "b"}), ("/v1/embeddings", {"input": "a", "dimensions": 3})],
)
def test_other_operations_drop_too(running: Running, up: Upstream, path: str, fields: dict[str, Any]) -> None:
    received = sent(running, up, path, {"model": "drop-openai", **fields, "top_k": 3, "truncate_prompt_tokens": 5})
    assert received == {"model": "theirs", **fields}


def test_without_the_setting_they_go_on_unchanged(running: Running, up: Upstream) -> None:
    received = sent(running, up, "/v1/chat/completions", {"model": "openai", "messages": HELLO, **FOREIGN, "own": 1})
    assert received == {"model": "theirs", "messages": HELLO, **FOREIGN, "own": 1}


def test_vllm_gets_its_own_name_for_the_penalty(running: Running, up: Upstream) -> None:
    body = {"model": "vllm", "messages": HELLO, "options": {"repeat_penalty": 1.1}, "stream": False}
    received = sent(running, up, "/api/chat", body)
    assert received["repetition_penalty"] == 1.1
    assert "repeat_penalty" not in received


def test_a_strict_vendor_answers_ollamas_client(running: Running, up: Upstream) -> None:
    def strict(request: Received) -> Any:
        assert isinstance(request.body, dict)
        unknown = request.body.keys() - DOCUMENTED[Operation.CHAT]
        assert not unknown, unknown
        return openai_like(request)

    up.handler = strict
    body = {"model": "openai", "messages": HELLO, "options": LOADING, "think": False, "keep_alive": "5m"}
    answer = running.post("/api/chat", {**body, "stream": False})
    assert answer.json()["message"]["content"] == "hello"


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        (Operation.CHAT, chat_create_params.CompletionCreateParamsBase),
        (Operation.COMPLETIONS, completion_create_params.CompletionCreateParamsBase),
        (Operation.EMBEDDINGS, embedding_create_params.EmbeddingCreateParams),
    ],
)
def test_no_field_of_openais_sdk_is_dropped(operation: Operation, parameters: Any) -> None:
    assert set(parameters.__annotations__) <= DOCUMENTED[operation]
