"""The console by keyboard alone: the frame, dialogs, tables and tabs; the focus is never lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Page
from console_browser import visit
from running_gateway import Running

pytestmark = pytest.mark.slow

KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    "ArrowDown": 40,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowLeft": 37,
    "End": 35,
}
FOCUSED = "document.activeElement"


async def press(page: Page, *keys: str) -> None:
    for key in keys:
        await page.press(key, KEYS[key])


async def tab_to(page: Page, selector: str) -> None:
    """Tabs until the element of ``selector`` has the focus, as a person would; it must come within a page's length."""
    for _ in range(80):
        if await page.evaluate(f"{FOCUSED}.matches({selector!r})"):
            return
        await press(page, "Tab")
    raise AssertionError(
        f"{selector} is not reached by Tab; the focus is at {await page.evaluate(f'{FOCUSED}.outerHTML')}"
    )


async def focus_is(page: Page, selector: str) -> None:
    await until(page, f"{FOCUSED}?.matches({selector!r})")


async def until(page: Page, condition: str) -> None:
    """Looks once a frame: where the focus is, is no change of the document."""
    await page.evaluate(
        f"""new Promise((done, fail) => {{
            const end = performance.now() + 15000
            const look = () => {{
                if ({condition}) return done()
                if (performance.now() < end) return requestAnimationFrame(look)
                fail(new Error(`the focus is at ${{{FOCUSED}?.outerHTML.slice(0, 300)}}`))
            }}
            look()
        }})"""
    )


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running]) -> Running:
    providers = {"up": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk"}}
    models = {name: {"deployments": [{"provider": "up", "model": "m"}]} for name in ("aa", "ab", "ac")}
    return module_gateway(llm={"providers": providers, "models": models})


def test_the_frame_and_a_table(running: Running, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await focus_is(page, "main h1")
        await page.evaluate("document.querySelector('.skip').focus()")
        await press(page, "Enter")
        await focus_is(page, "main")
        await page.evaluate("document.querySelector('.brand').focus()")
        await tab_to(page, "nav a[href='#/models']")
        await press(page, "Enter")
        await until(page, f"{FOCUSED}.matches('main h1') && {FOCUSED}.innerText === 'Models'")
        await until(page, "document.title === 'Models · SAGE'")
        await until(page, "document.querySelector('tbody tr td')")
        await tab_to(page, "main [role=grid]")
        row = "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).innerText"
        assert (await page.evaluate(row)).startswith("aa")
        await press(page, "ArrowDown", "ArrowDown", "ArrowUp")
        await until(page, f"{row}.startsWith('ab')")
        await press(page, "End")
        await until(page, f"!{row}.startsWith('ab')")
        await press(page, *["ArrowUp"] * 20, "ArrowDown")
        await until(page, f"{row}.startsWith('ab')")
        await press(page, "Enter")
        await until(page, f"{FOCUSED}.matches('main h1') && {FOCUSED}.innerText === 'ab'")
        await until(page, "document.title === 'ab · Models · SAGE'")
        await page.evaluate("history.back()")
        await until(page, f"{FOCUSED}.matches('main h1') && {FOCUSED}.innerText === 'Models'")

    visit(running, tmp_path / "profile", act)


def test_dialogs_give_the_focus_back(running: Running, tmp_path: Path) -> None:
    running.post("/auth/keys", {"name": "second", "scopes": ["generate"]}).raise_for_status()

    async def act(page: Page) -> None:
        await tab_to(page, "nav a[href='#/keys']")
        await press(page, "Enter")
        await until(page, f"{FOCUSED}.innerText === 'Keys' && document.querySelectorAll('tbody tr').length === 2")
        await tab_to(page, "main button.primary")
        await press(page, "Enter")
        await until(page, f"document.querySelector('dialog')?.contains({FOCUSED})")
        for _ in range(40):
            await press(page, "Tab")
            assert await page.evaluate(f"!document.querySelector('main > :not(dialog)').contains({FOCUSED})")
        await press(page, "Escape")
        await until(page, "!document.querySelector('dialog')")
        await focus_is(page, "main button.primary")
        await press(page, "Enter", "Escape")  # at once
        await until(page, "!document.querySelector('dialog')")
        await focus_is(page, "main button.primary")
        # What was typed and unticked stays while the page around it is drawn anew.
        await press(page, "Enter")
        await tab_to(page, "dialog input[name=name]")
        await page.insert("kept")
        await page.evaluate("document.querySelector('dialog input[name=scope]').click()")
        await page.evaluate("import('/console/core/language.js').then(texts => texts.useLanguage('zh'))")
        await until(page, "document.querySelector('dialog h2').innerText === '新建密钥'")
        kept = "[document.querySelector('[name=name]').value, document.querySelector('[name=scope]').checked]"
        assert await page.evaluate(kept) == ["kept", False]
        await press(page, "Escape")
        await until(page, "!document.querySelector('dialog')")
        # What goes leaves the focus in the page: at its table, or at the heading.
        await tab_to(page, "main table[tabindex]")
        await press(page, "End", "Enter")
        await tab_to(page, "dialog.panel .buttons button.danger")
        await press(page, "Enter")
        await tab_to(page, "dialog:not(.panel) button.danger")
        await press(page, "Enter")
        await until(page, "document.querySelectorAll('tbody tr').length === 1 && !document.querySelector('dialog')")
        await until(page, f"document.querySelector('main').contains({FOCUSED})")
        await focus_is(page, "main h1, .table-box, .table-box *")

    visit(running, tmp_path / "profile", act)


def test_tabs_and_the_menu_of_a_narrow_screen(running: Running, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await tab_to(page, "nav a[href='#/connect']")
        await press(page, "Enter")
        await until(page, "document.querySelector('[role=tablist]')")
        await tab_to(page, "[role=tab]")
        first = await page.evaluate(f"{FOCUSED}.innerText")
        await press(page, "ArrowRight")
        await until(page, f"{FOCUSED}.matches('[role=tab][aria-selected=true]') && {FOCUSED}.innerText !== {first!r}")
        await press(page, "ArrowLeft", "ArrowLeft")
        await until(page, f"!{FOCUSED}.nextElementSibling && {FOCUSED}.matches('[aria-selected=true]')")
        await press(page, "Tab")
        await focus_is(page, "[role=tabpanel], [role=tabpanel] *")
        await page.resize(400, 800)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 400
        await page.evaluate("document.querySelector('.skip').focus()")
        await tab_to(page, "button.menu")
        await press(page, "Enter")
        await until(page, "document.querySelector('nav').checkVisibility()")
        await tab_to(page, "nav a[href='#/usage']")
        await press(page, "Enter")
        await until(page, f"{FOCUSED}.matches('main h1') && !document.querySelector('nav').checkVisibility()")
        await tab_to(page, "nav, main *")
        await page.evaluate("document.querySelector('button.menu').focus()")
        await press(page, "Enter", "Tab", "Escape")
        await until(page, "!document.querySelector('nav').checkVisibility()")
        await focus_is(page, "button.menu")

    visit(running, tmp_path / "profile", act)
