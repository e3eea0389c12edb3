"""What a call has met on its way stands in the ledger: attempts and why they ended, waits, new connections."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from running_gateway import Running
from upstream import Upstream, chat_chunk, usage_chunk

GONE = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running], up: Upstream) -> Running:
    providers = {
        "up": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream", "retries": 0},
        "gone": {"kind": "openai", "base_url": GONE, "api_key": "sk-upstream"},
        "one": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream", "max_concurrency": 1},
    }
    models = {
        "bench": {"deployments": [{"provider": "up", "model": "m"}]},
        "narrow": {"deployments": [{"provider": "one", "model": "m"}]},
        "rescued": {"deployments": [{"provider": "gone", "model": "m"}], "fallbacks": ["bench"]},
    }
    return module_gateway(llm={"providers": providers, "models": models, "routing": {"breaker_failures": 10**6}})


def the_call(running: Running, answer_id: str) -> dict[str, Any]:
    (call,) = running.get(f"/usage/requests?id={answer_id}").json()["requests"]
    assert isinstance(call, dict)
    return call


def test_a_plain_call_has_met_nothing(running: Running, up: Upstream) -> None:
    up.reset()
    running.chat()  # opens a connection
    call = the_call(running, running.chat().headers["x-request-id"])
    assert call["steps"] == []
    assert 0 <= call["admitted_ms"] < call["ms"]


def test_an_attempt_that_failed_says_why_and_the_next_one_answers(running: Running, up: Upstream) -> None:
    up.reset()
    answer = running.chat("rescued")
    assert answer.status_code == 200
    call = the_call(running, answer.headers["x-request-id"])
    assert (call["deployment"], call["attempts"]) == ("up/m", 2)
    failed = call["steps"][0]
    assert (failed["kind"], failed["deployment"], failed["status"], failed["code"]) == (
        *("attempt", "gone/m", 502, "connect_failed"),
    )
    assert failed["from_ms"] >= call["admitted_ms"] - 0.002
    assert [step["kind"] for step in call["steps"][1:]] in (["pause"], ["pause", "connect"])
    pause = call["steps"][1]
    assert failed["from_ms"] + failed["ms"] <= pause["from_ms"] + 1
    assert pause["from_ms"] + pause["ms"] <= call["ms"]


def test_a_failure_of_all_says_the_last_reason_once(running: Running, up: Upstream) -> None:
    up.reset()
    up.reply({"error": {"message": "secret words of the prompt", "code": "bad_thing"}}, status=400)
    answer = running.chat()
    assert answer.status_code == 400
    call = the_call(running, answer.headers["x-request-id"])
    ends = [(step["kind"], step["status"]) for step in call["steps"] if step["kind"] != "connect"]
    assert ends == [("attempt", 400)]
    assert "secret" not in str(call)


def test_a_stream_that_breaks_is_an_attempt_that_failed(running: Running, up: Upstream) -> None:
    up.reset()
    up.stream([chat_chunk("Hi"), chat_chunk("there")], cut_after=1)
    answer = running.chat(stream=True)
    assert answer.status_code == 200
    assert b"error" in answer.content
    call = the_call(running, answer.headers["x-request-id"])
    (broke,) = [step for step in call["steps"] if step["kind"] != "connect"]
    assert (broke["kind"], broke["deployment"], broke["status"]) == ("attempt", "up/m", 502)
    assert call["first_token_ms"] is not None


def test_a_wait_in_the_queue_is_told(running: Running, up: Upstream) -> None:
    up.reset()
    up.stream([chat_chunk("Hi"), chat_chunk(None, "stop"), usage_chunk(1, 1)], delay=0.1)
    first = threading.Thread(target=lambda: running.chat("narrow", stream=True).content)
    first.start()
    up.wait_requests(1)
    answer = running.chat("narrow", stream=True)
    assert answer.content
    first.join()
    call = the_call(running, answer.headers["x-request-id"])
    waited = call["steps"][0]
    assert (waited["kind"], waited["ms"] > 5, call["status"]) == ("queue", True, 200)
    assert waited["from_ms"] + waited["ms"] <= call["first_token_ms"]
