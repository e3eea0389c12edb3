"""What a key is called stands wherever its id does: in usage, limits, budgets, the audit; for who may see the key."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator

import pytest
from running_gateway import Running
from upstream import Upstream

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running]) -> Iterator[Running]:
    with Upstream() as up:
        providers = {"up": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}}
        models = {"bench": {"deployments": [{"provider": "up", "model": "m"}]}}
        gateway = module_gateway(llm={"providers": providers, "models": models})
        for name, role in (("ann", "user"), ("olga", "owner")):
            body = {"username": name, "password": "long enough, is it not", "role": role, "tenant": "red"}
            assert gateway.post("/auth/users", body).status_code == 201
        yield gateway


def test_keys_are_named_where_their_ids_stand(running: Running) -> None:
    name = "=laptop <b>"
    budget = {"tokens": 5000, "window": "day"}
    made = running.post("/auth/keys", {"user": "ann", "name": name, "limits": {"rpm": 60}, "budget": budget}).json()
    plain = running.post("/auth/keys", {"user": "ann", "limits": {"rpm": 50}}).json()
    for each in (made, plain):
        answer = running.chat(key=each["key"])
        assert answer.status_code == 200, answer.text
    owner = running.post("/auth/keys", {"user": "olga", "scopes": ["usage", "tenant:admin"]}).json()["key"]
    for key in (None, owner, made["key"]):
        limits = {each["name"]: each["key_name"] for each in running.get("/limits", key=key).json()["limits"]}
        assert limits[made["id"]] == name
        budgets = {each["name"]: each["key_name"] for each in running.get("/budgets", key=key).json()["budgets"]}
        assert budgets[made["id"]] == name
        sums = {row["key"]: row["key_name"] for row in running.get("/usage?by=key", key=key).json()["rows"]}
        assert (sums[made["id"]], sums[plain["id"]]) == (name, None)
        calls = running.get("/usage/requests", key=key).json()["requests"]
        assert {call["key"]: call["key_name"] for call in calls} == {made["id"]: name, plain["id"]: None}
    assert "key_name" not in running.get("/usage?by=user").json()["rows"][0]
    assert running.request("DELETE", f"/auth/keys/{made['id']}").ok  # a revoked one keeps its name
    table = list(csv.DictReader(io.StringIO(running.get("/usage?by=key&format=csv", key=owner).content.decode())))
    assert {row["key"]: row["key_name"] for row in table} == {made["id"]: f"'{name}", plain["id"]: ""}
    for key in (None, owner):
        audit = running.get("/audit?action=key.revoke", key=key).json()
        assert audit["key_names"][made["id"]] == name
        assert [event["target"] for event in audit["events"]] == [f"key:{made['id']}"]


def test_names_of_others_are_not_told(running: Running) -> None:
    """Not even where the id is known, as in the audit of what an admin's key has done here."""
    roots = running.post("/auth/keys", {"name": "of root", "scopes": ["admin", "account"]}).json()
    made = running.request("POST", "/auth/keys", key=roots["key"], json={"user": "ann", "name": "made by root"}).json()
    owner = running.post("/auth/keys", {"user": "olga", "scopes": ["tenant:admin"]}).json()["key"]
    for key, named in ((None, {"of root", "made by root"}), (owner, {"made by root"})):
        audit = running.get(f"/audit?action=key.create&target=key:{made['id']}", key=key).json()
        assert [event["credential"] for event in audit["events"]] == [f"key:{roots['id']}"]
        assert set(audit["key_names"].values()) == named
