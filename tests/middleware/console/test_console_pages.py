"""The console in a real browser: every page in both languages and themes, by pointer and by keyboard, for everybody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import Page
from console_browser import grave_faults, open_tab, visit
from running_gateway import Running
from upstream import Upstream

pytestmark = pytest.mark.slow

PAGES = {
    "overview": ("Overview", "概览"),
    "playground": ("Playground", "试用"),
    "models": ("Models", "模型"),
    "search": ("Search", "搜索"),
    "services": ("Services and memory", "服务与记忆"),
    "jobs": ("Jobs", "任务"),
    "mcp": ("MCP", "MCP"),
    "requests": ("Requests", "请求"),
    "usage": ("Usage and cost", "用量与费用"),
    "keys": ("Keys", "密钥"),
    "people": ("Users and teams", "用户与团队"),
    "limits": ("Limits", "限额"),
    "audit": ("Audit", "审计"),
    "account": ("Your account", "我的账户"),
    "settings": ("Settings", "设置"),
    "connect": ("Connect", "接入"),
}


@dataclass(frozen=True)
class Watched:
    """A gateway and the model behind it."""

    gateway: Running
    upstream: Upstream


@pytest.fixture(scope="module")
def watched(module_gateway: Callable[..., Running]) -> Iterator[Watched]:
    with Upstream() as upstream:
        providers = {"up": {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream"}}
        models = {name: {"deployments": [{"provider": "up", "model": "m"}]} for name in ("bench", "other", "a/b c")}
        gateway = module_gateway(llm={"providers": providers, "models": models})
        for _ in range(3):
            gateway.chat()
        yield Watched(gateway, upstream)


def test_every_page_in_both_languages_and_themes(watched: Watched, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        for language, at in (("en", 0), ("zh", 1)):
            await page.evaluate(
                f"(() => {{ const s = document.querySelector('#language'); s.value = '{language}';"
                " s.dispatchEvent(new Event('change', {bubbles: true})) })()"
            )
            for name, titles in PAGES.items():
                await open_tab(page, name)
                assert await page.text("main h1") == titles[at]
                for _ in ("light", "dark"):
                    assert await grave_faults(page) == []
                    await page.click(f"header button[aria-label='{await other_theme(page)}']")

    visit(watched.gateway, tmp_path / "profile", act)


async def other_theme(page: Page) -> str:
    return str(await page.evaluate("[...document.querySelectorAll('header button')].at(-2).ariaLabel"))


def test_the_session_goes_on_after_a_reload_and_ends(watched: Watched, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "usage")
        await page.evaluate("location.hash = '#/keys'")
        await page.reload()
        await page.wait_for("document.querySelector('main h1')?.innerText === 'Keys'")
        assert await page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
        await page.click("header button:last-of-type")
        await page.wait_for("document.querySelector('input[name=password]')")
        await page.reload()
        await page.wait_for("document.querySelector('input[name=password]')")

    visit(watched.gateway, tmp_path / "profile", act)
