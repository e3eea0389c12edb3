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
from upstream import Upstream, usage

CHAT = "/v1/chat/completions"
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
                return [dict(row) for row in connection.execute("SELECT * FROM usage_requests ORDER BY id")]
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
