"""Teams, their owners and their viewers, through the real server: who may do what to whom, and what nobody learns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from running_gateway import PASSWORD, Running

from sage.middleware.auth.accounts import Accounts

LIMITS = {"rpm": 60, "tpm": 1000, "concurrent": 4}

pytestmark = pytest.mark.slow  # a gateway and several logins for each


def token_of(running: Running, name: str) -> str:
    form = {"username": name, "password": PASSWORD}
    answer = requests.post(f"{running.url}/auth/token", data=form, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def code_of(answer: requests.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["code"])


def add_user(running: Running, name: str, role: str = "user", tenant: str = "acme", **fields: Any) -> str:
    body = {"username": name, "password": PASSWORD, "role": role, "tenant": tenant, **fields}
    made = running.post("/auth/users", body)
    assert made.status_code == 201, made.text
    return token_of(running, name)


@pytest.fixture
def running(gateway: Callable[..., Running]) -> Running:
    """A gateway with the teams ``acme`` and ``other``; its admin is ``root``."""
    running = gateway()
    assert running.post("/auth/teams", {"name": "acme", "note": "of Ann"}).status_code == 201
    assert running.post("/auth/teams", {"name": "other"}).status_code == 201
    return running


def test_an_admin_makes_shows_changes_and_deletes_teams(running: Running) -> None:
    made = running.get("/auth/teams/acme").json()
    assert (made["id"], made["name"], made["note"], made["models"]) == ("acme", "acme", "of Ann", ["*"])
    assert (made["limits"], made["member_limits"], made["capture"], made["members"]) == (None, None, None, 0)
    changes = {"models": ["gpt-*"], "limits": LIMITS, "member_limits": {"rpm": 5}, "capture": {"prompts": True}}
    changed = running.request("PATCH", "/auth/teams/acme", json=changes).json()
    assert (changed["models"], changed["limits"], changed["member_limits"]) == (["gpt-*"], LIMITS, {"rpm": 5})
    assert changed["capture"] == {"prompts": True, "days": 7, "redact": []}
    add_user(running, "ann")
    listed = {team["id"]: team["members"] for team in running.get("/auth/teams").json()["teams"]}
    assert listed == {"acme": 1, "default": 1, "other": 0}
    assert code_of(running.request("DELETE", "/auth/teams/acme"), 409) == "team_not_empty"
    assert running.request("DELETE", "/auth/teams/other").json()["deleted"] is True
    assert code_of(running.get("/auth/teams/other"), 404) == "not_found"
    assert code_of(running.post("/auth/teams", {"name": "other"}), 409) == "team_deleted"  # its data is still there
    assert running.request("PATCH", "/auth/teams/other", json={"deleted": False}).status_code == 200
    assert code_of(running.post("/auth/teams", {"name": "acme"}), 409) == "team_exists"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "a b"}, "tenant"),
        ({"name": "x", "models": []}, "models"),
        ({"name": "x", "models": ["gpt-?"]}, "models"),
        ({"name": "x", "limits": {"rpm": 0}}, "limits"),
        ({"name": "x", "limits": {"rmp": 1}}, "limits"),
        ({"name": "x", "capture": {"redact": ["("]}}, "capture"),
        ({"name": "x", "note": "n" * 1001}, "note"),
    ],
)
def test_what_no_team_can_be_is_400_and_makes_none(running: Running, body: dict[str, Any], param: str) -> None:
    answer = running.post("/auth/teams", body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].split(".")[0] == param
    assert running.get("/auth/teams/x").status_code == 404


def test_an_owner_manages_its_team_and_nothing_else(running: Running) -> None:
    owner = add_user(running, "olga", "owner")
    add_user(running, "boss", "admin")  # an admin who belongs to the team
    add_user(running, "eve", tenant="other")
    made = running.post("/auth/users", {"username": "uma", "password": PASSWORD, "limits": {"rpm": 3}}, key=owner)
    assert (made.status_code, made.json()["tenant"], made.json()["limits"]) == (201, "acme", {"rpm": 3})
    users = running.get("/auth/users", key=owner).json()["users"]
    assert [user["name"] for user in users] == ["olga", "uma"]
    assert [team["id"] for team in running.get("/auth/teams", key=owner).json()["teams"]] == ["acme"]

    def patch(name: str, **changes: Any) -> requests.Response:
        return running.request("PATCH", "/auth/users", key=owner, json={"username": name, **changes})

    assert patch("uma", role="viewer").json()["role"] == "viewer"
    assert code_of(patch("uma", role="admin"), 403) == "beyond_creator"
    assert code_of(patch("uma", tenant="other"), 403) == "beyond_creator"
    assert code_of(patch("uma", tenant="nowhere"), 403) == "beyond_creator"
    admin = {"username": "x", "password": PASSWORD, "role": "admin"}
    assert code_of(running.post("/auth/users", admin, key=owner), 403) == "beyond_creator"
    elsewhere = {"username": "x", "password": PASSWORD, "tenant": "other"}
    assert code_of(running.post("/auth/users", elsewhere, key=owner), 403) == "beyond_creator"
    refusals = {patch(name, disabled=True).text.replace(name, "NAME") for name in ("eve", "boss", "root", "nobody")}
    assert len(refusals) == 1
    assert "there are: olga, uma" in refusals.pop()

    add_user(running, "copa", tenant="other")
    for name in ("eve", "сора"):  # in Latin and in Cyrillic letters; the owner does not learn whose it looks like
        taken = running.post("/auth/users", {"username": name, "password": PASSWORD}, key=owner)
        assert code_of(taken, 409) == "name_taken"
        assert taken.json()["error"]["message"] == (
            f"the user name '{name}' is taken; names are unique over all teams, since a login names no team"
        )

    assert running.request("PATCH", "/auth/teams/acme", key=owner, json={"note": "ours"}).json()["note"] == "ours"
    for bound in ({"limits": None}, {"models": ["*"]}, {"deleted": True}):
        answer = running.request("PATCH", "/auth/teams/acme", key=owner, json=bound)
        assert code_of(answer, 403) == "beyond_creator"
    hidden = running.get("/auth/teams/other", key=owner)
    absent = running.get("/auth/teams/nowhere", key=owner)
    assert hidden.status_code == 404
    assert hidden.text.replace("other", "NAME") == absent.text.replace("nowhere", "NAME")
    assert running.request("PATCH", "/auth/teams/other", key=owner, json={"note": "x"}).status_code == 404
    assert code_of(running.post("/auth/teams", {"name": "new"}, key=owner), 403) == "missing_scope"
    assert code_of(running.request("DELETE", "/auth/teams/acme", key=owner), 403) == "missing_scope"


def test_an_owner_manages_the_keys_of_its_team_and_no_others(running: Running) -> None:
    owner = add_user(running, "olga", "owner")
    uma, eve, boss = (
        add_user(running, "uma"),
        add_user(running, "eve", tenant="other"),
        add_user(running, "boss", "admin"),
    )
    ids = {
        name: running.post("/auth/keys", {"name": f"of {name}"}, key=key).json()["id"]
        for name, key in (("uma", uma), ("eve", eve), ("boss", boss))
    }
    for query in ("?user=uma", "?team=acme"):
        keys = running.get(f"/auth/keys{query}", key=owner).json()["keys"]
        assert [key["id"] for key in keys] == [ids["uma"]]
    assert running.get("/auth/keys?team=other", key=owner).json() == {"keys": []}
    for name in ("eve", "boss"):
        for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate")):
            body = {"note": "x"} if method == "PATCH" else None
            hidden = running.request(method, f"/auth/keys/{ids[name]}{path}", key=owner, json=body)
            absent = running.request(method, f"/auth/keys/{'a' * 12}{path}", key=owner, json=body)
            assert hidden.status_code == 404, (name, method)
            assert hidden.text.replace(ids[name], "ID") == absent.text.replace("a" * 12, "ID")
        assert code_of(running.post("/auth/keys", {"user": name}, key=owner), 404) == "user_not_found"
    for_uma = running.post("/auth/keys", {"user": "uma", "limits": {"rpm": 7}}, key=owner).json()
    assert (for_uma["user"], for_uma["tenant"], for_uma["limits"]) == ("uma", "acme", {"rpm": 7})
    assert running.get("/auth/me", key=for_uma["key"]).json()["user"] == "uma"
    beyond = running.post("/auth/keys", {"user": "uma", "scopes": ["tenant:admin"]}, key=owner)
    assert code_of(beyond, 403) == "beyond_creator"
    changed = running.request("PATCH", f"/auth/keys/{ids['uma']}", key=owner, json={"limits": LIMITS})
    assert changed.json()["limits"] == LIMITS
    assert running.request("DELETE", f"/auth/keys/{ids['uma']}", key=owner).json()["revoked_at"] is not None


def test_an_owners_key_makes_nobody_with_more_rights_than_its_own(running: Running) -> None:
    owner = add_user(running, "olga", "owner")
    user = {"username": "uma", "password": PASSWORD}
    few = running.post("/auth/keys", {"scopes": ["tenant:admin", "account"]}, key=owner).json()["key"]
    assert code_of(running.post("/auth/users", user, key=few), 403) == "beyond_creator"
    everything = running.get("/auth/me", key=owner).json()["scopes"]
    for bound in ({"models": ["gpt-*"]}, {"limits": {"rpm": 1}}):
        held = running.post("/auth/keys", {"scopes": everything, **bound}, key=owner).json()["key"]
        answer = running.post("/auth/users", user, key=held)
        assert code_of(answer, 403) == "beyond_creator"
        takeover = {"username": "olga", "password": "another password of mine"}
        assert code_of(running.request("PATCH", "/auth/users", key=held, json=takeover), 403) == "beyond_creator"
    plain = running.post("/auth/keys", {}, key=owner).json()
    assert "tenant:admin" not in plain["scopes"]
    free = running.post("/auth/keys", {"scopes": everything}, key=owner).json()["key"]
    assert running.post("/auth/users", user, key=free).status_code == 201


def test_a_viewer_looks_and_changes_nothing(running: Running) -> None:
    viewer = add_user(running, "vic", "viewer")
    assert running.get("/models", key=viewer).status_code == 200
    assert running.get("/auth/keys", key=viewer).status_code == 200
    for method, path, scope in (
        ("POST", "/generate", "generate"),
        ("POST", "/collections", "collections:write"),
        ("PUT", "/kv/a", "kv"),
        ("GET", "/auth/users", "tenant:admin"),
        ("GET", "/auth/teams", "tenant:admin"),
    ):
        answer = running.request(method, path, key=viewer, json={})
        assert code_of(answer, 403) == "missing_scope"
        assert f"'{scope}'" in answer.json()["error"]["message"]


def test_a_teams_models_narrow_every_credential_of_it_within_a_second(running: Running) -> None:
    uma = add_user(running, "uma")
    key = running.post("/auth/keys", {"models": ["gemma-*", "gpt-*"]}, key=uma).json()["key"]
    assert running.get("/v1/models/gemma-3-270m", key=key).status_code == 200
    assert running.request("PATCH", "/auth/teams/acme", json={"models": ["gpt-*"]}).status_code == 200
    for credential in (uma, key):
        assert running.get("/v1/models", key=credential).json()["data"] == []
        refused = running.post("/generate", {"model": "gemma-3-270m", "prompt": "x"}, key=credential)
        assert code_of(refused, 403) == "model_not_allowed"
        assert "gpt-*" in refused.json()["error"]["message"]
    assert running.get("/auth/me", key=key).json()["team_models"] == ["gpt-*"]
    assert running.get("/v1/models/gemma-3-270m").status_code == 200  # the admin's team is another


def test_what_holds_for_a_caller_is_of_its_key_its_user_and_its_team(gateway: Callable[..., Running]) -> None:
    running = gateway(auth={"roles": {"user": {"limits": {"rpm": 100}}}})
    running.post("/auth/teams", {"name": "acme", "limits": {"tpm": 5000}})
    uma = add_user(running, "uma")

    def limits(key: str = uma) -> dict[str, Any]:
        return dict(running.get("/auth/me", key=key).json()["limits"])

    assert limits() == {"user:uma": {"rpm": 100}, "tenant:acme": {"tpm": 5000}}  # the role's, for want of others
    running.request("PATCH", "/auth/teams/acme", json={"member_limits": {"rpm": 50}})
    assert limits() == {"user:uma": {"rpm": 50}, "tenant:acme": {"tpm": 5000}}
    running.request("PATCH", "/auth/users", json={"username": "uma", "limits": {}})
    assert limits() == {"tenant:acme": {"tpm": 5000}}  # of its own, and none
    running.request("PATCH", "/auth/users", json={"username": "uma", "limits": {"concurrent": 2}})
    maker = running.post("/auth/keys", {"limits": {"rpm": 9}, "tags": ["a"]}, key=uma).json()
    child = running.post("/auth/keys", {"limits": {"rpm": 99}, "tags": ["b"]}, key=maker["key"]).json()
    assert limits(child["key"]) == {
        f"key:{child['id']}": {"rpm": 99},
        f"key:{maker['id']}": {"rpm": 9},  # of both together
        "user:uma": {"concurrent": 2},
        "tenant:acme": {"tpm": 5000},
    }
    assert running.get("/auth/me", key=child["key"]).json()["tags"] == ["b", "a"]
    assert running.get(f"/auth/keys/{child['id']}", key=uma).json()["made_by"] == maker["id"]
    running.request("PATCH", "/auth/users", json={"username": "uma", "limits": None})
    assert limits()["user:uma"] == {"rpm": 50}


def test_what_the_command_line_takes_away_is_gone_within_a_second(running: Running) -> None:
    """The command line is another process; here it is other accounts on the same directory."""
    uma = add_user(running, "uma")
    assert running.get("/v1/models/gemma-3-270m", key=uma).status_code == 200
    beside = Accounts(running.settings.data_dir, url=running.settings.database)
    beside.teams.change("acme", models=["gpt-*"])
    beside.close()
    deadline = time.monotonic() + 1.5  # a second, and what a busy machine adds
    while running.get("/v1/models/gemma-3-270m", key=uma).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)
