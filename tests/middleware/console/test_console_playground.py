"""The console's playground in a real browser: images, tools, sources, memory, costs, and the code of a request."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser import Page
from console_browser import grave_faults, open_tab, visit
from mcp_upstream import McpUpstream, tool
from node_packages import NO_NODE, needs_node, node_folder
from PIL import Image
from running_gateway import Running
from upstream import Script, Upstream, chat_chunk, stream, usage_chunk

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=document.title='caught'><script>document.title='caught'</script>\"'`${{7*7}}"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
LANGUAGES = {"en": ("Send", "Stop"), "zh": ("发送", "停止")}


@dataclass(frozen=True)
class Watched:
    """A gateway, the model behind it, and a server of tools."""

    gateway: Running
    upstream: Upstream


@pytest.fixture(scope="module")
def watched(module_gateway: Callable[..., Running]) -> Iterator[Watched]:
    with Upstream() as upstream, McpUpstream(tool("echo")) as docs:
        price = {"input": 1000, "output": 2000}  # dollars for a million tokens
        llm = {
            "providers": {"up": {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream"}},
            "models": {
                name: {"deployments": [{"provider": "up", "model": "m", "price": price}]} for name in ("bench", "other")
            },
        }
        gateway = module_gateway(
            llm=llm,
            mcp={"servers": {"docs": {"url": docs.url}}},
            retrieval={"defaults": {"embedder": "none"}},
            services={"memory": {"embedder": "none"}},
        )
        text = "The base on the moon is called Selene."
        documents = {"documents": [{"id": "moon", "text": text, "metadata": {"title": HOSTILE}}]}
        assert gateway.post("/collections/facts/documents", documents).status_code == 200
        memory = {"session_id": "monday", "content": "I drink oolong tea on the moon."}
        assert gateway.post("/memory", memory).ok
        yield Watched(gateway, upstream)


@pytest.fixture
def up(watched: Watched) -> Upstream:
    watched.upstream.reset()
    return watched.upstream


async def ask(page: Page, question: str, *, answers: int = 1) -> None:
    """Asks by keyboard, and waits until so many answers of the page are complete."""
    await page.evaluate("document.querySelector('#question').focus()")
    await page.insert(question)
    await page.wait_for("!document.querySelector('#question').form.querySelector('.primary').disabled")
    await page.press("Enter", 13)
    await page.wait_for(f"document.querySelectorAll('.took').length === {answers}")


async def open_section(page: Page, number: int) -> None:
    await page.click(f"#settings details:nth-of-type({number}) summary")


def asked(up: Upstream) -> list[dict[str, Any]]:
    return [request.body for request in up.requests]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_question_by_keyboard(watched: Watched, up: Upstream, tmp_path: Path, language: str) -> None:
    code = "```python\nprint('Paris')\n```"
    text = (
        f"**Paris**, said {HOSTILE}\n\n[a link](javascript:document.title='caught')\n\n![seen](http://192.0.2.1/x.png)"
        f"\n\n{code}"
    )
    up.stream([chat_chunk(text), chat_chunk(None, "stop"), usage_chunk(5, 7)], times=1)

    async def act(page: Page) -> None:
        await speak(page, language)
        await open_tab(page, "playground")
        await ask(page, "What is the capital?")
        await page.wait_for("document.querySelector('.markdown strong')?.innerText === 'Paris'")
        assert HOSTILE.split("<script>")[0] in await page.text(".markdown")
        assert await page.evaluate("document.querySelectorAll('.markdown img, .markdown script').length") == 0
        assert await page.evaluate("document.querySelector('.markdown a').getAttribute('href')") is None
        assert "5 → 7" in await page.text(".took")
        await page.wait_for("document.querySelector('.took .cost')?.innerText.includes('0.02')")  # 5 and 2 x 7 mille
        assert "up/m" in await page.text(".answer header")
        link = str(await page.evaluate("document.querySelector('.took a').getAttribute('href')"))
        (call,) = watched.gateway.get(f"/usage/requests?{link.partition('?')[2]}").json()["requests"]
        assert call["prompt_tokens"] == 5
        await page.evaluate(
            "navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve() }"
        )
        await page.click(".copied-code button")
        await page.wait_for("window.copied")
        assert await page.evaluate("window.copied") == "print('Paris')\n"
        assert (await page.text(".composer button:last-of-type")).strip() == LANGUAGES[language][0]
        assert await page.evaluate("document.title") != "caught"
        assert await grave_faults(page) == []

    visit(watched.gateway, tmp_path / "profile", act)
    assert asked(up)[0]["messages"] == [{"role": "user", "content": "What is the capital?"}]


async def speak(page: Page, language: str) -> None:
    await page.evaluate(
        f"(() => {{ const s = document.querySelector('#language'); s.value = '{language}';"
        " s.dispatchEvent(new Event('change', {bubbles: true})) })()"
    )
    await page.wait_for(f"document.documentElement.lang.startsWith('{language}')")


def test_a_question_is_edited_stopped_and_asked_of_two(watched: Watched, up: Upstream, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "playground")
        await ask(page, "first")
        await ask(page, "second", answers=2)
        await page.click(".turn:first-child .question-bar button")
        await page.evaluate("document.querySelector('.turn .composer textarea').select()")
        await page.insert("changed")
        await page.click(".turn .composer button.primary")
        await page.wait_for("document.querySelectorAll('.turn').length === 1 && document.querySelector('.took')")
        assert (await page.text(".question")).strip() == "changed"
        up.stream([chat_chunk("Half"), chat_chunk(" whole")], hang_after=1, times=1)
        await page.click("#question")
        await page.insert("third")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelectorAll('.markdown')[1]?.innerText.trim() === 'Half'")
        await page.click(".composer button:last-of-type")
        await page.wait_for("document.querySelectorAll('.took').length === 2")
        up.wait_closed()
        await page.click("#settings > button.wide")
        await page.wait_for("document.querySelectorAll('#settings select').length === 2")
        await page.evaluate(
            "(() => { const s = document.querySelectorAll('#settings select')[1]; s.value = 'other';"
            " s.dispatchEvent(new Event('change', {bubbles: true})) })()"
        )
        await ask(page, "both", answers=4)
        assert await page.evaluate(
            "[...document.querySelectorAll('.sides-2 header strong')].map(e => e.innerText)"
        ) == [
            "bench",
            "other",
        ]
        await page.click("nav a[href='#/models']")
        await open_tab(page, "playground")
        assert await page.evaluate("document.querySelectorAll('.turn').length") == 3

    visit(watched.gateway, tmp_path / "profile", act)
    said = [[message["content"] for message in body["messages"]] for body in asked(up)]
    assert said[:3] == [["first"], ["first", "first", "second"], ["changed"]]
    assert said[4] == ["changed", "changed", "third", "Half", "both"] == said[5]


def test_images_are_picked_pasted_dropped_and_bounded(watched: Watched, up: Upstream, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "playground")
        await give(page, "pick", "one.png", PIXEL)
        await page.wait_for("document.querySelectorAll('.thumbnails li').length === 1")
        await give(page, "paste", "one.png", PIXEL)
        await page.wait_for("document.querySelectorAll('.thumbnails li').length === 2")
        await give(page, "drop", "two.png", PIXEL)
        await page.wait_for("document.querySelectorAll('.thumbnails li').length === 3")
        await page.click(".thumbnails li:last-child button")
        await page.wait_for("document.querySelectorAll('.thumbnails li').length === 2")
        await give(page, "drop", f"{HOSTILE[:40]}.svg", b"<svg/>", kind="image/svg+xml")
        await page.wait_for("document.querySelector('.composer [role=alert]')?.innerText.includes('PNG, JPEG')")
        await give(page, "drop", "huge.png", PIXEL, times=800_000)
        await page.wait_for("document.querySelector('.composer [role=alert]')?.innerText.includes('50 MiB')")
        await give(page, "drop", "text.png", b"this is no image")
        await page.wait_for("document.querySelector('.composer [role=alert]')?.innerText.includes('cannot read it')")
        assert await grave_faults(page) == []
        await ask(page, "What is this?")
        assert await page.evaluate("document.querySelectorAll('.question img').length") == 2

    visit(watched.gateway, tmp_path / "profile", act)
    url = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    picture = {"type": "image_url", "image_url": {"url": url}}
    content = asked(up)[0]["messages"][0]["content"]
    assert content == [{"type": "text", "text": "What is this?"}, picture, picture]


def test_large_images_are_shrunk_before_they_are_sent(watched: Watched, up: Upstream, tmp_path: Path) -> None:
    def image(mode: str, size: tuple[int, int], kind: str, colour: Any) -> bytes:
        Image.new(mode, size, colour).save(written := io.BytesIO(), kind)
        return written.getvalue()

    noise = io.BytesIO()
    Image.frombytes("RGB", (1600, 1200), random.Random(7).randbytes(1600 * 1200 * 3)).save(noise, "PNG")
    assert len(noise.getvalue()) > 5 * 2**20

    async def act(page: Page) -> None:
        await open_tab(page, "playground")
        await give(page, "pick", "wide.png", image("RGBA", (5000, 1000), "PNG", (0, 0, 0, 0)))
        await page.wait_for("document.querySelector('.composer .note')?.innerText.includes('5000 × 1000')")
        assert "2048 × 410" in await page.text(".composer .note")
        await give(page, "paste", "heavy.png", noise.getvalue())
        await ask(page, "What is this?")  # what is typed while a picture is read stays, and waits for it

    visit(watched.gateway, tmp_path / "profile", act)
    text, *pictures = asked(up)[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is this?"}
    sent = [part["image_url"]["url"] for part in pictures]
    opened = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in sent]
    assert [(each.format, each.size) for each in opened] == [("PNG", (2048, 410)), ("JPEG", (1600, 1200))]
    assert opened[0].convert("RGBA").getpixel((9, 9)) == (0, 0, 0, 0)  # still transparent
    assert all(len(url) < 5_000_000 for url in sent)


async def give(page: Page, way: str, name: str, content: bytes, *, kind: str = "image/png", times: int = 1) -> None:
    """Gives a file to the place for questions, as a person would."""
    encoded = base64.b64encode(content).decode()
    await page.evaluate(
        f"""(() => {{
            const bytes = Uint8Array.from(atob("{encoded}"), sign => sign.charCodeAt(0));
            const file = new File(Array({times}).fill(bytes), {json.dumps(name)}, {{type: "{kind}"}});
            const given = new DataTransfer();
            given.items.add(file);
            const way = "{way}", form = document.querySelector(".talk-column > .composer");
            if (way === "pick") {{
                const picker = form.querySelector("input[type=file]");
                picker.files = given.files;
                picker.dispatchEvent(new Event("change", {{bubbles: true}}));
            }} else if (way === "paste")
                form.dispatchEvent(new ClipboardEvent("paste", {{clipboardData: given, bubbles: true}}));
            else form.dispatchEvent(new DragEvent("drop", {{dataTransfer: given, bubbles: true}}));
        }})()"""
    )


def calling(name: str, arguments: str) -> Script:
    """A stream in which the model calls a tool, in two pieces."""
    chunks = []
    for piece in (
        {"id": "call_7", "type": "function", "function": {"name": name, "arguments": ""}},
        {"function": {"arguments": arguments}},
    ):
        chunk = chat_chunk(None)
        chunk["choices"][0]["delta"] = {"tool_calls": [{"index": 0, **piece}]}
        chunks.append(chunk)
    return stream([*chunks, chat_chunk(None, "tool_calls"), usage_chunk(9, 4)])


def test_tools_are_answered_by_hand_and_run_by_the_gateway(watched: Watched, up: Upstream, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "playground")
        await open_section(page, 5)
        await page.type("textarea[name=tools]", '{"type": "function"}')
        await page.wait_for("document.querySelector('#settings .bad-text')")
        assert await page.evaluate("document.querySelector('.composer button.primary').disabled")
        await page.click("#settings .section .actions button")
        up.use(calling("get_weather", '{"city": "Paris"}'), 1)
        await ask(page, "How warm is it?")
        assert "Paris" in await page.text(".tool pre")
        assert await grave_faults(page) == []
        await page.click("#question")
        await page.insert("not yet")
        await page.press("Enter", 13)
        await page.type(".tool textarea", HOSTILE)
        await page.click(".tool-calls button.primary")
        await page.wait_for("document.querySelectorAll('.took').length === 2")
        assert HOSTILE in await page.text(".tool pre:last-of-type")
        await page.evaluate("document.querySelector('textarea[name=tools]').select()")
        await page.press("Backspace", 8)
        await page.click("#settings fieldset input")
        await page.click("main .title-row button:last-of-type")
        up.use(calling("docs__echo", '{"text": "hi"}'), 1)
        await page.click("#question")
        await page.press("End", 35)
        await ask(page, "!")
        assert await page.text(".answer .tool summary .badge") == "done"
        assert "docs · echo" in await page.text(".answer .tool summary")
        await page.click(".answer .tool summary")
        assert "hi" in await page.text(".answer .tool pre:last-of-type")

    visit(watched.gateway, tmp_path / "profile", act)
    first, second, third, fourth = asked(up)
    assert first["tools"][0]["function"]["name"] == "get_weather"
    assert second["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_7",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_7", "content": HOSTILE},
    ]
    assert [tool["function"]["name"] for tool in third["tools"]] == ["docs__echo"]
    assert fourth["messages"][-1]["role"] == "tool"


def test_sources_open_and_memories_are_shown(watched: Watched, up: Upstream, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "playground")
        await open_section(page, 3)
        await choose(page, "collection", "facts")
        await open_section(page, 4)
        await page.wait_for("document.querySelector('#sessions option')?.value === 'monday'")
        await page.type("input[name=session]", "monday")
        await ask(page, "What is the base on the moon called?")
        assert HOSTILE in await page.text(".source")
        await page.click(".source")
        assert await page.text("dialog .text") == "The base on the moon is called Selene."
        assert HOSTILE in await page.text("dialog h2")
        assert await grave_faults(page) == []
        await page.click("dialog .actions button")
        await page.click(".memories summary")
        assert "oolong" in await page.text(".memories li")
        assert await page.evaluate("document.title") == "Playground · SAGE"

    visit(watched.gateway, tmp_path / "profile", act)
    (body,) = asked(up)
    assert "Selene" in json.dumps(body["messages"])
    turns = watched.gateway.get("/memory/sessions/monday").json()["memories"]
    assert "What is the base on the moon called?" in [memory["content"] for memory in turns]


async def choose(page: Page, name: str, value: str) -> None:
    await page.wait_for(f"document.querySelector('select[name={name}] option[value={value}]')")
    await page.evaluate(
        f"(() => {{ const s = document.querySelector('select[name={name}]'); s.value = '{value}';"
        " s.dispatchEvent(new Event('change', {bubbles: true})) })()"
    )


FIELDS = {"temperature": "0.5", "top_p": "0.9", "max_tokens": "50", "seed": "7"}
HARD = "What's on the \"moon\" for $5? $HOME `date` $(date) 'x' \\n {x} END\n中"


def test_the_code_of_a_request_makes_the_same_request(watched: Watched, up: Upstream, tmp_path: Path) -> None:
    """Curl, Python with the vendor's SDK, and Node with the vendor's SDK where it is."""
    programs: dict[str, str] = {}

    async def act(page: Page) -> None:
        await open_tab(page, "playground")
        await open_section(page, 2)
        for name, value in FIELDS.items():
            await page.type(f"input[name={name}]", value)
        await choose(page, "reasoning_effort", "low")
        await choose(page, "format", "json_object")
        await page.type("textarea[name=stop]", "END\n$x")
        await open_section(page, 3)
        await choose(page, "collection", "facts")
        await give(page, "pick", "a 'picture'.png", PIXEL)
        await ask(page, HARD)
        await page.click("main .title-row button:nth-of-type(2)")
        for number, name in enumerate(("curl", "python", "node"), 1):
            await page.click(f"dialog [role=tab]:nth-child({number})")
            programs[name] = str(await page.evaluate("document.querySelector('dialog pre').textContent"))

    visit(watched.gateway, tmp_path / "profile", act)
    (tmp_path / "a 'picture'.png").write_bytes(PIXEL)
    commands = {"curl": ["bash", "-c", programs["curl"]], "python": [sys.executable, "-c", programs["python"]]}
    for command in commands.values():
        done = run(command, tmp_path, watched.gateway.key)
        assert done.returncode == 0, done.stderr
    first, *others = ({k: v for k, v in body.items() if k not in ("stream", "stream_options")} for body in asked(up))
    expected = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 50, "seed": 7, "stop": ["END", "$x"]}
    expected |= {"reasoning_effort": "low", "response_format": {"type": "json_object"}}
    assert {name: first[name] for name in expected} == expected
    assert len(others) == 2
    for body in others:
        assert without_marks(body) == without_marks(first)
    (tmp_path / "program.mjs").write_text(programs["node"])


@needs_node
def test_the_code_for_node(watched: Watched, up: Upstream, tmp_path: Path) -> None:
    programs: list[str] = []

    async def act(page: Page) -> None:
        await open_tab(page, "playground")
        await ask(page, HARD)
        await page.click("main .title-row button:nth-of-type(2)")
        await page.click("dialog [role=tab]:nth-child(3)")
        programs.append(str(await page.evaluate("document.querySelector('dialog pre').textContent")))

    visit(watched.gateway, tmp_path / "profile", act)
    command = ["node", "--input-type=module", "--eval", programs[0]]
    done = run(command, node_folder(), watched.gateway.key)
    assert done.returncode == 0, f"{NO_NODE}: {done.stderr}"
    assert done.stdout.strip() == HARD
    assert asked(up)[0]["messages"] == asked(up)[1]["messages"]


def run(command: list[str], folder: Path, key: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "SAGE_KEY": key, "NO_PROXY": "*"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def without_marks(body: dict[str, Any]) -> str:
    """The lines between sources have a mark that is drawn anew for each request."""
    return re.sub(r"={3}[0-9a-f]{16}", "MARK", json.dumps(body, sort_keys=True))
