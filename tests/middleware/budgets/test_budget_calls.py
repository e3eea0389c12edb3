"""Calls under budgets: reserved before, settled after, refused when too little is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from budget_fixtures import ANN, Clock, Ended, Spender, budget, make_budgets, reserve, view

from sage.errors import RateLimited
from sage.middleware.budgets.budgets import Budgets
from sage.middleware.settings.database import DatabaseUrl

DOLLAR = 10**9


@asynccontextmanager
async def running(directory: Path, clock: Clock, **options: Any) -> AsyncIterator[Budgets]:
    budgets = make_budgets(directory, clock, **options)
    await budgets.upkeep.refresh()
    try:
        yield budgets
    finally:
        await budgets.end()


def test_500_calls_at_once_on_a_budget_for_10(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with running(tmp_path, clock, users={"ann": {"usd": 1, "window": "day"}}) as budgets:
            outcomes = await asyncio.gather(
                *(reserve(budgets, DOLLAR // 10) for _ in range(500)), return_exceptions=True
            )
            passed = [each for each in outcomes if not isinstance(each, BaseException)]
            refused = [each for each in outcomes if isinstance(each, RateLimited)]
            assert (len(passed), len(refused)) == (10, 490)
            assert {each.code for each in refused} == {"budget_exceeded"}
            assert (view(budgets, "user:ann")["reserved"], view(budgets, "user:ann")["left"]) == (1, 0)
            for call in passed:
                call.settle(DOLLAR // 20, 7, "gpt")
            await budgets.upkeep.settle()
            assert [view(budgets, "user:ann")[name] for name in ("spent", "reserved", "left")] == [0.5, 0.5, 0]
            for _ in range(3):
                await budgets.upkeep.settle()  # a second passes, and nobody wants the rest
            assert [view(budgets, "user:ann")[name] for name in ("spent", "reserved", "left")] == [0.5, 0, 0.5]

    asyncio.run(scenario())


def test_a_call_that_finds_enough_does_not_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, Clock(), tenants={"acme": {"usd": 1000}}) as budgets:
            accounts = budgets.accounts(Spender(), ("gpt",))
            assert budgets.take(accounts, DOLLAR // 100, 50) is None  # nothing is held yet
            (await budgets.reserve(accounts, DOLLAR // 100, 50)).cancel()
            taken = [budgets.take(accounts, DOLLAR // 100, 50) for _ in range(64)]
            assert all(taken)
            assert view(budgets, "tenant:acme")["reserved"] == pytest.approx(0.65)  # one draw: 1 call, and 64 to come

    asyncio.run(scenario())


def test_a_call_without_budgets_meets_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, Clock()) as budgets:
            assert not budgets.subjects
        async with running(tmp_path, Clock(), users={"bob": {"tokens": 5}}) as budgets:
            assert budgets.subjects
            assert budgets.accounts(Spender(), ("gpt",)) == ()

    asyncio.run(scenario())


def test_all_budgets_of_a_call_must_allow_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        names = ["key:k1", "model:gpt", "tag:night", "tenant:acme", "user:ann"]
        settings = {"users": {"ann": {"tokens": 1000}}, "tenants": {"acme": {"usd": 1}}, "tags": {"night": {"usd": 3}}}
        models = {"gpt": budget(usd=2, window="total")}
        async with running(tmp_path, Clock(), models=models, **settings) as budgets:
            budgets.store.put("key:k1", budget(tokens=100, window="day"))
            await budgets.upkeep.refresh()
            caller = Spender(tags=("night", "other"))
            assert [each.budget.subject for each in budgets.accounts(caller, ("gpt",))] == names
            for money, tokens, of in ((DOLLAR + 1, 1, "tenant 'acme'"), (1, 101, "key 'k1'"), (3 * DOLLAR, 1, "model")):
                with pytest.raises(RateLimited, match=of):
                    await reserve(budgets, money, tokens, caller)
                assert [account.outstanding for account in budgets.accounts(caller, ("gpt",))] == [0] * 5
            call = await reserve(budgets, DOLLAR, 100, caller)
            call.settle(DOLLAR // 2, 30, "gpt")
            await budgets.upkeep.settle()
            assert [view(budgets, name)["spent"] for name in names] == [30, 0.5, 0.5, 0.5, 30]

    asyncio.run(scenario())


def test_a_refusal_says_whose_budget_how_much_and_when_it_opens(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with running(tmp_path, clock, tenants={"acme": {"usd": "12.50", "window": "month"}}) as budgets:
            (await reserve(budgets, 12 * DOLLAR)).settle(12 * DOLLAR, 0, "gpt")
            with pytest.raises(RateLimited) as refused:
                await reserve(budgets, DOLLAR)
            assert refused.value.message == (
                "the budget of the tenant 'acme', $12.5 a month, has $0.5 left, and this call may take $1; it opens "
                "again on 2027-02-01 00:00 UTC"
            )
            opens = datetime(2027, 2, 1, tzinfo=UTC).timestamp()
            assert refused.value.retry_after == opens - clock.now
            assert (refused.value.status, refused.value.code) == (429, "budget_exceeded")

    asyncio.run(scenario())


def test_what_running_calls_hold_may_be_free_soon(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, Clock(), tenants={"acme": {"tokens": 10, "window": "total"}}) as budgets:
            await reserve(budgets, tokens=8)
            with pytest.raises(RateLimited, match="held by running calls") as refused:
                await reserve(budgets, tokens=8)
            assert refused.value.retry_after == 1
            with pytest.raises(RateLimited, match="does not open again by itself") as refused:
                await reserve(budgets, tokens=11)

    asyncio.run(scenario())


def test_ended_calls_are_settled_before_one_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, Clock(), users={"ann": {"tokens": 10}}) as budgets:
            call = await reserve(budgets, tokens=9)

            async def settle_ended() -> None:
                budgets.on_settled([Ended(call, None, 1, 1)])
                await asyncio.sleep(0)

            await budgets.begin()
            budgets.on_short(settle_ended)
            await reserve(budgets, tokens=8)
            await budgets.upkeep.settle()
            assert [view(budgets, "user:ann")[name] for name in ("spent", "reserved")] == [2, 8]

    asyncio.run(scenario())


def test_a_call_counts_against_the_window_in_which_it_began(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = Clock()
        midnight = datetime(2027, 1, 21, tzinfo=UTC).timestamp()
        clock.now = midnight - 0.001
        async with running(tmp_path, clock, users={"ann": {"tokens": 10, "window": "day"}}) as budgets:
            evening = await reserve(budgets, tokens=10)
            with pytest.raises(RateLimited):
                await reserve(budgets, tokens=1)
            clock.now = midnight
            morning = await reserve(budgets, tokens=6)
            evening.settle(None, 10, "gpt")
            morning.settle(None, 6, "gpt")
            await budgets.upkeep.settle()
            assert [view(budgets, "user:ann")[name] for name in ("spent", "left")] == [6, 4]
            clock.now = midnight - 1
            assert view(budgets, "user:ann")["spent"] == 10
            clock.now = midnight

    asyncio.run(scenario())


def test_who_waits_at_midnight_gets_of_the_new_day(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = Clock(datetime(2027, 1, 21, tzinfo=UTC).timestamp() - 1)
        async with running(tmp_path, clock, users={"ann": {"tokens": 10, "window": "day"}}) as budgets:
            await reserve(budgets, tokens=10)
            waiting = asyncio.create_task(reserve(budgets, tokens=5))
            await asyncio.sleep(0)
            clock.now += 2
            call = await waiting
            assert call.accounts[0].key.period == f"day:{int(clock.now - 1)}"

    asyncio.run(scenario())


def test_only_the_model_that_answered_is_charged(tmp_path: Path) -> None:
    async def scenario() -> None:
        models = {"big": budget(tokens=100), "small": budget(tokens=100)}
        async with running(tmp_path, Clock(), models=models) as budgets:
            call = await reserve(budgets, tokens=60, models=("big", "small"))
            call.settle(None, 25, "small")
            call.settle(None, 99, "big")  # once only
            await budgets.upkeep.settle()
            assert [view(budgets, f"model:{name}")["spent"] for name in models] == [0, 25]

    asyncio.run(scenario())


def test_a_call_that_used_more_than_it_reserved_is_counted_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, Clock(), users={"ann": {"tokens": 100}}) as budgets:
            calls = [await reserve(budgets, tokens=40) for _ in range(2)]
            calls[0].settle(None, 90, "gpt")
            await budgets.upkeep.settle()
            assert [view(budgets, "user:ann")[name] for name in ("spent", "reserved", "left")] == [90, 40, 0]
            with pytest.raises(RateLimited):
                await reserve(budgets, tokens=11)
            calls[1].cancel()
            await reserve(budgets, tokens=10)

    asyncio.run(scenario())


def test_a_soft_budget_refuses_nothing_and_says_that_it_is_used_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        soft = {"ann": {"usd": 2, "window": "week", "hard": False}}
        async with running(tmp_path, Clock(), users=soft) as budgets:
            first = await reserve(budgets, 3 * DOLLAR)
            assert first.notes() == []
            first.settle(int(2.5 * DOLLAR), 0, "gpt")
            second = await reserve(budgets, 3 * DOLLAR)
            assert second.notes() == ["user:ann; spent=2.5; usd=2; window=week"]
            await budgets.upkeep.settle()
            assert [view(budgets, "user:ann")[name] for name in ("spent", "reserved", "left")] == [2.5, 0, 0]
        async with running(tmp_path, Clock(), users=soft) as budgets:  # another process, later
            assert (await reserve(budgets, 1)).notes() == ["user:ann; spent=2.5; usd=2; window=week"]

    asyncio.run(scenario())


def test_a_change_of_a_budget_holds_at_once_and_keeps_what_was_spent(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, Clock(), defaults={"user": {"tokens": 10}}) as budgets:
            call = await reserve(budgets, tokens=10)
            call.settle(None, 10, "gpt")
            with pytest.raises(RateLimited, match="10 tokens a month"):
                await reserve(budgets, tokens=1)
            budgets.store.put("user:ann", budget(tokens=15))
            await budgets.upkeep.refresh()
            assert view(budgets, "user:ann")["source"] == "api"
            await budgets.upkeep.settle()
            running_on = await reserve(budgets, tokens=5)
            with pytest.raises(RateLimited, match="15 tokens a month"):
                await reserve(budgets, tokens=1)
            assert budgets.store.remove("user:ann")
            await budgets.upkeep.refresh()
            assert view(budgets, "user:ann")["source"] == "default"
            running_on.settle(None, 1, "gpt")
            await budgets.upkeep.settle()
            assert [view(budgets, "user:ann")[name] for name in ("spent", "reserved", "left")] == [11, 0, 0]

    asyncio.run(scenario())


@pytest.mark.both_databases
def test_each_member_of_a_team_has_its_budget_at_once(tmp_path: Path, database_url: DatabaseUrl | None) -> None:
    bob, eve = Spender(("user:bob", "tenant:acme")), Spender(("user:eve", "tenant:other"))

    async def scenario() -> None:
        defaults = {"user": {"tokens": 1000}}
        async with running(tmp_path, Clock(), url=database_url, defaults=defaults) as budgets:
            (await reserve(budgets, tokens=5)).settle(None, 5, "gpt")  # more is drawn for calls to come
            assert view(budgets, "user:ann", "acme")["reserved"] > 0
            await budgets.give("member:acme", budget(tokens=10), "acme")
            await budgets.upkeep.settle()
            shown = view(budgets, "user:ann", "acme")
            assert [shown[name] for name in ("tokens", "spent", "source")] == [10, 5, "team"]
            for caller, left in ((ANN, 5), (bob, 10)):  # each by itself, and what was spent before counts
                with pytest.raises(RateLimited, match=f"10 tokens a month, has {left} tokens left"):
                    await reserve(budgets, tokens=left + 1, caller=caller)
                (await reserve(budgets, tokens=left, caller=caller)).settle(None, left, "gpt")
                with pytest.raises(RateLimited, match="10 tokens a month, has 0 tokens left"):
                    await reserve(budgets, tokens=1, caller=caller)
            (await reserve(budgets, tokens=500, caller=eve)).cancel()
            await budgets.give("user:ann", budget(tokens=12), "acme")
            with pytest.raises(RateLimited, match="12 tokens a month"):
                await reserve(budgets, tokens=3)
            (await reserve(budgets, tokens=2)).settle(None, 2, "gpt")
            await budgets.give("user:ann", None, "acme")
            await budgets.give("member:acme", None, "acme")
            (await reserve(budgets, tokens=100)).settle(None, 100, "gpt")
            await budgets.upkeep.settle()
            assert [view(budgets, "user:ann", "acme")[name] for name in ("spent", "source")] == [112, "default"]

    asyncio.run(scenario())


def test_a_call_that_is_cancelled_while_it_waits_holds_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, Clock(), users={"ann": {"tokens": 10}}) as budgets:
            for turns in range(4):
                waiting = asyncio.create_task(reserve(budgets, tokens=10))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if not waiting.cancel():
                    waiting.result().cancel()
                await asyncio.wait([waiting])
                await asyncio.sleep(0.02)
            (account,) = budgets.accounts(Spender(), ("gpt",))
            assert account.outstanding == 0
            await reserve(budgets, tokens=10)

    asyncio.run(scenario())
