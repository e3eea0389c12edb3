"""The console's search page in a real browser: a collection is made, files are added, both legs' scores are drawn."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Page
from console_browser import console, grave_faults, in_chinese, open_tab
from running_gateway import Running

pytestmark = pytest.mark.slow

FILES = {
    "whales.md": "# Whales\n\nA blue whale eats krill in the cold sea.",
    "tea.txt": "Green tea is made of leaves that are <b>not</b> fermented.",
    "broken.pdf": "no PDF at all",
    "鲸.txt": "蓝鲸生活在寒冷的海洋中。",
}


def test_files_are_added_and_found(gateway: Callable[..., Running], tmp_path: Path) -> None:
    running = gateway()

    async def by_pointer(page: Page) -> None:
        await open_tab(page, "search")
        await page.click("main .page-head button.primary")
        await page.type("dialog input[name=name]", "notes")
        await page.click("dialog button.primary")
        await page.wait_for("document.querySelector('main h1')?.innerText === 'notes'")
        await choose_tab(page, 3)
        await give_files(page)
        await page.wait_for("document.querySelector('main').innerText.includes('3 documents')")
        await page.wait_for("document.querySelector('main .notice.bad')?.innerText.includes('broken.pdf')")
        await choose_tab(page, 1)
        await page.type("input[name=query]", "what do whales eat")
        await page.click("main form button.primary")
        await page.wait_for("document.querySelector('.results li')")
        first = await page.text(".results li")
        assert "krill" in first
        assert await page.evaluate("document.querySelectorAll('.results li')[0].querySelectorAll('.leg').length") == 2
        assert await page.evaluate("document.querySelector('.results mark') !== null")
        assert "<b>not</b>" in await page.text(".results")
        assert await grave_faults(page) == []
        await page.click(".results li button.link")
        await page.wait_for("document.querySelector('dialog.panel .document')?.innerText.includes('krill')")
        await page.press("Escape", 27)
        await page.wait_for("!document.querySelector('dialog')")

    async def by_keyboard(page: Page) -> None:
        await in_chinese(page)
        await page.evaluate("document.querySelector('main [role=tab]').focus()")
        await page.press("ArrowRight", 39)
        await page.wait_for("document.querySelectorAll('tbody tr').length === 3")
        assert await grave_faults(page) == []
        await page.evaluate("document.querySelector('main table[tabindex]').focus()")
        await page.press("Enter", 13)
        await page.click("dialog.panel button.danger")
        assert "无法恢复" in await page.text("dialog:not(.panel)")
        await page.click("dialog:not(.panel) button.danger")
        await page.wait_for("document.querySelectorAll('tbody tr').length === 2 && !document.querySelector('dialog')")
        await page.evaluate("document.querySelector('main [role=tab][aria-selected=true]').focus()")
        await page.press("End", 35)
        await page.wait_for("document.querySelector('main .list')?.innerText.includes('384')")
        assert await grave_faults(page) == []

    async def reembed_and_delete(page: Page) -> None:
        await page.type("main input[name=embedder]", "local-multilingual")
        await page.click("main form button")
        await page.wait_for("document.querySelector('main .list').innerText.includes('multilingual-e5')")
        await page.click("main .actions button.danger")
        await page.click("dialog button.danger")
        await page.wait_for("document.querySelector('main .empty')")

    async def visiting() -> None:
        async with console(running, tmp_path / "profile") as page:
            await by_pointer(page)
            await by_keyboard(page)
            await reembed_and_delete(page)

    asyncio.run(visiting())
    assert running.get("/collections").json()["collections"] == []


async def choose_tab(page: Page, number: int) -> None:
    await page.click(f"main [role=tab]:nth-child({number})")
    await page.wait_for("!document.querySelector('main .waiting')")


async def give_files(page: Page) -> None:
    """Puts the files into the page's picker, as a person would choose them."""
    encoded = json.dumps({name: base64.b64encode(text.encode()).decode() for name, text in FILES.items()})
    await page.wait_for("document.querySelector('#files')")
    await page.evaluate(
        f"""(() => {{
            const files = new DataTransfer()
            for (const [name, text] of Object.entries({encoded})) {{
                files.items.add(new File([Uint8Array.from(atob(text), sign => sign.charCodeAt(0))], name))
            }}
            const picker = document.querySelector("#files")
            picker.files = files.files
            picker.dispatchEvent(new Event("change", {{bubbles: true}}))
        }})()"""
    )
