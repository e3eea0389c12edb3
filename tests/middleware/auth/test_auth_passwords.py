"""Passwords: their bounds, the cost of a hash, and how many are hashed at once."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from passlib.hash import argon2
from pydantic import ValidationError
from running_gateway import LOW_COST, PASSWORD

from sage.errors import InvalidRequest, RateLimited
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.passwords import Passwords
from sage.middleware.settings.settings import Auth, Settings

STORED = "$argon2id$v=19$m=47104,t=1,p=1$oXKkk9ePSQNmDVdd/hNR0g$mlIE41CP2VyZddBIqgxx2ONHvpMFYwOMHE6TYGsrGnY"
"""Of :data:`PASSWORD`, made with argon2-cffi 25.1 at the full cost."""


@pytest.fixture
def passwords():
    passwords = Passwords(LOW_COST)
    yield passwords
    passwords.close()


@pytest.mark.parametrize("length", [15, 128])
def test_passwords_within_the_bounds_work(passwords: Passwords, length: int) -> None:
    stored = passwords.hash("p" * length)
    assert passwords.verify("p" * length, stored)
    assert not passwords.verify("p" * (length - 1) + "q", stored)


@pytest.mark.parametrize(
    ("length", "words"), [(14, "14 characters"), (129, "129 characters"), (0, "0 char"), (10**6, "at most 128")]
)
def test_passwords_out_of_bounds_are_refused(passwords: Passwords, length: int, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        passwords.hash("p" * length)
    assert caught.value.param == "password"


def test_characters_count_after_normalisation_and_not_bytes(passwords: Passwords) -> None:
    assert passwords.verify("密" * 15, passwords.hash("密" * 15))
    decomposed = "e\u0301" * 15  # 30 code points that compose to 15 characters
    assert passwords.verify("\u00e9" * 15, passwords.hash(decomposed))
    with pytest.raises(InvalidRequest, match="14 characters"):
        passwords.hash("e\u0301" * 14)
    with pytest.raises(InvalidRequest, match="129 characters"):
        passwords.hash("\ufb01" * 64 + "p")  # ligatures are two letters each


@pytest.mark.parametrize("bad", ["p" * 20 + "\n", "\0" * 20, "p" * 20 + "\ud800"])
def test_control_characters_and_broken_text_are_refused(passwords: Passwords, bad: str) -> None:
    with pytest.raises(InvalidRequest):
        passwords.hash(bad)
    assert not passwords.verify(bad, None)


@pytest.mark.slow
def test_the_cost_is_argon2id_at_46_mib_once_on_one_lane(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path)  # as the server and the command line make it
    hashed = accounts.passwords.hash(PASSWORD)
    assert hashed.startswith("$argon2id$v=19$m=47104,t=1,p=1$")
    assert accounts.passwords.verify(PASSWORD, hashed)
    assert not accounts.passwords.verify(PASSWORD + "!", hashed)
    accounts.close()


def test_no_setting_lowers_the_cost() -> None:
    """Nor does anything that a request carries: what is hashed takes no cost beside the password."""
    assert [name for name in Auth.model_fields if "hash" in name or "cost" in name or "argon" in name] == []
    with pytest.raises(ValidationError):
        Settings.model_validate({"auth": {"hash_cost": {"memory_kib": 64}}})


def test_a_hash_that_an_earlier_release_stored_still_fits(passwords: Passwords) -> None:
    assert passwords.verify(PASSWORD, STORED)
    assert not passwords.verify(PASSWORD + "!", STORED)


def test_hashes_of_another_cost_need_a_new_hash(passwords: Passwords) -> None:
    weak = argon2.using(type="ID", memory_cost=1024, rounds=1, parallelism=1).hash("p" * 15)
    assert passwords.verify("p" * 15, weak)
    assert passwords.needs_rehash(weak)
    assert passwords.needs_rehash(STORED)
    assert not passwords.needs_rehash(passwords.hash("p" * 15))


def test_no_password_fits_a_user_without_one_or_a_damaged_hash(passwords: Passwords) -> None:
    for stored in (None, "", "plain", "$argon2id$v=19$m=47104,t=1,p=1$short"):
        assert not passwords.verify("p" * 15, stored)


def test_a_user_without_a_password_costs_as_much_as_one_with(passwords: Passwords) -> None:
    checked: list[str] = []

    class Recorder:
        def verify(self, password: str, stored: str) -> bool:
            checked.append(stored)
            return scheme.verify(password, stored)

    scheme, passwords._scheme = passwords._scheme, Recorder()
    assert not passwords.verify("p" * 15, None)
    (stored,) = checked
    assert scheme.identify(stored)
    assert not scheme.needs_update(stored)  # today's cost, whole


def test_at_most_two_run_at_once_and_the_event_loop_stays_free() -> None:
    async def main() -> tuple[int, int]:
        passwords = Passwords(running=2, waiting=8)
        lock, both, running, most = threading.Lock(), threading.Barrier(2), 0, 0

        def work() -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            both.wait(10)  # only passes when another one runs at the same time
            with lock:
                running -= 1

        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticker = asyncio.create_task(tick())
        await asyncio.gather(*(passwords.run(work) for _ in range(10)))
        ticker.cancel()
        passwords.close()
        return most, ticks

    most, ticks = asyncio.run(main())
    assert most == 2
    assert ticks > 1


def test_too_many_waiting_calls_are_refused_until_some_have_ended() -> None:
    async def main() -> None:
        passwords = Passwords(running=2, waiting=1)
        release = threading.Event()
        calls = [asyncio.create_task(passwords.run(release.wait, 10)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(RateLimited) as caught:
            await passwords.run(release.wait, 10)
        assert caught.value.status == 429
        assert caught.value.retry_after == 1.0
        calls[0].cancel()  # its thread still runs, so it still counts
        with pytest.raises(RateLimited):
            await passwords.run(release.wait, 10)
        release.set()
        await asyncio.gather(*calls, return_exceptions=True)
        while passwords.taken:
            await asyncio.sleep(0)
        assert await passwords.run(lambda: "in") == "in"
        passwords.close()

    asyncio.run(asyncio.wait_for(main(), 20))
