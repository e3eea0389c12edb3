"""The console's models in a real browser: pulled, loaded, unloaded, added and removed; who would answer, drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import Page
from console_browser import console, grave_faults, open_tab, visit
from model_hub import ModelHub
from running_gateway import Running
from tiny_gguf import write_parrot
from upstream import Upstream

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=document.title='caught'>"
TITLES = {"en": ("Models", "Add a model"), "zh": ("模型", "添加模型")}


@dataclass(frozen=True)
class Watched:
    """A gateway with two healthy deployments and a broken one, before a hub with a model."""

    gateway: Running
    upstream: Upstream
    hub: ModelHub


@pytest.fixture(scope="module")
def watched(module_gateway: Callable[..., Running], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    home = tmp_path_factory.mktemp("hub")
    with Upstream() as upstream, ModelHub() as hub, pytest.MonkeyPatch.context() as patch:
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            patch.delenv(name, raising=False)
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HOME", str(home))
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        hub.put("org/Parrot-GGUF", "parrot-q8_0.gguf", write_parrot(home / "parrot.gguf", "Polly").read_bytes())
        providers = {
            "up": {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream"},
            "gone": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-upstream"},
        }
        deployments = [
            {"provider": "up", "model": "heavy", "weight": 3},
            {"provider": "up", "model": "light"},
            {"provider": "gone", "model": "m"},
        ]
        models = {
            "bench": {"deployments": deployments, "fallbacks": ["a/b c"]},
            "a/b c": {"deployments": [{"provider": "up", "model": "m"}]},
        }
        routing = {"breaker_failures": 1, "breaker_pause": "10m"}
        llm = {"providers": providers, "models": models, "memory_budget": "1GiB", "routing": routing}
        yield Watched(module_gateway(llm=llm), upstream, hub)


def forget_refusals(page: Page) -> None:
    """The browser's console has a line for each answer from 400, also for those that a test wants."""
    page.errors[:] = [error for error in page.errors if "status of 4" not in error]


async def speak(page: Page, language: str) -> None:
    await page.evaluate(
        f"(() => {{ const s = document.querySelector('#language'); s.value = '{language}';"
        " s.dispatchEvent(new Event('change', {bubbles: true})) })()"
    )
    await page.wait_for(f"document.documentElement.lang.startsWith('{language}')")


def test_a_model_is_pulled_loaded_unloaded_and_removed(watched: Watched, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "models")
        await page.click("main .title-row button")
        await page.type("dialog input[name=source]", "hf:org/Parrot-GGUF")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('dialog .notice.good')?.innerText.includes('parrot')")
        await page.click("dialog .actions button")
        await page.click("tbody a[href='#/models/parrot']")
        await page.wait_for("document.querySelector('main h1')?.innerText === 'parrot'")
        await page.click(".actions.start button:nth-of-type(2)")
        await page.wait_for("document.querySelector('.title-row .badge').innerText === 'ready'")
        assert watched.gateway.get("/models/parrot").json()["state"] == "ready"
        await page.click("main a[href='#/models']")
        await page.wait_for("document.querySelector('.memory-legend')?.innerText.includes('parrot')")
        assert "of the budget of 1 GiB" in await page.text(".memory-head")
        assert await grave_faults(page) == []
        await page.click("tbody a[href='#/models/parrot']")
        await page.click(".actions.start button:nth-of-type(2)")
        assert "30 s" in await page.text("dialog")
        await page.click("dialog button.danger")
        await page.wait_for("document.querySelector('.title-row .badge')?.innerText === 'not loaded'")
        await page.click(".actions.start button:nth-of-type(3)")
        assert "downloaded file is deleted" in await page.text("dialog")
        await page.click("dialog button.danger")
        await page.wait_for("document.querySelector('main h1')?.innerText === 'Models'")

    visit(watched.gateway, tmp_path / "profile", act)
    assert watched.gateway.get("/models/parrot").status_code == 404


