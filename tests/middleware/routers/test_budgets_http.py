"""``/budgets`` over HTTP and ``sage budget``: who sees and changes whose."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from running_gateway import PASSWORD, Running
from typer.testing import CliRunner

from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.principal import ROLES
from sage.middleware.cli.main import app

MONTH = {"window": "month"}


class House:
    """A gateway with two tenants, their owners, and users."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.ids: dict[str, str] = {}
        self.keys = {"root": running.key}
        for name, role, tenant in (
            ("olga", "owner", "acme"),
            ("ann", "user", "acme"),
            ("vic", "viewer", "acme"),
            ("otto", "owner", "other"),
            ("bob", "user", "other"),
        ):
            assert running.accounts is not None
            running.accounts.users.add(name, PASSWORD, role, tenant)
            made = running.accounts.keys.create_for(name, KeyRequest(scopes=sorted(ROLES[role])))
            self.keys[name], self.ids[name] = made.secret, made.key.id

    def seen_by(self, name: str) -> dict[str, dict[str, Any]]:
        answer = self.running.get("/budgets", key=self.keys[name])
        assert answer.status_code == 200, answer.text
        return {each["subject"]: each for each in answer.json()["budgets"]}

    def put(self, by: str, path: str, **body: Any) -> tuple[int, Any]:
        answer = self.running.request("PUT", f"/budgets/{path}", key=self.keys[by], json=body)
        return answer.status_code, answer.json()

    def delete(self, by: str, path: str) -> tuple[int, Any]:
        answer = self.running.request("DELETE", f"/budgets/{path}", key=self.keys[by])
        return answer.status_code, answer.json()


@pytest.fixture
def house(gateway: Callable[..., Running]) -> House:
    budgets = {
        "tenants": {"acme": {"usd": 100}},
        "tags": {"night": {"usd": 5, "window": "day"}},
        "defaults": {"user": {"tokens": 1000, "window": "total"}},
    }
    return House(gateway(budgets=budgets))


def test_callers_see_what_they_meet_owners_their_tenants_and_admins_all(house: House) -> None:
    assert house.put("root", f"key/{house.ids['ann']}", usd=1)[0] == 200
    assert house.put("root", "model/openai/gpt-5", tokens=7)[0] == 200
    assert set(house.seen_by("ann")) == {f"key:{house.ids['ann']}", "tenant:acme", "user:ann"}
    assert set(house.seen_by("vic")) == {"tenant:acme", "user:vic"}
    assert set(house.seen_by("bob")) == {"user:bob"}
    in_acme = {"tenant:acme", "user:ann", "user:olga", "user:vic", f"key:{house.ids['ann']}"}
    assert set(house.seen_by("olga")) == in_acme
    assert {"tag:night", "model:openai/gpt-5", f"key:{house.ids['ann']}", "user:root"} <= set(house.seen_by("root"))
    assert house.seen_by("ann")["tenant:acme"] == {
        "subject": "tenant:acme",
        "kind": "tenant",
        "name": "acme",
        "usd": 100,
        "window": "month",
        "hard": True,
        "spent": 0,
        "reserved": 0,
        "left": 100,
        "opens_at": house.seen_by("bob") and house.seen_by("olga")["tenant:acme"]["opens_at"],
        "source": "config",
    }
    assert house.seen_by("bob")["user:bob"]["opens_at"] is None


@pytest.mark.parametrize(
    ("by", "path", "status"),
    [
        ("root", "tenant/acme", 200),
        ("root", "tag/any text", 200),
        ("root", "user/Ann", 200),  # names of users are the same in any case
        ("root", "user/nobody", 404),
        ("root", "key/abcdefghijkl", 404),
        ("root", "planet/mars", 400),
        ("olga", "user/ann", 200),
        ("olga", "user/bob", 404),
        ("olga", "user/nobody", 404),
        ("olga", "tenant/acme", 403),
        ("olga", "model/gpt", 403),
        ("olga", "tag/night", 403),
        ("ann", "user/ann", 403),
        ("vic", "user/vic", 403),
    ],
)
def test_who_may_change_whose(house: House, by: str, path: str, status: int) -> None:
    changed, answer = house.put(by, path, usd="2.50", window="week", hard=False)
    assert changed == status, answer
    if status != 200:
        assert house.delete(by, path)[0] == status
        return
    assert (answer["usd"], answer["window"], answer["hard"], answer["source"]) == (2.5, "week", False, "api")
    assert house.seen_by("root")[answer["subject"]] == answer
    assert house.delete(by, path) == (200, {"deleted": True})
    assert house.delete(by, path)[0] == 404


