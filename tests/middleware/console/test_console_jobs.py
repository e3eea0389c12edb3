"""The jobs page in a real browser: progress as it comes, dead letters, schedules, batches and files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Page
from console_browser import grave_faults, in_chinese, open_tab, visit
from hand_worker import HandWorker
from running_gateway import Running
from upstream import Upstream

pytestmark = pytest.mark.slow

ASK = {"model": "bench", "requests": [{"prompt": "one"}, {"prompt": "two"}, {"prompt": "three"}]}
HOSTILE = "<img src=x onerror=document.title='caught'>.jsonl"


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running]) -> Iterator[Running]:
    with Upstream() as upstream:
        providers = {"up": {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream"}}
        models = {"bench": {"deployments": [{"provider": "up", "model": "m"}]}}
        schedules = {"nightly": {"cron": "0 3 * * *", "task": "generate", "params": ASK, "user": "root"}}
        queue = {"embedded_worker": False, "schedules": schedules}
        yield module_gateway(llm={"providers": providers, "models": models}, queue=queue)


@pytest.fixture
def worker(running: Running) -> HandWorker:
    made = HandWorker(running)
    made.post("/worker/hello", {"worker": made.name, "concurrency": 1})
    return made


async def choose_tab(page: Page, number: int) -> None:
    await page.click(f"main [role=tab]:nth-child({number})")
    await page.wait_for("!document.querySelector('main .waiting')")


def test_a_job_is_followed_and_cancelled(running: Running, worker: HandWorker, tmp_path: Path) -> None:
    job = running.post("/tasks/generate", ASK).json()["id"]
    run = worker.claim()["run"]
    worker.items(run, 3)

    async def act(page: Page) -> None:
        await open_tab(page, "jobs")
        await page.wait_for("document.querySelector('tbody')?.innerText.includes('0 / 3')")
        await page.click("tbody tr")
        await page.wait_for(f"document.querySelector('dialog.panel')?.innerText.includes('{job}')")
        lines = [{"index": index, "line": {"index": index, "text": "x"}} for index in (0, 1)]
        await asyncio.to_thread(worker.record, run, *lines)
        await page.wait_for("document.querySelector('dialog.panel').innerText.includes('2 / 3')")
        assert await grave_faults(page) == []
        await page.click("dialog .actions:last-of-type button.danger")
        await page.wait_for("document.querySelector('dialog.panel').innerText.includes('cancelled')")

    visit(running, tmp_path / "profile", act)
    assert running.get(f"/tasks/{job}").json()["state"] in ("cancelling", "cancelled")


def kill(running: Running, worker: HandWorker) -> str:
    """A job that was given up."""
    job = str(running.post("/tasks/generate", ASK).json()["id"])
    while (state := running.get(f"/tasks/{job}").json()["state"]) != "dead":
        assert state in ("queued", "running")
        claimed = worker.claim()
        worker.post("/worker/lost", {"id": claimed["id"], "worker": worker.name}, 204)
    return job


def test_dead_letters_are_tried_again_and_discarded(running: Running, worker: HandWorker, tmp_path: Path) -> None:
    for job in running.get("/tasks").json()["tasks"]:  # of the other tests
        running.post(f"/tasks/{job['id']}/cancel")
    first, second = kill(running, worker), kill(running, worker)

    async def act(page: Page) -> None:
        await in_chinese(page)
        await open_tab(page, "jobs")
        await page.evaluate("document.querySelector('main [role=tab]').focus()")
        await page.press("ArrowRight", 39)
        await page.wait_for("document.querySelectorAll('tbody tr').length === 2")
        assert "死信" in await page.text("main [role=tab][aria-selected=true]")
        assert await grave_faults(page) == []
        await page.click("tbody tr:first-child button:first-of-type")  # the newest one
        await page.wait_for("document.querySelectorAll('tbody tr').length === 1")
        await page.click("tbody tr button:last-of-type")
        assert "无法恢复" in await page.text("dialog")
        await page.click("dialog button.danger")
        await page.wait_for("document.querySelector('main .empty')")

    visit(running, tmp_path / "profile", act)
    assert running.get(f"/tasks/{second}").json()["state"] == "queued"
    assert running.get(f"/tasks/{first}").status_code == 404


def test_schedules_batches_and_files(running: Running, tmp_path: Path) -> None:
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}
    request |= {"body": {"model": "bench", "messages": [{"role": "user", "content": "hi"}]}}

    async def act(page: Page) -> None:
        await open_tab(page, "jobs")
        await choose_tab(page, 3)
        await page.click("tbody tr")
        await page.wait_for("document.querySelector('dialog.panel')?.innerText.includes('nightly')")
        await page.click("dialog .actions button.primary")
        await page.wait_for("document.querySelector('dialog.panel h2').innerText === 'generate'")
        await page.press("Escape", 27)
        await choose_tab(page, 4)
        await page.click("main button.primary")
        await give_file(page, "dialog input[type=file]", json.dumps(request))
        await page.click("dialog .actions button.primary")
        await page.wait_for("document.querySelector('tbody')?.innerText.includes('batch_')")
        assert await grave_faults(page) == []
        await choose_tab(page, 5)
        uploaded = (
            f"[...document.querySelectorAll('tbody tr')].find(row => row.innerText.includes({json.dumps(HOSTILE)}))"
        )
        await page.wait_for(uploaded)  # beside what the jobs have made meanwhile
        await page.evaluate(f"{uploaded}.querySelector('button:last-of-type').click()")
        assert HOSTILE in await page.text("dialog")
        await page.click("dialog button.danger")
        await page.wait_for(f"!document.querySelector('dialog') && !{uploaded}")
        assert await page.evaluate("document.title") == "Jobs · SAGE"

    visit(running, tmp_path / "profile", act)
    assert running.get("/v1/batches").json()["data"][0]["endpoint"] == "/v1/chat/completions"
    assert all(file["purpose"] != "batch" for file in running.get("/v1/files").json()["data"])


async def give_file(page: Page, selector: str, text: str) -> None:
    await page.wait_for(f"document.querySelector({json.dumps(selector)})")
    await page.evaluate(
        f"""(() => {{
            const files = new DataTransfer()
            files.items.add(new File([{json.dumps(text)}], {json.dumps(HOSTILE)}))
            document.querySelector({json.dumps(selector)}).files = files.files
        }})()"""
    )


def test_the_login_of_the_console_is_enough_for_flower(running: Running, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "jobs")
        await page.evaluate("window.open = () => null")  # this page goes itself
        before: Any = len(page.requested)
        await page.follow("main .page-head button")
        await page.wait_for(
            "document.body.innerText.includes('sage flower')"
        )  # it does not run, and says how to start it
        assert not any("/flower/login" in url for url in page.requested[before:])
        page.errors.clear()

    visit(running, tmp_path / "profile", act)
