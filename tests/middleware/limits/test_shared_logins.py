"""Guesses of passwords at several gateways that count them together in one Redis (a real Valkey)."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import signal
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

import pytest
from running_gateway import PASSWORD, Running
from valkey_server import Valkey
from waiting import until

from sage.errors import AuthenticationFailed, RateLimited, Unavailable
from sage.middleware.auth.login_throttle import BOUNDS, LoginThrottle
from sage.middleware.limits.login_counts import LoginCounts
from sage.middleware.limits.redis_link import RedisServer
from sage.middleware.limits.shared_limiter import PATIENCE, SharedLimiter

pytestmark = pytest.mark.slow

PATIENT = 20.0
"""Seconds: no machine is so busy that Redis is given up, unless it is to."""
Start = Callable[..., Awaitable[tuple[LoginThrottle, SharedLimiter]]]
HOME = "192.0.2.7"


def run(server: Valkey, test: Callable[[Start], Awaitable[None]]) -> None:
    """Runs ``test`` with a function that starts the throttles of gateways; they end with it."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:

            async def start(patience: float = PATIENT) -> tuple[LoginThrottle, SharedLimiter]:
                limiter, throttle = SharedLimiter(RedisServer(server.url), patience), LoginThrottle()
                throttle.shared = LoginCounts(limiter, BOUNDS)
                limiter.begin()
                stack.push_async_callback(limiter.close)
                await until(lambda: limiter.fault is None)
                return throttle, limiter

            await test(start)

    asyncio.run(asyncio.wait_for(main(), 60))


async def guess(throttle: LoginThrottle, name: str = "root", address: str = "10.0.0.1") -> float:
    """Guesses wrong; returns how long the guesser is told to wait, 0 if the guess was checked."""
    try:
        with await throttle.attempt(name, address):
            raise AuthenticationFailed("wrong user name or password")
    except AuthenticationFailed:
        return 0.0
    except RateLimited as exc:
        return exc.retry_after or 0.0


async def log_in(throttle: LoginThrottle, name: str = "root", address: str = HOME) -> None:
    with await throttle.attempt(name, address):
        pass


def let_pass(server: Valkey, seconds: float) -> None:
    """So long ago is the last failure of each count now."""
    for key in server.client.scan_iter("sage:limits:logins:*"):
        if server.client.type(key) == b"hash":
            server.client.hincrby(key, "last", -round(seconds * 1000))


def test_many_gateways_check_as_many_guesses_as_one(redis: Valkey) -> None:
    async def spread(start: Start) -> None:
        throttles = [(await start())[0] for _ in range(3)]
        at_once = await asyncio.gather(*(guess(throttles[number % 3], "Root") for number in range(30)))
        assert at_once.count(0.0) == 5
        assert all(0 < wait <= 1 for wait in at_once if wait)
        waits = []
        for number in range(7):
            waits.append(round(await guess(throttles[number % 3], "ROOT") + 0.49))
            let_pass(redis, waits[-1])
            assert await guess(throttles[number % 3]) == 0.0
        assert waits == [1, 2, 4, 8, 16, 32, 60]
        let_pass(redis, 60)
        await log_in(throttles[1], address="10.0.0.1")
        assert [await guess(throttles[number % 3]) > 0 for number in range(6)] == [False] * 5 + [True]

    run(redis, spread)


def test_no_gateway_locks_a_user_out_of_a_place_that_another_knows(redis: Valkey) -> None:
    async def attack(start: Start) -> None:
        (one, _), (other, _) = await start(), await start()
        await log_in(one)
        found = [await guess((one, other)[host % 2], address=f"10.0.0.{host}") for host in range(60)]
        assert found.count(0.0) == 20
        at_many = [await guess((one, other)[number % 2], f"name{number}", HOME) for number in range(60)]
        assert at_many.count(0.0) == 20
        assert await guess(one, address="10.0.1.1") > 0
        assert await guess(other, "another", HOME) > 0
        for throttle in (other, one, other):
            await log_in(throttle)

    run(redis, attack)


def test_what_is_not_checked_counts_nowhere_and_nothing_tells_a_name(redis: Valkey) -> None:
    async def leave(start: Start) -> None:
        (one, _), (other, _) = await start(), await start()
        for _ in range(25):
            with contextlib.suppress(Unavailable), await one.attempt("root", HOME):
                raise Unavailable("too busy")
        asked = [asyncio.ensure_future(one.attempt("root", HOME)) for _ in range(4)]
        await asyncio.sleep(0)
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)
        await log_in(one, "bob")
        assert not redis.client.keys("sage:limits:logins:pair:*")
        assert [await guess(other, address=HOME) for _ in range(5)] == [0.0] * 5
        keys = redis.client.keys("sage:limits:logins:*")
        assert len(keys) == 4  # three counts, and the place of bob
        assert not [key for key in keys if b"root" in key or b"bob" in key or HOME.encode() in key]
        assert all(0 < redis.client.ttl(key) <= 30 * 86400 for key in keys)

    run(redis, leave)


def test_without_redis_each_gateway_is_stricter_until_it_is_back(redis: Valkey) -> None:
    async def freeze(start: Start) -> None:
        (one, limiter), (other, _) = await start(0.5), await start()
        await log_in(other)
        assert [await guess(one, address="10.0.0.1") for _ in range(2)] == [0.0] * 2
        with contextlib.suppress(Unavailable), await one.attempt("root", HOME):  # so this one knows the place, too
            raise Unavailable("too busy")
        redis.process.send_signal(signal.SIGSTOP)
        try:
            assert 1 < await guess(one, address="10.0.0.1") <= 2  # two failures, not five; two seconds, not one
            assert limiter.link is None or limiter.link.lost.done()  # nobody waits for it again
            found = [await guess(one, address=f"10.0.1.{host}") for host in range(20)]
            assert found.count(0.0) == 8  # ten of the account, not twenty
            await log_in(one)
            await until(lambda: limiter.fault is not None)
        finally:
            redis.process.send_signal(signal.SIGCONT)
        await until(lambda: limiter.fault is None)
        assert await guess(one, address="10.0.0.1") == 0.0  # the third of five

    assert PATIENCE <= 0.1
    run(redis, freeze)


def status(running: Running, password: str) -> int:
    host, port = running.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    form = urlencode({"username": "root", "password": password})
    connection.request("POST", "/auth/token", form, {"Content-Type": "application/x-www-form-urlencoded"})
    answer = connection.getresponse().status
    connection.close()
    return answer


def wait_for_redis(running: Running) -> None:
    end = time.monotonic() + 20
    while "limits" in running.get("/ready").json()["cannot_serve"]:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_two_gateways_slow_logins_together(gateway: Callable[..., Running], redis: Valkey) -> None:
    both = [gateway(limits={"redis": redis.url}) for _ in range(2)]
    for running in both:
        wait_for_redis(running)
    assert [status(both[number % 2], "wrong") for number in range(5)] == [401] * 5
    [pair] = redis.client.keys("sage:limits:logins:pair:*")
    assert redis.client.hget(pair, "failures") == b"5"
    redis.client.hincrby(pair, "failures", 6)  # a minute to wait
    assert [status(running, PASSWORD) for running in both] == [429] * 2
    redis.client.delete(pair)
    assert [status(running, PASSWORD) for running in both] == [200] * 2
