"""Sessions of the console: by an OpenID provider, by people of each role, and what is left after logging out."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from browser import Page, open_page
from console_browser import visit
from ports import free_port, wait_for_port
from running_gateway import PASSWORD, Running

pytestmark = pytest.mark.slow

KEPT = "document.cookie + JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage}) + location.href"


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield f"http://localhost:{port}"
    finally:
        server.kill()
        server.wait(10)


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running], provider: str) -> Running:
    oidc = {
        "issuer": provider,
        "client_id": "sage",
        "client_secret": "s3cret",
        "claims": {"user": "name", "roles": "groups"},
        "role_map": {"sage-users": "user"},
    }
    return module_gateway(auth={"oidc": oidc})


def test_the_organisations_provider_logs_in(running: Running, provider: str, tmp_path: Path) -> None:
    claims = {"name": "ann", "groups": ["sage-users"]}
    requests.put(f"{provider}/users/ann-1", json=claims, timeout=10).raise_for_status()
    requests.put(f"{provider}/users/eve-1", json={"name": "eve", "groups": []}, timeout=10).raise_for_status()

    async def at_provider(page: Page, subject: str) -> None:
        await page.click("a.button[href^='/auth/oidc/login']")
        while not await page.evaluate("!!document.querySelector('input[name=sub]')"):
            await asyncio.sleep(0.1)  # another document: what waits inside the page would end with it
        await page.type("input[name=sub]", subject)
        await page.click("button[type=submit]")
        while not await page.evaluate("!!document.querySelector('#app')"):
            await asyncio.sleep(0.1)

    async def visiting() -> None:
        async with open_page(tmp_path / "profile") as page:
            await page.go(running.url.replace("127.0.0.1", "localhost"))
            await at_provider(page, "eve-1")
            await page.wait_for("document.querySelector('[role=alert]')?.innerText.includes('no_role')")
            await page.wait_for("!location.href.includes('failed=')")
            await at_provider(page, "ann-1")
            await page.wait_for("document.querySelector('header .user')?.innerText === 'ann'")
            assert not await page.evaluate("!!document.querySelector(\"nav a[href='#/people']\")")
            assert len(await page.evaluate(KEPT)) < 60  # no token anywhere
            await page.reload()
            await page.wait_for("document.querySelector('header .user')?.innerText === 'ann'")

    asyncio.run(visiting())


@pytest.mark.parametrize("role", ["viewer", "user", "owner"])
def test_each_role_sees_what_its_scopes_allow(running: Running, tmp_path: Path, role: str) -> None:
    """No page that is offered asks for what is forbidden, and one that is not offered does not open."""
    user = {"username": f"a-{role}", "password": PASSWORD, "role": role}
    running.post("/auth/users", user).raise_for_status()

    async def visiting() -> None:
        async with open_page(tmp_path / "profile") as page:
            await page.go(running.url)
            await page.type("input[name=username]", user["username"])
            await page.type("input[name=password]", PASSWORD)
            await page.click("button.primary")
            await page.wait_for("document.querySelector('nav a')")
            names = json.loads(
                await page.evaluate("JSON.stringify([...document.querySelectorAll('nav a')].map(a => a.hash))")
            )
            assert ("#/people" in names) == (role == "owner")
            assert "#/settings" not in names
            for name in names:
                await page.evaluate(f"location.hash = '{name}'")
                await page.wait_for(f"document.querySelector('nav a[aria-current]')?.hash === '{name}'")
                await page.wait_for("document.querySelector('main h1') && !document.querySelector('main .waiting')")
                for tab in range(await page.evaluate("document.querySelectorAll('main [role=tab]').length")):
                    await page.evaluate(f"document.querySelectorAll('main [role=tab]')[{tab}].click()")
                    await page.wait_for("!document.querySelector('main .waiting')")
                assert (
                    await page.evaluate(
                        "[...document.querySelectorAll('main [role=alert]')].map(e => e.innerText).join()"
                    )
                    == ""
                )
            await page.evaluate("location.hash = '#/settings'")
            await page.wait_for(f"document.querySelector('nav a[aria-current]')?.hash === '{names[0]}'")
            assert page.errors == []

    asyncio.run(visiting())


def test_after_logging_out_nothing_is_left(running: Running, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await page.evaluate("location.hash = '#/keys'")
        await page.wait_for("document.querySelector('main h1')?.innerText === 'Keys'")
        token = await page.evaluate("import('/console/core/session.js').then(session => session.accessToken())")
        assert running.get("/auth/me", key=token).json()["user"] == "root"
        await page.click("header button:last-of-type")
        await page.wait_for("document.querySelector('input[name=password]')")
        assert running.get("/auth/me", key=token).status_code == 401
        await page.evaluate("history.back()")
        await page.reload()
        await page.wait_for("document.querySelector('input[name=password]')")
        assert await page.evaluate("fetch('/auth/refresh', {method: 'POST'}).then(answer => answer.status)") == 401
        page.errors.clear()  # of the refused refresh

    visit(running, tmp_path / "profile", act)


def test_logging_out_works_after_a_long_sleep_and_is_honest(running: Running, tmp_path: Path) -> None:
    """The access token has run out; then the gateway does not answer."""

    async def act(page: Page) -> None:
        await page.evaluate(
            """(() => {
                const send = window.fetch
                let refused = 0
                window.fetch = (path, options) => {
                    if (path !== '/auth/logout' || refused++ > 1) return send(path, options)
                    if (refused === 1) return Promise.reject(new TypeError('no way'))
                    return Promise.resolve(new Response('{}', {status: 401}))
                }
            })()"""
        )
        await page.click("header button:last-of-type")
        await page.wait_for("document.querySelector('.toasts')?.innerText.includes('still logged in')")
        await page.click("header button:last-of-type")
        await page.wait_for("document.querySelector('input[name=password]')")
        await page.reload()
        await page.wait_for("document.querySelector('input[name=password]')")

    visit(running, tmp_path / "profile", act)


FOREIGN: list[tuple[str, str, dict[str, Any]]] = [
    ("/auth/refresh", "refresh", {}),
    ("/auth/token", "log-in", {"data": {"username": "root", "password": PASSWORD, "session": "cookie"}}),
]


@pytest.mark.parametrize(("path", "what", "body"), FOREIGN, ids=[what for _, what, _ in FOREIGN])
def test_pages_of_others_get_no_session(running: Running, path: str, what: str, body: dict[str, Any]) -> None:
    browser = requests.Session()
    own = {"username": "root", "password": PASSWORD, "session": "cookie"}
    browser.post(f"{running.url}/auth/token", data=own, timeout=30).raise_for_status()
    cookie = {"cookie": f"sage-session={browser.cookies['sage-session']}"}
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none", "origin": running.url},
    ):
        answer = requests.post(running.url + path, headers={**cookie, **headers}, timeout=30, **body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed"), (what, headers)
        assert "set-cookie" not in answer.headers
    assert requests.get(f"{running.url}/auth/me", headers=cookie, timeout=30).status_code == 401  # for /auth's own use


def test_nothing_of_the_console_may_be_framed_or_opened_by_others(running: Running) -> None:
    for path in ("/console", "/console/", "/console/index.html", "/console/main.js"):
        headers = requests.get(running.url + path, timeout=30).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
