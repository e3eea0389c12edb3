"""The console's log of calls in a real browser: filters in the address, a call's way, its attempts, its texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import Page
from console_browser import grave_faults, open_tab, visit
from running_gateway import PASSWORD, Running
from upstream import Upstream, chat_chunk, usage_chunk

pytestmark = pytest.mark.slow

ROWS = "document.querySelectorAll('main tbody tr[aria-rowindex]').length"


@dataclass(frozen=True)
class Logged:
    """A gateway that was asked: four calls, one of them failed, one rescued, one kept with its texts."""

    gateway: Running
    kept: str
    """The request id of the call whose texts are kept."""


@pytest.fixture(scope="module")
def logged(module_gateway: Callable[..., Running]) -> Iterator[Logged]:
    with Upstream() as up:
        providers = {
            "up": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream", "retries": 0},
            "gone": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-upstream"},
        }
        models = {
            "bench": {"deployments": [{"provider": "up", "model": "m", "price": {"input": 1, "output": 2}}]},
            "rescued": {"deployments": [{"provider": "gone", "model": "m"}], "fallbacks": ["bench"]},
        }
        gateway = module_gateway(llm={"providers": providers, "models": models})
        red = {"username": "ann", "password": PASSWORD, "role": "user", "tenant": "red"}
        assert gateway.post("/auth/users", red).status_code == 201
        anns = gateway.post("/auth/keys", {"user": "ann", "tags": ["batch"]}).json()["key"]
        capture = {"capture": {"prompts": True, "days": 1}}
        assert gateway.request("PATCH", "/auth/teams/red", json=capture).status_code == 200
        assert gateway.chat("rescued").status_code == 200
        up.reply(status=400, times=1)
        assert gateway.chat().status_code == 400
        up.stream([chat_chunk("Hi"), chat_chunk(None, "stop"), usage_chunk(5, 7)], times=1, delay=0.05)
        assert gateway.chat(stream=True).content
        for _ in range(50):  # until the switch has been noticed
            kept = gateway.chat(key=anns, messages=[{"role": "user", "content": "<b>what is kept?</b>"}])
            if gateway.get(f"/usage/requests/{kept.headers['x-request-id']}/texts").json()["texts"]:
                break
        yield Logged(gateway, kept.headers["x-request-id"])


def test_the_way_of_a_call_by_pointer(logged: Logged, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "requests")
        assert await page.evaluate(ROWS) >= 4
        await page.type("main .filters input", "bench")  # the model that has answered in the end
        await page.wait_for("location.hash.includes('model=bench')")
        await page.click("main .filters button")  # no filters
        await page.wait_for("location.hash === '#/requests'")
        await page.wait_for(
            f"[...document.querySelectorAll('tbody tr')].some(row => row.innerText.includes('×2')) && {ROWS} >= 4"
        )
        await page.evaluate(
            "[...document.querySelectorAll('tbody tr')].find(row => row.innerText.includes('×2')).click()"
        )
        await page.wait_for("document.querySelector('dialog.panel .waterfall li')")
        way = await page.text("dialog .waterfall")
        assert "Attempt 1" in way
        assert "gone/m: no connection to the provider" in way
        assert "Whole answer (Attempt 2)" in way
        assert "#/requests/" in await page.evaluate("location.hash")
        assert await grave_faults(page) == []
        await page.reload()  # the address is enough
        await page.wait_for("document.querySelector('dialog .waterfall')?.innerText.includes('gone/m')")
        await page.press("Escape", 27)
        await page.wait_for("!document.querySelector('dialog') && location.hash === '#/requests'")

    visit(logged.gateway, tmp_path / "profile", act)


def test_failures_and_texts_by_keyboard_in_chinese(logged: Logged, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await page.evaluate("localStorage.setItem('sage-language', 'zh'); location.hash = '#/requests?status=failed'")
        await page.reload()
        await page.wait_for(f"document.querySelector('main h1')?.innerText === '请求' && {ROWS} === 1")
        await page.evaluate("document.querySelector('main table').focus()")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('dialog .waterfall')?.innerText.includes('提供方认为请求无效')")
        await page.press("Escape", 27)
        await page.evaluate(f"location.hash = '#/requests?id={logged.kept}'")
        await page.wait_for(f"{ROWS} === 1 && document.querySelector('tbody').innerText.includes('ann')")
        await page.evaluate("document.querySelector('main table').focus()")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('dialog pre.text')")
        assert "user: <b>what is kept?</b>" in await page.text("dialog pre.text")
        assert await page.evaluate("document.querySelectorAll('dialog pre b').length") == 0
        assert await grave_faults(page) == []

    visit(logged.gateway, tmp_path / "profile", act)


def test_a_user_sees_own_calls_and_no_filter_of_people(logged: Logged, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "requests")
        assert "root" not in await page.text("main tbody")
        assert "User" not in await page.text("main .filters")
        await page.evaluate("document.querySelector('main table').focus()")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('dialog .waterfall')")
        assert "Prompt and answer" not in await page.text("dialog")
        assert await page.evaluate("document.querySelector('nav a[href=\"#/audit\"]')") is None

    visit(logged.gateway, tmp_path / "profile", act, "ann")
