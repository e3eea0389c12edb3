"""``/audit`` and ``sage audit``: what is written down of each change, and who reads it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from running_gateway import PASSWORD, Running
from sage_process import environment, sage

from sage.middleware.audit.event import OPERATOR
from sage.middleware.audit.log import AuditLog
from sage.middleware.auth.grants import KeyRequest

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or asks one a hundred times


def events(running: Running, key: str | None = None, **query: Any) -> list[dict[str, Any]]:
    """The oldest first."""
    answer = running.get("/audit", key=key, params={"limit": 1000, **query})
    assert answer.status_code == 200, answer.text
    return list(reversed(answer.json()["events"]))


def told(running: Running, **query: Any) -> list[tuple[str, str]]:
    return [(each["action"], each["target"]) for each in events(running, **query)]


def test_changes_of_accounts_are_told_with_who_and_where(gateway: Callable[..., Running]) -> None:
    running = gateway()
    body = {"username": "ann", "password": "a long passphrase of ann", "role": "user", "tenant": "acme"}
    assert running.post("/auth/users", body).status_code == 201
    made = running.post("/auth/keys", {"user": "ann", "name": "laptop"}).json()
    assert running.request("DELETE", f"/auth/keys/{made['id']}").status_code in (200, 204)
    mine = events(running, actor="root")
    assert events(running, actor="user:root") == mine
    assert events(running, actor="user:ann") == []
    assert [each["action"] for each in mine] == ["user.create", "key.create", "key.revoke"]
    for each in mine:
        assert (each["actor"], each["tenant"], each["address"]) == ("user:root", "acme", "127.0.0.1")
        assert each["credential"].startswith("key:")
    assert "passphrase" not in json.dumps(mine)
    assert made["key"] not in json.dumps(mine)
    assert told(running, target=f"key:{made['id']}") == [
        ("key.create", f"key:{made['id']}"),
        ("key.revoke", f"key:{made['id']}"),
    ]


def test_the_operator_is_told_apart(gateway: Callable[..., Running]) -> None:
    running = gateway()
    assert running.accounts is not None
    running.accounts.users.add("bob", PASSWORD, tenant="acme")
    (made,) = events(running, target="user:bob")
    assert (made["actor"], made["credential"], made["address"]) == (OPERATOR, None, None)


def test_a_change_that_is_undone_is_not_told(gateway: Callable[..., Running]) -> None:
    running = gateway()
    before = len(events(running))
    assert running.post("/auth/users", {"username": "x", "password": "short", "role": "user"}).status_code == 400
    assert running.request("PATCH", "/auth/users", json={"username": "nobody", "disabled": True}).status_code == 404
    assert len(events(running)) == before


def test_collections_and_models_and_erasures_are_told(gateway: Callable[..., Running]) -> None:
    running = gateway()
    assert running.post("/collections", {"name": "notes"}).status_code == 201
    snapshot = running.get("/collections/notes/snapshot")
    restored = running.request("PUT", "/collections/copy/snapshot", data=snapshot.content)
    assert restored.status_code == 201, restored.text
    assert running.request("DELETE", "/collections/notes").status_code == 204
    model = {"deployments": [{"provider": "local", "model": "gemma-3-270m"}]}
    assert running.post("/models/mine", model).status_code == 201
    changed = {**model, "limits": {"rpm": 3}, "budget": {"usd": "5", "window": "day"}}
    assert running.post("/models/mine", changed).status_code == 200
    assert running.request("PATCH", "/models/mine", json={"limits": None, "retries": 1}).status_code == 200
    assert running.request("PATCH", "/models/mine", json={"retries": 1}).status_code == 200  # nothing to tell
    assert running.request("DELETE", "/models/mine").status_code == 204
    assert running.request("DELETE", "/usage", params={"user": "ann"}).status_code == 200
    assert running.request("PUT", "/budgets/user/root", json={"usd": 5}).status_code == 200
    assert running.request("DELETE", "/budgets/user/root").status_code == 200
    assert told(running, actor="root") == [
        ("collection.create", "collection:notes"),
        ("collection.restore", "collection:copy"),
        ("collection.delete", "collection:notes"),
        ("model.create", "model:mine"),
        ("model.change", "model:mine"),
        ("model.change", "model:mine"),
        ("model.remove", "model:mine"),
        ("usage.erase", "user:ann"),
        ("budget.set", "budget:user:root"),
        ("budget.remove", "budget:user:root"),
    ]
    (made,) = events(running, action="model.create")
    assert (made["tenant"], made["details"]) == (None, model)
    replaced, change = events(running, action="model.change")
    assert replaced["details"] == {**changed, "before": model}
    before = {"limits": {"rpm": 3}, "retries": None}
    assert change["details"] == {"limits": None, "retries": 1, "before": before}
    (removed,) = events(running, action="model.remove")
    assert removed["details"] == {"before": {**model, "budget": changed["budget"], "retries": 1}}


def wait_for(read: Callable[[], list[Any]], count: int) -> list[Any]:
    end = time.monotonic() + 10
    while len(found := read()) < count and time.monotonic() < end:
        time.sleep(0.05)
    return found


def test_failed_logins_are_told_and_bounded(gateway: Callable[..., Running]) -> None:
    running = gateway()
    for _ in range(8):
        form = {"username": "root", "password": "wrong", "grant_type": "password"}
        requests.post(f"{running.url}/auth/token", data=form, timeout=10)
    failed = wait_for(lambda: events(running, action="login.failed"), 5)
    assert len(failed) == 5
    assert {(each["actor"], each["target"], each["tenant"], each["address"]) for each in failed} == {
        ("anonymous", "user:root", "default", "127.0.0.1")
    }
    assert "wrong" not in json.dumps(failed)
    form = {"username": "a password, perhaps", "password": "wrong", "grant_type": "password"}
    requests.post(f"{running.url}/auth/token", data=form, timeout=10)
    failed = wait_for(lambda: events(running, action="login.failed"), 6)
    assert (failed[5]["target"], failed[5]["tenant"]) == ("user:?", None)


def test_a_login_is_told_with_its_address(gateway: Callable[..., Running]) -> None:
    running = gateway()
    form = {"username": "root", "password": PASSWORD, "grant_type": "password"}
    assert requests.post(f"{running.url}/auth/token", data=form, timeout=10).status_code == 200
    (login,) = events(running, action="session.login")
    assert (login["actor"], login["target"], login["address"]) == ("user:root", "user:root", "127.0.0.1")


def test_a_start_with_another_configuration_is_told(gateway: Callable[..., Running], tmp_path: Path) -> None:
    running = gateway()
    (start,) = wait_for(lambda: events(running, action="config.start"), 1)
    assert "llm" in start["details"]["sections"]
    assert start["actor"] == OPERATOR


def test_owners_see_their_tenants_and_others_nothing(gateway: Callable[..., Running]) -> None:
    running = gateway()
    assert running.accounts is not None
    for name, role, tenant in (("olga", "owner", "acme"), ("ursula", "user", "acme"), ("odd", "owner", "other")):
        running.accounts.users.add(name, PASSWORD, role=role, tenant=tenant)
    keys = {
        name: running.accounts.keys.create_for(name, KeyRequest("k", scopes=["tenant:admin"])).secret
        for name in ("olga", "odd")
    }
    keys["ursula"] = running.accounts.keys.create_for("ursula", KeyRequest("k")).secret
    assert {each["tenant"] for each in events(running, keys["olga"])} == {"acme"}
    assert {each["tenant"] for each in events(running, keys["odd"])} == {"other"}
    assert {"acme", "other"} <= {each["tenant"] for each in events(running)}
    assert running.get("/audit", key=keys["ursula"]).status_code == 403
    assert running.get("/audit", key=keys["olga"], params={"tenant": "other"}).status_code == 403
    assert requests.get(f"{running.url}/audit", timeout=10).status_code == 401


def test_pages_go_on_where_the_last_one_ended(gateway: Callable[..., Running]) -> None:
    running = gateway()
    assert running.accounts is not None
    for n in range(5):
        running.accounts.users.add(f"user-{n}", PASSWORD, tenant="acme")
    seen: list[int] = []
    cursor: str | None = None
    while True:
        query = {"action": "user.create", "limit": 2, **({"cursor": cursor} if cursor else {})}
        page = running.get("/audit", params=query).json()
        seen += [each["seq"] for each in page["events"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert len(seen) == 6
    assert seen == sorted(seen, reverse=True)
    assert running.get("/audit", params={"cursor": "x"}).status_code == 400
    assert running.get("/audit", params={"from": "tomorrow"}).status_code == 400
    assert events(running, to="2001-01-01") == []


def test_the_command_lists_and_verifies(tmp_path: Path) -> None:
    env = environment(tmp_path)

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return sage(arguments, env, cwd=tmp_path, stdin=stdin)

    made = run("user", "add", "ann", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert made.returncode == 0, made.stderr
    listed = json.loads(run("audit", "list", "--json").stdout)
    assert [(each["action"], each["actor"]) for each in listed["events"]] == [("user.create", "operator")]
    verdict = run("audit", "verify", "--json")
    assert verdict.returncode == 0
    assert json.loads(verdict.stdout)["events"] == 1
    with closing(AuditLog(tmp_path)) as log, log.open().writing() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_events_no_update")
        connection.exec_driver_sql("UPDATE audit_events SET target = 'user:eve'")
    broken = run("audit", "verify")
    assert broken.returncode == 1
    assert "event 1 was changed" in broken.stderr
