"""Accounts over HTTP, through the real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from running_gateway import PASSWORD, Running, run_gateway

from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.passwords import HashCost
from sage.middleware.auth.principal import Scope
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


@pytest.fixture
def running(gateway: Callable[..., Any]) -> Iterator[Any]:
    """A gateway whose admin is ``root``."""
    return gateway()


def login(url: str, name: str = "root", password: str = PASSWORD) -> requests.Response:
    return requests.post(f"{url}/auth/token", data={"username": name, "password": password}, timeout=30)


def token_of(url: str, name: str = "root", password: str = PASSWORD) -> str:
    answer = login(url, name, password)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def error(answer: requests.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    return dict(answer.json()["error"])


def test_login_me_refresh_logout(running) -> None:
    answer = login(running.url)
    assert set(answer.json()) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert answer.json()["token_type"] == "bearer"
    assert answer.json()["expires_in"] == 900
    assert answer.headers["cache-control"] == "no-store"
    me = running.get("/auth/me", key=answer.json()["access_token"]).json()
    assert (me["user"], me["role"], me["tenant"], me["models"]) == ("root", "admin", "default", ["*"])
    assert me["scopes"] == sorted(Scope)
    assert me["credential"].startswith("token:")

    refresh = {"refresh_token": answer.json()["refresh_token"]}
    renewed = requests.post(f"{running.url}/auth/refresh", json=refresh, timeout=30)
    assert renewed.status_code == 200
    assert renewed.headers["cache-control"] == "no-store"
    token = renewed.json()["access_token"]
    assert running.get("/auth/me", key=token).status_code == 200
    assert running.post("/auth/logout", key=token).status_code == 204
    for ended in (token, answer.json()["access_token"]):
        assert error(running.get("/auth/me", key=ended), 401)["code"] == "session_ended"
    again = requests.post(f"{running.url}/auth/refresh", json=refresh, timeout=30)
    assert error(again, 401)["message"].startswith("the refresh token is not valid")


def test_a_wrong_login_is_401_and_a_malformed_one_400(running) -> None:
    assert error(login(running.url, "root", "wrong" * 5), 401)["message"] == "wrong user name or password"
    assert error(login(running.url, "eve"), 401)["message"] == "wrong user name or password"
    missing = requests.post(f"{running.url}/auth/token", data={"username": "root"}, timeout=30)
    assert error(missing, 400)["param"] == "password"
    grant = {"username": "root", "password": PASSWORD, "grant_type": "client_credentials"}
    assert error(requests.post(f"{running.url}/auth/token", data=grant, timeout=30), 400)["param"] == "grant_type"


@pytest.mark.parametrize(
    ("fields", "status", "code", "words"),
    [
        ({"username": "root", "password": "wrong" * 5}, 401, "invalid_grant", "wrong user name or password"),
        ({"username": "root"}, 400, "invalid_request", "'password'"),
    ],
)
def test_a_client_of_oauth2_gets_errors_in_its_shape(
    running, fields: dict[str, str], status: int, code: str, words: str
) -> None:
    answer = requests.post(f"{running.url}/auth/token", data={"grant_type": "password", **fields}, timeout=30)
    body = answer.json()
    assert (answer.status_code, body["error"]) == (status, code)
    assert words in body["error_description"]
    assert body["message"] == body["error_description"]
    assert body["type"] in ("authentication_error", "invalid_request_error")
    assert answer.headers["content-type"] == "application/json"
    envelope = requests.post(f"{running.url}/auth/token", data=fields, timeout=30).json()
    assert envelope["error"]["message"] == envelope["error_description"] == body["error_description"]


def test_logging_out_with_a_key_is_400(running) -> None:
    assert "API key has no session" in error(running.post("/auth/logout"), 400)["message"]
    assert running.get("/auth/me").json()["credential"].startswith("key:")


def test_a_key_is_shown_once_listed_and_revoked(running) -> None:
    token = token_of(running.url)
    body = {"name": "ci", "scopes": ["generate", "account"], "models": ["gpt-*"]}
    made = running.post("/auth/keys", body, key=token)
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    secret, key_id = made.json()["key"], made.json()["id"]
    me = running.get("/auth/me", key=secret).json()
    assert (me["scopes"], me["models"], me["credential"]) == (["account", "generate"], ["gpt-*"], f"key:{key_id}")
    listed = running.get("/auth/keys", key=secret)
    shown = {key["name"]: key for key in listed.json()["keys"]}
    assert set(shown) == {"tests", "ci"}
    assert secret not in listed.text
    assert shown["ci"]["last4"] == secret[-4:]
    revoked = requests.delete(f"{running.url}/auth/keys/{key_id}", headers=running.headers(token), timeout=30)
    assert revoked.json()["revoked_at"] is not None
    assert "revoked" in error(running.get("/auth/me", key=secret), 401)["message"]


def test_a_key_cannot_make_a_key_with_more_rights_over_http(running) -> None:
    small = running.new_key(scopes=["account"], models=["gpt-*"])
    assert error(running.post("/auth/keys", {"scopes": ["generate"]}, key=small), 403)["param"] == "scopes"
    assert error(running.post("/auth/keys", {"models": ["*"]}, key=small), 403)["param"] == "models"
    assert error(running.post("/auth/keys", {"tenant": "lab"}, key=small), 403)["param"] == "tenant"
    child = running.post("/auth/keys", {"models": ["gpt-4*"]}, key=small).json()
    assert (child["scopes"], child["models"], child["user"]) == (["account"], ["gpt-4*"], "root")


def test_unknown_fields_and_wrong_kinds_are_400(running) -> None:
    assert error(running.post("/auth/keys", {"owner": "eve"}), 400)["param"] == "owner"
    assert error(running.post("/auth/keys", {"scopes": "admin"}), 400)["param"] == "scopes"
    assert error(running.post("/auth/users", {"username": "x", "password": PASSWORD, "admin": True}), 400)
    secret = running.post("/auth/refresh", {"refresh_token": {"a": "s3cret"}})
    assert error(secret, 400)["param"] == "refresh_token"
    assert "s3cret" not in secret.text


def test_users_are_the_admins_business(running) -> None:
    made = running.post("/auth/users", {"username": "bob", "password": PASSWORD, "tenant": "lab"})
    assert made.status_code == 201
    assert (made.json()["name"], made.json()["role"], made.json()["tenant"]) == ("bob", "user", "lab")
    bob = token_of(running.url, "bob")
    scopes = [
        "account",
        "collections:write",
        "generate",
        "kv",
        "memory",
        "models:read",
        "search",
        "tasks",
        "tools",
        "usage",
        "vdb",
    ]
    assert running.get("/auth/me", key=bob).json()["scopes"] == scopes
    for answer in (
        running.get("/auth/users", key=bob),
        running.post("/auth/users", {"username": "eve", "password": PASSWORD}, key=bob),
        requests.patch(
            f"{running.url}/auth/users",
            json={"username": "bob", "role": "admin"},
            headers=running.headers(bob),
            timeout=30,
        ),
        running.get("/auth/keys?user=root", key=bob),
    ):
        assert error(answer, 403)["code"] == "missing_scope"
    assert [user["name"] for user in running.get("/auth/users").json()["users"]] == ["bob", "root"]
    assert error(running.post("/auth/users", {"username": "Bob", "password": PASSWORD}), 409)["code"] == "name_taken"
    assert error(running.post("/auth/users", {"username": "x", "password": "short"}), 400)["param"] == "password"


def test_a_disabled_user_is_out_at_once(running) -> None:
    def patch(**body: Any) -> requests.Response:
        return requests.patch(f"{running.url}/auth/users", json=body, headers=running.headers(), timeout=30)

    running.post("/auth/users", {"username": "bob", "password": PASSWORD})
    bob = token_of(running.url, "bob")
    assert running.get("/auth/me", key=bob).status_code == 200
    assert patch(username="bob", disabled=True).json()["disabled"] is True
    assert error(running.get("/auth/me", key=bob), 401)["code"] == "session_ended"
    assert error(login(running.url, "bob"), 401)
    assert patch(name="bob", disabled=False, password="quite another password").json()["disabled"] is False
    assert token_of(running.url, "bob", "quite another password")
    assert error(patch(username="root", role="user"), 409)["code"] == "last_admin"
    assert error(patch(username="eve", role="user"), 404)["code"] == "user_not_found"
    assert "nothing to change" in error(patch(username="bob"), 400)["message"]


def test_the_published_keys_have_no_private_part(running) -> None:
    answer = requests.get(f"{running.url}/.well-known/jwks.json", timeout=30)
    (key,) = answer.json()["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "kid", "alg", "use"}


@pytest.mark.slow
def test_a_key_that_another_process_revokes_is_refused_within_a_second(running) -> None:
    key = running.new_key(scopes=["account"])
    for _ in range(3):
        me = running.get("/auth/me", key=key).json()
    beside = Accounts(running.settings.data_dir)
    beside.keys.revoke(me["credential"].removeprefix("key:"))
    beside.close()
    revoked_at = time.monotonic()
    while running.get("/auth/me", key=key).status_code == 200:
        assert time.monotonic() - revoked_at < 1.0
        time.sleep(0.01)
    assert "revoked" in error(running.get("/auth/me", key=key), 401)["message"]


@pytest.fixture
def full_cost_gateway(tmp_path: Path) -> Iterator[Running]:
    """A gateway that hashes at the full cost."""
    data = {"data_dir": tmp_path / "data", "api": {"port": 0, "access_log": False}}
    with run_gateway(Settings.model_validate(data), hash_cost=HashCost()) as running:
        yield running


@pytest.mark.slow
def test_health_answers_while_many_log_in_and_too_many_are_429(full_cost_gateway: Running) -> None:
    running = full_cost_gateway
    answers: list[requests.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(login(running.url, "eve"))) for _ in range(40)]
    for thread in threads:
        thread.start()
    while not answers:
        assert requests.get(f"{running.url}/health", timeout=5).status_code == 200
    for thread in threads:
        thread.join(60)
    assert {answer.status_code for answer in answers} == {401, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert error(refused, 429)["code"] == "too_many_logins"
    assert token_of(running.url)


def test_the_first_admin_is_made_with_the_setup_token(fresh_gateway: tuple[str, Path]) -> None:
    url, data_dir = fresh_gateway
    token = (data_dir / "setup-token").read_text().strip()
    body = {"token": token, "username": "me", "password": PASSWORD}

    def setup(**changes: str) -> requests.Response:
        return requests.post(f"{url}/auth/setup", json={**body, **changes}, timeout=30)

    assert requests.get(f"{url}/auth/options", timeout=30).json()["setup"] is True
    assert error(setup(token="setup-guess"), 401)["code"] == "invalid_setup_token"
    assert error(setup(password="short"), 400)["param"] == "password"
    made = setup()
    assert made.status_code == 201
    assert (made.json()["name"], made.json()["role"]) == ("me", "admin")
    assert not (data_dir / "setup-token").exists()
    assert requests.get(f"{url}/auth/options", timeout=30).json()["setup"] is False
    assert error(setup(username="eve"), 401)["code"] == "invalid_setup_token"
    assert token_of(url, "me")
