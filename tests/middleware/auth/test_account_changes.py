"""Every change of users, keys and teams is told once, within its transaction, and without a secret."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from running_gateway import PASSWORD
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from sage.errors import NotFound, Unavailable
from sage.middleware.audit.log import AuditFilter
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.changes import AccountChange
from sage.middleware.auth.grants import KeyRequest, operator
from sage.middleware.budgets.database import open_budgets_database
from sage.middleware.budgets.store import BudgetStore
from sage.middleware.settings.budgets import BudgetSettings
from sage.middleware.settings.database import DatabaseUrl
from sage.middleware.settings.limits import Limits

pytestmark = pytest.mark.both_databases

NEW = "seven tall giraffes drink"


@pytest.fixture
def told(accounts: Accounts) -> list[AccountChange]:
    changes: list[AccountChange] = []
    accounts.changes.on_change = lambda _, change: changes.append(change)
    return changes


def test_each_change_is_told_with_who_what_and_to_whom(accounts: Accounts, told: list[AccountChange]) -> None:
    accounts.teams.add("acme", note="n", limits=Limits(rpm=1))
    accounts.users.add("Ann", PASSWORD, "owner", "acme")
    ann = accounts.verifier.verify(accounts.sessions.login("ann", PASSWORD).access_token).principal
    accounts.users.add("bob", PASSWORD, tenant="acme", by=ann)
    accounts.users.change("bob", ann, role="viewer", password=NEW)
    made = accounts.keys.create(ann, KeyRequest("ci", ["search"], user="bob", tags=["t"]))
    accounts.keys.change(made.key.id, ann, limits=Limits(tpm=5))
    rotated = accounts.keys.rotate(made.key.id, ann, overlap=0)
    accounts.keys.revoke(made.key.id, ann)
    accounts.own_password.change(ann, PASSWORD, NEW)
    accounts.users.change("bob", tenant="default")
    accounts.teams.change("acme", ann, member_limits=Limits(rpm=2))
    key = f"key:{made.key.id}"
    assert [(change.by and change.by.user, change.action, change.target, change.tenant) for change in told] == [
        (None, "team.create", "team:acme", "acme"),
        (None, "user.create", "user:Ann", "acme"),
        ("Ann", "session.login", "user:Ann", "acme"),
        ("Ann", "user.create", "user:bob", "acme"),
        ("Ann", "user.change", "user:bob", "acme"),
        ("Ann", "key.create", key, "acme"),
        ("Ann", "key.change", key, "acme"),
        ("Ann", "key.rotate", key, "acme"),
        ("Ann", "key.revoke", key, "acme"),
        ("Ann", "user.password", "user:Ann", "acme"),
        (None, "user.change", "user:bob", "default"),
        ("Ann", "team.change", "team:acme", "acme"),
    ]
    details = [change.details for change in told]
    assert details[4] == {"role": "viewer", "role_before": "user", "new_password": True, "ended_sessions": 0}
    assert details[6] == {"user": "bob", "limits": {"tpm": 5}, "limits_before": None}
    assert details[10] == {"tenant": "default", "tenant_before": "acme"}
    text = json.dumps(details)
    for secret in (PASSWORD, NEW, made.secret[20:], rotated.secret[20:], "$argon2"):
        assert secret not in text


def test_what_cannot_be_told_is_not_done(accounts: Accounts, root: str) -> None:
    def refuse(_: Session, change: AccountChange) -> None:
        raise Unavailable(f"{change.action} cannot be written down")

    made = accounts.keys.create_for(root, KeyRequest())
    accounts.changes.on_change = refuse
    for change in (
        lambda: accounts.users.add("bob", PASSWORD),
        lambda: accounts.keys.revoke(made.key.id),
        lambda: accounts.teams.add("acme"),
    ):
        with pytest.raises(Unavailable):
            change()
    assert [user.name for user in accounts.users.list()] == [root]
    assert accounts.verifier.verify(made.secret).principal.user == root
    with pytest.raises(NotFound):
        accounts.teams.get("acme")


def test_what_is_refused_is_not_told(accounts: Accounts, told: list[AccountChange]) -> None:
    with pytest.raises(NotFound):
        accounts.users.change("nobody", role="admin")
    with pytest.raises(NotFound):
        accounts.keys.revoke("a" * 12)
    assert told == []


def test_what_is_made_with_a_budget_is_one_transaction_with_it(
    accounts: Accounts, data_dir: Path, database_url: DatabaseUrl | None
) -> None:
    def fail(connection: Connection, subject: str, tenant: str) -> None:
        give(connection, subject, tenant)
        raise Unavailable("the budgets cannot be used now")

    def give(connection: Connection, subject: str, tenant: str) -> None:
        store.put_in(connection, subject, BudgetSettings(tokens=7), tenant)

    with closing(open_budgets_database(data_dir, database_url)) as database:
        store = BudgetStore(database)
        store.audit = accounts.audit
        root = operator(accounts.users.add("root", PASSWORD, "admin").name, "default", "admin")
        head = accounts.audit.head()
        for make in (
            lambda: accounts.users.add("ann", PASSWORD, also=fail),
            lambda: accounts.teams.add("acme", None, fail),
            lambda: accounts.keys.create(root, KeyRequest("ci"), fail),
        ):
            with pytest.raises(Unavailable):
                make()
        assert ([user.name for user in accounts.users.list()], accounts.keys.list()) == (["root"], [])
        assert ([team.name for team in accounts.teams.list()], store.list()) == (["default"], [])
        assert accounts.audit.head() == head
        accounts.users.add("ann", PASSWORD, also=give)
        accounts.teams.add("acme", None, give)
        made = accounts.keys.create(root, KeyRequest("ci"), give)
        assert {each.subject: (each.amount, each.tenant) for each in store.list()} == {
            **{"user:ann": (7, "default"), "tenant:acme": (7, "acme")},
            f"key:{made.key.id}": (7, "default"),
        }
        told = accounts.audit.page(AuditFilter(), None, 6)[0]
        actions = [each["action"] for each in told]
        assert actions == ["key.create", "budget.set", "team.create", "budget.set", "user.create", "budget.set"]
