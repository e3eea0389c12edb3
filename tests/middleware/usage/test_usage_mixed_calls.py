"""Mixed calls by many clients at once: the ledger has each of them once, and its tokens are those that a scripted
upstream has counted, also after the gateway was killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from counting_upstream import CountingUpstream, counting_upstream, message
from sage_process import Serving, environment, serving

pytestmark = pytest.mark.slow
CALLS = 10_000 if os.environ.get("SAGE_TEST_FULL") else 240
PRICE = {"input": 1, "output": 2}
STORED = "SELECT s.*, r.* FROM usage_requests r JOIN usage_series s ON s.id = r.series"
DEEDS = ("answer", "answer", "answer", "silent", "cut", "wait", "fail")


@pytest.fixture(scope="module")
def upstream() -> Iterator[CountingUpstream]:
    with counting_upstream() as server:
        yield server


@pytest.fixture
def server(tmp_path: Path, upstream: CountingUpstream) -> Iterator[Serving]:
    def deployment(provider: str) -> dict[str, Any]:
        return {"provider": provider, "model": "m", "price": PRICE}

    common = {"kind": "openai", "api_key": "sk-upstream"}
    config = {
        "api": {"port": 0, "access_log": False},
        "llm": {
            "providers": {
                "good": {**common, "base_url": upstream.url},
                "gone": {**common, "base_url": "http://127.0.0.1:9/v1"},
            },
            "models": {
                "plain": {"deployments": [deployment("good")]},
                "lost": {"deployments": [deployment("gone")]},
                "rescued": {"deployments": [deployment("gone")], "fallbacks": ["plain"]},
            },
            "routing": {"breaker_failures": 10**6},
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with serving(["--no-auth"], environment(tmp_path / "data"), tmp_path) as process:
        yield process


def ask(server: Serving, call: str, model: str, deed: str, stream: bool, prompt: int, answer: int) -> None:
    body = {
        "model": model,
        "stream": stream,
        "messages": [{"role": "user", "content": message(call, deed, prompt, answer)}],
    }
    response = requests.post(
        f"{server.url}/v1/chat/completions", json=body, headers={"x-request-id": call}, stream=True, timeout=60
    )
    with response:
        if deed == "wait" and stream and response.status_code == 200:
            for number, _ in enumerate(response.iter_lines()):
                if number >= answer // 2:
                    break  # the client leaves
        else:
            response.content  # noqa: B018


def rows_of(data: Path) -> dict[str, dict[str, Any]]:
    with closing(sqlite3.connect(data / "usage.db")) as connection:
        connection.row_factory = sqlite3.Row
        rows = [dict(row) for row in connection.execute(STORED)]
    assert len({row["request_id"] for row in rows}) == len(rows)
    return {row["request_id"]: row for row in rows}


def test_every_call_is_settled_once_to_the_token(server: Serving, tmp_path: Path, upstream: CountingUpstream) -> None:
    chance = random.Random(15)
    calls: dict[str, tuple[str, str, bool, int, int]] = {}
    for number in range(CALLS):
        deed, stream = chance.choice(DEEDS), chance.random() < 0.6
        if not stream and deed in ("cut", "wait"):
            deed = "answer"
        model = chance.choice(("plain", "plain", "rescued", "lost"))
        calls[f"call-{number}"] = model, deed, stream, chance.randint(1, 5000), chance.randint(2, 40)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda each: ask(server, each[0], *each[1]), calls.items()))
    summed = requests.get(f"{server.url}/usage?by=model", timeout=30).json()["rows"]
    rows = rows_of(tmp_path / "data")
    assert rows.keys() == calls.keys()
    for call, (model, deed, _, _, _) in calls.items():
        row = rows[call]
        tokens = row["prompt_tokens"], row["completion_tokens"]
        if model == "lost" or deed == "fail" or row["provider"] == "gone":  # the budget of further attempts is spent
            assert (row["status"] >= 500, tokens, row["cost"], row["estimated"]) == (True, (0, 0), 0, 0), call
            continue
        assert row["model"] == "plain"
        assert row["attempts"] == (2 if model == "rescued" else 1)
        if deed == "answer":
            assert (tokens, row["estimated"]) == (upstream.counted[call], 0)
        else:
            assert row["estimated"] == 1
            assert row["prompt_tokens"] > 5
            assert row["completion_tokens"] >= 1
            if deed in ("cut", "wait"):
                assert row["completion_tokens"] <= upstream.passed[call] + 2
                assert row["status"] == (502 if deed == "cut" else 499)
        assert row["cost"] == 1000 * tokens[0] + 2000 * tokens[1]
    assert any(row["attempts"] == 2 and row["status"] == 200 for row in rows.values())
    for name in ("requests", "prompt_tokens", "completion_tokens", "failed"):
        values = {
            "requests": len(rows),
            "failed": sum(row["status"] >= 400 for row in rows.values()),
        }
        expected = values.get(name, sum(row[name] for row in rows.values() if name in row))
        assert sum(row[name] for row in summed) == expected
    assert round(sum(row["cost"] for row in summed) * 10**9) == sum(row["cost"] for row in rows.values())


def test_a_killed_gateway_loses_nothing_that_is_older_than_a_second(
    server: Serving, tmp_path: Path, upstream: CountingUpstream
) -> None:
    def ask_some(first: int, count: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda n: ask(server, f"kill-{n}", "plain", "answer", n % 2 == 0, n + 1, 3),
                    range(first, first + count),
                )
            )

    ask_some(0, 60)
    time.sleep(1.0)
    ask_some(60, 30)
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(10)
    rows = rows_of(tmp_path / "data")
    for number in range(60):
        row = rows[f"kill-{number}"]
        assert (row["prompt_tokens"], row["completion_tokens"]) == (number + 1, 3) == upstream.counted[f"kill-{number}"]
    with closing(sqlite3.connect(tmp_path / "data" / "usage.db")) as connection:
        sums = connection.execute("SELECT sum(requests), sum(prompt_tokens), sum(cost) FROM usage_quarters").fetchone()
    assert sums == (len(rows), sum(r["prompt_tokens"] for r in rows.values()), sum(r["cost"] for r in rows.values()))
