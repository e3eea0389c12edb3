"""``max_tokens: -1`` asks for an answer without a bound, and ``max_tokens: 0`` with ``echo`` for the prompt's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ollama_wire import whole_chat
from tiny_gguf import write_llama
from upstream import Upstream, reply

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict", "num_predict")


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def test_a_bound_of_minus_one_is_no_bound(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    for field in FIELDS:
        for value in (-1, -2):
            assert running.chat(**{field: value}).status_code == 200
            assert field not in up.requests[-1].body
    assert running.post("/generate", {"model": "bench", "prompt": "x", "max_tokens": -1}).status_code == 200
    body = {"model": "bench", "messages": [{"role": "user", "content": "x"}], "stream": False}
    assert running.post("/api/chat", {**body, "options": {"num_predict": -1}}).status_code == 200
    assert "max_tokens" not in up.requests[-1].body
    assert running.chat(max_tokens=-1, n_predict=20).status_code == 200
    assert up.requests[-1].body["n_predict"] == 20


@pytest.mark.parametrize("kind", ["openai", "vllm", "openrouter"])
def test_a_completion_without_a_bound_is_not_cut_at_16(up: Upstream, upstreams: Callable, kind: str) -> None:
    running = upstreams(up, provider={"kind": kind})
    for field in ("max_tokens", "n_predict"):
        answer = running.post("/v1/completions", {"model": "bench", "prompt": "x", field: -1})
        assert answer.status_code == 200
        assert up.requests[-1].body["max_tokens"] is None


def test_it_is_bounded_by_the_configuration(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up, llm={"limits": {"max_tokens": 500}})
    assert running.chat(max_tokens=-1).status_code == 200
    assert up.requests[-1].body["max_tokens"] == 500
    assert running.chat(options={"num_predict": -1}).status_code == 200
    assert up.requests[-1].body["options"]["num_predict"] == 500


def test_ollama_has_a_bound_of_ours(up: Upstream, upstreams: Callable) -> None:
    up.handler = lambda request: reply(whole_chat("x"))
    running = upstreams(up, provider={"kind": "ollama"})
    for fields in ({"max_tokens": -1}, {"options": {"num_predict": -1}}):
        assert running.chat(**fields).status_code == 200
        assert up.requests[-1].body["options"]["num_predict"] == 131072


@pytest.mark.parametrize("kind", ["zhipu", "cohere"])
def test_other_vendors_get_no_bound(up: Upstream, upstreams: Callable, kind: str) -> None:
    upstreams(up, provider={"kind": kind}).chat(max_tokens=-1)
    assert "max_tokens" not in up.requests[-1].body


def test_the_prompts_own_probabilities_may_be_asked_for(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    body: dict[str, Any] = {"model": "bench", "prompt": "x", "max_tokens": 0, "echo": True, "logprobs": 1}
    assert running.post("/v1/completions", body).status_code == 200
    assert up.requests[-1].body["max_tokens"] == 0
    for refused in ({"echo": False}, {"echo": None}, {"echo": "yes"}):
        answer = running.post("/v1/completions", {**body, **refused})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "max_tokens")
    assert running.chat(max_tokens=0, echo=True).status_code == 400


@pytest.mark.slow
def test_a_local_model_answers_until_it_has_ended_or_its_context_is_full(local: Callable, tmp_path: Path) -> None:
    model = {"path": str(write_llama(tmp_path / "llama.gguf")), "temperature": 0, "max_tokens": 6, "context": 128}
    llama = local(tiny=model)

    def tokens(**fields: Any) -> int:
        answer = llama.chat("tiny", **fields)
        assert answer.status_code == 200, answer.text
        count = answer.json()["usage"]["completion_tokens"]
        assert isinstance(count, int)
        return count

    assert tokens() == 6  # the model's own bound
    assert tokens(max_tokens=-1) > 6
    assert tokens(n_predict=-1) > 6
