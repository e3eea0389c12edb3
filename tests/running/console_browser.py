"""The console in a real browser: a page that has logged in, the way to a tab, and what axe finds there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import axe_playwright_python
from browser import Page, open_page
from running_gateway import PASSWORD, Running

_AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def visit(
    gateway: Running, profile: Path, act: Callable[[Page], Coroutine[Any, Any, None]], user: str = "root"
) -> None:
    """Does ``act`` in a page in which ``user`` has logged in; it must have talked to ``gateway`` alone, without an
    error."""

    async def visiting() -> None:
        async with console(gateway, profile, user) as page:
            await act(page)

    asyncio.run(visiting())


@asynccontextmanager
async def console(gateway: Running, profile: Path, user: str = "root") -> AsyncIterator[Page]:
    """A page of ``gateway``'s console in which ``user``, with the password of its admin, has logged in."""
    async with open_page(profile) as page:
        await page.go(gateway.url)
        await log_in(page, user)
        yield page
        own = urlsplit(gateway.url).netloc
        assert {urlsplit(url).netloc for url in page.requested if not url.startswith(("data:", "blob:"))} == {own}
        assert page.errors == []


async def log_in(page: Page, user: str = "root") -> None:
    await page.type("input[name=username]", user)
    await page.type("input[name=password]", PASSWORD)
    await page.click("button.primary")
    await page.wait_for("document.querySelector('nav a')")


async def open_tab(page: Page, name: str) -> None:
    """Follows the link of the menu, and waits until the page has its data."""
    await page.click(f"nav a[href='#/{name}']")
    current = f"document.querySelector('nav a[aria-current]')?.hash === '#/{name}'"
    await page.wait_for(f"{current} && document.querySelector('main h1') && !document.querySelector('main .waiting')")


async def in_chinese(page: Page) -> None:
    """Chooses Chinese."""
    await page.evaluate(
        "(() => { const s = document.querySelector('#language'); s.value = 'zh';"
        " s.dispatchEvent(new Event('change', {bubbles: true})) })()"
    )
    await page.wait_for("document.documentElement.lang === 'zh-CN'")


async def grave_faults(page: Page) -> list[str]:
    """What axe finds that is serious or critical."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(_AXE)
    found = await page.evaluate("axe.run().then(found => JSON.stringify(found.violations))")
    return [
        f"{fault['id']}: {node['html']}"
        for fault in json.loads(found)
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
