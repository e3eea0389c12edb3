"""The console's keys, people, limits, audit and account in a real browser: made, changed, revoked, by who may."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from browser import Page
from console_browser import grave_faults, in_chinese, open_tab, visit
from running_gateway import PASSWORD, Running
from upstream import Upstream

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=document.title='caught'><script>document.title='caught'</script>\"'`${{7*7}}"[:90]
NEW = "seven tall giraffes drink"


@pytest.fixture(scope="module")
def governed(module_gateway: Callable[..., Running]) -> Iterator[Running]:
    with Upstream() as up:
        providers = {"up": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}}
        deployment = {"provider": "up", "model": "m", "price": {"input": 1, "output": 1}}
        models = {"bench": {"deployments": [deployment], "limits": {"rpm": 500}}}
        gateway = module_gateway(llm={"providers": providers, "models": models})
        for name, role in (("olga", "owner"), ("ann", "user"), ("vic", "viewer")):
            user = {"username": name, "password": PASSWORD, "role": role, "tenant": "red"}
            assert gateway.post("/auth/users", user).status_code == 201
        yield gateway


async def fill(page: Page, selector: str, text: str) -> None:
    """Puts ``text`` into a field in place of what it holds."""
    await page.evaluate(
        f"(() => {{ const f = document.querySelector({json.dumps(selector)}); f.focus(); f.select?.() }})()"
    )
    await page.insert(text)


async def open_row(page: Page, text: str) -> None:
    """Opens the row with that text, by pointer."""
    row = f"[...document.querySelectorAll('main tbody tr')].find(each => each.innerText.includes({json.dumps(text)}))"
    await page.wait_for(row)
    await page.evaluate(f"{row}.click()")
    await page.wait_for("document.querySelector('dialog.panel')")


async def settle(page: Page, condition: str) -> None:
    await page.wait_for(condition)
    assert await page.evaluate("document.querySelector('dialog .notice.bad')?.innerText ?? ''") == ""


def test_a_key_is_made_changed_rotated_and_revoked_by_pointer(governed: Running, tmp_path: Path) -> None:
    secrets: list[str] = []

    async def act(page: Page) -> None:
        await open_tab(page, "keys")
        await page.click("main button.primary")
        await fill(page, "dialog input[name=name]", HOSTILE)
        await page.click("dialog button.primary")
        await page.wait_for("document.querySelector('dialog pre')")
        secrets.append(await page.text("dialog pre"))
        await page.click("dialog button.primary")
        await open_row(page, HOSTILE[:60])
        assert "ask models" in await page.text("dialog .scopes")
        assert await grave_faults(page) == []
        await fill(page, "dialog input[name=tags]", "nightly")
        await fill(page, "dialog input[name=models]", "ben*")
        await fill(page, "dialog input[name=rpm]", "7")
        await fill(page, "dialog input[name=amount]", "3")
        await page.click("dialog form button.primary")
        await page.wait_for("document.querySelector('main tbody').innerText.includes('nightly')")
        await page.click("dialog .buttons button:first-child")
        await page.wait_for("document.querySelectorAll('dialog').length === 2")
        await page.click("dialog dialog button.primary, dialog ~ dialog button.primary")
        await page.wait_for("document.querySelector('dialog pre')")
        secrets.append(await page.text("dialog pre"))
        answers = [governed.chat(key=secret) for secret in secrets]
        assert [answer.status_code for answer in answers] == [200, 200], answers[0].text  # they overlap
        await page.evaluate(
            "[...document.querySelectorAll('dialog pre')][0].closest('dialog').querySelector('button.primary').click()"
        )
        await page.wait_for("!document.querySelector('dialog pre')")
        await page.click("dialog .buttons button.danger")
        await page.wait_for("document.querySelectorAll('dialog').length === 2")
        assert "cannot be undone" in await page.evaluate("[...document.querySelectorAll('dialog')].at(-1).innerText")
        await page.evaluate("[...document.querySelectorAll('dialog button.danger')].at(-1).click()")
        await page.wait_for(f"!document.querySelector('main').innerText.includes({json.dumps(HOSTILE[:60])})")
        assert await page.evaluate("document.title") == "Keys · SAGE"

    visit(governed, tmp_path / "profile", act)
    (key,) = [key for key in governed.get("/auth/keys").json()["keys"] if key["name"] == HOSTILE]
    assert (key["tags"], key["models"], key["limits"], key["budget"]["usd"]) == (["nightly"], ["ben*"], {"rpm": 7}, 3.0)
    assert key["revoked_at"] is not None
    assert governed.chat(key=secrets[1]).status_code == 401


def test_an_owner_governs_the_team_by_keyboard_in_chinese(governed: Running, tmp_path: Path) -> None:
    anns = governed.post("/auth/keys", {"user": "ann", "name": "anns own"}).json()
    login = {"username": "ann", "password": PASSWORD}
    session = requests.post(f"{governed.url}/auth/token", data=login, timeout=30).json()["access_token"]

    async def act(page: Page) -> None:
        await in_chinese(page)
        await page.evaluate("location.hash = '#/keys?team=red'")
        await page.wait_for("document.querySelector('main tbody')?.innerText.includes('anns own')")
        await enter(page, "main table")
        await page.wait_for("document.querySelector('dialog.panel')?.innerText.includes('ann · red')")
        await enter(page, "dialog .buttons button.danger")
        await page.wait_for("document.querySelectorAll('dialog').length === 2")
        await page.evaluate("[...document.querySelectorAll('dialog button.danger')].at(-1).focus()")
        await page.press("Enter", 13)
        await page.wait_for(
            "!document.querySelector('dialog') && !document.querySelector('main').innerText.includes('anns own')"
        )
        await open_tab(page, "people")
        assert "root" not in await page.text("main tbody")
        await enter(page, "main table")  # ann is the first of the team
        await page.wait_for("document.querySelector('dialog.panel h2')?.innerText === 'ann'")
        await fill(page, "dialog input[name=concurrent]", "2")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('[role=status]')?.innerText.includes('已保存')")
        await enter(page, "dialog .buttons button:nth-child(2)")
        await page.wait_for("document.querySelectorAll('dialog').length === 2")
        assert "API 密钥不变" in await page.evaluate("[...document.querySelectorAll('dialog')].at(-1).innerText")
        await page.evaluate("[...document.querySelectorAll('dialog button.danger')].at(-1).focus()")
        await page.press("Enter", 13)
        await page.wait_for("document.querySelectorAll('dialog').length === 1")
        assert await grave_faults(page) == []
        await page.press("Escape", 27)
        await open_tab(page, "limits")
        await page.wait_for("document.querySelector('main tbody')?.innerText.includes('0 / 2')")
        assert "bench" not in await page.text("main tbody")

    visit(governed, tmp_path / "profile", act, "olga")
    assert governed.get("/auth/me", key=anns["key"]).status_code == 401
    end = time.monotonic() + 5
    while governed.get("/auth/me", key=session).status_code != 401:
        assert time.monotonic() < end


async def enter(page: Page, selector: str) -> None:
    """Presses Enter on the element of that CSS selector."""
    await page.wait_for(f"document.querySelector({json.dumps(selector)})")
    await page.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
    await page.press("Enter", 13)


def test_teams_users_limits_and_the_audit_by_pointer(governed: Running, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await open_tab(page, "people")
        await page.evaluate("document.querySelectorAll('.page-head button')[1].click()")
        await fill(page, "dialog input[name=name]", "blue")
        await fill(page, "dialog input[name=tpm]", "1000")
        await fill(page, "dialog input[name=member_amount]", "5")
        await page.evaluate("document.querySelector('dialog input[name=prompts]').click()")
        assert await grave_faults(page) == []
        await page.click("dialog form button.primary")
        await settle(
            page, "!document.querySelector('dialog') && document.querySelector('main').innerText.includes('blue')"
        )
        await page.click(".page-head button.primary")
        await fill(page, "dialog input[name=username]", "ben")
        await fill(page, "dialog input[name=password]", "short")
        await page.click("dialog form button.primary")
        await page.wait_for("document.querySelector('dialog .notice.bad')")  # it says why, and keeps what was typed
        assert await page.evaluate("document.querySelector('dialog input[name=username]').value") == "ben"
        assert [error for error in page.errors if "400" not in error] == []
        page.errors.clear()  # the browser's word on the refusal
        await fill(page, "dialog input[name=password]", PASSWORD)
        await page.click("dialog form button.primary")
        await page.wait_for(
            "!document.querySelector('dialog') && document.querySelector('main').innerText.includes('ben')"
        )
        await open_tab(page, "limits")
        await page.wait_for("document.querySelector('main tbody').innerText.includes('/ 1,000')")
        assert "/ 500" in await page.text("main tbody")
        await open_tab(page, "audit")
        await page.wait_for("document.querySelector('main tbody').innerText.includes('team:blue')")
        await page.evaluate("location.hash = '#/audit?action=team'")
        await page.wait_for("!document.querySelector('main tbody').innerText.includes('user.create')")
        await page.click(".page-head button:first-of-type")
        await page.wait_for("document.querySelector('.page-head .badge')?.innerText.includes('unbroken')")
        await open_row(page, "team:blue")
        assert '"tpm": 1000' in await page.text("dialog pre")
        assert await grave_faults(page) == []

    visit(governed, tmp_path / "profile", act)
    team = governed.get("/auth/teams/blue").json()
    assert (team["limits"], team["member_budget"]["usd"], team["capture"]["prompts"]) == ({"tpm": 1000}, 5.0, True)
    users: list[dict[str, Any]] = governed.get("/auth/users").json()["users"]
    assert [user["tenant"] for user in users if user["name"] == "ben"] == ["default"]


def test_a_viewer_sees_no_people_and_changes_the_own_password(governed: Running, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        menu = await page.evaluate("[...document.querySelectorAll('nav a')].map(each => each.hash)")
        assert not {"#/people", "#/audit", "#/settings"} & set(menu)
        await open_tab(page, "account")
        assert "see usage" in await page.text("main .scopes")
        for name, text in (("current", PASSWORD), ("new", NEW), ("again", NEW + "!")):
            await fill(page, f"input[name={name}]", text)
        await page.click("main form button.primary")
        await page.wait_for("document.querySelector('main .notice.bad')?.innerText.includes('differ')")
        await fill(page, "input[name=again]", NEW)
        await page.press("Enter", 13)
        await page.wait_for("document.querySelector('input[name=current]').value === ''")
        assert await grave_faults(page) == []

    visit(governed, tmp_path / "profile", act, "vic")
    tried = [
        requests.post(f"{governed.url}/auth/token", data={"username": "vic", "password": word}, timeout=30).status_code
        for word in (NEW, PASSWORD)
    ]
    assert tried == [200, 401]
