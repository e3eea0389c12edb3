"""What a key may ask and how long it lives is changed: narrowed by its user, widened by admins and owners."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from running_gateway import PASSWORD, Running

SOON = int(time.time()) + 3600


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running]) -> Running:
    gateway = module_gateway()
    assert gateway.accounts is not None
    gateway.accounts.users.add("ann", PASSWORD)
    return gateway


@pytest.fixture(scope="module")
def login(running: Running) -> str:
    answer = requests.post(f"{running.url}/auth/token", data={"username": "ann", "password": PASSWORD}, timeout=30)
    return str(answer.json()["access_token"])


def make(running: Running, login: str | None, **fields: Any) -> dict[str, Any]:
    answer = running.post("/auth/keys", fields, key=login)
    assert answer.status_code == 201
    made: dict[str, Any] = answer.json()
    return made


def change(running: Running, key: str | None, key_id: str, **fields: Any) -> requests.Response:
    return running.request("PATCH", f"/auth/keys/{key_id}", key=key, json=fields)


def test_models_are_narrowed_with_the_keys_below(running: Running, login: str) -> None:
    made = make(running, login)
    below = make(running, made["key"], models=["gpt-4o", "qwen"])
    done = change(running, login, made["id"], models=["gpt-*"]).json()
    assert done["models"] == ["gpt-*"]
    assert running.get(f"/auth/keys/{below['id']}").json()["models"] == ["gpt-4o"]
    wider = change(running, login, made["id"], models=["*"])
    assert (wider.status_code, wider.json()["error"]["param"]) == (403, "models")
    assert change(running, None, made["id"], models=["*"]).json()["models"] == ["*"]


def test_its_end_comes_sooner_by_its_user_and_later_by_an_admin(running: Running, login: str) -> None:
    made = make(running, login)
    below = make(running, made["key"])
    assert change(running, login, made["id"], expires_at=SOON).json()["expires_at"] == SOON
    assert running.get(f"/auth/keys/{below['id']}").json()["expires_at"] == SOON
    for later in (SOON + 60, None):
        refused = change(running, login, made["id"], expires_at=later)
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, "expires_at")
    assert change(running, None, made["id"], expires_at=None).json()["expires_at"] is None
    below_again = change(running, None, below["id"], expires_at=SOON + 60)
    assert below_again.json()["expires_at"] == SOON + 60
    past = change(running, None, made["id"], expires_at=1)
    assert (past.status_code, past.json()["error"]["param"]) == (400, "expires_at")


def test_a_revoked_key_does_not_come_back(running: Running, login: str) -> None:
    made = make(running, login)
    running.request("DELETE", f"/auth/keys/{made['id']}", key=login)
    assert change(running, None, made["id"], expires_at=SOON).status_code == 409


def test_an_admin_ends_the_logins_of_a_user(running: Running) -> None:
    form = {"username": "ann", "password": PASSWORD}
    token = requests.post(f"{running.url}/auth/token", data=form, timeout=30).json()["access_token"]
    key = make(running, token)["key"]
    done = running.request("PATCH", "/auth/users", json={"username": "ann", "end_sessions": True})
    assert done.status_code == 200
    assert running.get("/auth/me", key=token).status_code == 401
    assert running.get("/auth/me", key=key).status_code == 200
    (event, *_) = running.get("/audit?action=user.change").json()["events"]
    assert event["details"]["ended_sessions"] >= 1


def test_the_chain_of_the_audit_is_walked(running: Running, login: str) -> None:
    verdict = running.get("/audit/verify").json()
    assert (verdict["ok"], verdict["fault"]) == (True, None)
    assert verdict["events"] >= 5
    assert running.get("/ready").json()["disk"]["free"] > 0
