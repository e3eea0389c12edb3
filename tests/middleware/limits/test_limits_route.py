"""``GET /limits``: whose limits hold, where they come from, and how far they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from running_gateway import Running
from upstream import Upstream


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running]) -> Iterator[Running]:
    with Upstream() as up:
        providers = {"up": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}}
        models = {
            "bench": {"deployments": [{"provider": "up", "model": "m"}], "limits": {"rpm": 500}},
            "free": {"deployments": [{"provider": "up", "model": "m"}]},
        }
        roles = {"viewer": {"limits": {"rpm": 3}}}
        gateway = module_gateway(llm={"providers": providers, "models": models}, auth={"roles": roles})
        for name, role, tenant in (("ann", "user", "red"), ("olga", "owner", "red"), ("vic", "viewer", "default")):
            body = {"username": name, "password": "long enough, is it not", "role": role, "tenant": tenant}
            assert gateway.post("/auth/users", body).status_code == 201
        limits = {"limits": {"tpm": 1000}, "member_limits": {"concurrent": 4}}
        assert gateway.request("PATCH", "/auth/teams/red", json=limits).status_code == 200
        yield gateway


def limits(running: Running, key: str | None = None) -> dict[str, dict[str, Any]]:
    answer = running.get("/limits", key=key)
    assert answer.status_code == 200
    assert answer.json()["fault"] is None
    return {each["subject"]: each for each in answer.json()["limits"]}


def test_what_holds_for_whom_and_how_far_it_is_used(running: Running) -> None:
    made = running.post("/auth/keys", {"user": "ann", "limits": {"rpm": 60}}).json()
    for _ in range(2):
        assert running.chat(key=made["key"]).status_code == 200
    found = limits(running)
    key, ann, team, model, vic = (
        found[subject] for subject in (f"key:{made['id']}", "user:ann", "tenant:red", "model:bench", "user:vic")
    )
    assert [each["source"] for each in (key, ann, team, model, vic)] == ["own", "team", "own", "config", "role"]
    assert (key["rpm"], key["tpm"], ann["concurrent"], team["tpm"], vic["rpm"]) == (60, None, 4, 1000, 3)
    assert [each["used"]["requests"] for each in (key, ann, team, model, vic)] == [2, 2, 2, 2, 0]
    assert 0 < team["used"]["tokens"] <= 1000
    assert "model:free" not in found


def test_owners_see_their_teams_and_users_their_own(running: Running) -> None:
    owners = running.post("/auth/keys", {"user": "olga", "scopes": ["usage", "tenant:admin"]}).json()["key"]
    users = running.post("/auth/keys", {"user": "ann", "limits": {"rpm": 9}}).json()
    assert {"user:ann", "user:olga", "tenant:red", f"key:{users['id']}"} <= limits(running, owners).keys()
    assert not {"model:bench", "user:vic"} & limits(running, owners).keys()
    assert limits(running, users["key"]).keys() == {f"key:{users['id']}", "user:ann", "tenant:red"}
