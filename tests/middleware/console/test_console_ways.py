"""The way through each main task of the console, in both languages, by keyboard alone and by pointer alone.

The first run has a gateway of its own: ``test_console_first_run.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import open_page
from configured_gateway import configured, rewrite
from console_way import LANGUAGES, MEANS, Means, Way, start
from running_gateway import PASSWORD, Running
from upstream import Upstream

if TYPE_CHECKING:
    from mcp_upstream import McpUpstream

pytestmark = pytest.mark.slow

Task = Callable[["Walked", Way, str], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Walked:
    """A gateway with everything that the tasks need, and the file of its settings."""

    gateway: Running
    upstream: Upstream
    tools: McpUpstream
    file: Path


def sections(upstream: Upstream, tools: McpUpstream, *models: str) -> dict[str, Any]:
    providers = {"up": {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream", "retries": 0}}
    known = {name: {"deployments": [{"provider": "up", "model": "m"}]} for name in ("bench", *models)}
    nightly = {"cron": "0 3 * * *", "task": "generate", "user": "root"}
    nightly |= {"params": {"model": "bench", "requests": [{"prompt": "one"}]}}
    return {
        "llm": {"providers": providers, "models": known, "routing": {"breaker_failures": 1_000_000}},
        "services": {"memory": {"embedder": "none"}, "vdb": {"embedder": "none"}},
        "mcp": {"servers": {"docs": {"url": tools.url}}, "refresh": "1s"},
        "queue": {"schedules": {"nightly": nightly}},
    }


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walked]:
    from mcp_upstream import McpUpstream, tool

    file = tmp_path_factory.mktemp("ways") / "sage.yaml"
    with (
        Upstream() as upstream,
        McpUpstream(tool("fetch", "Reads a page.")) as tools,
        configured(file, sections(upstream, tools)) as gateway,
    ):
        gateway.post("/collections", {"name": "notes", "embedder": "none"}).raise_for_status()
        yield Walked(gateway, upstream, tools, file)


async def ask(walked: Walked, way: Way, name: str) -> None:
    """A question in the playground, and the way of its call."""
    await way.open("playground")
    await way.fill("playground.question", f"What is {name}?")
    await way.act("playground.send")
    await way.page.wait_for("document.querySelector('.took')")
    await way.open("requests")
    await way.row("bench")
    await way.page.wait_for("document.querySelector('dialog .waterfall li')")
    await way.press("Escape")
    await way.closed()


async def model(walked: Walked, way: Way, name: str) -> None:
    """A model is added and removed."""
    await way.open("models")
    await way.act("models.add")
    await way.fill("models.name", name)
    await way.choose("models.provider", "up (openai)")
    await way.fill("models.model_there", "m")
    await way.act("models.add")
    await way.page.wait_for(f"document.querySelector('main h1')?.innerText === '{name}'")
    assert walked.gateway.get(f"/models/{name}").status_code == 200
    await way.act("action.remove")
    await way.shows(way.text("models.remove_lost"))
    await way.act("action.remove")
    await way.closed()
    assert walked.gateway.get(f"/models/{name}").status_code == 404


async def budget(walked: Walked, way: Way, name: str) -> None:
    await way.open("usage")
    await way.act("budget.new")
    await way.choose("budget.kind", way.text("usage.tag"))
    await way.fill("people.name", name)
    await way.fill("budget.amount", "3")
    await way.act("action.save")
    await way.closed()
    await way.shows(name)
    budgets = {each["subject"]: each for each in walked.gateway.get("/budgets").json()["budgets"]}
    assert budgets[f"tag:{name}"]["usd"] == 3


async def key(walked: Walked, way: Way, name: str) -> None:
    """A key is made, gets a new secret and is revoked."""
    await way.open("keys")
    await way.act("keys.make")
    await way.fill("keys.name", name)
    await way.act("keys.make_action")
    await way.page.wait_for("document.querySelector('dialog pre')")
    secret = await way.page.text("dialog pre")
    await way.act("keys.saved")
    await way.closed()
    await way.row(name)
    await way.act("keys.rotate")
    await way.shows(way.text("keys.rotate_hint"))
    await way.act("keys.rotate")
    await way.page.wait_for("document.querySelector('dialog pre')")
    second = await way.page.evaluate("[...document.querySelectorAll('dialog pre')].at(-1).innerText")
    assert [walked.gateway.chat(key=each).status_code for each in (secret, second)] == [200, 200]
    await way.act("keys.saved")
    await way.page.wait_for("!document.querySelector('dialog pre')")
    await way.act("keys.revoke")
    await way.shows(way.text("keys.revoke_lost"))
    await way.act("keys.revoke")
    await way.closed()
    assert walked.gateway.chat(key=second).status_code == 401


async def people(walked: Walked, way: Way, name: str) -> None:
    """A team, and a user in it."""
    await way.open("people")
    await way.act("people.add_team")
    await way.fill("people.name", f"team-{name}")
    await way.act("people.add")
    await way.closed()
    await way.shows(f"team-{name}")
    await way.act("people.add_user")
    await way.fill("login.user", name)
    await way.fill("login.password", PASSWORD)
    await way.choose("people.team", f"team-{name}")
    await way.act("people.add")
    await way.closed()
    await way.shows(name)
    users = {user["name"]: user["tenant"] for user in walked.gateway.get("/auth/users").json()["users"]}
    assert users[name] == f"team-{name}"


async def documents(walked: Walked, way: Way, name: str) -> None:
    """A file is added to a collection and found."""
    file = walked.file.parent / f"{name}.txt"
    file.write_text(f"The {name} whale eats krill.")
    await way.open("search")
    await way.act(name="notes")
    await way.page.wait_for("document.querySelector('main h1')?.innerText === 'notes'")
    await way.tab("search.add")
    await way.page.choose_files("#files", file)
    await way.shows(way.text("search.added", count=1))
    await way.tab("search.search")
    await way.fill("search.query", f"{name} krill")
    await way.act("search.search")
    await way.page.wait_for(f"document.querySelector('.results')?.innerText.includes('{name} whale')")


async def memory(walked: Walked, way: Way, name: str) -> None:
    """A memory is corrected, and then forgotten."""
    body = {"session_id": name, "content": f"{name} likes tea."}
    await asyncio.to_thread(lambda: walked.gateway.post("/memory", body).raise_for_status())
    await way.open("services")
    await way.tab("services.memory")
    await way.row(name)
    await way.row("likes tea")
    await way.fill("memory.content", f"{name} likes coffee.")
    await way.act("memory.correct")
    await way.closed()
    await way.row("likes coffee")
    await way.act("memory.forget")
    await way.shows(way.text("memory.lost", content=f"{name} likes coffee."))
    await way.act("memory.forget")
    await way.closed()
    assert walked.gateway.get(f"/memory/sessions/{name}").status_code == 404


async def entry(walked: Walked, way: Way, name: str) -> None:
    """A key-value entry is written, and then deleted."""
    await way.open("services")
    await way.tab("services.kv")
    await way.act("kv.new")
    await way.fill("kv.key", name)
    await way.fill("kv.value", '{"colour": "dark"}')
    await way.act("kv.save")
    await way.closed()
    assert walked.gateway.get(f"/kv/{name}").json()["value"] == {"colour": "dark"}
    await way.row(name)
    await way.act("search.delete")
    await way.shows(way.text("kv.lost"))
    await way.act("search.delete")
    await way.closed()
    assert walked.gateway.get(f"/kv/{name}").status_code == 404


async def vectors(walked: Walked, way: Way, name: str) -> None:
    """A vector is found and its collection deleted."""
    items = [{"id": f"p{n}", "vector": [n, 1.0], "text": f"picture {n}"} for n in range(2)]
    await asyncio.to_thread(lambda: walked.gateway.post(f"/vdb/{name}", {"items": items}).raise_for_status())
    await way.open("services")
    await way.tab("services.vectors")
    await way.act(name=name)
    await way.fill("vdb.query", "[2, 1]")
    await way.act("search.search")
    await way.page.wait_for("document.querySelector('tbody tr')?.innerText.startsWith('p1')")
    await way.act("search.delete")
    await way.shows(way.text("vdb.lost"))
    await way.act("search.delete")
    await way.closed()
    assert name not in walked.gateway.get("/vdb").json()["collections"]


async def job(walked: Walked, way: Way, name: str) -> None:
    """A job is started, cancelled while its model does not answer, and tried again."""
    walked.upstream.hang(times=1)
    await way.open("jobs")
    await way.tab("jobs.schedules")
    await way.row("nightly")
    await way.act("jobs.run_now")
    await way.shows(way.text("state.running"))
    await way.act("jobs.cancel")
    await way.shows(way.text("state.cancelled"))
    await way.act("action.retry")
    await way.shows(way.text("state.succeeded"))
    await way.press("Escape")
    await way.closed()


async def tool(walked: Walked, way: Way, name: str) -> None:
    """A tool that has changed is accepted."""
    from mcp_upstream import tool

    def state() -> str:
        return str(walked.gateway.get("/mcp/servers/docs/tools").json()["tools"][0]["state"])

    walked.tools.tools[0] = tool("fetch", f"Reads a page of {name}.")
    while await asyncio.to_thread(state) != "changed":
        await asyncio.sleep(0.05)
    await way.open("mcp")
    await way.tab("mcp.waiting")
    await way.row("fetch")
    await way.shows(f"Reads a page of {name}.")
    await way.act("mcp.accept")
    await way.closed()
    await way.shows(way.text("mcp.nothing_waits"))
    assert state() == "accepted"


async def settings(walked: Walked, way: Way, name: str) -> None:
    """The configuration is read again."""
    await way.open("settings")
    rewrite(walked.file, sections(walked.upstream, walked.tools, f"new-{name}"))
    await way.act("settings.reload")
    await way.shows(f"llm.models.new-{name}")
    await way.page.wait_for("document.querySelector('dialog button.primary')")
    await way.act(name=await way.page.text("dialog button.primary"))
    await way.page.wait_for("document.querySelector('dialog .notice.good')")
    await way.act("action.close")
    await way.closed()
    assert walked.gateway.get(f"/models/new-{name}").status_code == 200


TASKS: tuple[Task, ...] = (
    ask,
    model,
    budget,
    key,
    people,
    documents,
    memory,
    entry,
    vectors,
    job,
    tool,
    settings,
)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("means", MEANS)
def test_each_main_task(walked: Walked, tmp_path: Path, means: Means, language: str) -> None:
    """From logging in to logging out."""

    async def walking() -> None:
        async with open_page(tmp_path) as page:
            way = await start(page, language, means, walked.gateway.url)
            await way.fill("login.user", "root")
            await way.fill("login.password", PASSWORD)
            await way.act("login.action")
            await page.wait_for("document.querySelector('nav a')")
            for task in TASKS:
                await task(walked, way, f"{means}-{language}")
            await way.act("action.log_out")
            await way.shows(way.text("login.title"))
            assert [error for error in page.errors if "status of 40" not in error] == []

    walked.upstream.reset()
    asyncio.run(walking())
