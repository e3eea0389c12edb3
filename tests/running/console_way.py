"""A person's way through the console: by keyboard alone or by pointer alone, in one of its languages.

What is meant is named by the text that the person reads, which is taken from the console's own texts by key.
"""

from __future__ import annotations

import json
from typing import Literal

from browser import Page
from project import ROOT

Means = Literal["keyboard", "pointer"]
LANGUAGES = ("en", "zh")
MEANS: tuple[Means, ...] = ("keyboard", "pointer")
_TEXTS = {
    name: json.loads((ROOT / f"sage/middleware/console/locales/{name}.json").read_text(encoding="utf-8"))
    for name in LANGUAGES
}
_STEPS = 150
"""Presses of Tab within which everything of a page must be reached."""
_CODES = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36}
_CODES |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}

_FIND = """((text, room, kinds) => {
    const dialog = [...document.querySelectorAll('dialog[open]')].at(-1)
    const usual = [document.querySelector('main'), document]
    const rooms = dialog ? [dialog] : room ? [...document.querySelectorAll(room)] : usual
    const plain = each => (each ?? '').replace(/\\s+/g, ' ').trim()
    const names = each => [each.ariaLabel, ...[...(each.labels ?? [])].map(label => label.innerText),
        each.innerText, each.getAttribute('placeholder')].map(plain)
    const all = rooms.flatMap(each => [...(each?.querySelectorAll(kinds) ?? [])])
        .filter(each => each.checkVisibility() && !each.disabled)
    for (const each of document.querySelectorAll('[data-way]')) each.removeAttribute('data-way')
    const begins = name => name && name.startsWith(text)
    const found = all.find(each => names(each).includes(text)) ?? all.find(each => names(each).some(begins))
    found?.setAttribute('data-way', '')
    return !!found
})"""
_CONTROLS = "a[href], button:not([role=tab]), input, select, textarea, summary"
_AT = "document.activeElement"
_BEFORE = "Node.DOCUMENT_POSITION_PRECEDING"
_WANTED = "document.querySelector('[data-way]')"


