"""Hostile texts of the rooms that work by themselves: tools, jobs, schedules, tags, budgets, limits, upstreams' errors.

``SAGE_TEST_FULL=1`` takes all 500 strings, otherwise some of each kind.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Page
from console_browser import open_tab, visit
from hand_worker import HandWorker
from middleware.console.test_console_hostile import READ, SAFE, STRINGS, escaped
from running_gateway import Running
from upstream import Upstream, reply

pytestmark = pytest.mark.slow

WHOLE = [text for text in STRINGS if text.isprintable()]
"""Those that a YAML file, a tool's description and an error can hold."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Rooms:
    """A gateway in whose rooms the strings were put, and which of them each room took."""

    def __init__(self, gateway: Running, upstream: Upstream) -> None:
        self.gateway = gateway
        self.taken: dict[str, list[str]] = {}
        for text in STRINGS:
            self._put("tags", text, "PUT", f"/budgets/tag/{escaped(text)}", {"tokens": 10**9, "window": "day"})
            limited = {"deployments": [{"provider": "up", "model": "m"}], "limits": {"rpm": 9}}
            self._put("models", text, "POST", f"/models/{escaped(text)}", limited)
            self._put("notes", text, "POST", "/auth/keys", {"name": "k", "note": text, "limits": {"rpm": 9}})
        for text in WHOLE:
            key = self._put("keys", text, "POST", "/auth/keys", {"name": text[:60], "tags": [text]})
            if key is not None:
                answer = gateway.chat("bench", key=key["key"])
                assert answer.status_code == 200, answer.text
        self._jobs()
        failure = {"error": {"message": "".join(WHOLE[:40]), "type": WHOLE[0], "code": WHOLE[1]}}
        upstream.handler = lambda _: reply(failure, status=400)
        assert gateway.chat("bench").status_code == 400

    def tools(self) -> list[str]:
        """The descriptions of the tools that were taken: a server has 256 at most."""
        answers = [self.gateway.get(f"/mcp/servers/{name}/tools").json() for name in ("docs", "more")]
        return [each["definition"]["description"] for answer in answers for each in answer["tools"]]

    def _put(self, room: str, text: str, method: str, path: str, body: Any) -> Any:
        headers = {"content-type": "application/json"}
        answer = self.gateway.request(method, path, data=json.dumps(body), headers=headers)
        assert answer.status_code < 500, (room, text, answer.text)
        if not answer.ok:
            return None
        self.taken.setdefault(room, []).append(text)
        return answer.json()

    def _jobs(self) -> None:
        """Each is asked something hostile, tells a hostile address, and fails with hostile words."""
        worker = HandWorker(self.gateway)
        worker.post("/worker/hello", {"worker": worker.name, "concurrency": 1})
        for text in WHOLE:
            job = {"model": "bench", "requests": [{"prompt": text}], "metadata": {"note": text}}
            job["webhook"] = {"url": f"https://hooks.example/{escaped(text)}"}
            made = self.gateway.post("/tasks/generate", job)
            if not made.ok:
                made = self.gateway.post("/tasks/generate", {"model": "bench", "requests": [{"prompt": text}]})
            assert made.status_code == 202, made.text
            run = worker.claim()["run"]
            worker.finish(run, state="failed", error={"message": text, "code": "hostile"})
            self.taken.setdefault("errors", []).append(text)