def test_a_load_that_runs_tells_how_far_it_is(watched: Watched) -> None:
    """What the page draws while a model loads."""
    seen = []
    gateway = watched.gateway
    assert gateway.post("/models/gemma-3-270m/load?wait=false").status_code in (200, 202)
    while (state := gateway.get("/models/gemma-3-270m").json())["state"] == "loading":
        seen.append(state["load"])
    assert state["state"] == "ready"
    assert state["load"] is None
    assert seen
    assert seen[-1]["expected"] > 2**20
    assert all(load["since"] > 1_700_000_000 for load in seen)
    memory = gateway.get("/models").json()["memory"]
    assert memory["budget"] == 2**30
    assert [each["model"] for each in memory["engines"]] == ["gemma-3-270m"]
    assert memory["used"] == memory["engines"][0]["memory"] > 0
    elsewhere = gateway.new_key(models=["bench"], scopes=["models:read"])
    shown = gateway.get("/models", key=elsewhere).json()
    assert (shown["memory"]["engines"], shown["providers"]) == ([], [])
    assert gateway.post("/models/gemma-3-270m/unload").ok


@pytest.mark.parametrize("language", ["zh"])  # both languages and means: test_console_ways.py
def test_a_model_is_added_by_keyboard_and_its_faults_stand_at_their_fields(
    watched: Watched, tmp_path: Path, language: str
) -> None:
    async def act(page: Page) -> None:
        await speak(page, language)
        await open_tab(page, "models")
        assert await page.text("main h1") == TITLES[language][0]
        await page.evaluate("document.querySelector('main .title-row button.primary').focus()")
        await page.press("Enter", 13)
        await page.wait_for("document.activeElement.name === 'name'")
        assert await page.text("dialog h2") == TITLES[language][1]
        await page.insert("bench")
        await page.evaluate("document.querySelector('[name=provider-0]').value = 'up'")
        await page.evaluate(
            "document.querySelector('[name=provider-0]').dispatchEvent(new Event('change', {bubbles: true}))"
        )
        await page.type("input[name=model-0]", HOSTILE)
        await page.type("input[name=weight-0]", "0")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('[name=weight-0][aria-invalid]')")
        assert await grave_faults(page) == []
        await page.evaluate("document.querySelector('[name=weight-0]').select()")
        await page.insert("2")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('[name=name][aria-invalid]')")  # bench is the configuration's
        await page.evaluate("document.querySelector('input[name=name]').select()")
        await page.insert(f"mine/{language}")
        await page.press("Enter", 13)
        await page.wait_for(f"document.querySelector('main h1')?.innerText === 'mine/{language}'")
        await page.wait_for("document.querySelector('tbody')?.innerText.includes('<img src=x')")
        assert await page.evaluate("document.title") != "caught"
        made = watched.gateway.get(f"/models/mine/{language}").json()
        assert [(each["model"], each["weight"]) for each in made["deployments"]] == [(HOSTILE, 2.0)]
        await edit(page, f"mine/{language}")
        await page.click(".actions.start button:last-of-type")
        await page.click("dialog button.danger")
        await page.wait_for(f"document.querySelector('main h1')?.innerText === '{TITLES[language][0]}'")
        forget_refusals(page)

    async def edit(page: Page, name: str) -> None:
        """A fault leaves it as it was, and so does what somebody else has changed meanwhile."""
        await page.evaluate("document.querySelector('.actions.start button:nth-of-type(2)').focus()")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('dialog [name=weight-0]')?.value === '2'")
        assert await page.evaluate("document.querySelector('dialog [name=model-0]').value") == HOSTILE
        await page.evaluate("document.querySelector('[name=weight-0]').select()")
        await page.insert("0")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('[name=weight-0][aria-invalid]')")
        assert watched.gateway.get(f"/models/{name}").json()["deployments"][0]["weight"] == 2
        await page.evaluate("document.querySelector('[name=weight-0]').select()")
        await page.insert("5")
        await page.evaluate("document.querySelector('[name=pin]').click()")
        await page.type("dialog input[name=keep_alive]", "10m")
        assert await grave_faults(page) == []
        changed = watched.gateway.request("PATCH", f"/models/{name}", json={"retries": 1})
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('dialog .notice.bad')?.innerText.includes('somebody else')")
        assert watched.gateway.get(f"/models/{name}").json()["registration"] == changed.json()["registration"]
        await page.press("Escape", 27)
        await page.wait_for("!document.querySelector('dialog')")
        await page.click(".actions.start button:nth-of-type(2)")
        await page.wait_for("document.querySelector('dialog [name=retries]')?.value === '1'")
        await page.evaluate("document.querySelector('[name=weight-0]').select()")
        await page.insert("5")
        await page.press("Enter", 13)
        await page.wait_for("!document.querySelector('dialog') && document.querySelector('.toasts p')")
        written = watched.gateway.get(f"/models/{name}").json()["registration"]
        assert written == {"deployments": [{"provider": "up", "model": HOSTILE, "weight": 5.0}], "retries": 1}

    visit(watched.gateway, tmp_path / "profile", act)
    assert watched.gateway.get(f"/models/mine/{language}").status_code == 404


