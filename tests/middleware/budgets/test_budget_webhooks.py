"""Thresholds are told once a window, signed, whichever process spent; also after a restart."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from budget_fixtures import Clock, make_budgets, reserve
from upstream import Received, Upstream, reply

from sage.errors import RateLimited
from sage.middleware.budgets.budgets import Budgets
from sage.middleware.settings.settings import Settings
from sage.middleware.settings.webhooks import WebhookSettings, webhook_key
from sage.middleware.webhooks.signature import sign

pytestmark = pytest.mark.slow
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DOLLAR = 10**9


@pytest.fixture
def receiver() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def told(receiver: Upstream, count: int) -> list[dict[str, Any]]:
    """What was told, once so much was; the signature of each is checked."""
    requests = receiver.wait_requests(count)
    assert len(requests) == count
    return [verified(each) for each in requests]


def verified(request: Received) -> dict[str, Any]:
    message_id, at = request.headers["webhook-id"], int(request.headers["webhook-timestamp"])
    secret = WebhookSettings(secret=SECRET).secret
    assert secret is not None
    assert request.headers["webhook-signature"] == sign(webhook_key(secret), message_id, at, request.raw)
    body: dict[str, Any] = json.loads(request.raw)
    return body


async def all_taken(directory: Path) -> None:
    """Waits until nothing is left to be told."""
    with closing(sqlite3.connect(directory / "sage.db")) as connection:
        while connection.execute("SELECT count(*) FROM budget_events").fetchone() != (0,):
            await asyncio.sleep(0.02)


def settings_of(receiver: Upstream, **more: Any) -> tuple[WebhookSettings, str]:
    host = f"127.0.0.1:{receiver.port}"
    return WebhookSettings(
        hosts=(host,), secret=SECRET, retry_after=0.05, timeout=2.0, **more
    ), f"http://{host}/budgets"


async def spend(budgets: Budgets, money: int) -> None:
    (await reserve(budgets, money)).settle(money, 0, "gpt")
    await budgets.upkeep.settle()


def test_each_threshold_is_told_once_a_window_by_whoever_passes_it(tmp_path: Path, receiver: Upstream) -> None:
    async def scenario() -> None:
        clock = Clock()
        webhooks, url = settings_of(receiver)
        receiver.use(reply({}))
        budget = {"users": {"ann": {"usd": 10, "window": "day"}}, "webhook": url}
        first, second = (make_budgets(tmp_path, clock, webhooks=webhooks, **budget) for _ in range(2))
        for budgets in (first, second):
            await budgets.begin()
        await spend(first, 4 * DOLLAR)
        await spend(second, 2 * DOLLAR)  # 60 %
        (half,) = await asyncio.to_thread(told, receiver, 1)
        assert {name: half[name] for name in ("type", "threshold", "subject", "usd", "spent", "left", "window")} == {
            "type": "budget.threshold",
            "threshold": 50,
            "subject": "user:ann",
            "usd": 10,
            "spent": 6,
            "left": 4,
            "window": "day",
        }
        await spend(first, 4 * DOLLAR)  # 100 %
        for _ in range(3):
            with pytest.raises(RateLimited):
                await reserve(second, DOLLAR)
            await second.upkeep.settle()
        events = (await asyncio.to_thread(told, receiver, 4))[1:]
        assert sorted((each["type"], each.get("threshold", 0)) for each in events) == [
            ("budget.refused", 0),
            ("budget.threshold", 80),
            ("budget.threshold", 100),
        ]
        await all_taken(tmp_path)
        clock.now += 86400
        await spend(second, 5 * DOLLAR)
        assert (await asyncio.to_thread(told, receiver, 5))[4]["threshold"] == 50
        for budgets in (first, second):
            await budgets.end()
        assert len(receiver.requests) == 5

    asyncio.run(scenario())


def test_what_was_not_taken_is_told_again_also_after_a_restart(tmp_path: Path, receiver: Upstream) -> None:
    async def scenario() -> None:
        clock = Clock()
        webhooks, url = settings_of(receiver)
        budget = {"users": {"ann": {"usd": 10}}, "webhook": url, "thresholds": [50]}
        receiver.use(reply({}, status=503), times=1)
        budgets = make_budgets(tmp_path, clock, webhooks=webhooks, **budget)
        await budgets.begin()
        await spend(budgets, 5 * DOLLAR)
        await asyncio.to_thread(told, receiver, 1)
        await budgets.end()
        receiver.use(reply({}))
        clock.now += 60
        again = make_budgets(tmp_path, clock, webhooks=webhooks, **budget)
        await again.begin()
        await asyncio.to_thread(told, receiver, 2)
        await again.end()
        first, second = receiver.requests
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert first.raw == second.raw

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("webhooks", "fault"),
    [
        ({}, "needs its host in queue.webhooks.hosts"),
        ({"hosts": ["hooks.example.com"], "secret": SECRET}, "is not among the hosts"),
    ],
)
def test_a_receiver_that_is_not_allowed_is_no_configuration(webhooks: dict[str, Any], fault: str) -> None:
    sections = {"budgets": {"webhook": "https://evil.example/"}, "queue": {"webhooks": webhooks}}
    with pytest.raises(ValueError, match=fault):
        Settings.model_validate(sections)
