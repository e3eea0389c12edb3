"""A gateway process under loads in which many clients leave and many upstreams fail, and with very many streams.

Everything is answered right, and nothing is left behind. All tests share a process; the first measures its memory
while that is fresh.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from footprint import Footprint
from gateway_process import FULL, KINDS, NARROW, GatewayProcess, gateway_process
from instructed_upstream import FAILURES
from soak_client import Question, Seen, ask_all, mixed

pytestmark = pytest.mark.slow

CLIENTS = 64
REQUESTS = 200_000 if FULL else 2_000
CANCELLED = 20_000 if FULL else 1_000
OPEN = 2_000 if FULL else 500
GROWTH = 1.05
AFTER_BODIES = 4.0
"""Seconds after which the gateway has given back what it keeps for the next connections (``app/memory.py``)."""
"""What the memory may be at the end, of what it was after the warm-up."""
PER_STREAM = {"aiohttp": 45}
"""KiB that an open stream may take, with another client than ours."""


@pytest.fixture(scope="module", params=[*KINDS, "two workers"] if FULL else KINDS)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 10_000)), hard))  # both ends of streams are here
    try:
        directory, kind = tmp_path_factory.mktemp("soak"), request.param
        options = (KINDS[0], ("--workers", "2")) if kind == "two workers" else (kind,)
        with gateway_process(directory, *options) as running:
            yield running
            running.check_log()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def wait_until(reached: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not reached():
            await asyncio.sleep(0.02)


def test_an_open_stream_takes_little_and_gives_it_back(gateway: GatewayProcess) -> None:
    async def hold(first: int) -> Footprint:
        """Of the process while half of each stream has been sent on."""
        upstream = gateway.upstream
        upstream.gate.clear()
        before = await asyncio.to_thread(_first_tokens, gateway)
        questions = (Question(first + number, "hold", stream=True, chunks=8) for number in range(OPEN))
        asking = asyncio.create_task(ask_all(gateway.port, gateway.key, questions, OPEN))
        await wait_until(lambda: upstream.held == OPEN or asking.done())
        assert await asyncio.to_thread(_first_tokens, gateway) == before + OPEN
        await asyncio.sleep(AFTER_BODIES)
        taken = await asyncio.to_thread(gateway.footprint)
        upstream.gate.set()
        seen = await asking
        assert (seen.good, seen.faults) == (OPEN, [])
        return taken

    async def work() -> None:
        warm = (Question(number, stream=True) for number in range(200))
        assert (await ask_all(gateway.port, gateway.key, warm, 20)).faults == []
        before = await gateway.settled()
        held = [await hold(100_000 * turn) for turn in (1, 2, 3)]
        assert held[0].memory - before.memory <= PER_STREAM.get(gateway.transport, 30) * OPEN
        assert held[2].memory <= GROWTH * held[0].memory  # what they took before is taken again
        if FULL:
            kept = held[2].memory - (held[2].memory - before.memory) // 10
            await wait_until(lambda: gateway.footprint().memory <= kept)  # the allocator's part of it is given back

    gateway.run(work())


def _first_tokens(gateway: GatewayProcess) -> float:
    return gateway.metrics().get('sage_time_to_first_token_seconds_count{model="bench"}', 0.0)


def test_a_thousand_streams_that_start_at_once_are_whole_and_their_own(gateway: GatewayProcess) -> None:
    questions = (Question(10_000 + number, stream=True, chunks=6, pause=0.02) for number in range(1000))
    seen = gateway.run(ask_all(gateway.port, gateway.key, questions, 1000))
    assert (seen.good, seen.faults) == (1000, [])


def test_chunks_of_very_long_streams_come_in_order(gateway: GatewayProcess) -> None:
    questions = [Question(10_000 + number, stream=True, chunks=10_000) for number in range(4 if FULL else 2)]
    seen = gateway.run(ask_all(gateway.port, gateway.key, questions, len(questions)))
    assert (seen.good, seen.faults) == (len(questions), [])


async def _read_byte_by_byte(gateway: GatewayProcess, question: Question, seen: Seen) -> None:
    """As a client whose buffers are tiny, so that what is sent to it has to wait."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", gateway.port))
        await loop.sock_sendall(sock, b"".join(question.data(gateway.key)))
        checking = asyncio.create_task(seen.check(question, reader))
        while not checking.done():
            byte = await loop.sock_recv(sock, 1)
            reader.feed_data(byte) if byte else reader.feed_eof()
            await asyncio.sleep(0)
        assert await checking


@pytest.mark.parametrize("torn", ["writes", "reads", "both"])
def test_streams_byte_by_byte_are_whole(gateway: GatewayProcess, torn: str) -> None:
    """Each byte a write of the upstream's, or a read of the client's, or both."""
    deed, chunks = ("answer", 20) if torn == "reads" else ("tear", 3)
    questions = [Question(10_000 + number, deed, stream=True, chunks=chunks) for number in range(6)]

    async def work() -> Seen:
        if torn == "writes":
            return await ask_all(gateway.port, gateway.key, questions, len(questions))
        seen = Seen()
        await asyncio.gather(*(_read_byte_by_byte(gateway, each, seen) for each in questions))
        return seen

    seen = gateway.run(work())
    assert (seen.good, seen.faults) == (6, [])