class Way:
    """What one person does in ``page``; a control is named by the text of a key, or by ``name=`` what stands there."""

    def __init__(self, page: Page, language: str, means: Means) -> None:
        self.page = page
        self.language = language
        self.means = means

    def text(self, key: str, **values: object) -> str:
        """The console's text of ``key`` in this person's language, with its values filled in."""
        found = _TEXTS[self.language][key]
        text = found if isinstance(found, str) else found["one" if values.get("count") == 1 else "other"]
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", str(value))
        return str(text)

    async def shows(self, text: str) -> None:
        """Waits until ``text`` can be read."""
        await self.page.wait_for(f"document.body.innerText.includes({json.dumps(text)})")

    async def closed(self) -> None:
        """Waits until no dialog is open and the focus is somewhere in the page."""
        await self.page.wait_for("!document.querySelector('dialog[open]')")
        if self.means == "keyboard":
            await self.until(f"{_AT} && {_AT} !== document.body")

    async def until(self, condition: str) -> None:
        """Looks once a frame: where the focus is, is no change of the document."""
        await self.page.evaluate(
            f"""new Promise((done, fail) => {{
                const end = performance.now() + 10000
                const look = () => {{
                    if ({condition}) return done()
                    if (performance.now() < end) return requestAnimationFrame(look)
                    const at = {_AT}?.outerHTML.slice(0, 200)
                    fail(new Error(`never: {condition.replace("`", "")}; the focus is at ${{at}}`))
                }}
                look()
            }})"""
        )

    async def press(self, *keys: str, shift: bool = False) -> None:
        for key in keys:
            await self.page.press(key, _CODES[key], shift=shift)

    async def act(self, key: str = "", /, *, name: str = "", **values: object) -> None:
        """Uses the link, button or mark of that text."""
        await self._go_to(name or self.text(key, **values))
        if self.means == "keyboard":
            is_box = await self.page.evaluate(f"{_AT}.matches('input[type=checkbox]')")
            await self.press(" " if is_box else "Enter")

    async def fill(self, key: str, text: str) -> None:
        """Types ``text`` into the field of that label, in place of what it holds."""
        await self._go_to(self.text(key))
        await self.until(f"{_AT} === {_WANTED}")
        await self.page.select_all()
        await self.page.insert(text)

    async def choose(self, key: str, option: str) -> None:
        """Chooses ``option`` in the list of that label; with the pointer, the list opens, and arrows go through it."""
        await self._go_to(self.text(key))
        if self.means == "pointer":
            await self.press("Escape")  # the list is drawn by the system, where no test can click
        chosen = f"{_WANTED}.selectedOptions[0].innerText.trim() === {json.dumps(option)}"
        await self.press("Home")
        for _ in range(60):
            if await self.page.evaluate(chosen):
                return
            await self.press("ArrowDown")
        raise AssertionError(f"there is no {option!r} in the list {self.text(key)!r}")

    async def tab(self, key: str = "", /, *, name: str = "") -> None:
        """Opens the tab of that name."""
        name = name or self.text(key)
        if self.means == "pointer":
            await self._go_to(name, "main", "[role=tab]")
        else:
            await self.page.wait_for("document.querySelector('main [role=tab]')")
            await self._tab_to("main [role=tab][aria-selected=true]")
            for _ in range(8):
                if await self.page.evaluate(f"{_AT}.innerText.trim().startsWith({json.dumps(name)})"):
                    break
                await self.press("ArrowRight")
        chosen = "document.querySelector('main [role=tab][aria-selected=true]')?.innerText.trim()"
        await self.page.wait_for(
            f"{chosen}?.startsWith({json.dumps(name)}) && !document.querySelector('main .waiting')"
        )

    async def row(self, text: str) -> None:
        """Opens the row of a table that has ``text``."""
        has = f"each => each.innerText.includes({json.dumps(text)})"
        await self.page.wait_for(f"[...document.querySelectorAll('main tbody tr')].some({has})")
        await self.page.evaluate(
            "(() => { for (const each of document.querySelectorAll('[data-way]')) each.removeAttribute('data-way');"
            f" const row = [...document.querySelectorAll('main tbody tr')].find({has});"
            f" row.setAttribute('data-way', ''); row.closest('table').setAttribute('data-way-table', '') }})()"
        )
        if self.means == "pointer":
            return await self.page.click("[data-way] td")
        await self._tab_to("[data-way-table]")
        await self.press("Home")
        for _ in range(60):
            if await self.page.evaluate(
                f"document.getElementById({_AT}.getAttribute('aria-activedescendant'))?.innerText.includes({json.dumps(text)})"
            ):
                return await self.press("Enter")
            await self.press("ArrowDown")
        raise AssertionError(f"the arrows do not reach the row of {text!r}")

    async def open(self, room: str) -> None:
        """Opens a page by the menu; the focus is at its heading then."""
        before = await self.page.evaluate("document.querySelector('nav a[aria-current]').hash")
        title = self.text(f"page.{room}")
        await self._go_to(title, "nav")
        if self.means == "keyboard":
            await self.press("Enter")
        here = f"document.querySelector('nav a[aria-current]').hash === '#/{room}'"
        read = f"document.querySelector('main h1')?.innerText === {json.dumps(title)}"
        await self.page.wait_for(f"{here} && {read} && !document.querySelector('main .waiting')")
        if before != f"#/{room}":
            await self.until(f"{_AT}?.matches('main h1')")

    async def _go_to(self, name: str, room: str = "", kinds: str = _CONTROLS) -> None:
        """Clicks what has that name, or leads the focus to it: in the dialog that is open, else in ``room``."""
        await self.page.wait_for(f"{_FIND}({json.dumps(name)}, {json.dumps(room)}, {json.dumps(kinds)})")
        if self.means == "pointer":
            await self.page.click("[data-way]")
        else:
            await self._tab_to("[data-way]")

    async def _tab_to(self, selector: str) -> None:
        wanted = f"document.querySelector({json.dumps(selector)})"
        for _ in range(_STEPS):
            where = await self.page.evaluate(
                f"{_AT} === {wanted} ? 0 : {_AT}.compareDocumentPosition({wanted}) & {_BEFORE} ? -1 : 1"
            )
            if where == 0:
                return
            await self.press("Tab", shift=where < 0)
        at = await self.page.evaluate(f"{_AT}.outerHTML.slice(0, 300)")
        raise AssertionError(f"{selector} is not reached by Tab; the focus is at {at}")


async def start(page: Page, language: str, means: Means, url: str) -> Way:
    """Opens ``url`` in that language."""
    await page.go(url)
    await page.evaluate(f"localStorage.setItem('sage-language', '{language}')")
    await page.reload()
    await page.wait_for(f"document.documentElement.lang.startsWith('{language}') && document.querySelector('form')")
    return Way(page, language, means)
