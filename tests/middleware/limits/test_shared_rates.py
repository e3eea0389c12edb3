"""Rates that several processes count in one Redis (a real Valkey)."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running_gateway import Running
from shared_gateway import one_model
from upstream import Upstream, chat_chunk
from valkey_server import Valkey
from waiting import until
from worker_family import worker_family

from sage.middleware.limits import scripts
from sage.middleware.limits.local_limiter import Admitted, LocalLimiter
from sage.middleware.limits.over_limit import OverLimit
from sage.middleware.limits.redis_link import RedisServer
from sage.middleware.limits.shared_limiter import SharedLimiter
from sage.middleware.settings.limits import Limits, SubjectLimits

pytestmark = pytest.mark.slow

FULL = bool(os.environ.get("SAGE_TEST_FULL"))
PATIENT = 20.0
"""Seconds: no machine is so busy that a limiter of these tests gives Redis up, unless it is to."""
TWO = (SubjectLimits("key:k", Limits(rpm=6, concurrent=3)), SubjectLimits("tenant:t", Limits(tpm=100)))
Start = Callable[..., Awaitable[SharedLimiter]]


def run(server: Valkey, test: Callable[[Start], Awaitable[None]]) -> None:
    """Runs ``test`` with a function that starts limiters; they end with it."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:

            async def start(patience: float = PATIENT) -> SharedLimiter:
                limiter = SharedLimiter(RedisServer(server.url), patience)
                limiter.begin()
                stack.push_async_callback(limiter.close)
                await until(lambda: limiter.fault is None)
                return limiter

            await test(start)

    asyncio.run(asyncio.wait_for(main(), 60))


async def admit(
    limiter: LocalLimiter | SharedLimiter, limits: tuple[SubjectLimits, ...] = TWO, prompt: int = 0, answer: int = 0
) -> Admitted:
    taken = limiter.admit(limits, prompt, answer)
    return await taken if inspect.isawaitable(taken) else taken


def running_in(server: Valkey, subject: str) -> int:
    """The requests that Redis knows to run."""
    return sum(int(count) for count in server.client.hvals(f"sage:limits:running:{subject}"))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(0, 40), st.integers(0, 80)),
        st.tuples(st.just("wait"), st.sampled_from([10, 300, 500, 7_000, 29_900, 59_600, 61_000]), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 5), st.integers(0, 150)),
        st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=1000 if FULL else 25)
