"""API keys through the real server: notes, tags and limits, rotation with overlap, and when they were last used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import requests
from running_gateway import PASSWORD, Running, run_gateway

from sage.errors import PermissionDenied
from sage.middleware.app.workers.front_link import FrontLink
from sage.middleware.app.workers.live_use import FrontUse
from sage.middleware.app.workers.messages import CredentialUses, encode
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.authenticator import Authenticator
from sage.middleware.auth.grants import KeyRequest, operator
from sage.middleware.registry.registry import Registry
from sage.middleware.settings.limits import Limits
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or asks one a hundred times


def code_of(answer: requests.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["code"])


@pytest.fixture
def running(gateway: Callable[..., Running]) -> Running:
    """A gateway whose admin is ``root``, with a user ``bob``."""
    running = gateway()
    assert running.accounts is not None
    running.accounts.users.add("bob", PASSWORD)
    return running


def token_of(running: Running, name: str = "bob") -> str:
    form = {"username": name, "password": PASSWORD}
    return str(requests.post(f"{running.url}/auth/token", data=form, timeout=30).json()["access_token"])


def test_a_keys_note_tags_and_limits_can_be_changed(running: Running) -> None:
    bob = token_of(running)
    fields = {"name": "ci", "note": "of the\nbuild", "tags": ["a", "b", "a"], "limits": {"rpm": 5, "concurrent": 1}}
    made = running.post("/auth/keys", fields, key=bob).json()
    assert (made["note"], made["tags"], made["limits"]) == ("of the\nbuild", ["a", "b"], {"rpm": 5, "concurrent": 1})
    assert (made["last_used_at"], made["rotated_at"], made["made_by"]) == (None, None, None)

    def patch(**changes: Any) -> dict[str, Any]:
        answer = running.request("PATCH", f"/auth/keys/{made['id']}", key=bob, json=changes)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    assert patch(name="cd")["name"] == "cd"
    changed = patch(tags=[], limits={"tpm": 9})
    kept = {"name": "cd", "note": "of the\nbuild", "tags": [], "limits": {"tpm": 9}}
    assert {name: changed[name] for name in kept} == kept
    assert running.get("/auth/me", key=made["key"]).json()["limits"] == {f"key:{made['id']}": {"tpm": 9}}
    assert patch(limits=None)["limits"] is None
    assert running.get("/auth/me", key=made["key"]).json()["limits"] == {}
    for bad, param in (
        ({}, None),
        ({"tags": ["a b"]}, "tags"),
        ({"tags": [f"t{number}" for number in range(21)]}, "tags"),
        ({"note": "\x07"}, "note"),
        ({"limits": {"rpm": -1}}, "limits.rpm"),
        ({"scopes": ["admin"]}, "scopes"),
    ):
        answer = running.request("PATCH", f"/auth/keys/{made['id']}", key=bob, json=bad)
        assert answer.status_code == 400, bad
        assert answer.json()["error"]["param"] == param


def test_a_key_changes_the_keys_that_it_made_and_never_itself_or_its_siblings(running: Running) -> None:
    bob = token_of(running)
    maker = running.post("/auth/keys", {"scopes": ["account", "search"], "limits": {"rpm": 5}}, key=bob).json()
    child = running.post("/auth/keys", {"scopes": ["search"]}, key=maker["key"]).json()
    sibling = running.post("/auth/keys", {"scopes": ["search"]}, key=bob).json()
    stronger = running.post("/auth/keys", {}, key=bob).json()

    def refused(method: str, target: dict[str, Any], path: str = "") -> str:
        body = {"limits": None} if method == "PATCH" else {}
        answer = running.request(method, f"/auth/keys/{target['id']}{path}", key=maker["key"], json=body)
        return code_of(answer, 403)

    assert (
        running.request("PATCH", f"/auth/keys/{child['id']}", key=maker["key"], json={"note": "x"}).status_code == 200
    )
    assert running.post(f"/auth/keys/{child['id']}/rotate", {}, key=maker["key"]).status_code == 200
    assert refused("PATCH", maker) == "beyond_creator"
    for target in (sibling, stronger):
        assert refused("PATCH", target) == "beyond_creator"
        assert refused("POST", target, "/rotate") == "beyond_creator"
    assert running.request("DELETE", f"/auth/keys/{sibling['id']}", key=maker["key"]).status_code == 200
    assert running.post(f"/auth/keys/{maker['id']}/rotate", {}, key=maker["key"]).status_code == 200


def test_a_keys_tools_change_within_its_makers_right(running: Running) -> None:
    bob = token_of(running)
    fields = {"scopes": ["account", "tools"], "tools": ["docs__*", "files__read"]}
    maker = running.post("/auth/keys", fields, key=bob).json()
    child, other = (running.post("/auth/keys", {"name": name}, key=maker["key"]).json() for name in ("a", "b"))

    def patch(target: dict[str, Any], key: str, *tools: str) -> requests.Response:
        return running.request("PATCH", f"/auth/keys/{target['id']}", key=key, json={"tools": tools})

    def tools_of(target: dict[str, Any]) -> list[str]:
        return list(running.get(f"/auth/keys/{target['id']}", key=bob).json()["tools"])

    assert patch(child, maker["key"], "docs__search").json()["tools"] == ["docs__search"]
    assert patch(child, bob, "docs__s*").status_code == 200
    for key in (maker["key"], bob):
        assert code_of(patch(child, key, "docs__search", "files__*"), 403) == "beyond_creator"
    assert code_of(patch(maker, maker["key"], "*"), 403) == "beyond_creator"
    for wrong in ((), ("a b",), ("a?",)):
        assert patch(child, bob, *wrong).json()["error"]["param"] == "tools"
    assert (tools_of(child), tools_of(other)) == (["docs__s*"], ["docs__*", "files__read"])
    assert patch(maker, bob, "docs__search", "files__*").status_code == 200
    assert (tools_of(child), tools_of(other)) == (["docs__search"], ["files__read", "docs__search"])
    assert patch(maker, bob, "web__*").status_code == 200
    assert (tools_of(child), tools_of(other)) == ([], [])
    told = running.get("/audit", params={"action": "key.change", "limit": 1}).json()["events"][0]["details"]
    before = ["docs__search", "files__*"]
    assert told == {"user": "bob", "tools_before": before, "tools": ["web__*"], "narrowed_keys": 2}


def test_what_an_admin_has_set_on_a_key_its_user_does_not_change(running: Running) -> None:
    bob = token_of(running)
    key = running.post("/auth/keys", {"limits": {"rpm": 5}}, key=bob).json()
    given = running.post("/auth/keys", {"user": "bob", "limits": {"rpm": 7}, "tools": ["docs__*"]}).json()

    def patch(target: dict[str, Any], by: str | None = bob, **changes: Any) -> int:
        return running.request("PATCH", f"/auth/keys/{target['id']}", key=by, json=changes).status_code

    assert [patch(key, limits={"rpm": 6}), patch(key, limits=None), patch(key, limits={"rpm": 6})] == [200] * 3
    assert patch(key, None, limits={"rpm": 2}) == 200
    for limits in (None, {}, {"rpm": 500}, {"tpm": 1}):
        assert patch(key, limits=limits, note="mine") == 403, limits
        assert patch(given, limits=limits) == 403, limits
    assert patch(given, tools=["*"]) == 403
    assert running.get(f"/auth/keys/{key['id']}", key=bob).json()["note"] == "", "all of a change, or nothing"
    assert running.get("/auth/me", key=key["key"]).json()["limits"] == {f"key:{key['id']}": {"rpm": 2}}
    assert patch(key, note="mine") == 200
    assert [patch(key, None, limits=None), patch(key, limits={"rpm": 9}), patch(key, limits=None)] == [200] * 3
    assert [patch(given, None, tools=["*"]), patch(given, tools=["docs__*"]), patch(given, tools=["*"])] == [200] * 3
    refusal = running.request("PATCH", f"/auth/keys/{given['id']}", key=bob, json={"limits": None}).json()["error"]
    assert (refusal["code"], refusal["param"]) == ("missing_scope", "limits")


@pytest.mark.both_databases
def test_limits_older_than_the_rule_count_as_an_admins(accounts: Accounts, root: str) -> None:
    accounts.users.add("bob", PASSWORD)
    key = accounts.keys.create_for("bob", KeyRequest(limits=Limits(rpm=5))).key
    with accounts.database.writing() as connection:
        connection.exec_driver_sql("UPDATE api_keys SET limits_by = NULL")
    bob = operator("bob", key.tenant, "user")
    with pytest.raises(PermissionDenied, match="only they change them"):
        accounts.keys.change(key.id, bob, limits=None)
    assert accounts.keys.change(key.id, limits=None).limits is None
    assert accounts.keys.change(key.id, bob, limits=Limits(rpm=1)).limits == Limits(rpm=1)
    assert accounts.keys.change(key.id, bob, limits=None).limits is None


def test_a_rotated_key_stays_the_same_key_and_its_old_secret_is_good_for_a_while(running: Running) -> None:
    bob = token_of(running)
    old = running.post("/auth/keys", {"models": ["gemma-*"], "limits": {"rpm": 500}, "tags": ["t"]}, key=bob).json()
    child = running.post("/auth/keys", {}, key=old["key"]).json()
    answer = running.post(f"/auth/keys/{old['id']}/rotate", {"overlap": 3600}, key=bob)
    assert answer.headers["cache-control"] == "no-store"
    new = answer.json()
    assert new["key"] != old["key"]
    kept = ("id", "name", "scopes", "models", "limits", "tags", "created_at", "expires_at")
    assert {name: new[name] for name in kept} == {name: old[name] for name in kept}
    assert new["last4"] == new["key"][-4:]
    assert new["previous_expires_at"] == new["rotated_at"] + 3600
    before, after = (running.get("/auth/me", key=each["key"]).json() for each in (old, new))
    assert after == {**before, "expires_at": None}
    assert before["expires_at"] == new["previous_expires_at"]
    assert running.get("/auth/me", key=child["key"]).status_code == 200
    for path in (f"/auth/keys/{old['id']}/rotate", "/auth/keys"):  # the old secret gets no other
        assert running.post(path, {}, key=old["key"]).status_code == 403
    newest = running.post(f"/auth/keys/{old['id']}/rotate", {"overlap": 0}, key=new["key"]).json()
    assert newest["previous_expires_at"] is None
    for ended in (old, new):
        assert code_of(running.get("/auth/me", key=ended["key"]), 401) == "invalid_api_key"
    assert running.get("/auth/me", key=newest["key"]).status_code == 200
    assert running.request("DELETE", f"/auth/keys/{old['id']}", key=bob).status_code == 200
    for each in (newest, child):
        assert code_of(running.get("/auth/me", key=each["key"]), 401) == "invalid_api_key"
    assert code_of(running.post(f"/auth/keys/{old['id']}/rotate", {}, key=bob), 409) == "key_ended"
    assert running.post(f"/auth/keys/{child['id']}/rotate", {"overlap": -1}, key=bob).status_code == 400


@pytest.mark.both_databases
def test_the_old_secret_ends_with_the_overlap(accounts: Accounts, root: str, clock: Any) -> None:
    made = accounts.keys.create_for(root, KeyRequest())
    accounts.keys.rotate(made.key.id)
    clock.now += 86399
    assert accounts.verifier.verify(made.secret).principal.expires_at == 1_800_000_000 + 86400
    clock.now += 1
    with pytest.raises(Exception, match="it has been rotated; use its new secret"):
        accounts.verifier.verify(made.secret)


def test_keys_are_made_one_with_the_other_only_so_deep(running: Running) -> None:
    key = running.post("/auth/keys", {}, key=token_of(running)).json()["key"]
    for _ in range(7):
        key = running.post("/auth/keys", {}, key=key).json()["key"]
    assert code_of(running.post("/auth/keys", {}, key=key), 409) == "conflict"


@pytest.mark.both_databases
def test_a_use_is_noted_in_memory_and_written_later(accounts: Accounts, root: str, clock: Any) -> None:
    made = accounts.keys.create_for(root, KeyRequest())
    authenticator = Authenticator(accounts)
    header = f"Bearer {made.secret}".encode()
    asyncio.run(authenticator.authenticate(header))
    authenticator._revision_read_at = authenticator._monotonic()
    clock.now += 40
    assert authenticator.cached(header) is not None
    assert accounts.keys.get(made.key.id).last_used_at is None
    revision = accounts.database.read_revision()
    uses = authenticator.take_uses()
    accounts.key_use.write(uses)
    assert accounts.keys.get(made.key.id).last_used_at == 1_800_000_040
    accounts.key_use.write({name: when - 30 for name, when in uses.items()})  # of another process, and older
    assert accounts.keys.get(made.key.id).last_used_at == 1_800_000_040
    assert accounts.database.read_revision() == revision
    assert authenticator.take_uses() == {}


def test_the_last_uses_are_written_when_the_server_ends(data_dir: Path) -> None:
    settings = Settings.model_validate({"data_dir": data_dir, "api": {"port": 0, "access_log": False}})
    with run_gateway(settings) as running:
        key = running.new_key()
        assert running.get("/auth/me", key=key).status_code == 200
        own = running.get("/auth/me", key=key).json()["credential"].removeprefix("key:")
    accounts = Accounts(settings.data_dir, url=settings.database)
    used_at = accounts.keys.get(own).last_used_at
    accounts.close()
    assert used_at is not None


def test_what_a_front_has_seen_used_reaches_the_process_that_writes_it(accounts: Accounts) -> None:
    authenticator = Authenticator(accounts)
    link = FrontLink(authenticator, FrontUse(cast(Registry, None)), lambda: None, lambda _: None, lambda _: None)
    for used_at in (20.0, 10.0):
        link.frame_received(0, encode(CredentialUses({"key:a": used_at})))
    assert authenticator.take_uses() == {"key:a": 20.0}
