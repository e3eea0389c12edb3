"""``/budgets`` over HTTP and ``sage budget``: who sees and changes whose."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from running_gateway import PASSWORD, Running
from typer.testing import CliRunner

from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.principal import ROLES
from sage.middleware.cli.main import app

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or asks one a hundred times

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


BUDGETS = {
    "tenants": {"acme": {"usd": 100}},
    "tags": {"night": {"usd": 5, "window": "day"}},
    "defaults": {"user": {"tokens": 1000, "window": "total"}},
}


@pytest.fixture
def house(gateway: Callable[..., Running]) -> House:
    return House(gateway(budgets=BUDGETS))


@pytest.fixture(scope="module")
def shared_house(module_gateway: Callable[..., Running]) -> House:
    """For tests that leave it as it was."""
    return House(module_gateway(budgets=BUDGETS))


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
        "key_name": None,
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
def test_who_may_change_whose(shared_house: House, by: str, path: str, status: int) -> None:
    house = shared_house
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
def test_amounts_that_make_no_sense(shared_house: House, body: dict[str, Any]) -> None:
    house = shared_house
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
    assert sage("set", "tag", "day", "--tokens", "5")[0] == 0
    assert json.loads(sage("delete", "tag", "day", "--json")[1]) == {"deleted": True}
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

    assert patch("ann", budget={"tokens": 5}) == 200  # the budget is its own, as is the key
    assert patch("made", budget={"tokens": 500}) in (403, 404)
    assert patch("root", budget={"tokens": 50}) == 200
    assert [patch("ann", budget=given, note="mine") for given in (None, {"tokens": 500}, {"usd": 500})] == [403] * 3
    assert house.seen_by("made")[subject]["tokens"] == 50
    assert house.running.get(path, key=house.keys["ann"]).json()["note"] == ""  # all of a change, or nothing
    assert patch("olga", budget={"tokens": 60}) == 200  # an owner of the team
    assert patch("ann", budget=None) == 403
    assert patch("root", budget=None) == 200
    assert subject not in house.seen_by("made")
    assert [patch("ann", budget={"tokens": 7}), patch("ann", budget={"tokens": 8}), patch("ann", budget=None)] == [
        200
    ] * 3
    assert subject not in house.seen_by("made")
    assert house.running.post("/auth/keys", {"budget": {"usd": 0}}, key=house.keys["ann"]).status_code == 400


def test_users_and_teams_are_made_and_changed_with_their_budgets_and_show_them(house: House) -> None:
    def ask(method: str, path: str, by: str, **body: Any) -> tuple[int, Any]:
        answer = house.running.request(method, path, key=house.keys[by], json=body)
        return answer.status_code, answer.json()

    body = {"username": "mia", "password": PASSWORD, "budget": {"usd": "2.5", "window": "week", "hard": False}}
    status, mia = ask("POST", "/auth/users", "olga", **body)
    assert (status, mia["tenant"]) == (201, "acme")
    shown = {"usd": 2.5, "window": "week", "hard": False, "spent": 0, "reserved": 0, "left": 2.5, "source": "api"}
    assert mia["budget"] == {**mia["budget"], **shown, "subject": "user:mia"}
    assert ask("PATCH", "/auth/users", "olga", username="Mia", budget={"tokens": 7})[1]["budget"]["tokens"] == 7
    listed = house.running.get("/auth/users", key=house.keys["olga"]).json()["users"]
    amounts = {user["name"]: user["budget"]["tokens"] for user in listed}
    assert amounts == {"ann": 1000, "mia": 7, "olga": 1000, "vic": 1000}
    assert ask("PATCH", "/auth/users", "olga", username="mia", budget=None)[1]["budget"]["source"] == "default"
    assert ask("PATCH", "/auth/users", "otto", username="mia", budget={"tokens": 7})[0] == 404
    assert ask("PATCH", "/auth/users", "ann", username="ann", budget={"tokens": 7})[0] == 403
    assert ask("POST", "/auth/users", "olga", username="x", password=PASSWORD, budget={"usd": 0})[0] == 400

    status, team = ask("POST", "/auth/teams", "root", name="new", budget={"tokens": 99})
    assert (status, team["budget"]["tokens"], team["budget"]["subject"]) == (201, 99, "tenant:new")
    assert ask("PATCH", "/auth/teams/acme", "root", budget={"usd": 3})[1]["budget"]["usd"] == 3
    assert house.running.get("/auth/teams/acme", key=house.keys["olga"]).json()["budget"]["usd"] == 3
    status, refused = ask("PATCH", "/auth/teams/acme", "olga", budget={"usd": 300}, note="hidden")
    assert (status, refused["error"]["code"], refused["error"]["param"]) == (403, "beyond_creator", "budget")
    assert ask("PATCH", "/auth/teams/acme", "otto", budget={"usd": 300})[0] == 404
    by_name = {team["name"]: team for team in house.running.get("/auth/teams").json()["teams"]}
    assert (by_name["acme"]["budget"]["usd"], by_name["acme"]["note"], by_name["other"]["budget"]) == (3, "", None)
    assert ask("PATCH", "/auth/teams/acme", "root", budget=None)[1]["budget"]["source"] == "config"


def test_members_of_a_team_have_its_member_budget_unless_they_have_their_own(house: House) -> None:
    running = house.running

    def patch(by: str, **body: Any) -> tuple[int, Any]:
        answer = running.request("PATCH", "/auth/teams/acme", key=house.keys[by], json=body)
        return answer.status_code, answer.json()

    def spends(name: str) -> tuple[Any, ...]:
        found = house.seen_by(name).get(f"user:{name}", {})
        return found.get("tokens"), found.get("window"), found.get("source")

    assert spends("ann") == (1000, "total", "default")
    status, team = patch("olga", member_budget={"tokens": 60, "window": "day", "hard": False})  # owners may
    given = {"usd": None, "tokens": 60, "window": "day", "hard": False}
    assert (status, team["member_budget"], team["budget"]["source"]) == (200, given, "config")
    assert running.get("/auth/teams/acme", key=house.keys["olga"]).json()["member_budget"] == given
    listed = {each["id"]: each["member_budget"] for each in running.get("/auth/teams").json()["teams"]}
    assert listed == {"acme": given, "default": None, "other": None}
    assert (spends("ann"), spends("bob")) == ((60, "day", "team"), (1000, "total", "default"))
    users = {each["name"]: each["budget"] for each in running.get("/auth/users").json()["users"]}
    assert {name: users[name]["source"] for name in ("ann", "olga", "bob")} == {
        **{"ann": "team", "olga": "team"},
        "bob": "default",
    }
    assert [each for each in house.seen_by("root") if each.startswith("member:")] == []
    assert house.put("olga", "user/ann", tokens=5)[0] == 200
    assert (spends("ann"), spends("vic")) == ((5, "month", "api"), (60, "day", "team"))
    assert house.delete("olga", "user/ann")[0] == 200
    assert spends("ann") == (60, "day", "team")
    assert patch("otto", member_budget={"tokens": 1})[0] == 404
    assert patch("ann", member_budget={"tokens": 1})[0] == 403
    assert patch("root", member_budget={"tokens": 0})[0] == 400
    assert house.put("root", "member/acme", tokens=1)[0] == 400  # a team's, not a subject's
    assert patch("root", member_budget=None)[1]["member_budget"] is None
    assert spends("ann") == (1000, "total", "default")
    made = running.post("/auth/teams", {"name": "new", "budget": {"usd": 3}, "member_budget": {"usd": "0.25"}})
    assert (made.status_code, made.json()["budget"]["usd"], made.json()["member_budget"]["usd"]) == (201, 3, 0.25)
    body = {"username": "nina", "password": PASSWORD, "tenant": "new"}
    assert running.post("/auth/users", body).json()["budget"]["usd"] == 0.25
    events = running.get("/audit", params={"action": "budget", "target": "budget:member:acme"}).json()["events"]
    first = {"tokens": 60, "window": "day", "hard": False}
    assert [(each["action"], each["actor"], each["tenant"], each["details"]) for each in events] == [
        ("budget.remove", "user:root", "acme", {"budget_before": first}),
        ("budget.set", "user:olga", "acme", {"budget": first, "budget_before": None}),
    ]


def test_what_cannot_get_its_budget_is_not_made(house: House) -> None:
    running = house.running

    def make() -> list[int]:
        user = {"username": "mia", "password": PASSWORD, "tenant": "acme", "budget": {"tokens": 7}}
        return [
            running.post("/auth/keys", {"name": "made", "budget": {"tokens": 7}}).status_code,
            running.post("/auth/users", user).status_code,
            running.post("/auth/teams", {"name": "new", "budget": {"tokens": 7}}).status_code,
            running.post("/auth/teams", {"name": "newer", "member_budget": {"tokens": 7}}).status_code,
        ]

    def there() -> tuple[list[str], ...]:
        assert running.accounts is not None
        keys, users, teams = running.accounts.keys, running.accounts.users, running.accounts.teams
        found = [key.name for key in keys.list()], [user.name for user in users.list()], [t.name for t in teams.list()]
        return found

    def rename(old: str, new: str) -> None:
        with closing(sqlite3.connect(running.settings.data_dir / "sage.db")) as raw:
            raw.execute(f"ALTER TABLE {old} RENAME TO {new}")

    before, told = there(), running.get("/audit", params={"limit": 1000}).json()["events"]
    rename("budgets", "budgets_gone")
    assert make() == [503, 503, 503, 503]
    rename("budgets_gone", "budgets")
    assert there() == before
    assert running.get("/audit", params={"limit": 1000}).json()["events"] == told
    assert make() == [201, 201, 201, 201]
    keys, users, teams = there()
    assert ("made" in keys, "mia" in users, {"new", "newer"} <= {*teams}) == (True, True, True)
    assert house.seen_by("root")["user:mia"]["tokens"] == house.seen_by("root")["tenant:new"]["tokens"] == 7
    (key,) = (each for each in running.get("/auth/keys").json()["keys"] if each["name"] == "made")
    assert (key["budget"]["tokens"], key["budget"]["source"]) == (7, "api")


def test_a_key_shows_how_far_its_budget_is(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    made = running.post("/auth/keys", {"name": "metered", "limits": {"rpm": 9}, "budget": {"tokens": 10**6}}).json()
    assert running.chat(key=made["key"]).status_code == 200
    used = running.get("/usage", params={"by": "key"}).json()["rows"][0]
    spent = used["prompt_tokens"] + used["completion_tokens"]
    assert spent > 0

    def budget() -> Any:
        return running.get(f"/auth/keys/{made['id']}").json()["budget"]

    end = time.monotonic() + 10
    while not budget()["spent"] and time.monotonic() < end:
        time.sleep(0.05)
    assert (budget()["spent"], budget()["tokens"]) == (spent, 10**6)
    (listed,) = (key for key in running.get("/auth/keys").json()["keys"] if key["id"] == made["id"])
    assert listed["budget"] == budget()

    monkeypatch.setenv("SAGE_DATA_DIR", str(running.settings.data_dir))
    monkeypatch.setenv("COLUMNS", "250")
    (of_command,) = (
        key
        for key in json.loads(CliRunner().invoke(app, ["key", "list", "--json"]).output)["keys"]
        if key["id"] == made["id"]
    )
    assert (of_command["budget"]["spent"], of_command["limits"]) == (spent, {"rpm": 9})
    table = CliRunner().invoke(app, ["key", "list"]).output
    (row,) = (line for line in table.splitlines() if made["id"] in line)
    assert re.search(rf"rpm 9 +{spent} of 1000000, month", row)
    assert f"{spent} of 1000000" in CliRunner().invoke(app, ["key", "show", made["id"]]).output


def test_every_way_to_set_budgets_and_limits_is_told_with_what_was_before(house: House) -> None:
    running, ann = house.running, house.ids["ann"]

    def send(method: str, path: str, **body: Any) -> None:
        assert running.request(method, path, json=body).status_code in (200, 201)

    send("PATCH", f"/auth/keys/{ann}", limits={"rpm": 5}, budget={"usd": "1.50"})
    send("PATCH", f"/auth/keys/{ann}", budget={"tokens": 5, "window": "day", "hard": False})
    send("PATCH", "/auth/users", username="ann", limits={"tpm": 8}, budget={"tokens": 6})
    send("PATCH", "/auth/users", username="ann", limits=None, budget=None)
    send("PATCH", "/auth/users", username="ann", budget=None)  # changes nothing
    send("PATCH", "/auth/teams/acme", limits={"rpm": 1}, member_limits={"rpm": 2}, budget={"usd": 7})
    send("PATCH", "/auth/teams/acme", limits={"rpm": 3})
    send("PUT", "/budgets/tenant/acme", tokens=1)
    answer = running.get("/audit", params={"limit": 1000, "actor": "root"}).json()["events"]
    told = [(each["action"], each["target"], each["tenant"], each["details"]) for each in reversed(answer)]
    month = {**MONTH, "hard": True}
    first, second = {"usd": "1.5", **month}, {"tokens": 5, "window": "day", "hard": False}
    key, user, team = f"key:{ann}", "user:ann", "team:acme"
    assert told == [
        ("budget.set", f"budget:{key}", "acme", {"budget": first, "budget_before": None}),
        ("key.change", key, "acme", {"user": "ann", "limits": {"rpm": 5}, "limits_before": None}),
        ("budget.set", f"budget:{key}", "acme", {"budget": second, "budget_before": first}),
        ("budget.set", "budget:user:ann", "acme", {"budget": {"tokens": 6, **month}, "budget_before": None}),
        ("user.change", user, "acme", {"limits": {"tpm": 8}, "limits_before": None}),
        ("budget.remove", "budget:user:ann", "acme", {"budget_before": {"tokens": 6, **month}}),
        ("user.change", user, "acme", {"limits": None, "limits_before": {"tpm": 8}}),
        ("budget.set", "budget:tenant:acme", "acme", {"budget": {"usd": "7", **month}, "budget_before": None}),
        (
            *("team.change", team, "acme"),
            {"limits": {"rpm": 1}, "limits_before": None, "member_limits": {"rpm": 2}, "member_limits_before": None},
        ),
        ("team.change", team, "acme", {"limits": {"rpm": 3}, "limits_before": {"rpm": 1}}),
        (
            *("budget.set", "budget:tenant:acme", "acme"),
            {"budget": {"tokens": 1, **month}, "budget_before": {"usd": "7", **month}},
        ),
    ]
    assert running.get("/audit", key=house.keys["olga"], params={"actor": "root"}).json()["events"] == answer
