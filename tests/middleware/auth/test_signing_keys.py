"""Signing keys are rotated: by hand and by age, with overlap, without a false refusal, and nothing after retirement."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from jose import jwt
from running_gateway import LOW_COST, PASSWORD, run_gateway
from sage_process import environment, sage

from sage.errors import AuthenticationFailed
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.sessions import LONGEST_PAGE_TOKEN
from sage.middleware.auth.signing_keys import SIGNS_AFTER
from sage.middleware.settings.settings import Api, Settings

both_databases = pytest.mark.both_databases
FULL = os.environ.get("SAGE_TEST_FULL") == "1"


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


@pytest.fixture
def beside(accounts: Accounts, root: str, data_dir: Path, clock, database_url) -> Iterator[Accounts]:
    """Another gateway of the same installation."""
    _ = accounts.tokens
    clock.now += 10  # the first key is known everywhere
    other = Accounts(data_dir, clock=clock, hash_cost=LOW_COST, url=database_url)
    _ = other.tokens
    yield other
    other.close()


def follow(accounts: Accounts) -> None:
    """What a gateway does four times a second."""
    accounts.database.advance(accounts.database.read_revision())


@both_databases
def test_a_new_key_signs_once_all_know_it_and_the_old_one_verifies_as_long_as_its_tokens_live(
    accounts: Accounts, beside: Accounts, clock
) -> None:
    old = accounts.sessions.issue("root")
    kid = accounts.rotate_signing_key()
    follow(beside)
    for each in (accounts, beside):
        assert [key["kid"] for key in each.tokens.keys.jwks()["keys"]] == [kid_of(old), kid]
        assert kid_of(each.sessions.issue("root")) == kid_of(old)
    clock.now += SIGNS_AFTER
    new = accounts.sessions.issue("root")
    assert kid_of(new) == kid != kid_of(old)
    assert kid_of(beside.sessions.issue("root")) == kid
    for token in (old, new):
        assert beside.verifier.verify(token).principal.user == "root"


@both_databases
def test_nothing_is_accepted_after_the_retirement_of_its_key(accounts: Accounts, beside: Accounts, clock) -> None:
    last_of_old = accounts.tokens.make("root", "s", LONGEST_PAGE_TOKEN * 2)  # longer than any token may be
    accounts.rotate_signing_key()
    clock.now += SIGNS_AFTER + LONGEST_PAGE_TOKEN - 1
    for each in (accounts, beside):
        assert each.tokens.read(last_of_old).subject == "root"
    clock.now += 1
    for each in (accounts, beside):
        follow(each)
        with pytest.raises(AuthenticationFailed, match="not ours"):
            each.tokens.read(last_of_old)
        assert len(each.tokens.keys.jwks()["keys"]) == 1
    beside.keep_signing_keys()
    assert accounts.tokens.keys._files.names("*.pem") == ["0002.pem"]
    assert accounts.verifier.verify(accounts.sessions.issue("root")).principal.user == "root"


@both_databases
def test_a_key_that_was_put_there_without_a_word_is_found_by_its_first_token(
    accounts: Accounts, beside: Accounts, clock
) -> None:
    accounts.tokens.keys.rotate()
    clock.now += SIGNS_AFTER
    assert beside.verifier.verify(accounts.sessions.issue("root")).principal.user == "root"


@both_databases
def test_an_old_key_is_replaced_once_by_several_gateways(accounts: Accounts, beside: Accounts, clock) -> None:
    def keys() -> list[str]:
        return accounts.tokens.keys._files.names("*.pem")

    clock.now += 90 * 86400 - 20
    for each in (accounts, beside):
        each.keep_signing_keys()
    assert keys() == ["0001.pem"]
    clock.now += 20
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Accounts.keep_signing_keys, (accounts, beside)))
    assert keys() == ["0001.pem", "0002.pem"]
    for each in (accounts, beside):
        each.keep_signing_keys()
    assert keys() == ["0001.pem", "0002.pem"]


def test_a_key_that_another_gateway_replaces_meanwhile_is_not_replaced_again(
    accounts: Accounts, beside: Accounts, clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.now += 91 * 86400
    keys = accounts.tokens.keys
    look = keys._look

    def look_and_be_overtaken() -> Any:
        found = look()
        monkeypatch.setattr(keys, "_look", look)
        beside.keep_signing_keys()
        return found

    assert beside.tokens.keys.jwks()["keys"]
    monkeypatch.setattr(keys, "_look", look_and_be_overtaken)
    accounts.keep_signing_keys()
    assert keys._files.names("*.pem") == ["0001.pem", "0002.pem"]


@both_databases
def test_a_bad_file_beside_the_keys_takes_no_gateway_down(accounts: Accounts, beside: Accounts, clock) -> None:
    token = accounts.sessions.issue("root")
    beside.tokens.keys._files.add("0002.pem", b"not a key")
    accounts.rotate_signing_key()  # 0003
    clock.now += SIGNS_AFTER
    assert beside.verifier.verify(token).principal.user == "root"
    assert beside.verifier.verify(beside.sessions.issue("root")).principal.user == "root"


@both_databases
def test_at_once_ends_the_tokens_of_earlier_keys(accounts: Accounts, beside: Accounts) -> None:
    login = accounts.sessions.login("root", PASSWORD)
    kid = beside.rotate_signing_key(at_once=True)
    follow(accounts)
    with pytest.raises(AuthenticationFailed, match="not ours"):
        accounts.verifier.verify(login.access_token)
    renewed = accounts.sessions.refresh(login.refresh_token)
    assert kid_of(renewed.access_token) == kid
    assert beside.verifier.verify(renewed.access_token).principal.user == "root"


@pytest.mark.slow
def test_rotation_under_load_refuses_nobody(tmp_path: Path) -> None:
    """Two gateways of one installation; tokens of either are used at both, while the key is rotated by the command."""
    settings = Settings(data_dir=tmp_path / "data", api=Api(port=0))
    rotations, refused, kids = 5 if FULL else 2, list[str](), set[str]()
    with run_gateway(settings) as one, run_gateway(settings) as two:
        ended = threading.Event()

        def use(index: int) -> int:
            mine, other = (one, two) if index % 2 else (two, one)
            refresh, uses = None, 0
            while not ended.is_set():
                login = (
                    requests.post(f"{mine.url}/auth/refresh", json={"refresh_token": refresh}, timeout=30)
                    if refresh
                    else requests.post(
                        f"{mine.url}/auth/token", data={"username": "root", "password": PASSWORD}, timeout=30
                    )
                )
                refresh, token = login.json()["refresh_token"], login.json()["access_token"]
                kids.add(kid_of(token))
                for gateway in (other, mine):
                    answer = gateway.get("/auth/me", key=token)
                    uses += 1
                    if answer.status_code != 200:
                        refused.append(answer.text)
            return uses

        with ThreadPoolExecutor(4) as pool:
            users = [pool.submit(use, index) for index in range(4)]
            wait_until(lambda: kids)
            for _ in range(rotations):
                before = len(kids)
                rotate(tmp_path, settings)
                wait_until(lambda before=before: len(kids) > before or any(user.done() for user in users))
            ended.set()
            assert min(user.result(30) for user in users) > 0
    assert refused == []
    assert len(kids) == rotations + 1


def rotate(tmp_path: Path, settings: Settings) -> None:
    ran = sage(["key", "rotate-signing"], environment(settings.data_dir), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.startswith("access tokens are now signed with the key ")


def wait_until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
