"""Every call is in the ledger once, with the tokens that its upstream counted, and what that costs."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from running_gateway import Running
from upstream import Upstream, chat_chunk, usage, usage_chunk

CHAT = "/v1/chat/completions"
CALLS = "SELECT s.*, r.* FROM usage_requests r JOIN usage_series s ON s.id = r.series ORDER BY r.id"
MESSAGES = [{"role": "user", "content": "Hello there"}]


def sections(up: Upstream) -> dict[str, Any]:
    providers = {
        "up0": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"},
        "gone": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-upstream"},
    }
    price = {"input": 0.5, "cached": 0.05, "output": 2, "reasoning": 4}
    models = {
        "bench": {"deployments": [{"provider": "up0", "model": "theirs-0", "price": price}]},
        "unknown": {"deployments": [{"provider": "up0", "model": "nobody-knows-it"}]},
        "patterned": {"deployments": [{"provider": "up0", "model": "theirs-1"}]},
        "away": {"deployments": [{"provider": "gone", "model": "theirs-0", "price": price}]},
        "rescued": {"deployments": [{"provider": "gone", "model": "theirs-0"}], "fallbacks": ["bench"]},
    }
    prices = {"up0/theirs-1": {"input": 1, "output": 1}, "theirs-*": {"per_request": 1}}
    return {"llm": {"providers": providers, "models": models, "prices": prices, "routing": {"breaker_failures": 10**6}}}


@pytest.fixture
def rows(running: Running) -> Callable[[int], list[dict[str, Any]]]:
    """``rows(n)``: the newest ``n`` calls in the ledger, the oldest of them first, once that many are new."""
    path = Path(running.settings.data_dir) / "usage.db"

    def read() -> list[dict[str, Any]]:
        if not path.exists():
            return []
        with closing(sqlite3.connect(path)) as connection:
            connection.row_factory = sqlite3.Row
            try:
                return [dict(row) for row in connection.execute(CALLS)]
            except sqlite3.OperationalError:  # it is being made
                return []

    before = len(read())

    def newest(count: int) -> list[dict[str, Any]]:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            new = read()[before:]
            if len(new) >= count:
                assert len(new) == count
                return new
            time.sleep(0.02)
        raise AssertionError(f"{count} calls, but the ledger has {len(read()) - before} of them")

    return newest


def ask(running: Running, **body: Any) -> requests.Response:
    return running.post(CHAT, {"model": "bench", "messages": MESSAGES, **body})


def test_a_whole_answer_is_recorded_as_its_upstream_counted(running: Running, up: Upstream, rows: Any) -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 1000}, "completion_tokens_details": {"reasoning_tokens": 50}}
    counted = usage(3000, 200) | details
    up.reply(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "usage": counted,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        }
    )
    answer = ask(running)
    assert answer.status_code == 200
    (row,) = rows(1)
    assert row["request_id"] == answer.headers["x-request-id"]
    tokens = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    assert [row[name] for name in tokens] == [3000, 1000, 200, 50]
    assert row["cost"] == 2000 * 500 + 1000 * 50 + 150 * 2000 + 50 * 4000


def test_a_stream_is_recorded_with_its_first_token_and_what_its_upstream_counted(
    running: Running, up: Upstream, rows: Any
) -> None:
    up.stream([chat_chunk("Hi"), chat_chunk("!", "stop"), usage_chunk(11, 7)])
    assert ask(running, stream=True).status_code == 200
    (row,) = rows(1)
    assert (row["stream"], row["status"], row["prompt_tokens"], row["completion_tokens"], row["estimated"]) == (
        1,
        200,
        11,
        7,
        0,
    )
    assert 0 < row["first_token_ms"] <= row["ms"]
    assert row["cost"] == 11 * 500 + 7 * 2000


def test_every_surface_is_in_the_ledger(running: Running, up: Upstream, rows: Any) -> None:
    calls = {
        "chat/completions": [
            (CHAT, {"messages": MESSAGES}),
            ("/generate", {"prompt": "Hello"}),
            ("/api/chat", {"messages": MESSAGES, "stream": False}),
            ("/v2/chat", {"messages": MESSAGES}),
        ],
        "completions": [("/v1/completions", {"prompt": "Hello"})],
        "embeddings": [("/v1/embeddings", {"input": ["a", "b c"]}), ("/api/embed", {"input": "a"})],
    }
    asked = [(operation, path, body) for operation, several in calls.items() for path, body in several]
    for _, path, body in asked:
        answer = running.post(path, {"model": "bench", **body})
        assert answer.status_code == 200, answer.text
    found = rows(len(asked))
    assert [row["operation"] for row in found] == [operation for operation, _, _ in asked]
    assert all(row["prompt_tokens"] > 0 and not row["estimated"] for row in found)


def test_a_price_that_nobody_knows_is_no_cost_of_zero_and_a_pattern_gives_one(
    running: Running, up: Upstream, rows: Any
) -> None:
    assert running.post(CHAT, {"model": "unknown", "messages": MESSAGES}).ok
    assert running.post(CHAT, {"model": "patterned", "messages": MESSAGES}).ok
    unknown, patterned = rows(2)
    assert unknown["cost"] is None
    assert patterned["cost"] == 1000 * (patterned["prompt_tokens"] + patterned["completion_tokens"])


def test_a_call_that_reaches_no_upstream_costs_nothing_and_a_fallbacks_counts_for_the_fallback(
    running: Running, up: Upstream, rows: Any
) -> None:
    assert running.post(CHAT, {"model": "away", "messages": MESSAGES}).status_code == 502
    assert running.post(CHAT, {"model": "rescued", "messages": MESSAGES}).status_code == 200
    away, rescued = rows(2)
    assert (away["status"], away["prompt_tokens"], away["cost"], away["deployment"]) == (502, 0, 0, "gone/theirs-0")
    assert (rescued["model"], rescued["deployment"], rescued["attempts"]) == ("bench", "up0/theirs-0", 2)


def test_generate_says_what_an_answer_cost_to_who_asks(running: Running, up: Upstream, rows: Any) -> None:
    answer = running.post("/generate", {"model": "bench", "prompt": "Hello", "cost": True}).json()
    (row,) = rows(1)
    assert (round(answer["cost"] * 10**9), answer["priced"]) == (row["cost"], True)
    assert "cost" not in running.post("/generate", {"model": "bench", "prompt": "Hello"}).json()
    refused = running.post("/generate", {"model": "bench", "prompt": "Hello", "cost": True, "stream": True})
    assert refused.status_code == 400
    rows(2)


def test_metrics_say_how_many_calls_were_written(running: Running, up: Upstream, rows: Any) -> None:
    ask(running)
    rows(1)
    text = running.get("/metrics").text
    assert "sage_usage_dropped_total 0.0" in text
    assert "sage_usage_written_total" in text


def test_what_collections_ask_of_models_is_usage_of_who_asked(running: Running, up: Upstream, rows: Any) -> None:
    made = running.post("/collections", {"name": "notes", "embedder": "up0/text-embedding-3-small"})
    assert made.status_code in (200, 201), made.text
    documents = {"documents": [{"id": "1", "text": "a red house"}, {"id": "2", "text": "a blue door"}]}
    assert running.post("/collections/notes/documents", documents).ok
    assert running.post("/search", {"collection": "notes", "query": "house", "mode": "dense"}).ok
    found = rows(2)
    assert [(row["operation"], row["user"], row["key"] != "") for row in found] == [("embeddings", "root", True)] * 2


@pytest.mark.slow
def test_a_model_that_a_vendor_sells_gets_its_published_price(gateway: Callable[..., Running], up: Upstream) -> None:
    provider = {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}
    running = gateway(llm={"providers": {"openai": provider}}, usage={"published_prices": True})
    answer = running.post("/generate", {"model": "openai/gpt-4o-mini", "prompt": "Hello there", "cost": True}).json()
    used = answer["usage"]
    assert round(answer["cost"] * 10**9) == 150 * used["prompt_tokens"] + 600 * used["completion_tokens"]
    end = time.monotonic() + 30
    while (row := running.get("/usage/requests").json()["requests"][0])["cost"] is None:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert (row["cost"], row["priced"]) == (answer["cost"], True)
    (summed,) = running.get("/usage?by=model").json()["rows"]
    assert (summed["cost"], summed["unpriced"]) == (answer["cost"], 0)
