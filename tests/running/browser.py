"""A real headless Chromium for tests, driven through its DevTools protocol (chromedevtools.github.io).

Everything that waits, waits inside the page on a mutation of its document, never on a clock.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--window-size=1280,1600",
)
_DEADLINE = 30.0


class PageFailed(AssertionError):
    """The page threw, or what was waited for did not come."""


def chromium() -> str:
    """The browser's program. Without one the test fails in CI, and elsewhere is skipped."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        reason = "this test needs a Chromium: apt-get install chromium"
        pytest.fail(reason, pytrace=False) if os.environ.get("CI") else pytest.skip(reason)
    return program


class Page:
    """One tab. ``requested`` holds the URL of every request that left it, ``errors`` what its console complained of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.requested: list[str] = []
        self.errors: list[str] = []
        self._socket = socket
        self._session = ""
        self._context: dict[str, str] = {}
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()

    async def attach(self, downloads: Path) -> None:
        """Makes the tab and asks for its events."""
        made = await self._call("Target.createBrowserContext", disposeOnDetach=True)
        self._context = {"browserContextId": made["browserContextId"]}
        where = {"behavior": "allow", "downloadPath": str(downloads)}
        await self._call("Browser.setDownloadBehavior", **where, **self._context)
        target = await self._call("Target.createTarget", url="about:blank", **self._context)
        attached = await self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self._call(f"{domain}.enable")

    async def close(self) -> None:
        """Ends the tab, and waits until it has ended."""
        self._session = ""  # what follows is asked of the browser
        await self._call("Target.disposeBrowserContext", **self._context)

    async def listen(self) -> None:
        """Reads what the browser says until it ends."""
        async for message in self._socket:
            content = json.loads(message.data)
            if "id" in content:
                answer = self._answers.pop(content["id"])
                if not answer.done():
                    answer.set_result(content)
            else:
                self._note(content["method"], content["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requested.append(params["url"])
        elif method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:1000])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def _call(self, method: str, *, of_browser: bool = False, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        if self._session and not of_browser:
            message["sessionId"] = self._session
        await self._socket.send_json(message)
        async with asyncio.timeout(_DEADLINE):
            answer = await self._answers[number]
        if "error" in answer:
            raise PageFailed(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def go(self, url: str) -> None:
        """Opens ``url`` and waits until it has loaded."""
        self._loaded.clear()
        opened = await self._call("Page.navigate", url=url)
        if opened.get("errorText"):
            raise PageFailed(f"{url}: {opened['errorText']}")
        async with asyncio.timeout(_DEADLINE):
            await self._loaded.wait()

    async def reload(self) -> None:
        """Loads the document anew and waits until it has: what was there before is gone."""
        self._loaded.clear()
        await self._call("Page.reload")
        async with asyncio.timeout(_DEADLINE):
            await self._loaded.wait()

    async def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = await self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise PageFailed(f"{script}: {details.get('exception', {}).get('description', details['text'])}")
        return answer["result"].get("value")

    async def wait_for(self, condition: str) -> None:
        """Until a JavaScript expression is true; it is looked at whenever the document changes."""
        await self.evaluate(
            f"""new Promise((done, fail) => {{
                const look = () => {{
                    const value = !!({condition});
                    if (value) {{ watch.disconnect(); clearTimeout(limit); done(); }}
                    return value;
                }};
                const watch = new MutationObserver(look);
                const limit = setTimeout(() => {{
                    watch.disconnect(); fail(new Error("never came; the page reads: " + document.body.innerText));
                }}, {int(_DEADLINE * 800)});
                if (!look()) {{
                    const all = {{subtree: true, childList: true, attributes: true, characterData: true}};
                    watch.observe(document, all);
                }}
            }})"""
        )

    async def click(self, selector: str) -> None:
        """A click of the mouse on the first element of that CSS selector, once it is there, still and uncovered."""
        quoted = json.dumps(selector)
        await self.wait_for(f"document.querySelector({quoted})")
        x, y = await self.evaluate(
            f"""new Promise(done => {{
                let before = "", still = 0;
                const look = () => {{
                    const element = document.querySelector({quoted});
                    element.scrollIntoView({{block: "center", behavior: "instant"}});
                    const box = element.getBoundingClientRect();
                    const place = [box.left + box.width / 2, box.top + box.height / 2];
                    const hit = document.elementFromPoint(...place);
                    still = before === String(place) && hit && element.contains(hit) ? still + 1 : 0;
                    before = String(place);
                    if (still >= 5) done(place); else requestAnimationFrame(look);
                }};
                look();
            }})"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def follow(self, selector: str) -> None:
        """A click that leads to another page; waits until that has loaded."""
        self._loaded.clear()
        await self.click(selector)
        async with asyncio.timeout(_DEADLINE):
            await self._loaded.wait()

    async def type(self, selector: str, text: str) -> None:
        """Clicks the field of that CSS selector and types into it."""
        await self.click(selector)
        await self.insert(text)

    async def insert(self, text: str) -> None:
        """Types ``text`` in place of what is selected."""
        await self._call("Input.insertText", text=text)

    async def select_all(self) -> None:
        """Selects what the field holds, as Ctrl+A does."""
        keys = {"key": "a", "code": "KeyA", "windowsVirtualKeyCode": 65, "modifiers": 2}
        await self._call("Input.dispatchKeyEvent", type="keyDown", commands=["selectAll"], **keys)
        await self._call("Input.dispatchKeyEvent", type="keyUp", **keys)

    async def block(self, *urls: str) -> None:
        """Lets no request to these URLs, with ``*`` for anything, leave the tab; none: all leave it again."""
        await self._call("Network.setBlockedURLs", urls=list(urls))

    async def choose_files(self, selector: str, *files: Path) -> None:
        """Gives ``files`` to the picker of that CSS selector, as the dialog of the system would."""
        found = await self._call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        names = [str(file) for file in files]
        await self._call("DOM.setFileInputFiles", objectId=found["result"]["objectId"], files=names)

    async def press(self, key: str, code: int, *, shift: bool = False) -> None:
        """Presses a key, such as ``Enter``, whose virtual code is ``code``."""
        held = {"modifiers": 8} if shift else {}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind, more in (("keyDown", text), ("keyUp", {})):
            keys = {"key": key, "code": key, "windowsVirtualKeyCode": code, **held, **more}
            await self._call("Input.dispatchKeyEvent", type=kind, **keys)

    async def metrics(self) -> dict[str, float]:
        """What the page has cost so far, by DevTools' names, such as ``ScriptDuration`` in seconds."""
        await self._call("Performance.enable")
        found = await self._call("Performance.getMetrics")
        return {each["name"]: each["value"] for each in found["metrics"]}

    async def renderer_seconds(self) -> float:
        """The processor time of the processes that draw pages, in seconds."""
        found = await self._call("SystemInfo.getProcessInfo", of_browser=True)
        return sum(float(each["cpuTime"]) for each in found["processInfo"] if each["type"] == "renderer")

    async def text(self, selector: str) -> str:
        """What a reader sees in the first element of that CSS selector."""
        return str(await self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def resize(self, width: int, height: int) -> None:
        """Gives the window that many CSS pixels."""
        await self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    async def screenshot(self, path: Path) -> None:
        """What the window shows now, as a PNG file."""
        shot = await self._call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


class Browser:
    """A Chromium that runs until this process ends. All pages of a process are its, each in a context of its own: no
    page has another one's cookies, storage or cache. To start one takes longer than most tests with a page do."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="sage-browser-")
        self._log = Path(self._directory) / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*_dies_with_us(), chromium(), *_FLAGS, f"--user-data-dir={self._directory}/profile"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        atexit.register(self.close)
        self.address = self._devtools()
        """Of its DevTools protocol."""

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        atexit.unregister(self.close)
        if self.is_alive:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _devtools(self) -> str:
        """The address that the browser says it listens on."""
        end = time.monotonic() + _DEADLINE
        while not (match := re.search(rb"DevTools listening on (ws://\S+)\n", self._log.read_bytes())):
            if not self.is_alive or time.monotonic() > end:
                said = self._log.read_text(errors="replace")
                self.close()
                raise PageFailed(f"Chromium did not start: {said}")
            time.sleep(0.01)
        return match[1].decode()


def _dies_with_us() -> list[str]:
    """What makes a command end when the thread that starts it does, as in a test run that is killed."""
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "KILL"]


_browsers: list[Browser] = []
"""The one that was started last, if any."""


def _running_browser() -> Browser:
    if not _browsers or not _browsers[-1].is_alive:
        for ended in _browsers:
            ended.close()
        _browsers[:] = [Browser()]
    return _browsers[-1]


def close_browser() -> None:
    """To be called when the tests have ended: processes of xdist run nothing that is registered for their exit."""
    for browser in _browsers:
        browser.close()
    _browsers.clear()


@asynccontextmanager
async def open_page(downloads: Path) -> AsyncIterator[Page]:
    """A tab with a context of its own, as in a new browser. What it downloads lies in the folder ``downloads``."""
    browser = _running_browser()
    async with aiohttp.ClientSession() as client, client.ws_connect(browser.address, max_msg_size=0) as socket:
        page = Page(socket)
        listener = asyncio.create_task(page.listen())
        await page.attach(downloads)
        yield page
        await page.close()
    await listener
