"""What the console costs a browser: its first page, a stream of tokens, and scrolling through long lists.

    python benchmarks/console.py [--seconds 30] [--rate 200] [--rows 10000] [--only first stream lists]

A real headless Chromium, a gateway and a scripted upstream run on this machine; nothing else should.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests" / folder) for folder in ("", "running", "scripted")]

from browser import Page, open_page  # noqa: E402
from console_browser import log_in, open_tab  # noqa: E402
from running_gateway import Running, run_gateway  # noqa: E402
from upstream import Script, Upstream, chat_chunk, stream, usage_chunk  # noqa: E402

from sage.middleware.settings.settings import Settings  # noqa: E402

PARAGRAPH = "A whale is a mammal that **lives** in the sea, and it `breathes` air as we do; see the list below. "
ANSWERS = {
    "paragraphs, lists and code": f"## Whales\n\n{PARAGRAPH}\n\n- one\n- two: {PARAGRAPH}\n\n"
    "```python\nprint('whale')\nfor n in range(3):\n    pass\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n",
    "one long paragraph": PARAGRAPH,
    "one long block of code": "    call(argument, other='text')  # what it does\n",
}
SCROLL = """new Promise(done => {
    const box = document.querySelector('.table-box')
    const frames = []
    let before = performance.now(), empty = 0, count = 0
    const isSeen = row => {
        const at = row.getBoundingClientRect(), view = box.getBoundingClientRect()
        return at.bottom > view.top + 60 && at.top < view.bottom
    }
    const step = now => {
        frames.push(now - before); before = now
        if (![...box.querySelectorAll('tbody tr:not(.gap)')].some(isSeen)) empty += 1
        if (++count > 240) return done(JSON.stringify({frames: frames.slice(1), empty}))
        box.scrollTop = count % 40 === 0 ? Math.random() * box.scrollHeight : box.scrollTop + 400
        requestAnimationFrame(step)
    }
    requestAnimationFrame(step)
})"""


MORE = """new Promise(done => {
    const began = performance.now()
    const step = () => {
        const more = [...document.querySelectorAll('main button.wide')].at(-1)
        const quiet = !document.querySelector('main .waiting')
        if (!more && quiet && performance.now() - began > 3000 || performance.now() - began > 25000) return done()
        if (more && !more.disabled) more.click()
        setTimeout(step, 100)
    }
    step()
})"""
"""Asks for further pages until there are none."""


def answer_of(kind: str, rate: int, seconds: int) -> Script:
    """``rate`` tokens a second for so many seconds, each an event of its own."""
    text = ANSWERS[kind]
    pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
    tokens = rate * seconds
    events = [chat_chunk(pieces[number % len(pieces)]) for number in range(tokens)]
    if kind == "one long block of code":
        events.insert(0, chat_chunk("```python\n"))
    return stream([*events, chat_chunk(None, "stop"), usage_chunk(9, tokens)], delay=1 / rate)


async def first_page(gateway: Running, page: Page) -> None:
    """The page that logs in and the first one behind it, from an empty cache."""
    await page.metrics()  # counts from now on
    await page.go(gateway.url)
    await page.wait_for("document.querySelector('input[name=password]')")
    await show_load(page, "log-in page, nothing cached")
    await log_in(page)
    await page.reload()
    await page.wait_for("document.querySelector('main h1') && !document.querySelector('main .waiting')")
    await asyncio.sleep(1)
    await show_load(page, "overview, reloaded")


async def show_load(page: Page, what: str) -> None:
    metrics = await page.metrics()
    moved = await page.evaluate(
        "performance.getEntriesByType('resource').reduce((sum, each) => sum + each.encodedBodySize, 0)"
    )
    script = 1000 * (metrics["ScriptDuration"] + metrics.get("V8CompileDuration", 0))
    print(f"{what}: {script:.0f} ms of script, {1000 * metrics['TaskDuration']:.0f} ms in all, {moved / 1000:.0f} kB")


async def streams(page: Page, upstream: Upstream, rate: int, seconds: int) -> None:
    for kind in ANSWERS:
        upstream.handler = functools.partial(lambda kind, _request: answer_of(kind, rate, seconds), kind)
        await open_tab(page, "playground")
        await page.evaluate("[...document.querySelectorAll('.title-row button')].at(-1).click()")
        await page.type("#question", "Tell me about whales.")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('.markdown')?.innerText.length > 40")
        before, cpu, began = await page.metrics(), await page.renderer_seconds(), time.monotonic()
        await asyncio.sleep(seconds - 2)
        passed = time.monotonic() - began
        after, cpu = await page.metrics(), await page.renderer_seconds() - cpu
        drawn = await page.evaluate("document.querySelector('.markdown').innerText.length")
        told = ", ".join(
            f"{name.lower()} {(after[f'{name}Duration'] - before[f'{name}Duration']) / passed:.1%}"
            for name in ("Task", "Script", "Layout", "RecalcStyle")
        )
        print(f"{rate} tokens/s, {kind}: {cpu / passed:.1%} of a core in the renderer ({told}), {drawn} characters")
        await page.wait_for("document.querySelector('.took')")


async def lists(gateway: Running, page: Page, rows: int) -> None:
    """Models, which come all at once, and calls and documents, of which every further page is asked for."""
    for number in range(0, rows, 1000):
        made = [
            {"id": f"document-{each:05}", "text": f"whale {each}"} for each in range(number, min(rows, number + 1000))
        ]
        gateway.post("/collections/many/documents", {"documents": made}).raise_for_status()
    for _ in range(min(rows, 1000)):
        gateway.chat("chat-00000")
    await open_tab(page, "models")
    await page.wait_for("document.querySelector('.table-box tbody tr')")
    await scroll(page, "models")
    for name, address in (("requests", "#/requests"), ("documents", "#/search/many")):
        await page.evaluate(f"location.hash = '{address}'")
        await page.wait_for(f"document.querySelector('nav a[aria-current]')?.hash === '{address.rsplit('/many')[0]}'")
        await page.evaluate(MORE)
        if await page.evaluate("!!document.querySelector('.table-box')"):
            await scroll(page, name)


async def scroll(page: Page, name: str) -> None:
    before = await page.metrics()
    found = json.loads(await page.evaluate(SCROLL))
    after = await page.metrics()
    frames = sorted(found["frames"])
    rows = await page.evaluate("document.querySelector('.table-box table').getAttribute('aria-rowcount') - 1")
    work = 1000 * (after["TaskDuration"] - before["TaskDuration"]) / len(frames)
    print(
        f"{name}, {rows} rows: {len(frames)} frames, median {frames[len(frames) // 2]:.1f} ms, p99 "
        f"{frames[int(len(frames) * 0.99)]:.1f} ms, longest {frames[-1]:.1f} ms, work {work:.1f} ms a frame, "
        f"{found['empty']} without a row"
    )


async def measure(gateway: Running, upstream: Upstream, profile: Path, chosen: argparse.Namespace) -> None:
    async with open_page(profile) as page:
        await page.resize(1280, 800)
        await first_page(gateway, page)
        if "stream" in chosen.only:
            await streams(page, upstream, chosen.rate, chosen.seconds)
            upstream.reset()  # short answers again
        if "lists" in chosen.only:
            await lists(gateway, page, chosen.rows)
        if page.errors:
            print("errors:", page.errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=30, help="how long each stream lasts")
    parser.add_argument("--rate", type=int, default=200, help="tokens a second")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--only", nargs="+", choices=["first", "stream", "lists"], default=["first", "stream", "lists"])
    chosen = parser.parse_args()
    with Upstream() as upstream, tempfile.TemporaryDirectory() as scratch:
        providers = {"up": {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream"}}
        deployments: dict[str, Any] = {"deployments": [{"provider": "up", "model": "m"}]}
        count = chosen.rows if "lists" in chosen.only else 1
        models = {f"chat-{number:05}": deployments for number in range(count)}
        settings = {
            "data_dir": f"{scratch}/data",
            "api": {"port": 0, "access_log": False},
            "llm": {"providers": providers, "models": models},
        }
        with run_gateway(Settings.model_validate(settings)) as gateway:
            asyncio.run(measure(gateway, upstream, Path(scratch) / "profile", chosen))


if __name__ == "__main__":
    main()
