"""The first minute in a real browser: set-up token, first admin, the local model's answer; then other programs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import open_page
from console_browser import grave_faults, open_tab
from console_way import LANGUAGES, MEANS, Means, start
from fresh_gateway import run_fresh_gateway
from node_packages import NO_NODE, needs_node, node_folder
from running_gateway import PASSWORD
from upstream import Upstream

pytestmark = pytest.mark.slow

MINUTE = 60.0
_ALL = [(means, language) for means in MEANS for language in LANGUAGES]
ASKED = _ALL if os.environ.get("SAGE_TEST_FULL") else [("keyboard", "en"), ("pointer", "zh")]
"""The ways on which the model, which takes long to load, is asked."""


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("means", MEANS)
def test_the_first_admin_asks_the_local_model_within_a_minute(tmp_path: Path, means: Means, language: str) -> None:
    """By keyboard alone or by pointer alone, and on to the page that connects a client; the local model is real."""

    async def visiting(url: str, token: str) -> None:
        async with open_page(tmp_path / "profile") as page:
            way = await start(page, language, means, url)
            assert await page.text("main h1") == way.text("setup.title")
            assert await grave_faults(page) == []
            began = time.monotonic()
            await way.fill("setup.token", token)
            await way.fill("login.user", "ada")
            await way.fill("login.password", "password")
            await way.act("setup.action")
            await page.wait_for("document.querySelector('.notice.bad')?.innerText.includes('password')")
            await way.fill("login.password", PASSWORD)
            await way.act("setup.action")
            await page.wait_for("document.querySelector('#question')")
            assert await page.text("main h1") == way.text("page.playground")
            assert await page.evaluate("document.querySelector('#settings select').value") == "gemma-3-270m"
            if (means, language) in ASKED:
                await way.act(name=await page.text(".talk-start button"))
                await page.wait_for("document.querySelector('.took')")
                await page.wait_for("document.querySelector('.markdown').innerText.trim().length > 1")
                assert time.monotonic() - began < MINUTE
            await way.open("connect")
            await way.act("connect.make_key")
            await way.shows(way.text("connect.made_key"))
            for client in ("Python", "curl"):
                await way.tab(name=client)
            assert "sk-" in await page.text("[role=tabpanel] pre")

    with run_fresh_gateway(tmp_path / "data") as url:
        asyncio.run(visiting(url, (tmp_path / "data/setup-token").read_text().strip()))


MODEL = 'it\'s/a "model" $HOME'
QUESTION = "What is the capital of France?"


@needs_node
def test_the_texts_of_connect_run_as_they_stand(tmp_path: Path) -> None:
    """Curl, and the vendor's SDKs of Python and Node; ``tests/clients`` tries whole programs."""
    texts: dict[str, str] = {}

    async def visiting(url: str, token: str) -> None:
        async with open_page(tmp_path / "profile") as page:
            await page.go(f"{url}/console#/setup?token={token}")
            await page.wait_for("document.querySelector('input[name=given]')")
            await page.type("input[name=username]", "ada")
            await page.type("input[name=password]", PASSWORD)
            await page.click("button.primary")
            await page.wait_for("document.querySelector('#question')")
            await open_tab(page, "connect")
            await page.evaluate(
                "(() => { const s = document.querySelector('main select'); s.value = s.options[0].value;"
                " for (const o of s.options) if (o.value.startsWith('it')) s.value = o.value;"
                " s.dispatchEvent(new Event('change', {bubbles: true})) })()"
            )
            await page.click("main button.primary")
            await page.wait_for("document.querySelector('main .notice.good')")
            assert await grave_faults(page) == []
            for number, name in enumerate(("curl", "Python", "Node"), 1):
                await page.click(f"main [role=tab]:nth-child({number})")
                last = "[...document.querySelectorAll('[role=tabpanel] pre')].at(-1).textContent"
                texts[name] = str(await page.evaluate(last))
            await page.press("ArrowRight", 39)
            assert await page.evaluate("document.activeElement.innerText") == "Claude Code"

    with Upstream() as upstream:
        providers = {"up": {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream"}}
        llm = {"providers": providers, "models": {MODEL: {"deployments": [{"provider": "up", "model": "m"}]}}}
        with run_fresh_gateway(tmp_path / "data", llm=llm) as url:
            asyncio.run(visiting(url, (tmp_path / "data/setup-token").read_text().strip()))
            assert QUESTION in run(["bash", "-c", texts["curl"]], tmp_path)
            assert run([sys.executable, "-c", texts["Python"]], tmp_path).strip() == QUESTION
            node = ["node", "--input-type=module", "--eval", texts["Node"]]
            assert run(node, node_folder()).strip() == QUESTION, NO_NODE


def run(command: list[str], folder: Path) -> str:
    """What it prints, without a key but that of the text."""
    environment = {"PATH": os.environ["PATH"], "NO_PROXY": "*"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