def test_owners_reach_the_keys_of_their_tenant_only(house: House) -> None:
    assert house.put("olga", f"key/{house.ids['ann']}", tokens=5)[0] == 200
    assert house.put("otto", f"key/{house.ids['ann']}", tokens=500)[0] == 404
    assert house.delete("otto", f"key/{house.ids['ann']}")[0] == 404
    assert house.seen_by("ann")[f"key:{house.ids['ann']}"]["tokens"] == 5


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"usd": 1, "tokens": 1},
        {"usd": 0},
        {"usd": -1},
        {"usd": "1e30"},
        {"usd": "0.0000000001"},
        {"tokens": 0},
        {"tokens": 2**63},
        {"usd": 1, "window": "year"},
        {"usd": 1, "extra": 1},
    ],
)
def test_amounts_that_make_no_sense(house: House, body: dict[str, Any]) -> None:
    status, answer = house.put("root", "user/ann", **body)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert house.seen_by("ann")["user:ann"]["source"] == "default"


def test_a_gateway_without_accounts_shows_what_its_configuration_says(gateway: Callable[..., Running]) -> None:
    off = {"enabled": False}
    assert gateway(auth=off).get("/budgets").json() == {"budgets": []}
    running = gateway(auth=off, budgets={"users": {"local": {"tokens": 5}}})
    (budget,) = running.get("/budgets").json()["budgets"]
    assert (budget["subject"], budget["tokens"], budget["left"]) == ("user:local", 5, 5)
    assert running.request("PUT", "/budgets/user/local", json={"tokens": 50}).status_code == 403


def test_the_command_line(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_URL", house.running.url)
    monkeypatch.setenv("SAGE_API_KEY", house.keys["root"])

    def sage(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["budget", *words])
        return result.exit_code, result.output

    assert sage("set", "user", "ann", "--usd", "12.5", "--window", "day") == (
        0,
        "the budget of the user 'ann' is set\n",
    )
    status, output = sage("list")
    assert status == 0
    rows = {line.split()[0]: line.split() for line in output.splitlines()}
    assert rows["SUBJECT"] == ["SUBJECT", "AMOUNT", "WINDOW", "SPENT", "RESERVED", "LEFT", "OPENS", "HARD"]
    assert rows["user:ann"][1:6] == ["$12.5", "day", "$0", "$0", "$12.5"]
    assert rows["user:bob"][1:] == ["1000", "total", "0", "0", "1000", "-", "yes"]
    shown = json.loads(sage("show", "user", "ann", "--json")[1])
    assert (shown["usd"], shown["source"]) == (12.5, "api")
    assert json.loads(sage("list", "--json")[1])["budgets"] == list(house.seen_by("root").values())
    assert sage("delete", "user", "ann") == (0, "the budget of the user 'ann' is deleted\n")
    assert sage("show", "user", "ann")[0] == 0  # the default
    assert sage("show", "user", "nobody") == (1, "sage: there is no budget of the user 'nobody' that you may see\n")
    assert sage("set", "user", "ann") == (2, "sage: give either --usd or --tokens\n")


def test_a_key_is_made_and_changed_with_its_budget(house: House) -> None:
    post = house.running.post("/auth/keys", {"budget": {"usd": "1.5", "window": "day"}}, key=house.keys["ann"])
    assert post.status_code == 201, post.text
    made = post.json()
    subject, path = f"key:{made['id']}", f"/auth/keys/{made['id']}"
    house.keys["made"] = made["key"]
    assert (house.seen_by("made")[subject]["usd"], house.seen_by("made")[subject]["window"]) == (1.5, "day")

    def patch(by: str, **body: Any) -> int:
        return house.running.request("PATCH", path, key=house.keys[by], json=body).status_code

    assert patch("ann", budget={"tokens": 5}) in (200, 403, 404)  # as for limits: only of keys that it made
    assert patch("made", budget={"tokens": 500}) in (403, 404)
    assert patch("root", budget={"tokens": 50}) == 200
    assert house.seen_by("made")[subject]["tokens"] == 50
    assert patch("root", budget=None) == 200
    assert subject not in house.seen_by("made")
    assert house.running.post("/auth/keys", {"budget": {"usd": 0}}, key=house.keys["ann"]).status_code == 400
