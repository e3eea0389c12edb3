"""The settings page in a real browser: sources and hidden secrets, and a reload that shows first what would change."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from browser import Page
from configured_gateway import configured, rewrite
from console_browser import console, grave_faults, in_chinese, open_tab

pytestmark = pytest.mark.slow

SECRET = "sk-zq41Xw90210-upstream"


def sections(*models: str, **more: Any) -> dict[str, Any]:
    provider = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1?code=zq42Xw90210", "api_key": "${EAST_KEY}"}
    deployments = {"deployments": [{"provider": "east", "model": "m"}]}
    return {"llm": {"providers": {"east": provider}, "models": dict.fromkeys(models, deployments), **more}}


def test_settings_are_read_and_reloaded(tmp_path: Path) -> None:
    file = tmp_path / "sage.yaml"

    async def by_pointer(page: Page) -> None:
        await open_tab(page, "settings")
        shown = await page.text("main")
        assert "llm.providers.east.api_key" in shown
        assert "EAST_KEY" in shown
        assert str(file) in shown
        for secret in (SECRET, "zq42Xw90210"):
            assert secret not in await page.evaluate("document.documentElement.outerHTML")
        assert await grave_faults(page) == []
        rewrite(file, sections("old", "new", keep_alive="1m"))
        await page.click("main button.primary")
        await page.wait_for("document.querySelector('dialog .changes')")
        plan = await page.text("dialog")
        assert "llm.models.new.deployments.0.model" in plan
        assert plan.index("Needs a restart") < plan.index("llm.keep_alive")
        assert await grave_faults(page) == []
        await page.click("dialog button.primary")
        await page.wait_for("document.querySelector('dialog .notice.good')")
        await page.press("Escape", 27)
        await page.wait_for("!document.querySelector('dialog')")
        await page.wait_for("document.querySelector('tbody').innerText.includes('llm.models.new')")

    async def by_keyboard(page: Page) -> None:
        await in_chinese(page)
        await open_tab(page, "settings")
        assert await page.text("main h1") == "设置"
        await page.evaluate("document.querySelector('main .filters input').focus()")
        await page.insert("max_body")
        await page.press("Tab", 9)
        await page.press("ArrowDown", 40)  # the second source is every one
        await page.wait_for("document.querySelectorAll('tbody tr').length === 1")
        assert "32MiB" in await page.text("tbody")
        await page.press("Tab", 9)
        await page.press("Tab", 9)
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('dialog')?.innerText.includes('SAGE_API__MAX_BODY_BYTES')")
        assert "重启后生效" in await page.text("dialog")
        assert await grave_faults(page) == []

    async def visiting() -> None:
        async with console(running, tmp_path / "profile") as page:
            await by_pointer(page)
            await by_keyboard(page)

    with configured(file, sections("old"), {"EAST_KEY": SECRET}) as running:
        asyncio.run(visiting())
        assert running.get("/models/new").status_code == 200
