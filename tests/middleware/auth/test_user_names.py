"""User names in any script: one form, found in every spelling, and none that passes for another's."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
import requests
from running_gateway import PASSWORD

from sage.errors import Conflict, InvalidRequest
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.user_names import account_of, user_name


@pytest.mark.parametrize(
    "name",
    [
        "张伟",
        "王小明2",
        "jean-françois",
        "Ольга",
        "さくら",
        "김민수",
        "محمد",
        "नरेन्द्र",
        "李Lee",
        "ส้ม",
        "a" * 64,
        "é.b@c",
    ],
)
def test_names_of_any_script_are_taken(name: str) -> None:
    assert user_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (unicodedata.normalize("NFD", "jean-françois"), "jean-françois"),
        ("ｗａｎｇ", "wang"),
        ("ﬁona", "fiona"),
    ],
)
def test_a_name_has_one_form(text: str, name: str) -> None:
    assert user_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "张 伟",
        "张\n伟",
        "张\u200d伟",
        "a\u202eb",
        "\u3164",
        "张\ufe0f伟",
        "\u0301a",
        "张/伟",
        "😀",
        "a\udc80",
        "-张",
        "张" * 65,
        "ﷺ" * 40,
        "аdmin",  # the first letter is Cyrillic
        "pаypal",
        "αdmin",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        user_name(text)
    assert len(account_of(text)) <= 65


def test_a_user_is_found_in_every_spelling(accounts: Accounts, password: str) -> None:
    accounts.users.add("Ольга", password, role="admin")
    accounts.users.add("张伟", password)
    for spelling in ("Ольга", "ольга", "ОЛЬГА"):
        login = accounts.sessions.login(spelling, password)
        assert accounts.verifier.verify(login.access_token).principal.user == "Ольга"
        with pytest.raises(Conflict, match="taken"):
            accounts.users.add(spelling, password)
    assert accounts.users.change("张伟", disabled=True).disabled
    assert [user.name for user in accounts.users.list()] == ["Ольга", "张伟"]


def test_a_name_that_looks_like_anothers_is_refused(accounts: Accounts, password: str) -> None:
    accounts.users.add("soc", password, role="admin")
    accounts.users.add("Ёж", password)
    with pytest.raises(Conflict, match="looks like 'soc'"):
        accounts.users.add("ѕос", password)  # all Cyrillic
    accounts.users.add("хор", password)
    with pytest.raises(Conflict, match="looks like 'хор'"):
        accounts.users.check_new("xop", "user", "default")
    assert accounts.users.add("straße", password).name == "straße"
    with pytest.raises(Conflict):
        accounts.users.add("strasse", password)


def test_failed_logins_of_one_name_count_in_all_its_spellings() -> None:
    assert account_of("ОЛЬГА") == account_of("ольга")
    assert account_of("ÉVA") == account_of(unicodedata.normalize("NFD", "éva"))


def test_such_a_user_logs_in_asks_and_is_named(gateway: Callable[..., Any]) -> None:
    running = gateway()
    made = running.post("/auth/users", {"username": "张伟", "password": PASSWORD})
    assert (made.status_code, made.json()["name"]) == (201, "张伟")
    form = {"username": "张伟", "password": PASSWORD, "grant_type": "password"}
    token = requests.post(f"{running.url}/auth/token", data=form, timeout=30).json()["access_token"]
    assert token.isascii()
    me = running.get("/auth/me", key=token)
    assert me.json()["user"] == "张伟"
    assert running.post("/auth/keys", {"name": "给他"}, key=token).json()["user"] == "张伟"
    assert [key["name"] for key in running.get("/auth/keys?user=张伟").json()["keys"]] == ["给他"]
    refused = running.get("/auth/keys?user=root", key=token)
    assert refused.status_code == 403


def test_a_key_of_such_a_user(accounts: Accounts, password: str) -> None:
    accounts.users.add("김민수", password, role="admin")
    key = accounts.keys.create_for("김민수", KeyRequest("ci"))
    assert key.secret.isascii()
    assert accounts.verifier.verify(key.secret).principal.user == "김민수"
    assert accounts.verifier.verify(accounts.sessions.issue(None)).principal.user == "김민수"
