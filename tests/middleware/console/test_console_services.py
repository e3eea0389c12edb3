"""Services, memory, key-value store and vectors in a real browser: looked at, corrected, written and forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Page
from console_browser import grave_faults, in_chinese, open_tab, visit
from running_gateway import Running

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=document.title='caught'>"


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running]) -> Running:
    embedder = {"embedder": "none"}
    return module_gateway(services={"memory": embedder, "vdb": embedder})


async def choose_tab(page: Page, number: int) -> None:
    await page.click(f"main [role=tab]:nth-child({number})")
    await page.wait_for("!document.querySelector('main .waiting')")


def memories(running: Running, session: str, user: str = "") -> list[str]:
    shown = running.get(f"/memory/sessions/{session}?user={user}" if user else f"/memory/sessions/{session}")
    return [each["content"] for each in shown.json().get("memories", [])]


def test_memories_are_corrected_and_forgotten(running: Running, tmp_path: Path) -> None:
    for session, content, scope in (
        ("monday", f"Ada likes {HOSTILE} tea.", {}),
        ("monday", "Ada works in Paris.", {}),
        ("tuesday", "Mei drinks coffee.", {"user": "mei"}),
    ):
        body = {"session_id": session, "content": content, **scope}
        running.post("/memory", body).raise_for_status()

    async def act(page: Page) -> None:
        await open_tab(page, "services")
        await choose_tab(page, 2)
        await page.wait_for("document.querySelector('tbody')?.innerText.includes('monday')")
        assert await grave_faults(page) == []
        await page.type("main .filters input[name=query]", "tea")
        await page.click("main .filters button.primary")
        await page.wait_for(f"document.querySelector('tbody')?.innerText.includes({json.dumps(HOSTILE)})")
        await page.click("tbody tr td")
        await page.wait_for("document.querySelector('dialog textarea')")
        assert await grave_faults(page) == []
        await page.evaluate("document.querySelector('dialog textarea').select()")
        await page.insert("Ada likes coffee, no tea.")
        await page.click("dialog button.primary")
        await page.wait_for("document.querySelector('tbody')?.innerText.includes('coffee, no tea')")
        await page.click("tbody tr td")
        await page.wait_for(f"document.querySelector('dialog .changes')?.innerText.includes({json.dumps(HOSTILE)})")
        await page.press("Escape", 27)
        await page.wait_for("!document.querySelector('dialog')")
        await page.click("main .title-row button")
        await page.click("tbody button")
        assert "deleted for good" in await page.text("dialog")
        await page.click("dialog button.danger")
        await page.wait_for("document.querySelector('main .empty')")
        await page.type("main .filters label:first-child input", "mei")
        await page.wait_for("document.querySelector('tbody')?.innerText.includes('tuesday')")
        await page.click("main .filters > button.danger")
        assert "mei" in await page.text("dialog")
        await page.click("dialog button.danger")
        await page.wait_for("document.querySelector('main .empty')?.innerText.includes('mei')")
        assert await page.evaluate("document.title") == "Services and memory · SAGE"

    visit(running, tmp_path / "profile", act)
    assert memories(running, "monday") == memories(running, "tuesday", "mei") == []


def test_entries_by_keyboard(running: Running, tmp_path: Path) -> None:
    running.request("PUT", "/kv/config/theme", json={"value": "dark"}).raise_for_status()

    async def act(page: Page) -> None:
        await in_chinese(page)
        await open_tab(page, "services")
        await page.evaluate("document.querySelector('main [role=tab]').focus()")
        for _ in range(2):
            await page.press("ArrowRight", 39)
        await page.wait_for("document.querySelector('tbody')?.innerText.includes('config/theme')")
        await page.evaluate("document.querySelector('main table[tabindex]').focus()")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('dialog textarea')?.value === '\"dark\"'")
        assert await grave_faults(page) == []
        await page.evaluate("document.querySelector('dialog textarea').focus()")
        await page.evaluate("document.querySelector('dialog textarea').select()")
        await page.insert('{"colour": "dark"')
        await page.evaluate("document.querySelector('dialog form').requestSubmit()")
        await page.wait_for("document.querySelector('dialog .notice.bad')?.innerText.includes('JSON')")
        await page.evaluate("document.querySelector('dialog textarea').focus()")
        await page.press("End", 35)
        await page.insert("}")
        await page.evaluate("document.querySelector('dialog form').requestSubmit()")
        await page.wait_for("!document.querySelector('dialog.panel')")
        await page.type("main .filters input", "config/")
        await page.click("main .filters button.danger")
        assert "config/" in await page.text("dialog")

    visit(running, tmp_path / "profile", act)
    assert running.get("/kv/config/theme").json()["value"] == {"colour": "dark"}


def test_vectors_are_found_and_deleted(running: Running, tmp_path: Path) -> None:
    items = [
        {"id": f"p{n}", "vector": [n, 1.0], "metadata": {"kind": HOSTILE}, "text": f"picture {n}"} for n in range(3)
    ]
    running.post("/vdb/pictures", {"items": items}).raise_for_status()

    async def act(page: Page) -> None:
        await open_tab(page, "services")
        assert "vdb_service" in await page.text("tbody")
        assert await grave_faults(page) == []
        await choose_tab(page, 4)
        await page.click("main .card-link")
        await page.wait_for("document.querySelectorAll('tbody tr').length === 3")
        await page.type("main input[name=query]", "[2, 1]")
        await page.click("main form button.primary")
        await page.wait_for("document.querySelector('tbody tr')?.innerText.startsWith('p2')")
        assert HOSTILE in await page.text("tbody")
        await page.click("tbody tr td")
        await page.click("dialog button.danger")
        await page.click("dialog:not(.panel) button.danger")
        await page.wait_for(
            "!document.querySelector('dialog') && !document.querySelector('tbody').innerText.includes('p2')"
        )
        await page.click("main .title-row button.danger")
        await page.click("dialog button.danger")
        await page.wait_for("document.querySelector('main .empty')")

    visit(running, tmp_path / "profile", act)
    assert running.get("/vdb").json() == {"collections": []}
