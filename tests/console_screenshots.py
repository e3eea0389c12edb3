"""``make screenshots``: pictures of every page of the console, light, dark, narrow and Chinese, in ``docs/images``."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "running"), str(HERE / "scripted")]

from browser import Page, open_page  # noqa: E402
from console_browser import log_in, open_tab  # noqa: E402
from middleware.console.test_console_pages import PAGES  # noqa: E402
from PIL import Image  # noqa: E402
from running_gateway import Running, run_gateway  # noqa: E402
from upstream import Received, Script, Upstream, chat_chunk, stream, usage_chunk  # noqa: E402

from sage.middleware.settings.settings import Settings  # noqa: E402

IMAGES = HERE.parent / "docs/images"
WIDE, NARROW = (1120, 700), (390, 700)
COLOURS = 48
"""Enough for pages without photographs; a picture has about 20 kB."""
LOOKS = {
    "": (WIDE, "light", "en"),
    "-dark": (WIDE, "dark", "en"),
    "-narrow": (NARROW, "light", "en"),
    "-zh": (WIDE, "light", "zh"),
}
MODELS = {
    "gpt-4o-mini": ["openai-east", "openai-west"],
    "qwen3": ["vllm"],
    "claude-sonnet": ["openai-east"],
}
QUESTIONS = ("What is hybrid retrieval?", "Summarise this ticket.", "写一首关于秋天的诗", "Translate this into French.")
ANSWER = "**Hybrid retrieval** ranks documents twice: by the *words* they share with the question, and by meaning."


def populate(gateway: Running) -> None:
    """Some calls, a collection, keys, a user and a memory."""
    for number in range(24):
        gateway.chat(list(MODELS)[number % 3], messages=[{"role": "user", "content": QUESTIONS[number % 4]}])
    texts = [
        "Hybrid retrieval fuses two searches: by words and by meaning.",
        "Whales are mammals that live in the sea.",
        "Green tea is not fermented.",
        "蓝鲸生活在寒冷的海洋中。",
    ]
    gateway.post("/collections/handbook/documents", {"documents": [{"text": text} for text in texts]})
    gateway.post("/models/gemma-3-270m/load")
    gateway.post("/auth/keys", {"name": "continuous integration", "budget": {"usd": 20, "window": "month"}})
    gateway.post("/auth/keys", {"name": "notebook", "models": ["qwen3"], "scopes": ["generate"]})
    gateway.post("/auth/users", {"username": "ada", "password": "a harder one to guess", "role": "user"})
    gateway.post("/memory", {"session_id": "ada-monday", "content": "Ada prefers answers in French."})


async def photograph(gateway: Running, profile: Path) -> None:
    async with open_page(profile) as page:
        await page.go(gateway.url)
        await page.resize(*WIDE)
        await log_in(page)
        for look, (size, theme, language) in LOOKS.items():
            await dress(page, theme, language)
            for name in PAGES:
                await page.resize(*WIDE)
                await open_tab(page, name)
                if name == "playground":
                    await ask_two_models(page)
                await shoot(page, f"{name}{look}", size)
                if name == "models":
                    await page.resize(*WIDE)
                    await explain_a_model(page)
                    await shoot(page, f"explain{look}", size)


async def shoot(page: Page, name: str, size: tuple[int, int]) -> None:
    await page.resize(*size)
    await asyncio.sleep(0.3)  # a chart is drawn anew
    await page.evaluate("document.querySelector('.explain')?.scrollIntoView()")
    await page.screenshot(picture := IMAGES / f"console-{name}.png")
    Image.open(picture).quantize(COLOURS).save(picture, optimize=True)


async def ask_two_models(page: Page) -> None:
    """Both answer from a collection."""
    await page.wait_for("document.querySelector('#settings select')")
    if await page.evaluate("document.querySelectorAll('#settings > .field').length") == 1:
        await page.click("#settings > button.wide")
        for side, model in enumerate(("gpt-4o-mini", "claude-sonnet")):
            await choose(page, f"#settings > .field:nth-of-type({side + 1}) select", model)
        await page.click("#settings details:nth-of-type(3) summary")
        await choose(page, "select[name=collection]", "handbook")
    await page.evaluate("document.querySelector('main .title-row button:last-of-type').click()")
    await page.wait_for("!document.querySelector('.turn')")
    await page.type("#question", QUESTIONS[0])
    await page.press("Enter", 13)
    await page.wait_for("document.querySelectorAll('.took .cost').length === 2")


async def choose(page: Page, selector: str, value: str) -> None:
    await page.wait_for(f"document.querySelector({selector!r})?.querySelector('option[value={value}]')")
    await page.evaluate(
        f"(() => {{ const s = document.querySelector({selector!r}); s.value = '{value}';"
        " s.dispatchEvent(new Event('change', {bubbles: true})) })()"
    )
    await page.wait_for(f"document.querySelector({selector!r}).value === '{value}'")
    await asyncio.sleep(0.2)  # drawn anew with it


async def explain_a_model(page: Page) -> None:
    await page.click("tbody a[href='#/models/gpt-4o-mini']")
    await page.click(".explain form button")
    await page.wait_for("document.querySelector('.route')")


async def dress(page: Page, theme: str, language: str) -> None:
    if await page.evaluate("document.documentElement.dataset.theme") != theme:
        await page.evaluate("[...document.querySelectorAll('header button')].at(-2).click()")
    await page.evaluate(
        f"(() => {{ const s = document.querySelector('#language'); s.value = '{language}';"
        " s.dispatchEvent(new Event('change', {bubbles: true})) })()"
    )
    await page.wait_for(f"document.documentElement.lang.startsWith('{language}')")


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with Upstream() as upstream, tempfile.TemporaryDirectory() as scratch:
        names = {provider for providers in MODELS.values() for provider in providers}
        section = {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream"}
        models = {
            name: {
                "deployments": [
                    {"provider": provider, "model": name, "weight": 3 - place, "price": {"input": 0.15, "output": 0.6}}
                    for place, provider in enumerate(providers)
                ]
            }
            for name, providers in MODELS.items()
        }
        llm = {"providers": dict.fromkeys(sorted(names), section), "models": models, "memory_budget": "2GiB"}
        settings = {"data_dir": f"{scratch}/data", "api": {"port": 0, "access_log": False}, "llm": llm}
        with run_gateway(Settings.model_validate(settings)) as gateway:
            populate(gateway)
            upstream.handler = answer
            asyncio.run(photograph(gateway, Path(scratch) / "profile"))


def answer(_request: Received) -> Script:
    """A stream that the playground shows."""
    words = ANSWER.split(" ")
    chunks = [chat_chunk(f"{word} ") for word in words]
    return stream([*chunks, chat_chunk(None, "stop"), usage_chunk(14, len(words))], delay=0.005)


if __name__ == "__main__":
    main()
