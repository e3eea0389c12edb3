"""Calls of models under budgets: reserved at their worst case, settled at their true cost, whatever becomes of them."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from running_gateway import Running
from upstream import Upstream, chat_chunk, reply, usage, usage_chunk

from sage.middleware.auth.grants import KeyRequest

MESSAGES = [{"role": "user", "content": "Hello there"}]
PRICE = {"input": 1, "output": 10}
"""Dollars a million tokens: 1,000 and 10,000 nano-dollars each."""


def answer(prompt: int, completion: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": "hi"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    head = {"id": "1", "object": "chat.completion", "created": 1, "model": "theirs"}
    return {**head, "choices": choices, "usage": usage(prompt, completion)}


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def start(gateway: Callable[..., Running], up: Upstream) -> Callable[..., Running]:
    """``start(**budgets)``: a gateway whose section ``budgets`` that is."""

    def start(models: dict[str, Any] | None = None, **budgets: Any) -> Running:
        providers = {
            "up0": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"},
            "gone": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-upstream"},
        }
        known = {
            "bench": {"deployments": [{"provider": "up0", "model": "theirs", "price": PRICE}]},
            "cheap": {"deployments": [{"provider": "up0", "model": "small", "price": {"input": 1, "output": 1}}]},
            "unknown": {"deployments": [{"provider": "up0", "model": "nobody-knows-it"}]},
            "away": {"deployments": [{"provider": "gone", "model": "theirs", "price": PRICE}]},
            "rescued": {
                "deployments": [{"provider": "gone", "model": "theirs", "price": PRICE}],
                "fallbacks": ["unknown", "cheap"],
            },
        }
        sections = {"llm": {"providers": providers, "models": known | (models or {})}, "budgets": budgets}
        return gateway(**sections)

    return start


def view(running: Running, subject: str) -> dict[str, Any]:
    budgets = running.get("/budgets").json()["budgets"]
    return next(each for each in budgets if each["subject"] == subject)


def settled(running: Running, subject: str, spent: float) -> None:
    """Waits until so much is spent of a budget, and nothing reserved."""
    end = time.monotonic() + 15
    while time.monotonic() < end:
        budget = view(running, subject)
        if budget["reserved"] == 0 and budget["spent"] == pytest.approx(spent):
            return
        time.sleep(0.05)
    raise AssertionError(f"not {spent} spent and 0 reserved: {budget}")


@pytest.mark.slow
def test_500_calls_at_once_on_a_budget_for_10(start: Callable[..., Running], up: Upstream) -> None:
    gate = threading.Event()
    # "Hello there", its roles and names are 2x bytes at most; 95 tokens of an answer: 10 such calls, and not 11.
    running = start(users={"root": {"tokens": 1500, "window": "total"}})
    up.use(reply(answer(40, 95), gate=gate))
    with ThreadPoolExecutor(64) as threads:
        calls = [
            threads.submit(running.post, "/v1/chat/completions", {**chat("bench"), "max_tokens": 95})
            for _ in range(500)
        ]
        while sum(call.done() for call in calls) < 490 - 54:
            time.sleep(0.01)
        up.wait_requests(1)
        gate.set()
        statuses = [call.result().status_code for call in calls]
    passed = statuses.count(200)
    assert set(statuses) == {200, 429}
    assert 1 <= passed <= 11  # each takes 135 in truth, of 1,500
    settled(running, "user:root", passed * 135)


def chat(model: str) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES}


@pytest.mark.slow
def test_whatever_becomes_of_a_call_its_true_cost_is_settled(start: Callable[..., Running], up: Upstream) -> None:
    running = start(tenants={"default": {"usd": 1}})
    up.use(reply(answer(100, 10)), times=1)  # 200,000 nano-dollars
    assert running.post("/v1/chat/completions", {**chat("bench"), "n": 2, "max_tokens": 50}).status_code == 200
    up.stream([chat_chunk("a"), chat_chunk("b", "stop"), usage_chunk(100, 20)], times=1)  # 300,000
    assert running.post("/v1/chat/completions", {**chat("bench"), "stream": True}).status_code == 200
    up.use(reply(status=400), times=1)  # nothing
    assert running.post("/v1/chat/completions", chat("bench")).status_code == 400
    assert running.post("/v1/chat/completions", chat("away")).status_code == 502  # nothing
    up.use(reply(answer(100, 100)), times=1)  # 200,000, by the cheap fallback; the one without a price is not asked
    rescued = running.post("/v1/chat/completions", chat("rescued"))
    assert rescued.status_code == 200, rescued.text
    assert rescued.headers["x-sage-deployment"] == "up0/small"
    settled(running, "tenant:default", 0.0007)
    assert "x-sage-budget" not in rescued.headers


@pytest.mark.slow
def test_a_stream_that_its_client_leaves_is_settled(start: Callable[..., Running], up: Upstream) -> None:
    running = start(users={"root": {"tokens": 100_000}})
    up.stream([chat_chunk("word ")] * 50, hang_after=20, times=1)
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)
    with client.chat.completions.create(model="bench", messages=MESSAGES, stream=True) as stream:  # type: ignore[call-overload]
        for _ in zip(range(10), stream, strict=False):
            pass
    end = time.monotonic() + 15
    while view(running, "user:root")["spent"] == 0 or view(running, "user:root")["reserved"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert 20 <= view(running, "user:root")["spent"] <= 60  # counted by us: the prompt, and some 20 tokens sent


def test_a_refused_call_says_when_to_come_back(start: Callable[..., Running], up: Upstream) -> None:
    running = start(users={"root": {"usd": "0.001", "window": "month"}})
    refused = running.post("/v1/chat/completions", {**chat("bench"), "max_tokens": 1000})
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("budget_exceeded", "rate_limit_error")
    assert (
        "the budget of the user 'root', $0.001 a month, has $0.001 left, and this call may take $0.01"
        in error["message"]
    )
    opens = view(running, "user:root")["opens_at"]
    assert abs(int(refused.headers["retry-after"]) - (opens - time.time())) < 5
    assert up.requests == []
    for fields in (
        {"max_completion_tokens": 1000},
        {"max_tokens": 90, "n": 2},
        {"max_tokens": 1, "max_completion_tokens": 99},
    ):
        assert running.post("/v1/chat/completions", {**chat("bench"), **fields}).status_code == 429, fields
    assert running.post("/v1/chat/completions", {**chat("bench"), "max_tokens": 50}).status_code == 200
    without = running.post("/v1/chat/completions", chat("bench"))  # 4,096 tokens are assumed
    assert "may take $0.04" in without.json()["error"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["a", "é", "你", "😀"])
def test_each_byte_of_a_text_is_reserved_however_long_it_is(start: Callable[..., Running], text: str) -> None:
    running = start(defaults={"user": {"tokens": 10}})

    def reserved(times: int) -> int:
        messages = [{"role": "user", "content": text * times}, {"role": "user", "content": "x"}]
        refusal = running.post("/v1/chat/completions", json={"model": "bench", "messages": messages, "max_tokens": 1})
        assert refusal.status_code == 429, refusal.text
        return int(refusal.json()["error"]["message"].partition("this call may take ")[2].partition(" ")[0])

    size = len(text.encode())
    assert reserved(9_000) - reserved(1) == 8_999 * size
    assert reserved(9_000) >= 9_000 * size + 1


@pytest.mark.slow
def test_images_are_reserved_for(start: Callable[..., Running], up: Upstream) -> None:
    running = start(users={"root": {"tokens": 2500}})
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (1024).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(head).decode()}"}}

    def ask(images: int) -> int:
        content = [{"type": "text", "text": "What is it?"}, *[part] * images]
        body = {"model": "bench", "messages": [{"role": "user", "content": content}], "max_tokens": 5}
        answer = running.post("/v1/chat/completions", body)
        assert answer.status_code in (200, 429), answer.text
        return answer.status_code

    assert ask(2) == 429  # 1,399 tokens each at most
    assert up.requests == []
    assert ask(1) == 200


def test_a_model_without_a_price_under_a_budget_in_dollars(start: Callable[..., Running]) -> None:
    running = start(users={"root": {"usd": 1}})
    refused = running.post("/v1/chat/completions", chat("unknown"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "unpriced_model")
    assert "llm.prices" in refused.json()["error"]["message"]
    allowed = start(users={"root": {"usd": 1}}, unpriced="allow")
    assert allowed.post("/v1/chat/completions", chat("unknown")).status_code == 200
    in_tokens = start(users={"root": {"tokens": 100_000}})
    assert in_tokens.post("/v1/chat/completions", chat("unknown")).status_code == 200
    soft = start(users={"root": {"usd": 1, "hard": False}})
    assert soft.post("/v1/chat/completions", chat("unknown")).status_code == 200


def test_a_fallback_whose_own_budget_is_used_up_is_not_asked(start: Callable[..., Running], up: Upstream) -> None:
    cheap = {"deployments": [{"provider": "up0", "model": "small", "price": PRICE}], "budget": {"tokens": 10}}
    running = start(
        {
            "cheap": cheap,
            "rescued": {"deployments": [{"provider": "gone", "model": "x", "price": PRICE}], "fallbacks": ["cheap"]},
        }
    )
    assert running.post("/v1/chat/completions", chat("rescued")).status_code == 502
    assert running.post("/v1/chat/completions", chat("cheap")).status_code == 429
    assert up.requests == []
    assert view(running, "model:cheap")["source"] == "config"


def test_a_soft_budget_that_is_used_up_is_said_in_a_header(start: Callable[..., Running], up: Upstream) -> None:
    running = start(users={"root": {"tokens": 100, "window": "day", "hard": False}})
    up.use(reply(answer(90, 30)), times=1)
    assert "x-sage-budget" not in running.post("/v1/chat/completions", chat("bench")).headers
    settled(running, "user:root", 120)
    told = running.post("/v1/chat/completions", chat("bench"))
    assert told.headers["x-sage-budget"] == "user:root; spent=120; tokens=100; window=day"


def test_a_key_made_by_a_key_spends_its_makers_budget(start: Callable[..., Running], up: Upstream) -> None:
    running = start()
    assert running.accounts is not None
    maker = running.accounts.keys.create_for("root", KeyRequest())
    made = running.post("/auth/keys", {}, key=maker.secret).json()
    put = running.request("PUT", f"/budgets/key/{maker.key.id}", json={"tokens": 10})
    assert put.status_code == 200
    for key in (made["key"], maker.secret):
        refused = running.post("/v1/chat/completions", chat("bench"), key=key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exceeded")
    assert running.post("/v1/chat/completions", chat("bench")).status_code == 200