def test_the_order_of_deployments_is_drawn(watched: Watched, tmp_path: Path) -> None:
    while watched.gateway.get("/models/bench").json()["deployments"][2]["breaker"]["state"] == "closed":
        watched.gateway.chat()

    async def act(page: Page) -> None:
        await open_tab(page, "models")
        await page.wait_for("document.querySelector('tbody')?.innerText.includes('2 of 3')")
        await page.click("tbody a[href='#/models/bench']")
        await page.click(".explain form button")
        await page.wait_for("document.querySelector('.candidate.chosen')")
        names = (
            "[...document.querySelectorAll('.candidate')]"
            ".map(each => [each.querySelector('strong').innerText, each.querySelector('.badge').innerText])"
        )
        assert await page.evaluate(names) == [
            ["up/heavy", "can answer"],
            ["up/light", "can answer"],
            ["gone/m", "skipped"],
            ["up/m", "can answer"],
        ]
        assert "75 %" in await page.text(".candidate")
        assert await page.evaluate("document.querySelectorAll('.route > li').length") == 2
        assert await grave_faults(page) == []
        await page.evaluate("document.querySelector('.explain textarea').select()")
        await page.insert('{"n": 1000}')
        await page.click(".explain form button")
        await page.wait_for("document.querySelector('.explain .notice.bad')?.innerText.includes('n')")
        await page.click("dd a[href='#/models/a%2Fb%20c']")
        await page.wait_for("document.querySelector('main h1')?.innerText === 'a/b c'")
        await page.click(".actions.start button.primary")
        await page.wait_for("document.querySelector('#settings select')?.value === 'a/b c'")
        forget_refusals(page)

    visit(watched.gateway, tmp_path / "profile", act)


def test_who_may_only_read_changes_nothing(watched: Watched, tmp_path: Path) -> None:
    assert watched.gateway.accounts is not None
    watched.gateway.accounts.users.add("reader", "correct horse battery staple", role="viewer")

    async def act(page: Page) -> None:
        await page.click("header button:last-of-type")
        await page.type("input[name=username]", "reader")
        await page.type("input[name=password]", "correct horse battery staple")
        await page.click("button.primary")
        await page.wait_for("document.querySelector('nav a')")
        await open_tab(page, "models")
        assert await page.evaluate("document.querySelectorAll('main .title-row button').length") == 0
        await page.click("tbody a[href='#/models/gemma-3-270m']")
        await page.wait_for("document.querySelector('main h1')?.innerText === 'gemma-3-270m'")
        assert await page.evaluate("document.querySelectorAll('.actions.start button').length") == 0
        forget_refusals(page)  # of what was asked for while the first user left

    visit(watched.gateway, tmp_path / "profile", act)


def test_many_models_are_drawn_as_they_are_seen(gateway: Callable[..., Running], tmp_path: Path) -> None:
    providers = {"up": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk"}}
    models = {f"model-{number:04}": {"deployments": [{"provider": "up", "model": "m"}]} for number in range(3000)}
    running = gateway(llm={"providers": providers, "models": models})

    async def visiting() -> None:
        async with console(running, tmp_path / "profile") as page:
            await open_tab(page, "models")
            assert await page.evaluate("document.querySelectorAll('tbody tr').length") < 120
            await page.evaluate("document.querySelector('.table-box').scrollTo(0, 1e9)")
            await page.wait_for("document.querySelector('tbody').innerText.includes('model-2999')")
            assert await page.evaluate("document.querySelectorAll('tbody tr').length") < 120

    asyncio.run(visiting())
