"""Which connection a request takes, how long one is kept, and when a request is sent once more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from memory_network import Asked, MemoryLoop, Peer, request_of, run_transport_in_memory
from transports import TRANSPORTS, on_each_transport

from sage.errors import SageError
from sage.middleware.providers.base import UpstreamRequest
from sage.middleware.providers.transport import Transport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
KEPT = 4.0
"""Seconds for which an idle connection is kept: less than servers keep one."""
builtin_only = pytest.mark.parametrize("transport_kind", sorted({"builtin"} & set(TRANSPORTS)))


def answering(peer: Peer) -> None:
    peer.answer = lambda asked: peer.send(OK)


def run(kind: str, work: Callable[[MemoryLoop, Transport], Coroutine[Any, Any, Any]], serve=answering) -> Any:
    return run_transport_in_memory(kind, serve, work)


async def ask(transport: Transport, request: UpstreamRequest | None = None) -> bytes:
    response = await transport.send(request or request_of())
    try:
        return await response.read()
    finally:
        response.close()


@on_each_transport
def test_requests_one_after_another_share_a_connection(transport_kind: str) -> None:
    async def work(loop: MemoryLoop, transport: Transport) -> list[int]:
        for _ in range(20):
            assert await ask(transport) == b"ok"
        return [len(peer.asked) for peer in loop.peers]

    assert run(transport_kind, work) == [20]


@on_each_transport
def test_requests_at_once_have_connections_of_their_own(transport_kind: str) -> None:
    async def work(loop: MemoryLoop, transport: Transport) -> list[int]:
        await asyncio.gather(*(ask(transport) for _ in range(10)))
        await asyncio.gather(*(ask(transport) for _ in range(10)))
        return [len(peer.asked) for peer in loop.peers]

    assert run(transport_kind, work) == [2] * 10


@builtin_only
def test_the_connection_that_was_used_last_is_used_next(transport_kind: str) -> None:
    """So those that are too many grow old and are closed. aiohttp takes the one that has waited for longest."""

    async def work(loop: MemoryLoop, transport: Transport) -> tuple[list[int], list[bool]]:
        ended: list[Peer] = []

        def serve(peer: Peer) -> None:
            peer.answer = lambda asked: ended.append(peer)

        loop.serve = serve
        tasks = [asyncio.ensure_future(ask(transport)) for _ in range(3)]
        while len(ended) < 3:
            await asyncio.sleep(0)
        for peer in (loop.peers[2], loop.peers[0], loop.peers[1]):  # the middle one is released last
            peer.send(OK)
            await loop.settle()
        await asyncio.gather(*tasks)
        for peer in loop.peers:
            answering(peer)
        for _ in range(5):
            await asyncio.sleep(1)
            await ask(transport)
        return [len(peer.asked) for peer in loop.peers], [peer.left for peer in loop.peers]

    counts, left = run(transport_kind, work)
    assert counts == [1, 6, 1]
    assert left == [True, False, True]


@builtin_only
def test_an_idle_connection_is_closed_before_its_server_does(transport_kind: str) -> None:
    """aiohttp does so too, by the machine's clock and not by the loop's."""

    async def work(loop: MemoryLoop, transport: Transport) -> tuple[int, int, float]:
        await ask(transport)
        await asyncio.sleep(KEPT - 0.1)
        await ask(transport)
        used_again = len(loop.peers)
        await asyncio.sleep(KEPT + 0.1)
        await ask(transport)
        since = loop.time()
        while loop.open:
            await asyncio.sleep(0.1)
        return used_again, len(loop.peers), loop.time() - since

    used_again, all_of_them, closed_after = run(transport_kind, work)
    assert (used_again, all_of_them) == (1, 2)
    assert KEPT - 0.1 <= closed_after <= 2 * KEPT + 0.2


@on_each_transport
@pytest.mark.parametrize(
    "unasked", [b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", OK, b"\0", b"x" * 10**6]
)
@pytest.mark.parametrize("waits", [0, 1])
def test_bytes_that_nobody_asked_for_end_a_connection(transport_kind: str, unasked: bytes, waits: float) -> None:
    """Else they would be the next request's answer. Servers send a 408 before they close an idle connection."""

    async def work(loop: MemoryLoop, transport: Transport) -> int:
        await ask(transport)
        loop.peers[0].send(unasked)
        if waits:
            await asyncio.sleep(waits)
        else:
            await loop.settle()
        seen = []

        def other(peer: Peer) -> None:
            peer.answer = lambda asked: peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfresh")

        loop.serve = other
        seen.append(await ask(transport))
        assert seen == [b"fresh"]
        return len(loop.peers)

    assert run(transport_kind, work) == 2


