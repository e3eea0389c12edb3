"""The console's usage in a real browser: sums that lead on to their days and requests; budgets given and taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Page
from console_browser import grave_faults, in_chinese, open_tab, visit
from running_gateway import PASSWORD, Running
from upstream import Upstream, usage

pytestmark = pytest.mark.slow

HOSTILE = "<img/src=x/onerror=document.title='caught'>"


@pytest.fixture(scope="module")
def used(module_gateway: Callable[..., Running]) -> Iterator[Running]:
    with Upstream() as up:
        providers = {"up": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}}
        price = {"input": 1_000, "output": 0}
        models = {"bench": {"deployments": [{"provider": "up", "model": "m", "price": price}]}}
        gateway = module_gateway(llm={"providers": providers, "models": models})
        for name, role in (("ann", "user"), ("vic", "viewer")):
            assert (
                gateway.post("/auth/users", {"username": name, "password": PASSWORD, "role": role}).status_code == 201
            )
        anns = gateway.post("/auth/keys", {"user": "ann", "tags": [HOSTILE]}).json()["key"]
        message = {"role": "assistant", "content": "Hi"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        head = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
        up.reply(head | {"choices": choices, "usage": usage(1000, 1)})
        for key in (anns, anns, None):
            assert gateway.chat(key=key).status_code == 200
        yield gateway


def test_sums_lead_on_to_days_and_requests_by_pointer(used: Running, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "usage")
        tiles = await page.text("main .tiles")
        assert "3" in tiles
        assert "$3" in tiles
        await choose(page, 0, "user")
        await page.wait_for("document.querySelectorAll('.bars li').length === 2")
        assert "$2" in await page.text("main tbody tr:first-child")
        await page.click("main tbody tr:first-child")  # ann, who has cost most
        await page.wait_for("location.hash.includes('user=ann') && document.querySelector('main .chart')")
        await page.wait_for("document.querySelectorAll('main tbody tr').length === 1")
        await page.click("main tbody tr:first-child")  # today
        await page.wait_for("location.hash.startsWith('#/requests?')")
        await page.wait_for("document.querySelectorAll('main tbody tr').length === 2")
        await page.evaluate("location.hash = '#/usage?by=tag'")
        await page.wait_for("document.querySelector('main tbody')?.innerText.includes('<img')")
        assert await page.evaluate("document.title") == "Usage and cost · SAGE"
        assert await grave_faults(page) == []

    visit(used, tmp_path / "profile", act)


async def choose(page: Page, number: int, value: str) -> None:
    """Chooses in the filter of that number."""
    await page.evaluate(
        f"(() => {{ const s = document.querySelectorAll('main .filters select')[{number}]; s.value = '{value}';"
        " s.dispatchEvent(new Event('change', {bubbles: true})) })()"
    )


def test_a_budget_is_given_and_taken_away_by_keyboard_in_chinese(used: Running, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await in_chinese(page)
        await open_tab(page, "usage")
        await page.evaluate("document.querySelector('main section .title-row button').focus()")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('dialog select[name=kind]')")
        await page.evaluate("document.querySelector('dialog input[name=name]').focus()")
        await page.insert("ann")
        await page.evaluate("document.querySelector('dialog input[name=amount]').focus()")
        await page.insert("2.5")
        await page.press("Enter", 13)
        await page.wait_for(
            "!document.querySelector('dialog') && document.querySelector('main .cards')?.innerText.includes('ann')"
        )
        card = await page.text("main .cards li")
        assert "$0" in card  # a new budget begins at 0
        assert "$2.5" in card
        assert await page.evaluate("document.querySelector('.cards .meter').ariaValueNow") == "0"
        assert await grave_faults(page) == []
        await page.evaluate("document.querySelector('.cards .buttons button:last-child').focus()")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('dialog button.danger')")
        assert "不再受此预算限制" in await page.text("dialog")
        await page.evaluate("document.querySelector('dialog button.danger').focus()")
        await page.press("Enter", 13)
        await page.wait_for("!document.querySelector('dialog') && !document.querySelector('.cards li')")

    visit(used, tmp_path / "profile", act)
    assert used.get("/budgets").json()["budgets"] == []


def test_a_user_sees_own_sums_and_gives_no_budget(used: Running, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "usage")
        assert "$2" in await page.text("main .tiles")
        assert await page.evaluate("document.querySelector('#budgets')") is None
        groups = await page.evaluate(
            "[...document.querySelectorAll('.filters select')[0].options].map(each => each.value)"
        )
        assert groups == ["day", "model", "provider", "key", "tag"]

    visit(used, tmp_path / "profile", act, "ann")


def test_a_viewer_who_has_used_nothing_is_told_so(used: Running, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "usage")
        await page.wait_for("document.querySelector('.empty')?.innerText.includes('Nothing was used')")
        assert await grave_faults(page) == []

    visit(used, tmp_path / "profile", act, "vic")
