"""A new password for oneself: by the current one, with an end to other sessions, and to keys where that is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests
from running_gateway import PASSWORD, Running

NEW = "seven tall giraffes drink"

pytestmark = pytest.mark.slow  # passwords that are hashed


@pytest.fixture
def running(gateway: Callable[..., Running]) -> Running:
    running = gateway()
    assert running.accounts is not None
    running.accounts.users.add("bob", PASSWORD)
    return running


def login(running: Running, password: str = PASSWORD) -> requests.Response:
    return requests.post(f"{running.url}/auth/token", data={"username": "bob", "password": password}, timeout=30)


def change(running: Running, key: str, **body: Any) -> requests.Response:
    return running.post("/auth/password", {"current": PASSWORD, "new": NEW, **body}, key=key)


def test_other_sessions_end_and_keys_stay(running: Running) -> None:
    others = [login(running).json() for _ in range(2)]
    own = login(running).json()
    key = running.post("/auth/keys", {}, key=own["access_token"]).json()["key"]
    done = change(running, own["access_token"])
    assert (done.status_code, done.json()) == (200, {"ended_sessions": 2, "revoked_keys": 0})
    for other in others:
        assert running.get("/auth/me", key=other["access_token"]).status_code == 401
        body = {"refresh_token": other["refresh_token"]}
        assert requests.post(f"{running.url}/auth/refresh", json=body, timeout=30).status_code == 401
    assert running.get("/auth/me", key=own["access_token"]).status_code == 200
    assert running.get("/auth/me", key=key).status_code == 200
    assert (login(running).status_code, login(running, NEW).status_code) == (401, 200)


def test_keys_are_revoked_where_that_is_asked(running: Running) -> None:
    own = login(running).json()["access_token"]
    key = running.post("/auth/keys", {}, key=own).json()["key"]
    child = running.post("/auth/keys", {}, key=key).json()["key"]
    done = change(running, key, revoke_keys=True)  # with a key every session ends
    assert done.json() == {"ended_sessions": 1, "revoked_keys": 2}
    for credential in (own, key, child):
        assert running.get("/auth/me", key=credential).status_code == 401
    assert running.get("/auth/me").status_code == 200  # the admin's key


def test_what_is_wrong_changes_nothing(running: Running) -> None:
    own = login(running).json()["access_token"]
    for body, param, code in (
        ({"current": "not the right one at all"}, "current", "wrong_password"),
        ({"new": "short"}, "new", "invalid_password"),
        ({"new": "passwordpassword"}, "new", "common_password"),
        ({"new": "bob" * 6}, "new", "common_password"),
        ({"keys": True}, "keys", None),
    ):
        answer = change(running, own, **body)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"] == param
        assert code in (None, error["code"])
    assert login(running).status_code == 200
    assert requests.post(f"{running.url}/auth/password", json={}, timeout=30).status_code == 401


def test_guesses_of_the_current_password_are_slowed_as_logins_are(running: Running) -> None:
    own = login(running).json()["access_token"]
    answers = [change(running, own, current=f"a wrong password {number}") for number in range(7)]
    assert [answer.status_code for answer in answers][:5] == [400] * 5
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert answers[-1].json()["error"]["code"] == "too_many_logins"
    assert login(running).status_code == 429  # one count for both ways
