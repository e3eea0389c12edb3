"""Long lists, of which 10,000 rows come while they are scrolled and few are drawn; pages, loaded when first shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Page
from console_browser import grave_faults, open_tab, visit
from project import ROOT
from running_gateway import Running

pytestmark = pytest.mark.slow

ROWS = 10_000
MOST_DRAWN = 120
SCROLL = """new Promise((done, fail) => {
    const box = document.querySelector('main .table-box')
    const table = box.querySelector('table')
    const end = performance.now() + 60000
    let most = 0, steps = 0
    const step = () => {
        most = Math.max(most, box.querySelectorAll('tbody tr').length)
        const known = Number(table.getAttribute('aria-rowcount')) - 1
        const last = box.querySelector(`tr[aria-rowindex='${known + 1}']`)
        if (known >= ROWS && last) return done([known, most, last.innerText])
        if (performance.now() > end) return fail(new Error(`${known} rows after ${steps} steps`))
        steps += 1
        box.scrollTop = box.scrollHeight
        setTimeout(step, 10)
    }
    step()
})""".replace("ROWS", str(ROWS))


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running]) -> Running:
    return module_gateway()


def test_ten_thousand_rows_come_while_they_are_scrolled(running: Running, tmp_path: Path) -> None:
    running.post("/collections", {"name": "many", "embedder": "none"}).raise_for_status()
    for first in range(0, ROWS, 2500):
        made = [{"id": f"d{number:05}", "text": f"whale {number}"} for number in range(first, first + 2500)]
        running.post("/collections/many/documents", {"documents": made}).raise_for_status()

    async def act(page: Page) -> None:
        await page.evaluate("location.hash = '#/search/many'")
        await page.wait_for("document.querySelectorAll('main [role=tab]').length > 2")
        await page.click("main [role=tab]:nth-child(2)")
        await page.wait_for("document.querySelector('main .table-box tbody tr')")
        known, most, last = await page.evaluate(SCROLL)
        assert known == ROWS
        assert most < MOST_DRAWN
        assert re.search(r"whale \d+", last)
        pages = [url for url in page.requested if "/collections/many/documents?" in url]
        assert len(pages) == len(set(pages)) == ROWS / 200  # each once

    visit(running, tmp_path / "profile", act)


def test_every_list_is_drawn_by_the_table_that_draws_what_is_seen() -> None:
    console = ROOT / "sage/middleware/console"
    drawing = {
        path.name
        for folder in ("pages", "components")
        for path in (console / folder).rglob("*.js")
        if "<tbody" in path.read_text(encoding="utf-8")
    }
    assert drawing == {"table.js", "side_by_side.js"}  # the latter has two texts side by side, no list


def test_a_page_that_does_not_load_says_so_and_is_tried_again(running: Running, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        loaded = [url for url in page.requested if "/console/pages/" in url]
        assert not any("/usage/" in url or "/jobs/" in url for url in loaded)  # until they are shown
        await page.block("*/console/pages/usage/usage.js")
        await page.click("nav a[href='#/usage']")
        await page.wait_for("document.querySelector('main [role=alert]')?.innerText.includes('Usage and cost')")
        await page.wait_for("document.querySelector('main h1')?.innerText === 'Usage and cost'")
        await page.wait_for("document.activeElement.matches('main h1')")
        assert await grave_faults(page) == []
        page.errors.clear()  # the browser's word on it
        await page.block()
        await page.evaluate("document.querySelector('main [role=alert] button').focus()")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('main .tiles, main .empty')")
        await page.wait_for("document.activeElement.matches('main h1')")
        await open_tab(page, "jobs")

    visit(running, tmp_path / "profile", act)
