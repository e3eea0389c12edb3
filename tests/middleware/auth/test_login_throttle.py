"""Guessing passwords: a growing delay for accounts and addresses, and places for the logins of others."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from urllib.parse import urlencode

import pytest
from running_gateway import PASSWORD, Running

from sage.errors import AuthenticationFailed, RateLimited, Unavailable
from sage.middleware.auth.login_throttle import IN_ALL, PER_ACCOUNT, PER_ADDRESS, FailureDelays, LoginThrottle


def login(running: Running, name: str, password: str = PASSWORD, *, source: str = "127.0.0.1") -> tuple[int, str, dict]:
    """Status, ``Retry-After`` and body of a login from an address of this machine."""
    host, port = running.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30, source_address=(source, 0))
    form = urlencode({"username": name, "password": password})
    connection.request("POST", "/auth/token", form, {"Content-Type": "application/x-www-form-urlencoded"})
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    return response.status, response.headers.get("retry-after", ""), body


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["root", "nobody-has-this-name"])
def test_many_guesses_of_one_password_leave_others_their_logins(gateway: Callable[..., Running], victim: str) -> None:
    running = gateway()
    assert running.accounts is not None
    running.accounts.users.add("bob", PASSWORD)
    assert login(running, "root", source="127.0.0.2")[0] == 200
    with ThreadPoolExecutor(24) as threads:
        guesses = [threads.submit(login, running, victim, f"a wrong password {number}") for number in range(200)]
        others = [login(running, "bob")[0] for _ in range(5)]
        own = [login(running, "root", source="127.0.0.2")[0] for _ in range(5)]
        fresh = login(running, "root", source="127.0.0.3")[0]
        answers = [guess.result() for guess in guesses]
    assert others == [200] * 5
    assert own == [200] * 5
    assert fresh == 200
    checked = [answer for answer in answers if answer[0] == 401]
    refused = [answer for answer in answers if answer[0] == 429]
    assert len(checked) + len(refused) == 200
    assert 1 <= len(checked) <= 9  # five, and one more after each delay
    assert all(int(retry_after) >= 1 for _, retry_after, _ in refused)
    assert {body["error"]["code"] for *_, body in refused} == {"too_many_logins"}
    if victim == "root":  # the right one is not checked now either: a guess would not tell
        while login(running, "root", "a wrong password")[0] == 429:
            time.sleep(0.05)  # until one is checked, after which the next has two seconds to wait at least
        assert login(running, "root")[0] == 429


class Monotonic:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def attempt(throttle: LoginThrottle, name: str, address: str) -> AbstractContextManager[None]:
    """One at a throttle that shares nothing, and so waits for nothing."""
    with pytest.raises(StopIteration) as answered:
        throttle.attempt(name, address).send(None)
    attempt: AbstractContextManager[None] = answered.value.value
    return attempt


def guess(throttle: LoginThrottle, name: str = "root", address: str = "10.0.0.1") -> float:
    """Guesses wrong; returns how long the guesser is told to wait, 0 if the guess was checked."""
    try:
        with attempt(throttle, name, address):
            raise AuthenticationFailed("wrong user name or password")
    except AuthenticationFailed:
        return 0.0
    except RateLimited as exc:
        return exc.retry_after or 0.0


def test_the_delay_grows_with_each_failure_to_a_minute() -> None:
    clock = Monotonic()
    throttle = LoginThrottle(clock)
    waits = []
    for _ in range(13):
        wait = guess(throttle)
        if wait:
            waits.append(wait)
            clock.now += wait
            assert guess(throttle) == 0.0
    assert waits[:7] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


def test_a_success_forgets_failures_and_so_does_time() -> None:
    clock = Monotonic()
    throttle = LoginThrottle(clock)
    for _ in range(5):
        assert not guess(throttle)
    assert guess(throttle)
    clock.now += 1.0
    with attempt(throttle, "root", "10.0.0.1"):
        pass
    for _ in range(5):
        assert not guess(throttle)
    assert guess(throttle)
    clock.now += 1000.0
    assert not guess(throttle)


def test_guesses_from_many_addresses_are_slowed_but_lock_nobody_out() -> None:
    clock = Monotonic()
    throttle = LoginThrottle(clock)
    with attempt(throttle, "root", "192.0.2.7"):
        pass
    checked = 0
    for second in range(60):
        clock.now = float(second)
        checked += sum(guess(throttle, address=f"10.0.{second}.{host}") == 0.0 for host in range(50))
    assert 20 < checked < 35
    with attempt(throttle, "ROOT", "192.0.2.7"):  # where it logged in before
        pass
    assert guess(throttle, address="192.0.2.8") <= 10.0


def test_guesses_at_many_accounts_are_slowed_but_lock_nobody_out() -> None:
    clock = Monotonic()
    throttle = LoginThrottle(clock)
    with attempt(throttle, "root", "10.0.0.1"):
        pass
    checked = sum(guess(throttle, name=f"user{number}") == 0.0 for number in range(100))
    assert checked == 20
    with attempt(throttle, "root", "10.0.0.1"):
        pass
    with attempt(throttle, "anyone", "10.0.0.2"):
        pass


def test_places_are_kept_for_others_while_passwords_are_checked() -> None:
    throttle = LoginThrottle(Monotonic())

    def checking(name: str, address: str, depth: int) -> None:
        """Fills places until one is refused, then looks who still gets one."""
        with attempt(throttle, name, address):
            if depth > 1:
                checking(name, address, depth - 1)
            else:
                with pytest.raises(RateLimited), attempt(throttle, name, address):
                    pass
                with attempt(throttle, "other", "10.0.0.9"):
                    pass

    checking("root", "10.0.0.1", PER_ACCOUNT)


def test_who_logged_in_from_an_address_before_has_a_place_beside_those_who_guess_there() -> None:
    throttle = LoginThrottle(Monotonic())
    with attempt(throttle, "bob", "10.0.0.1"):
        pass
    with ExitStack() as guesses:
        for number in range(PER_ADDRESS):
            guesses.enter_context(attempt(throttle, f"name{number}", "10.0.0.1"))
        with pytest.raises(RateLimited), attempt(throttle, "another", "10.0.0.1"):
            pass
        for number in range(IN_ALL - PER_ADDRESS):
            guesses.enter_context(attempt(throttle, f"name{number}", f"10.0.1.{number}"))
        with pytest.raises(RateLimited), attempt(throttle, "another", "10.0.0.2"):
            pass
        with attempt(throttle, "bob", "10.0.0.1"):
            pass


def test_what_was_not_checked_is_no_failure() -> None:
    throttle = LoginThrottle(Monotonic())
    for _ in range(50):
        with suppress(Unavailable), attempt(throttle, "root", "10.0.0.1"):
            raise Unavailable("too busy")
    assert guess(throttle) == 0.0


def test_the_memory_of_failures_is_bounded() -> None:
    delays = FailureDelays(1, 60.0)
    for number in range(20_000):
        delays.failed(number, 0.0)
    assert len(delays) == 10_000
    assert delays.wait(19_999, 0.0) == 1.0