@given(plan=st.data())
def test_redis_counts_as_one_process_does(server: Valkey, plan: st.DataObject) -> None:
    """The same calls at the same times, by a clock that both read."""
    steps = plan.draw(STEPS)
    client = server.client
    client.flushall()
    now = 1_000_000  # milliseconds

    def tell_time() -> None:
        client.hset("clock", mapping={"s": now // 1000, "us": now % 1000 * 1000})

    async def both(start: Start) -> None:
        nonlocal now
        tell_time()
        shared, local = await start(), LocalLimiter(lambda: now / 1000)
        running: list[tuple[Admitted, Admitted]] = []
        for step, first, second in steps:
            if step == "wait":
                (
                    await admit(shared, (SubjectLimits("key:other", Limits(rpm=10**6)),))
                ).cancel()  # all before has arrived
                now += first
                tell_time()
            elif step == "call":
                found: list[Any] = []
                for limiter in (shared, local):
                    try:
                        found.append(await admit(limiter, TWO, first, second))
                    except OverLimit as refused:
                        found.append(refused)
                theirs, ours = found
                assert isinstance(theirs, OverLimit) == isinstance(ours, OverLimit)
                assert list(theirs.headers) == list(ours.headers)
                if isinstance(theirs, OverLimit):
                    assert theirs.message == ours.message
                else:
                    running.append((theirs, ours))
            elif running:
                for each in running.pop(first % len(running)):
                    each.cancel() if step == "cancel" else each.settle(second)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("ADMIT", "GIVE_BACK", "BEGIN", "STAY"):
            told = getattr(scripts, name).replace(b"redis.call('TIME')", b"redis.call('HMGET', 'clock', 's', 'us')")
            patch.setattr(scripts, name, told)
        run(server, both)


def test_four_processes_admit_what_one_would(redis: Valkey) -> None:
    """At most what is allowed, and at least 99 % of it."""
    command = [sys.executable, str(Path(__file__).with_name("rate_process.py")), redis.url]
    processes = [
        subprocess.Popen([*command, str(number), "8"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        told = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [each["fault"] for each in told] == [None] * 4
    admitted = sum(each["admitted"] for each in told)
    assert 396 <= admitted <= 400
    assert all(each["refused"]["requests"] for each in told)
    assert redis.client.hget("sage:limits:window:user:ann", "tokens") == str(admitted * 50).encode()
    assert running_in(redis, "user:ann") == 0


def test_a_refused_call_takes_nothing_from_anybody(redis: Valkey) -> None:
    async def refuse(start: Start) -> None:
        limiter = await start()
        narrow = SubjectLimits("user:narrow", Limits(rpm=1))
        await admit(limiter, (narrow,))
        for _ in range(5):
            with pytest.raises(OverLimit, match="user 'narrow' has made 1 requests"):
                await admit(limiter, (*TWO, narrow), 10, 10)
        assert redis.client.exists("sage:limits:window:key:k", "sage:limits:running:key:k") == 0

    run(redis, refuse)


def test_a_caller_that_leaves_while_redis_is_asked_holds_nothing(redis: Valkey) -> None:
    async def leave(start: Start) -> None:
        limiter = await start()
        wide = (SubjectLimits("key:wide", Limits(concurrent=1000)),)
        tasks = [asyncio.ensure_future(admit(limiter, wide)) for _ in range(100)]
        await asyncio.sleep(0)
        for number, task in enumerate(tasks):
            if number % 2:
                await asyncio.sleep(0)
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for each in ended:
            if isinstance(each, Admitted):
                each.settle(0)
        await until(lambda: running_in(redis, "key:wide") == 0)
        assert limiter.fault is None

    run(redis, leave)


def test_what_a_dead_process_ran_ends_with_it(redis: Valkey) -> None:
    async def die(start: Start) -> None:
        dying, living = await start(), await start()
        one = (SubjectLimits("key:one", Limits(concurrent=1)),)
        await admit(dying, one)
        with pytest.raises(OverLimit, match="has 1 requests running, of 1 at one time"):
            await admit(living, one)
        [(holder, until_)] = [
            pair
            for pair in redis.client.zrange("sage:limits:holders", 0, -1, withscores=True)
            if redis.client.hexists("sage:limits:running:key:one", pair[0])
        ]
        left = until_ / 1000 - redis.client.time()[0]
        assert 0 < left <= scripts.HOLDER_LIVES + 1 <= 30
        redis.client.zadd("sage:limits:holders", {holder: until_ - 1000 * scripts.HOLDER_LIVES})  # this time passes
        await admit(living, one)

    run(redis, die)


def test_a_server_that_was_emptied_or_restarted_is_told_what_runs(redis: Valkey) -> None:
    async def restart(start: Start) -> None:
        limiter = await start()
        two = (SubjectLimits("key:two", Limits(concurrent=2)),)
        first, _ = await admit(limiter, two), await admit(limiter, two)
        redis.client.script_flush()
        with pytest.raises(OverLimit):  # by its own count
            await admit(limiter, two)
        await until(lambda: limiter.fault is None and running_in(redis, "key:two") == 2)
        redis.process.kill()
        await asyncio.to_thread(redis.start_again)
        await until(lambda: limiter.fault is None and running_in(redis, "key:two") == 2)
        first.settle(0)
        await until(lambda: running_in(redis, "key:two") == 1)
        await admit(limiter, two)
        with pytest.raises(OverLimit):
            await admit(limiter, two)

    run(redis, restart)


def sections(up: Upstream, redis: Valkey, **limits: int) -> dict[str, Any]:
    return {**one_model(up), "limits": {"redis": redis.url}, "auth": {"roles": {"admin": {"limits": limits}}}}


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def wait_for_redis(running: Running) -> None:
    end = time.monotonic() + 20
    while "limits" in running.get("/ready").json()["cannot_serve"]:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_two_gateways_count_together(gateway: Callable[..., Running], up: Upstream, redis: Valkey) -> None:
    both = [gateway(**sections(up, redis, rpm=10, concurrent=1)) for _ in range(2)]
    for running in both:
        wait_for_redis(running)
    up.stream([chat_chunk("a"), chat_chunk("b", "stop")], hang_after=1, times=1)
    stream = both[0].chat(stream=True)
    refused = both[1].chat()
    assert refused.status_code == 429
    assert "user 'root' has 1 requests running" in refused.json()["error"]["message"]
    stream.close()
    while (answer := both[1].chat()).status_code == 429:
        pass
    assert answer.headers["x-ratelimit-remaining-requests"] == "8"
    statuses = [both[number % 2].chat().status_code for number in range(10)]
    assert statuses == [200] * 8 + [429] * 2


def test_streams_and_clients_that_leave_hold_nothing(
    gateway: Callable[..., Running], up: Upstream, redis: Valkey
) -> None:
    running = gateway(**sections(up, redis, concurrent=8, tpm=100_000))
    wait_for_redis(running)
    up.stream([chat_chunk("a"), chat_chunk("b", "stop")], hang_after=1, times=4)
    streams = [running.chat(stream=True) for _ in range(4)]
    assert running_in(redis, "user:root") == 4
    for stream in streams:
        stream.close()
    up.reply(status=400, times=2)
    assert {running.chat().status_code for _ in range(2)} == {400}
    with running.chat(stream=True) as whole:
        assert b"[DONE]" in whole.content
    end = time.monotonic() + 20
    while running_in(redis, "user:root"):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_frozen_redis_costs_one_request_a_moment(
    gateway: Callable[..., Running], up: Upstream, redis: Valkey
) -> None:
    running = gateway(**sections(up, redis, rpm=30))
    wait_for_redis(running)
    for _ in range(3):
        assert running.chat().status_code == 200
    redis.process.send_signal(signal.SIGSTOP)
    try:
        durations = []
        for _ in range(20):
            started = time.monotonic()
            assert running.chat().status_code == 200
            durations.append(time.monotonic() - started)
        assert 0.08 <= durations[0] < 1.0
        assert statistics.median(durations[1:]) < 0.08
        assert running.get("/ready").status_code == 200
        while "limits" not in (faults := running.get("/ready").json()["cannot_serve"]):
            time.sleep(0.01)
        assert "each process counts rates for itself until it is back" in faults["limits"]
        answers = [running.chat().status_code for _ in range(10)]
        assert answers == [200] * 7 + [429] * 3  # its own count went on from what it had let through
    finally:
        redis.process.send_signal(signal.SIGCONT)
    wait_for_redis(running)


@pytest.mark.skipif(not FULL, reason="two processes of a gateway; SAGE_TEST_FULL=1 runs it")
def test_each_worker_counts_in_redis_itself(tmp_path: Path, redis: Valkey) -> None:
    with worker_family(tmp_path, limits={"redis": redis.url}) as family:
        family.wait(lambda: redis.client.zcard("sage:limits:holders") == 2)
        made = (
            family.client(0).ask("POST", "/auth/keys", {"name": "limited", "limits": {"rpm": 6, "concurrent": 1}}).json
        )
        clients = [family.client(worker, key=made["key"]) for worker in (0, 1)]
        answers = [clients[number % 2].chat("free") for number in range(8)]
        assert [answer.status for answer in answers] == [200] * 6 + [429] * 2
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == [*"54321000"]
        name = 'sage_rate_limited_total{limit="requests",model="free",subject="key"}'
        assert family.metrics(family.client(0))[name] == 2
        family.close_clients()


def test_a_redis_that_refuses_is_named_without_its_password(
    gateway: Callable[..., Running], up: Upstream, redis: Valkey
) -> None:
    wrong = redis.url.replace("://", "://someone:secret-words@")
    running = gateway(**{**sections(up, redis, rpm=1), "limits": {"redis": wrong}})
    assert [running.chat().status_code for _ in range(2)] == [200, 429]
    fault = running.get("/ready").json()["cannot_serve"]["limits"]
    assert "WRONGPASS" in fault or "was not reached yet" in fault
    assert "secret-words" not in running.get("/ready").text


def test_what_all_processes_have_used_is_told(redis: Valkey) -> None:
    async def test(start: Start) -> None:
        first, second = await start(), await start()
        taken = await admit(first, prompt=10)
        await admit(second, prompt=20)
        taken.settle(10)
        key, tenant, nobody = await first.standings(["key:k", "tenant:t", "key:nobody"])
        assert (key.requests, key.tokens, key.running) == (2, 30, 1)
        assert (tenant.requests, tenant.tokens, tenant.running) == (2, 30, 1)
        assert (nobody.requests, nobody.running) == (0, 0)

    run(redis, test)