def test_small_requests_beside_large_bodies_get_their_own_answers(gateway: GatewayProcess) -> None:
    def questions() -> Iterator[Question]:
        for number in range(10_000, 10_400):
            large = {0: {"picture": 5_000_000}, 10: {"filler": 1_000_000}, 20: {"filler": 100_000}}.get(number % 40, {})
            yield Question(number, stream=number % 3 == 0, **large)

    seen = gateway.run(ask_all(gateway.port, gateway.key, questions(), 24))
    assert (seen.good, seen.faults) == (400, [])


@pytest.mark.parametrize("model", ["bench", "narrow"])
def test_after_a_storm_of_departures_all_are_answered(gateway: GatewayProcess, model: str) -> None:
    """Also at a provider that takes a few requests at a time: those that have left take no place of others."""

    def departures() -> Iterator[Question]:
        """While the upstream works or is waited for, of whole answers and streams in turn."""
        for number in range(CANCELLED):
            leaves, after = (("waiting", number % 60 / 1000), ("sent", 0.0), ("reading", 0.0))[number % 3]
            yield Question(1_000_000 + number, "answer", number % 2 == 0, 10, 0.05, 0, leaves, after, model)

    async def work() -> None:
        stayed = (Question(2_000_000 + number, model=model) for number in range(100))
        seen = await ask_all(gateway.port, gateway.key, departures(), 100)
        assert (seen.left, seen.faults) == (CANCELLED, [])
        seen = await ask_all(gateway.port, gateway.key, stayed, 100)
        assert (seen.good, seen.faults) == (100, [])
        await gateway.settled()

    most = gateway.upstream.connections + (NARROW if model == "narrow" else 100)
    gateway.run(work())
    assert gateway.upstream.connections <= most


_SORTS: dict[str, dict[str, Any]] = {
    "answers": {"pause": 0.05},
    "streams": {"stream": True, "chunks": 3, "pause": 0.02},
    "refused": {"deed": "500"},
    "broken": {"deed": "close"},
    "not an answer": {"deed": "html"},
    "too late": {"deed": "hang"},
    "cut streams": {"deed": "cut", "stream": True},
    "left at once": {"pause": 0.2, "leaves": "waiting", "after": 0.005},
    "left later": {"pause": 0.2, "leaves": "waiting", "after": 0.05},
    "left streams": {"stream": True, "chunks": 10, "pause": 0.05, "leaves": "waiting", "after": 0.09},
    "left uploads": {"leaves": "body", "after": 0.5},
}


@pytest.mark.parametrize("sort", _SORTS)
def test_requests_leave_nothing_to_the_collector_of_cycles(gateway: GatewayProcess, sort: str) -> None:
    """What has to wait for the collector takes memory, and then the time of other requests."""
    if gateway.transport == "aiohttp" and sort in ("cut streams", "left streams"):
        pytest.skip("broken answers of aiohttp's hold themselves")
    count = 1000 if FULL else 100

    async def work() -> None:
        await gateway.settled()
        before = await asyncio.to_thread(gateway.observe)
        questions = (Question(10_000 + number, **_SORTS[sort]) for number in range(count))
        assert (await ask_all(gateway.port, gateway.key, questions, 50)).faults == []
        await gateway.settled()
        after = await asyncio.to_thread(gateway.observe)
        assert after.garbage - before.garbage <= count, after.types  # a cycle has many objects
        assert after.tasks <= before.tasks

    gateway.run(work())


def test_a_long_load_with_departures_and_failures_leaves_nothing_behind(gateway: GatewayProcess) -> None:
    async def load(first: int, count: int) -> Footprint:
        questions = mixed(range(first, first + count), first, FAILURES, leaving=0.1, failing=0.1)
        seen = await ask_all(gateway.port, gateway.key, questions, CLIENTS)
        assert seen.faults == []
        assert seen.good > 0.7 * count
        assert seen.failed.total() + seen.broken.total() > 0.05 * count
        assert seen.left > 0.05 * count
        return await gateway.settled()

    async def work() -> None:
        warm_up = await load(1_000_000, REQUESTS // 5)
        tasks = gateway.observe().tasks
        footprints = [await load(1_000_000 * part, REQUESTS // 20) for part in range(2, 22)]
        # Large bodies come and go, so that one look by itself tells little.
        first, last = (_median(part) for part in (footprints[:10], footprints[10:]))
        assert last <= GROWTH * first, footprints
        assert footprints[-1].files <= warm_up.files + CLIENTS
        assert footprints[-1].threads <= warm_up.threads + 2
        assert gateway.observe().tasks <= tasks
        assert gateway.counted(499) > 0.01 * REQUESTS

    gateway.run(work())


def _median(footprints: list[Footprint]) -> float:
    return statistics.median(each.memory for each in footprints)
