"""Rate limits as callers meet them."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from running_gateway import Running
from shared_gateway import PATIENT
from surfaces import CHATS
from upstream import Upstream, chat_chunk, usage_chunk

from sage.middleware.settings.limits import Limits

pytestmark = pytest.mark.slow
AT_ONCE = 500 if os.environ.get("SAGE_TEST_FULL") else 150

CHAT = {"model": "bench", "messages": [{"role": "user", "content": "hello"}]}


def sections(up: Upstream) -> dict[str, Any]:
    """Models ``bench`` without limits, ``narrow`` and ``spare`` with some; ``first`` falls back on ``spare``."""
    providers = {"up0": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}}
    names = ("bench", "narrow", "spare", "first")
    models: dict[str, Any] = {name: {"deployments": [{"provider": "up0", "model": name}]} for name in names}
    models["narrow"]["limits"] = {"rpm": 2}
    models["spare"]["limits"] = {"rpm": 1}
    models["first"]["fallbacks"] = ["spare"]
    return {"llm": {"providers": providers, "models": models, "routing": PATIENT}}


def limited(running: Running, **limits: int) -> str:
    """A new key with these limits."""
    return running.new_key(limits=Limits(**limits))


def remaining(running: Running, key: str, what: str, **fields: int) -> int:
    return int(running.chat(key=key, **fields).headers[f"x-ratelimit-remaining-{what}"])


def test_a_key_over_its_requests_is_told_who_what_and_when(running: Running) -> None:
    key = limited(running, rpm=2)
    first, second, third = (running.chat(key=key) for _ in range(3))
    assert [answer.status_code for answer in (first, second, third)] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in (first, second, third)] == ["1", "0", "0"]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert re.fullmatch(r"1m0(\.\d+)?s", first.headers["x-ratelimit-reset-requests"])
    error = third.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "rate_limit_exceeded", None)
    assert re.fullmatch(
        r"rate limit: key '\w+' has made 2 requests in 60 seconds, of 2; try again in (59|60)\.\d s", error["message"]
    )
    assert 59 <= int(third.headers["retry-after"]) <= 61
    assert "x-ratelimit-limit-tokens" not in third.headers
    assert "x-ratelimit-limit-requests" not in running.chat().headers  # a caller without limits


@pytest.mark.parametrize("surface", [*CHATS, "/v1/completions", "/v1/embeddings", "/v1/rerank"])
def test_each_surface_counts_a_call_once(running: Running, up: Upstream, surface: str) -> None:
    key = limited(running, rpm=1)
    body = dict(CHAT) if "chat" in surface or "messages" in surface else {"model": "bench", "prompt": "hello"}
    body |= {"max_tokens": 100} if "messages" in surface else {}
    body |= {"stream": False} if surface in CHATS else {}
    body |= {"input": "hello"} if surface.endswith("embeddings") else {}
    body |= {"query": "a", "documents": ["b"]} if surface.endswith("rerank") else {}
    first = running.post(surface, body, key=key)
    if first.status_code == 200:  # the scripted upstream does not rerank
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
    second = running.post(surface, body, key=key)
    assert second.status_code == 429
    assert len(up.requests) <= 1
    assert "retry-after" in second.headers


def test_a_stream_has_the_headers_too(running: Running, up: Upstream) -> None:
    key = limited(running, rpm=5, tpm=10_000)
    up.stream([chat_chunk("Hi"), chat_chunk(None, "stop"), usage_chunk(7, 3)])
    with running.chat(key=key, stream=True, max_tokens=100) as answer:
        assert answer.headers["x-ratelimit-remaining-requests"] == "4"
        assert 9_850 < int(answer.headers["x-ratelimit-remaining-tokens"]) < 9_900
        assert b"[DONE]" in answer.content
    with running.chat(key=key, stream=True, max_tokens=100) as answer:  # 10 of the first were used
        assert 9_840 < int(answer.headers["x-ratelimit-remaining-tokens"]) < 9_890


def test_tokens_are_reserved_and_then_what_was_counted_stands(running: Running, up: Upstream) -> None:
    key = limited(running, tpm=1_000)
    usage = {"prompt_tokens": 40, "completion_tokens": 60, "total_tokens": 100}
    message = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    up.reply({"id": "x", "object": "chat.completion", "choices": [message], "usage": usage})
    generous = running.chat(key=key, max_tokens=5_000)
    assert generous.status_code == 200  # bounded by all that there is
    assert generous.headers["x-ratelimit-remaining-tokens"] == "0"
    second = running.chat(key=key, max_tokens=500)
    assert 380 < int(second.headers["x-ratelimit-remaining-tokens"]) < 400  # 1,000 - 100 - 500 and the prompt
    refused = running.chat(key=key, max_tokens=900)
    assert refused.status_code == 429
    assert "has used 200 tokens in 60 seconds, of 1000" in refused.json()["error"]["message"]
    assert refused.headers["x-ratelimit-remaining-tokens"] == "800"
    assert running.chat(key=key, max_tokens=700).status_code == 200


def test_more_tokens_than_reserved_count_as_well(running: Running, up: Upstream) -> None:
    key = limited(running, tpm=1_000)
    usage = {"prompt_tokens": 40, "completion_tokens": 1_960, "total_tokens": 2_000}
    message = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    up.reply({"id": "x", "object": "chat.completion", "choices": [message], "usage": usage})
    assert running.chat(key=key, max_tokens=10).status_code == 200
    refused = running.chat(key=key, max_tokens=10)
    assert refused.status_code == 429
    assert "has used 2000 tokens" in refused.json()["error"]["message"]


def test_a_prompt_beyond_the_limit_is_refused_as_such(running: Running, up: Upstream) -> None:
    key = limited(running, tpm=100)
    body = {**CHAT, "messages": [{"role": "user", "content": "word " * 200}]}
    refused = running.post("/v1/chat/completions", body, key=key)
    assert refused.status_code == 429
    assert "waiting does not help" in refused.json()["error"]["message"]
    assert not up.requests


def test_failed_calls_give_their_tokens_back_and_count_as_requests(running: Running, up: Upstream) -> None:
    key = limited(running, rpm=10, tpm=1_000, concurrent=1)
    up.reply(status=400, times=3)
    for _ in range(3):
        assert running.chat(key=key, max_tokens=900).status_code == 400
    up.reset()
    answer = running.chat(key=key, max_tokens=900)
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-remaining-requests"] == "6"


def test_a_refused_call_takes_nothing_and_goes_to_no_fallback(running: Running, up: Upstream) -> None:
    for _ in range(2):
        assert running.chat("narrow", models=["bench"]).status_code == 200
    key = limited(running, rpm=5)
    for _ in range(10):
        refused = running.chat("narrow", key=key, models=["bench"])
        assert refused.status_code == 429
        assert "model 'narrow' has made 2 requests" in refused.json()["error"]["message"]
    assert len(up.requests) == 2
    assert remaining(running, key, "requests") == 4
    scraped = running.get("/metrics").text
    assert 'sage_rate_limited_total{limit="requests",model="narrow",subject="model"} 10.0' in scraped


def test_a_fallback_over_its_own_limits_is_left_out(running: Running, up: Upstream) -> None:
    assert running.chat("first").headers["x-sage-deployment"] == "up0/first"
    assert running.chat("first").status_code == 200  # what was taken of 'spare' for the first was given back
    up.reply(status=500, times=1)
    assert running.chat("first").headers["x-sage-deployment"] == "up0/spare"
    up.reply(status=500, times=3)
    assert running.chat("first").status_code == 502  # 'spare' has answered its one request a minute
    assert Counter(each.body["model"] for each in up.requests)["spare"] == 1


def test_requests_at_one_time_end_with_streams_cancels_and_failures(running: Running, up: Upstream) -> None:
    key = limited(running, concurrent=2)
    gate = threading.Event()
    up.stream([chat_chunk("a"), chat_chunk("b", "stop")], gate=gate, times=2)
    streams = [running.chat(key=key, stream=True) for _ in range(2)]
    refused = running.chat(key=key)
    assert refused.status_code == 429
    assert "has 2 requests running, of 2 at one time" in refused.json()["error"]["message"]
    assert refused.headers["retry-after"] == "1"
    gate.set()
    assert b"[DONE]" in streams[0].content
    streams[1].close()  # a client that leaves
    up.reset()
    up.reply(status=400, times=1)
    assert until_admitted(running, key).status_code == 400
    assert all(running.chat(key=key).status_code == 200 for _ in range(5))
    free = [running.chat(key=key, stream=True) for _ in range(2)]  # both places
    assert [answer.status_code for answer in free] == [200, 200]
    for answer in free:
        answer.close()


def until_admitted(running: Running, key: str) -> Any:
    while (answer := running.chat(key=key)).status_code == 429:
        pass
    return answer


def test_the_openai_sdk_reads_the_headers_and_the_error(running: Running) -> None:
    key = limited(running, rpm=1, tpm=1_000)
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(**CHAT, max_tokens=10)  # type: ignore[call-overload]
        assert raw.headers["x-ratelimit-limit-tokens"] == "1000"
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(**CHAT, max_tokens=10)  # type: ignore[call-overload]
    assert refused.value.code == "rate_limit_exceeded"
    assert int(refused.value.response.headers["retry-after"]) > 50


def test_exact_under_hundreds_at_once(running: Running, up: Upstream) -> None:
    key = limited(running, rpm=50)

    async def ask_all() -> list[int]:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(base_url=running.url, headers=running.headers(key), limits=limits) as client:
            answers = await asyncio.gather(
                *(client.post("/v1/chat/completions", json=CHAT, timeout=60) for _ in range(AT_ONCE))
            )
            return [answer.status_code for answer in answers]

    assert Counter(asyncio.run(ask_all())) == {200: 50, 429: AT_ONCE - 50}
    assert len(up.requests) == 50


def test_a_call_that_a_budget_refuses_counts_nowhere(gateway: Callable[..., Running], up: Upstream) -> None:
    running = gateway(**sections(up), budgets={"users": {"root": {"tokens": 600, "window": "total"}}})
    key = limited(running, rpm=3, concurrent=1)
    refused = [running.chat(key=key, max_tokens=5_000) for _ in range(5)]
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {(429, "budget_exceeded")}
    assert remaining(running, key, "requests", max_tokens=20) == 2


def test_models_registered_at_run_time_have_limits(running: Running) -> None:
    body = {"deployments": [{"provider": "up0", "model": "theirs"}], "limits": {"rpm": 1}}
    assert running.post("/models/added", body).status_code == 201
    assert [running.chat("added").status_code for _ in range(2)] == [200, 429]
    bad = running.post("/models/added", {**body, "limits": {"rpm": 0}})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "limits.rpm")


def test_roles_have_limits_for_each_user(gateway: Callable[..., Running], up: Upstream) -> None:
    running = gateway(**sections(up), auth={"roles": {"admin": {"limits": {"rpm": 2}}}})
    assert [running.chat().status_code for _ in range(3)] == [200, 200, 429]
    other = running.chat(key=running.new_key())
    assert other.status_code == 429  # all keys of a user together
    assert "user 'root'" in other.json()["error"]["message"]