@on_each_transport
@pytest.mark.parametrize("end", ["end", "reset"])
def test_a_connection_that_its_server_ended_is_not_used(transport_kind: str, end: str) -> None:
    async def work(loop: MemoryLoop, transport: Transport) -> list[int]:
        await ask(transport)
        getattr(loop.peers[0], end)()
        await loop.settle()
        request = request_of(once=True)  # it would fail if it was sent over the ended one
        await ask(transport, request)
        return [len(peer.asked) for peer in loop.peers]

    assert run(transport_kind, work) == [1, 1]


def breaking(*starts: bytes, end: str = "end", after: float = 0.0) -> Callable[[Peer], None]:
    """Answers the first request on each connection; on the next it says one of ``starts`` and ends the connection."""
    said = list(starts)

    def serve(peer: Peer) -> None:
        def answer(asked: Asked) -> None:
            if len(peer.asked) == 1:
                peer.send(OK)
                return
            if said:
                peer.send(said.pop(0))
            peer.loop.call_later(after, getattr(peer, end))

        peer.answer = answer

    return serve


async def twice(loop: MemoryLoop, transport: Transport, request: UpstreamRequest) -> tuple[object, list[int]]:
    """The second answer, or the code of its error; and the requests that each connection got."""
    await ask(transport)
    try:
        outcome: object = await ask(transport, request)
    except SageError as exc:
        outcome = exc.code
    return outcome, [len(peer.asked) for peer in loop.peers]


@on_each_transport
@pytest.mark.parametrize("end", ["end", "reset"])
def test_a_kept_connection_that_ends_as_it_is_used_costs_nothing(transport_kind: str, end: str) -> None:
    request = request_of()
    found = run(transport_kind, lambda loop, transport: twice(loop, transport, request), breaking(end=end))
    assert found == (b"ok", [2, 1])
    assert request.sent_again


@on_each_transport
@pytest.mark.parametrize("end", ["end", "reset"])
def test_what_may_be_sent_once_is_sent_once(transport_kind: str, end: str) -> None:
    request = request_of(once=True)
    found = run(transport_kind, lambda loop, transport: twice(loop, transport, request), breaking(end=end))
    assert found == ("upstream_closed", [2])
    assert not request.sent_again


