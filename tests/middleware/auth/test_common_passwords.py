"""Which passwords are too easily guessed, wherever one is set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from running_gateway import PASSWORD

import sage.middleware.auth
from sage.errors import InvalidRequest
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.common_passwords import worth
from sage.middleware.auth.models import UserRow

LIST = Path(sage.middleware.auth.__path__[0]) / "data" / "common-passwords" / "passwords.txt"

GUESSED = (
    "passwordpassword",
    "Password1234567",
    "P@ssw0rdP@ssw0rd!",
    "drowssapdrowssap",
    "monkeydragon12345",
    "qwertyuiopasdfgh",
    "1qaz2wsx3edc4rfv",
    "abcdefghijklmnop",
    "123456789012345",
    "837-261-940-582-716",
    "p" * 15,
    "密" * 15,
    "iloveyou-iloveyou-iloveyou",
    "Monkey2026!!!!!!",
    "ｐａｓｓｗｏｒｄ１２３４５６７",
    "wang.xiaoming2026",
    "sage-gateway-2026",
)
NOT_GUESSED = (
    "correct horse battery",
    "my dog likes cheese",
    "purple monkey dishwasher",
    "kX9#mQ2$vL5@nR8",
    "3f9a1bc2d4e5f607",
    "Montag ist ein Tag",
    "春眠不觉晓处处闻啼鸟夜来风雨声",
    "a long password",
)


@pytest.mark.parametrize("password", GUESSED)
def test_a_password_that_is_easily_guessed_is_refused(accounts: Accounts, password: str) -> None:
    with pytest.raises(InvalidRequest, match="too easily guessed") as caught:
        accounts.users.add("wang.xiaoming", password)
    assert (caught.value.code, caught.value.param) == ("common_password", "password")
    assert password not in caught.value.message
    assert accounts.users.list() == []


@pytest.mark.parametrize("password", NOT_GUESSED)
def test_a_password_of_unrelated_words_is_taken(accounts: Accounts, password: str) -> None:
    accounts.users.add("wang.xiaoming", password)
    assert accounts.sessions.login("wang.xiaoming", password).expires_in == 900


def test_three_thousand_common_passwords_are_known_whatever_is_added() -> None:
    common = LIST.read_text(encoding="utf-8").splitlines()[:3000]
    assert len(set(common)) == 3000
    for password in common[7::300]:
        for longer in (f"{password.upper()}-20261130-77", password * 4, f"!{password.capitalize()}!!!!!!!!!!!!"):
            assert worth(longer) < 9, longer


def test_a_users_own_name_is_no_password_of_theirs(accounts: Accounts) -> None:
    accounts.users.add("alexandrovitch", PASSWORD)
    with pytest.raises(InvalidRequest, match="too easily guessed"):
        accounts.users.change("alexandrovitch", password="Alexandrovitch-1999")
    accounts.users.add("somebody.else", "Alexandrovitch-1999")


def test_logins_with_a_password_from_before_the_list_still_work(accounts: Accounts, root: str) -> None:
    with accounts.database.write() as session:
        session.query(UserRow).update({"password_hash": accounts.passwords.hash("passwordpassword")})
    assert accounts.sessions.login(root, "passwordpassword").expires_in == 900


def test_over_http_the_error_names_the_field(gateway: Callable) -> None:
    running = gateway()
    answer = running.post("/auth/users", {"username": "bob", "password": "passwordpassword"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("common_password", "password")
