"""Refresh tokens work once; a double click does no harm; a browser keeps them in a cookie."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from running_gateway import PASSWORD

from sage.errors import AuthenticationFailed
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.changes import AccountChange

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or asks one a hundred times

both_databases = pytest.mark.both_databases


@both_databases
def test_fifty_uses_at_once_give_one_successor(accounts: Accounts, root: str, password: str) -> None:
    first = accounts.sessions.login("root", password)
    with ThreadPoolExecutor(16) as pool:
        logins = list(pool.map(lambda _: accounts.sessions.refresh(first.refresh_token, "a browser"), range(50)))
    (successor,) = {login.refresh_token for login in logins}
    assert successor != first.refresh_token
    assert accounts.sessions.refresh(successor, "a browser").refresh_token not in (successor, first.refresh_token)
    for login in logins:
        assert accounts.verifier.verify(login.access_token).principal.user == "root"


@both_databases
def test_fifty_uses_at_once_by_other_clients_end_the_family(accounts: Accounts, root: str, password: str) -> None:
    first = accounts.sessions.login("root", password)

    def use(number: int) -> str | None:
        try:
            return accounts.sessions.refresh(first.refresh_token, f"client {number}").refresh_token
        except AuthenticationFailed:
            return None

    with ThreadPoolExecutor(16) as pool:
        (successor,) = filter(None, pool.map(use, range(50)))
    with pytest.raises(AuthenticationFailed):
        accounts.sessions.refresh(successor, "client 1")


@both_databases
@pytest.mark.parametrize(("after", "client", "survives"), [(10, "me", True), (11, "me", False), (0, "you", False)])
def test_a_replay_ends_the_family_unless_the_same_client_is_quick(
    accounts: Accounts, root: str, password: str, clock, after: int, client: str, survives: bool
) -> None:
    told: list[AccountChange] = []
    accounts.changes.on_change = lambda _, change: told.append(change)
    first = accounts.sessions.login("root", password)
    second = accounts.sessions.refresh(first.refresh_token, "me")
    clock.now += after
    if survives:
        assert accounts.sessions.refresh(first.refresh_token, client).refresh_token == second.refresh_token
        assert accounts.verifier.verify(second.access_token).principal.user == "root"
        assert [change.action for change in told] == ["session.login"]
        return
    with pytest.raises(AuthenticationFailed):
        accounts.sessions.refresh(first.refresh_token, client)
    for ended in (first, second):
        with pytest.raises(AuthenticationFailed, match="session has ended"):
            accounts.verifier.verify(ended.access_token)
    with pytest.raises(AuthenticationFailed):
        accounts.sessions.refresh(second.refresh_token, "me")
    assert [(change.action, change.target) for change in told] == [
        ("session.login", "user:root"),
        ("session.replay", "user:root"),
    ]


def test_a_request_that_was_overtaken_harms_nobody(accounts: Accounts, root: str, password: str, clock) -> None:
    first = accounts.sessions.login("root", password)
    second = accounts.sessions.refresh(first.refresh_token, "me")
    third = accounts.sessions.refresh(second.refresh_token, "me")
    with pytest.raises(AuthenticationFailed):
        accounts.sessions.refresh(first.refresh_token, "me")
    assert accounts.verifier.verify(third.access_token).principal.user == "root"
    assert accounts.sessions.refresh(third.refresh_token, "me").expires_in == 900


@pytest.fixture
def running(gateway: Callable[..., Any]) -> Any:
    return gateway()


def log_in(url: str, browser: requests.Session, **headers: str) -> requests.Response:
    form = {"username": "root", "password": PASSWORD, "session": "cookie"}
    return browser.post(f"{url}/auth/token", data=form, headers=headers, timeout=30)


def test_a_browser_has_its_refresh_token_in_a_cookie_alone(running) -> None:
    browser = requests.Session()
    answer = log_in(running.url, browser)
    assert set(answer.json()) == {"access_token", "token_type", "expires_in"}
    given = answer.headers["set-cookie"]
    value, *attributes = given.split("; ")
    assert value.startswith("sage-session=rt-sage-")
    assert attributes == ["Path=/auth", "Max-Age=2592000", "HttpOnly", "SameSite=Strict"]
    named = log_in(running.url, requests.Session(), Host="gateway.example")
    assert named.headers["set-cookie"].endswith("; Secure")

    renewed = browser.post(f"{running.url}/auth/refresh", timeout=30)
    assert set(renewed.json()) == {"access_token", "token_type", "expires_in"}
    assert renewed.headers["cache-control"] == "no-store"
    assert renewed.headers["set-cookie"].split(";")[0] != value
    token = renewed.json()["access_token"]
    assert running.get("/auth/me", key=token).json()["user"] == "root"
    assert browser.get(f"{running.url}/auth/me", timeout=30).status_code == 401  # a cookie is no credential

    out = browser.post(f"{running.url}/auth/logout", headers={"Authorization": f"Bearer {token}"}, timeout=30)
    assert out.status_code == 204
    assert out.headers["set-cookie"].startswith("sage-session=; Path=/auth; Max-Age=0")
    assert "sage-session" not in browser.cookies
    assert browser.post(f"{running.url}/auth/refresh", timeout=30).json()["error"]["code"] == "missing_credential"


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_pages_of_other_origins_get_no_session(running, headers: dict[str, str]) -> None:
    browser = requests.Session()
    assert log_in(running.url, browser, **headers).json()["error"]["code"] == "origin_not_allowed"
    assert log_in(running.url, browser, Origin=running.url).status_code == 200
    refused = browser.post(f"{running.url}/auth/refresh", headers=headers, timeout=30)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert browser.post(f"{running.url}/auth/refresh", headers={"Origin": running.url}, timeout=30).status_code == 200


def test_fifty_requests_at_once_get_one_successor(running) -> None:
    form = {"username": "root", "password": PASSWORD}
    first = requests.post(f"{running.url}/auth/token", data=form, timeout=30).json()["refresh_token"]

    def use(_: int) -> str:
        answer = requests.post(f"{running.url}/auth/refresh", json={"refresh_token": first}, timeout=30)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["refresh_token"])

    with ThreadPoolExecutor(50) as pool:
        assert len(set(pool.map(use, range(50)))) == 1
    other = {"User-Agent": "another client"}
    replay = requests.post(f"{running.url}/auth/refresh", json={"refresh_token": first}, headers=other, timeout=30)
    assert replay.status_code == 401