@on_each_transport
@pytest.mark.parametrize("end", ["end", "reset"])
@pytest.mark.parametrize("start", [b"H", b"HTTP/1.1 200 OK\r\n", OK[:-1], b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_nothing_is_sent_again_after_a_byte_of_an_answer(transport_kind: str, start: bytes, end: str) -> None:
    """Not even where repeating is allowed: the server has seen the request."""
    request = request_of(retry_on_broken_connection=True)
    found = run(transport_kind, lambda loop, transport: twice(loop, transport, request), breaking(start, end=end))
    if transport_kind == "aiohttp" and (start.startswith(b"HTTP/1.1 100") or end == "reset") and start != OK[:-1]:
        # It does not tell us that something had come, where the head was not whole.
        assert found == (b"ok", [2, 1])
    else:
        assert found == ("upstream_broken", [2])
        assert not request.sent_again


@on_each_transport
def test_a_connection_that_breaks_late_has_worked_on_the_request(transport_kind: str) -> None:
    request = request_of()
    found = run(transport_kind, lambda loop, transport: twice(loop, transport, request), breaking(after=5.1))
    assert found == ("upstream_broken", [2])
    request = request_of(retry_on_broken_connection=True)
    found = run(transport_kind, lambda loop, transport: twice(loop, transport, request), breaking(after=5.1))
    assert found == (b"ok", [2, 1])


@on_each_transport
@pytest.mark.parametrize("end", ["end", "reset"])
def test_a_fresh_connection_that_breaks_is_its_servers_failure(transport_kind: str, end: str) -> None:
    def serve(peer: Peer) -> None:
        peer.answer = lambda asked: getattr(peer, end)()

    async def work(loop: MemoryLoop, transport: Transport, **fields: Any) -> tuple[object, int]:
        with pytest.raises(SageError) as caught:
            await ask(transport, request_of(**fields))
        return caught.value.code, sum(len(peer.asked) for peer in loop.peers)

    assert run(transport_kind, work, serve) == ("upstream_broken", 1)
    again = run(transport_kind, lambda *args: work(*args, retry_on_broken_connection=True), serve)
    assert again == ("upstream_broken", 2)
    once = run(transport_kind, lambda *args: work(*args, retry_on_broken_connection=True, once=True), serve)
    assert once == ("upstream_broken", 1)


@on_each_transport
def test_a_request_is_sent_twice_at_most(transport_kind: str) -> None:
    """Ten kept connections end as they are used, and the fresh one breaks as well."""

    async def work(loop: MemoryLoop, transport: Transport) -> tuple[object, int]:
        await asyncio.gather(*(ask(transport) for _ in range(10)))

        def ending(peer: Peer) -> None:
            peer.answer = lambda asked: peer.end()

        for peer in loop.peers:
            ending(peer)
        loop.serve = ending
        with pytest.raises(SageError) as caught:
            await ask(transport)
        return caught.value.code, sum(len(peer.asked) for peer in loop.peers) - 10

    assert run(transport_kind, work) == ("upstream_broken", 2)


@on_each_transport
def test_an_answer_that_is_left_half_read_ends_its_connection(transport_kind: str) -> None:
    def serve(peer: Peer) -> None:
        peer.answer = lambda asked: peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", b"cd")

    async def work(loop: MemoryLoop, transport: Transport) -> list[bytes]:
        response = await transport.send(request_of())
        seen = [await response.chunk()]
        response.close()
        response.close()  # a second time is no fault
        assert loop.peers[0].left
        seen.append(await ask(transport))
        return seen

    assert run(transport_kind, work, serve) == [b"ab", b"abcd"]


@on_each_transport
def test_an_answer_that_came_whole_and_is_not_read_does_no_harm(transport_kind: str) -> None:
    async def work(loop: MemoryLoop, transport: Transport) -> bytes:
        for _ in range(5):
            response = await transport.send(request_of())
            await loop.settle()
            response.close()
        return await ask(transport)

    assert run(transport_kind, work) == b"ok"


@on_each_transport
def test_a_closed_transport_sends_nothing_and_ends_what_runs(transport_kind: str) -> None:
    def serve(peer: Peer) -> None:
        peer.answer = lambda asked: None

    async def work(loop: MemoryLoop, transport: Transport) -> list[object]:
        waiting = asyncio.ensure_future(ask(transport))
        while not loop.peers or not loop.peers[0].asked:
            await asyncio.sleep(0)
        await transport.close()
        codes: list[object] = []
        for work in (waiting, ask(transport)):
            with pytest.raises(SageError) as caught:
                await work
            codes.append(caught.value.code)
        assert loop.open == []
        return codes

    assert run(transport_kind, work, serve) == ["shutting_down", "shutting_down"]