@pytest.fixture(scope="module")
def rooms(module_gateway: Callable[..., Running]) -> Iterator[Rooms]:
    from mcp_upstream import McpUpstream, tool

    tools = [
        tool(
            f"tool{number}",
            text,
            title=text,
            inputSchema={"type": "object", "properties": {text: {"description": text}}},
        )
        for number, text in enumerate(WHOLE)
    ]
    named = [tool(text) for text in WHOLE[:20]]  # such names are left out, and that is told
    params = {"model": "bench", "requests": [{"prompt": text} for text in WHOLE]}
    schedules = {"nightly": {"cron": "0 3 * * *", "task": "generate", "params": params, "user": "root"}}
    webhooks = {"hosts": ["hooks.example"], "secret": "whsec_" + "c2VjcmV0LXpxWHd3ZWJob29rLTc3NzctYWJjZGVm"}
    half = len(tools) // 2
    with Upstream() as upstream, McpUpstream(*tools[:half], *named) as docs, McpUpstream(*tools[half:]) as more:
        providers = {"up": {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream"}}
        models = {"bench": {"deployments": [{"provider": "up", "model": "m"}]}}
        gateway = module_gateway(
            llm={"providers": providers, "models": models},
            queue={"embedded_worker": False, "schedules": schedules, "webhooks": webhooks},
            mcp={"servers": {"docs": {"url": docs.url}, "more": {"url": more.url}}},
        )
        yield Rooms(gateway, upstream)


def test_rooms_show_text(rooms: Rooms, tmp_path: Path) -> None:
    faults: list[Any] = []

    async def look(page: Page, name: str, wanted: list[str]) -> None:
        for width in (1120, 400):
            await page.resize(width, 800)
            text = await page.evaluate(READ)
            if found := json.loads(await page.evaluate(SAFE)):
                faults.append((name, width, found))
            if width > 400 and (missing := [each for each in wanted if each not in text]):
                faults.append((name, missing[:5]))
        await page.resize(1120, 800)

    async def opened(page: Page, name: str, rows: int) -> None:
        """Details of some rows."""
        for row in range(0, rows, max(1, rows // 4)):
            await page.evaluate(f"document.querySelectorAll('main tbody tr.opens')[{row}]?.cells[0].click()")
            await page.wait_for("document.querySelector('dialog')")
            if found := json.loads(await page.evaluate(SAFE)):
                faults.append((name, row, found))
            await page.press("Escape", 27)
            await page.wait_for("!document.querySelector('dialog')")

    async def act(page: Page) -> None:
        await open_tab(page, "mcp")
        await page.wait_for("document.querySelector('tbody')?.innerText.includes('docs__tool0')")
        await page.wait_for("document.querySelectorAll('tbody')[1]?.innerText.includes('more__tool')")
        await look(page, "mcp", rooms.tools())
        await opened(page, "mcp", 12)
        await open_tab(page, "jobs")
        await page.wait_for("document.querySelector('main tbody tr')")
        await look(page, "jobs", rooms.taken["errors"][-200:])  # a page of them
        await opened(page, "jobs", 12)
        for tab in (1, 2, 3, 4):
            await page.evaluate(f"document.querySelectorAll('main [role=tab]')[{tab}].click()")
            await page.wait_for("!document.querySelector('main .waiting')")
            await look(page, f"jobs {tab}", [])
            if tab == 2:
                await opened(page, "schedules", 1)
        await page.evaluate("location.hash = '#/usage?by=tag'")
        known = rooms.gateway.get("/budgets").json()["budgets"]
        tags = [each["name"] for each in known if each["kind"] == "tag"]  # a path may lose a slash at its end
        await page.wait_for(
            f"document.querySelectorAll('.cards li').length >= {len(tags)} && document.querySelector('main tbody tr')"
        )
        await look(page, "usage", [*tags, *rooms.taken["keys"]])
        await page.evaluate("location.hash = '#/usage?by=key'")
        await page.wait_for("document.querySelector('main th')?.innerText === 'Key'")
        await look(page, "usage by key", [])
        await open_tab(page, "limits")
        await look(page, "limits", rooms.taken["models"])
        await opened_limits(page)
        for name in ("requests", "audit", "settings", "overview", "keys"):
            await open_tab(page, name)
            await look(page, name, [])

    async def opened_limits(page: Page) -> None:
        """A row leads to where the limit is changed."""
        await page.evaluate("document.querySelector('main tbody tr.opens').cells[0].click()")
        await page.wait_for("location.hash !== '#/limits' && document.querySelector('dialog, main h1')")

    visit(rooms.gateway, tmp_path / "profile", act)
    assert not faults, json.dumps(faults)[:4000]
    assert len(rooms.tools()) > 5
    assert min(len(rooms.taken[room]) for room in ("tags", "models", "notes", "keys", "errors")) > 5


def test_tables_hold_no_formula(rooms: Rooms) -> None:
    """What a spreadsheet would compute has an apostrophe before it; nothing else is changed."""
    for path, columns in (("/usage?by=tag", ["tag"]), ("/usage?by=key", ["key_name"]), ("/usage/requests", ["tags"])):
        joined = "&" if "?" in path else "?"
        answer = rooms.gateway.get(
            f"{path}{joined}format=csv&limit=1000" if "requests" in path else f"{path}&format=csv"
        )
        assert answer.status_code == 200
        cells = [row[column] for row in csv.DictReader(io.StringIO(answer.content.decode())) for column in columns]
        assert not [cell for cell in cells if cell.startswith(FORMULA)]
        assert {text.lstrip("'") for text in cells} >= {text[:60] for text in rooms.taken["keys"] if text[0] in "=+-@"}
    assert 'filename="usage-by-tag.csv"' in rooms.gateway.get("/usage?by=tag&format=csv").headers["content-disposition"]
