"""The console's overview in a real browser: what is not well and where it is mended, live figures, how it went."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import Page
from console_browser import grave_faults, in_chinese, open_tab, visit
from running_gateway import PASSWORD, Running
from upstream import Upstream, chat_chunk, usage_chunk

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Watched:
    """A gateway, and the model behind it."""

    gateway: Running
    upstream: Upstream


@pytest.fixture(scope="module")
def watched(module_gateway: Callable[..., Running]) -> Iterator[Watched]:
    with Upstream() as up:
        providers = {"up": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream", "retries": 0}}
        models = {name: {"deployments": [{"provider": "up", "model": name}]} for name in ("bench", "other")}
        gateway = module_gateway(llm={"providers": providers, "models": models, "routing": {"breaker_failures": 3}})
        user = {"username": "vic", "password": PASSWORD, "role": "viewer"}
        assert gateway.post("/auth/users", user).status_code == 201
        up.stream([chat_chunk("Hi"), chat_chunk(None, "stop"), usage_chunk(5, 7)], times=1)
        assert gateway.chat(stream=True).content
        yield Watched(gateway, up)


def test_it_is_live_and_shows_how_it_went(watched: Watched, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "overview")
        await page.wait_for("document.querySelector('main .notice.good')?.innerText.includes('All is well')")
        tile = "document.querySelectorAll('[aria-labelledby=now] .tiles dd')[0].innerText"
        await page.wait_for(f"{tile} === '0'")
        for _ in range(5):
            await asyncio.to_thread(watched.gateway.chat)
        await page.wait_for(f"Number({tile}) > 0")
        sums = "document.querySelector('[aria-labelledby=over-time] .tiles dd').innerText"
        await page.wait_for(f"{sums} === '6'")  # of the period, without a reload
        for live in ("/metrics/live", "/models?watch=true"):
            assert page.requested.count(f"{watched.gateway.url}{live}") == 1
        charts = "[...document.querySelectorAll('.charts [role=img]')].map(each => each.ariaLabel)"
        await page.wait_for(f"{charts}.length === 4")
        assert "Time to the first token over time, half and 95 %" in await page.evaluate(charts)
        assert await grave_faults(page) == []

    watched.upstream.reset()
    visit(watched.gateway, tmp_path / "profile", act)


def test_what_is_not_well_leads_to_where_it_is_mended(watched: Watched, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await in_chinese(page)
        await open_tab(page, "overview")
        row = "[...document.querySelectorAll('.troubles li')].find(each => each.innerText.includes('other: up/other'))"
        await page.wait_for(row)
        assert "因失败而被跳过" in await page.evaluate(f"{row}.innerText")
        budget = "[...document.querySelectorAll('.troubles li')].find(each => each.innerText.includes('模型 bench'))"
        await page.wait_for(budget)
        assert "预算已用" in await page.evaluate(f"{budget}.innerText")
        assert await grave_faults(page) == []
        await page.evaluate(f"{row}.querySelector('a').focus()")
        await page.press("Enter", 13)
        await page.wait_for(
            "location.hash === '#/models/other' && document.querySelector('main h1')?.innerText === 'other'"
        )

    watched.upstream.reset()
    watched.upstream.reply(status=500)
    for _ in range(4):
        watched.gateway.chat("other")
    watched.upstream.reset()
    limit = {"tokens": 1, "window": "day", "hard": False}
    assert watched.gateway.request("PUT", "/budgets/model/bench", json=limit).status_code == 200
    watched.gateway.chat()
    watched.gateway.get("/usage")  # until it is settled
    visit(watched.gateway, tmp_path / "profile", act)


def test_a_viewer_sees_models_and_no_figures_of_others(watched: Watched, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "overview")
        assert await page.evaluate("document.querySelector('#now')") is None
        await page.wait_for("document.querySelector('.empty')?.innerText.includes('No request yet')")
        assert "bench" in await page.text("main .cards")
        assert f"{watched.gateway.url}/metrics/live" not in page.requested

    visit(watched.gateway, tmp_path / "profile", act, "vic")
