"""Hostile names, prompts, answers, file names and metadata on every page: text everywhere, and nothing else.

``SAGE_TEST_FULL=1`` takes all 500 strings, otherwise some of each kind.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from browser import Page
from console_browser import open_tab, visit
from hostile_strings import ALL, FEW
from middleware.console.test_console_pages import PAGES
from running_gateway import Running
from upstream import Received, Script, Upstream, chat_chunk, stream, usage_chunk

pytestmark = pytest.mark.slow

STRINGS = ALL if os.environ.get("SAGE_TEST_FULL") else FEW
SAFE = """(() => {
    const main = document.querySelector('main')
    const found = []
    const own = location.origin + '/console/'
    for (const {src} of document.scripts) if (!src.startsWith(own)) found.push('a script: ' + src)
    const strange = 'iframe, object, embed, base, form[action], style, img:not([src^="/console/"]):not([src^="data:"])'
    for (const bad of document.body.querySelectorAll(strange)) found.push(bad.outerHTML)
    for (const each of document.body.querySelectorAll('*')) {
        for (const {name, value} of each.attributes) {
            const leadsAway = name === 'href' && !/^(#|\\/|https?:|mailto:)/.test(value)
            if (leadsAway || /^(on.*|srcdoc|formaction)$/.test(name)) found.push(each.outerHTML.slice(0, 200))
        }
    }
    if (document.title === 'caught') found.push('a script ran')
    for (const box of [document.documentElement, main]) {
        const {scrollWidth: has, clientWidth: room} = box
        if (has > room + 1) found.push(`${box.tagName} is ${has} wide in ${room}`)
    }
    const {scrollHeight: has, clientHeight: room} = document.documentElement
    if (has > room + 1) found.push(`the frame is ${has} high in ${room}`)
    return JSON.stringify(found.slice(0, 5))
})()"""
LINKS = "JSON.stringify([...document.querySelectorAll('.markdown a[href]')].map(each => each.href))"
READ = """(async () => {
    const seen = [document.querySelector('main').textContent]
    for (const box of document.querySelectorAll('main .table-box')) {
        for (let at = 0; at < box.scrollHeight; at += box.clientHeight / 2 + 1) {
            box.scrollTop = at
            await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))
            seen.push(box.textContent)
        }
    }
    return seen.join('\\u0003')
})()"""


class Planted:
    """A gateway into which every string was put wherever the public API takes it, and what it took."""

    def __init__(self, gateway: Running, upstream: Upstream) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.accepted: dict[str, list[str]] = {}
        gateway.post("/collections", {"name": "hostile"}).raise_for_status()
        gateway.request(
            "PATCH", "/auth/teams/default", json={"capture": {"prompts": True, "days": 1}}
        ).raise_for_status()
        for text in STRINGS:
            self._plant(text)

    def _plant(self, text: str) -> None:
        put = self._put
        put("keys", text, "POST", "/auth/keys", {"name": text})
        put(
            "users",
            text,
            "POST",
            "/auth/users",
            {"username": text, "password": "a harder one to guess", "role": "viewer"},
        )
        put("teams", text, "POST", "/auth/teams", {"name": text, "note": text})
        put("models", text, "POST", f"/models/{escaped(text)}", {"deployments": [{"provider": "up", "model": "m"}]})
        put("collections", text, "POST", "/collections", {"name": text})
        document = {"text": f"findable {text}", "metadata": {"title": text}}
        put("documents", text, "POST", "/collections/hostile/documents", {"documents": [document]})
        put("ids", text, "POST", "/collections/hostile/documents", {"documents": [{"id": text, "text": "findable"}]})
        put("sessions", text, "POST", "/memory", {"session_id": text, "content": text, "metadata": {"note": text}})
        put("entries", text, "PUT", f"/kv/{escaped(text)}", {"value": {"said": text}})
        put(
            "vectors",
            text,
            "POST",
            "/vdb/hostile",
            {"items": [{"id": text, "vector": [1.0, 0.5], "metadata": {"t": text}}]},
        )
        put(
            "calls",
            text,
            "POST",
            "/v1/chat/completions",
            {"model": "bench", "messages": [{"role": "user", "content": text}], "user": text},
        )
        put(
            "missing",
            text,
            "POST",
            "/v1/chat/completions",
            {"model": text, "messages": [{"role": "user", "content": "x"}]},
        )
        form = {"file": (text, b"hello", "text/plain")}
        try:
            answer = self.gateway.request("POST", "/v1/files", files=form, data={"purpose": "ingest"})
            assert answer.status_code < 500, (text, answer.text)
        except (UnicodeError, requests.exceptions.InvalidHeader):
            pass  # this client cannot say it

    def shown(self, kind: str) -> list[str]:
        """What was taken, as it is stored: users have one name however it is written."""
        taken = self.accepted.get(kind, [])
        return [unicodedata.normalize("NFKC", text) for text in taken] if kind == "users" else taken

    def _put(self, kind: str, text: str, method: str, path: str, body: Any) -> None:
        headers = {"content-type": "application/json"}
        answer = self.gateway.request(method, path, data=json.dumps(body), headers=headers)
        assert answer.status_code < 500, (kind, text, answer.status_code, answer.text)
        if answer.ok:
            self.accepted.setdefault(kind, []).append(text)


def escaped(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@pytest.fixture(scope="module")
def planted(module_gateway: Callable[..., Running]) -> Iterator[Planted]:
    with Upstream() as upstream:
        providers = {"up": {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream"}}
        gateway = module_gateway(
            llm={"providers": providers, "models": {"bench": {"deployments": [{"provider": "up", "model": "m"}]}}}
        )
        yield Planted(gateway, upstream)


def test_every_page_shows_text(planted: Planted, tmp_path: Path) -> None:
    shown = {"keys": ("keys",), "people": ("users", "teams"), "models": ("models",), "search": ("collections",)}
    faults: list[Any] = []

    async def look(page: Page, name: str) -> None:
        for width in (1120, 400):
            await page.resize(width, 800)
            text = await page.evaluate(READ)
            if found := json.loads(await page.evaluate(SAFE)):
                faults.append((name, width, found))
            for kind in shown.get(name, ()) if width > 400 else ():
                if missing := [each for each in planted.shown(kind) if each not in text]:
                    faults.append((name, kind, missing[:5]))
        await page.resize(1120, 800)

    async def act(page: Page) -> None:
        for name in PAGES:
            await open_tab(page, name)
            await look(page, name)
            tabs = await page.evaluate("document.querySelectorAll('main [role=tab]').length")
            for tab in range(1, tabs if name == "services" else 0):
                await page.evaluate(f"document.querySelectorAll('main [role=tab]')[{tab}].click()")
                await page.wait_for("!document.querySelector('main .waiting')")
                await look(page, f"{name} {tab}")
        for name in planted.accepted.get("models", [])[:6]:
            await page.evaluate(f"location.hash = '#/models/' + encodeURIComponent({json.dumps(name)})")
            await page.wait_for(f"document.querySelector('main h1')?.textContent === {json.dumps(name)}")
            await look(page, f"model {name}")
        assert faults == []
        await page.evaluate("document.querySelector('main').append(document.createElement('iframe'))")
        assert "iframe" in await page.evaluate(SAFE)  # it does see what should not be there

    visit(planted.gateway, tmp_path / "profile", act)
    assert {"keys", "sessions", "documents", "entries", "calls"} <= planted.accepted.keys()


def test_rows_open_as_text(planted: Planted, tmp_path: Path) -> None:
    """Details in panels and dialogs, for some rows of each list that opens."""
    faults: list[Any] = []

    async def act(page: Page) -> None:
        for name in ("requests", "audit", "keys", "people", "services"):
            await open_tab(page, name)
            await page.wait_for("document.querySelector('main tbody tr')")
            rows = await page.evaluate("document.querySelectorAll('main tbody tr.opens').length")
            for row in range(0, min(rows, 24), 4):
                await page.evaluate(f"document.querySelectorAll('main tbody tr.opens')[{row}].cells[0].click()")
                await page.wait_for("document.querySelector('dialog, main h1')")
                if found := json.loads(await page.evaluate(SAFE)):
                    faults.append((name, row, found))
                await page.press("Escape", 27)
                if not await page.evaluate(f"location.hash === '#/{name}'"):
                    break

    visit(planted.gateway, tmp_path / "profile", act)
    assert faults == []


def test_prompts_and_answers_are_text(planted: Planted, tmp_path: Path) -> None:
    """One answer of all strings, in text, reasoning and calls of tools; the strings are the question, too."""
    wanted = [text for text in STRINGS if text.strip() and text.isprintable() and not text.startswith("<!")]
    tools = [
        {
            "index": index,
            "id": f"c{index}",
            "type": "function",
            "function": {"name": text, "arguments": json.dumps({text: text})},
        }
        for index, text in enumerate(STRINGS[:40])
    ]

    def answer(_request: Received) -> Script:
        chunks = [chat_chunk(f"{text}\n\n") for text in STRINGS]
        for delta in ({"reasoning_content": "\n".join(STRINGS)}, {"tool_calls": tools}):
            chunk = chat_chunk("")
            chunk["choices"][0]["delta"] = delta
            chunks.append(chunk)
        events = [*chunks, chat_chunk(None, "stop"), usage_chunk(5, 7)]
        return stream([f"data: {json.dumps(event)}\n\n".encode() for event in events])  # halves of pairs, too

    async def act(page: Page) -> None:
        planted.upstream.handler = answer
        await open_tab(page, "playground")
        await page.evaluate("document.querySelector('#question').focus()")
        await page.insert(" ".join(wanted))
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('.took')")
        await page.wait_for("document.querySelector('.markdown').textContent.length > 100")
        assert json.loads(await page.evaluate(SAFE)) == []
        question = await page.evaluate("document.querySelector('.question').textContent")
        assert [text for text in wanted if text.strip() not in question] == []
        written = await page.evaluate("document.querySelector('.markdown').textContent")
        html = [
            text for text in wanted if text.startswith("<") and "`" not in text and "\n" not in text and "*" not in text
        ]
        assert [text for text in html if text not in written and "http" not in text and "&" not in text] == []
        for link in json.loads(await page.evaluate(LINKS)):
            assert link.startswith(("http://", "https://", "mailto:"))

    visit(planted.gateway, tmp_path / "profile", act)
