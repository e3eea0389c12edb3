"""When a connection serves again, what is sent over it and how, and what is left of a request that was given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from memory_network import PATH, Asked, MemoryLoop, Peer, request_of, run_transport_in_memory
from transports import TransportKind, on_each_transport

from sage.errors import SageError, UpstreamFailed
from sage.middleware.providers.base import UpstreamRequest, UpstreamResponse
from sage.middleware.providers.transport import Transport, sending
from sage.middleware.settings.providers import Timeouts

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answers_with(*pieces: bytes) -> Callable[[Peer], None]:
    def serve(peer: Peer) -> None:
        peer.answer = lambda asked: peer.send(*pieces)

    return serve


async def ask(transport: Transport, request: UpstreamRequest | None = None) -> bytes:
    async with sending(transport, request or request_of()) as response:
        return await response.read()


# Which connection serves again


@on_each_transport
@pytest.mark.parametrize(
    ("answer", "stays"),
    [
        (OK, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", False),
        (OK + OK, False),
    ],
)
def test_a_connection_serves_again_after_an_answer_that_ended_by_itself(
    transport_kind: TransportKind, answer: bytes, stays: bool
) -> None:
    async def work(loop: MemoryLoop, transport: Transport) -> int:
        for _ in range(3):
            assert await ask(transport) in (b"ok", b"")
            await loop.settle()
        return len(loop.peers)

    assert run_transport_in_memory(transport_kind, answers_with(answer), work) == (1 if stays else 3)


@pytest.mark.parametrize("surprise", [b"x", OK, b"\r\n", None])
def test_an_idle_connection_that_says_anything_or_ends_is_not_used(surprise: bytes | None) -> None:
    async def work(loop: MemoryLoop, transport: Transport) -> tuple[int, int]:
        await ask(transport)
        if surprise is None:
            loop.peers[0].end()
        else:
            loop.peers[0].send(surprise)
        await loop.settle()
        open_then = len(loop.open)
        assert await ask(transport) == b"ok"
        return open_then, len(loop.peers)

    assert run_transport_in_memory("builtin", answers_with(OK), work) == (0, 2)


def test_an_idle_connection_is_used_for_four_seconds_and_then_closed() -> None:
    async def work(loop: MemoryLoop, transport: Transport) -> list[int]:
        seen = []
        for pause in (0.0, 3.9, 4.1):
            await asyncio.sleep(pause)
            await ask(transport)
            seen.append(len(loop.peers))
        await asyncio.sleep(10)
        return [*seen, len(loop.open)]

    assert run_transport_in_memory("builtin", answers_with(OK), work) == [1, 1, 2, 0]


def test_the_connection_that_served_last_serves_next() -> None:
    """So that those which a burst has opened may end."""

    async def work(loop: MemoryLoop, transport: Transport) -> list[int]:
        await asyncio.gather(*(ask(transport) for _ in range(3)))
        for _ in range(8):
            await asyncio.sleep(1)
            await ask(transport)
        return [len(peer.asked) for peer in loop.peers]

    counts = run_transport_in_memory("builtin", answers_with(OK), work)
    assert sorted(counts) == [1, 1, 9]


def test_an_answer_to_head_has_no_body() -> None:
    async def work(loop: MemoryLoop, transport: Transport) -> list[tuple[int, bytes, str]]:
        seen = []
        for _ in range(2):
            request = request_of(b"")
            request.method = "HEAD"
            async with sending(transport, request) as response:
                seen.append((response.status, await response.read(), response.headers["content-length"]))
        return seen

    head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
    assert run_transport_in_memory("builtin", answers_with(head), work) == [(200, b"", "500")] * 2


# What is sent


def plain_request(method: str, url: str, headers: dict[str, str], body: bytes = b"") -> UpstreamRequest:
    return UpstreamRequest("up", method, url, headers, body, Timeouts(), socket=PATH)


def sent_by(request: UpstreamRequest) -> Asked:
    async def work(loop: MemoryLoop, transport: Transport) -> Asked:
        await ask(transport, request)
        return loop.peers[0].asked[0]

    asked = run_transport_in_memory("builtin", answers_with(OK), work)
    assert isinstance(asked, Asked)
    return asked


def test_a_request_says_what_every_request_has_to_say() -> None:
    asked = sent_by(plain_request("POST", "http://memory:81/v1/ü%2f%?q=ä b%e4", {}, b"{}"))
    assert asked.target == "/v1/%C3%BC%2F%25?q=%C3%A4%20b%E4"
    assert asked.body == b"{}"
    assert asked.headers == {
        "host": "memory:81",
        "accept": "*/*",
        "accept-encoding": "gzip, deflate",
        "user-agent": "sage-middleware",
        "content-type": "application/json",
        "content-length": "2",
    }


def test_a_request_says_what_its_headers_say_but_for_its_framing() -> None:
    headers = {
        "Host": "other",
        "accept": "a/b",
        "X-Ä".replace("Ä", "A"): "schön",
        "Transfer-Encoding": "chunked",
        "content-length": "9",
    }
    asked = sent_by(UpstreamRequest("up", "GET", "http://memory/", headers, b"", Timeouts(), socket="/memory/socket"))
    assert asked.headers["host"] == "other"
    assert asked.headers["accept"] == "a/b"
    assert asked.headers["x-a"].encode("latin-1").decode() == "schön"
    assert {"transfer-encoding", "content-length", "content-type"} & asked.headers.keys() == set()


@pytest.mark.parametrize(
    ("name", "value"), [("x", "a\r\nb: c"), ("x", "a\nb"), ("x", "a\0"), ("x y", "z"), ("", "z"), ("x:", "z")]
)
def test_headers_that_would_be_others_are_not_sent(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="header"):
        sent_by(plain_request("GET", "http://memory/", {name: value}))


def test_other_headers_are_never_taken_for_earlier_ones() -> None:
    """Heads are made once for each object of headers: an object that is gone may have had the same identity."""

    async def work(loop: MemoryLoop, transport: Transport) -> list[str]:
        for number in range(2500):
            request = request_of()
            request.headers = {"x-number": str(number)}
            await ask(transport, request)
        return [asked.headers["x-number"] for asked in loop.peers[0].asked]

    assert run_transport_in_memory("builtin", answers_with(OK), work) == [str(number) for number in range(2500)]


# Large bodies


@on_each_transport
def test_a_large_body_goes_out_as_the_server_takes_it(transport_kind: TransportKind) -> None:
    body = bytes(range(256)) * 16 * 1024  # 4 MiB

    def serve(peer: Peer) -> None:
        peer.takes = False
        peer.answer = lambda asked: peer.send(OK)

    async def work(loop: MemoryLoop, transport: Transport) -> tuple[bytes, bool, int]:
        asking = asyncio.ensure_future(ask(transport, request_of(body)))
        while not loop.peers or not loop.peers[0].client.get_write_buffer_size():
            await asyncio.sleep(0)
        peer = loop.peers[0]
        while not asking.done():
            peer.client.drain(100_000)
            await asyncio.sleep(0)
        return await asking, peer.asked[0].body == body, peer.client.most_buffered

    answer, is_whole, most = run_transport_in_memory(transport_kind, serve, work)
    assert (answer, is_whole) == (b"ok", True)
    assert most < 2**20


def test_other_tasks_run_while_a_large_body_goes_out() -> None:
    async def work(loop: MemoryLoop, transport: Transport) -> int:
        turns = 0
        asking = asyncio.ensure_future(ask(transport, request_of(b"x" * 2**22)))
        while not asking.done():
            turns += 1
            await asyncio.sleep(0)
        assert await asking == b"ok"
        return turns

    assert run_transport_in_memory("builtin", answers_with(OK), work) >= 16


@on_each_transport
@pytest.mark.parametrize("then", ["stays", "ends", "resets"])
def test_a_refusal_that_comes_before_the_body_is_sent_is_given(transport_kind: TransportKind, then: str) -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"

    def serve(peer: Peer) -> None:
        peer.takes = len(loop_peers(peer)) > 1
        peer.answer = lambda asked: peer.send(OK)

    def loop_peers(peer: Peer) -> list[Peer]:
        return peer.loop.peers

    async def work(loop: MemoryLoop, transport: Transport) -> tuple[int, bytes, bytes, int]:
        asking = asyncio.ensure_future(transport.send(request_of(b"x" * 2**21)))
        while not loop.peers or not loop.peers[0].client.get_write_buffer_size():
            await asyncio.sleep(0)
        loop.peers[0].send(refusal)
        if then == "ends":
            loop.peers[0].end()
        if then == "resets":
            loop.peers[0].reset()
        response = await asking
        body = await response.read()
        response.close()
        await loop.settle()
        assert loop.open == []
        return response.status, body, await ask(transport), len(loop.peers)

    assert run_transport_in_memory(transport_kind, serve, work) == (413, b"big", b"ok", 2)


# Answers that are not read


@on_each_transport
def test_an_answer_that_nobody_reads_is_not_taken_in(transport_kind: TransportKind) -> None:
    piece, count = b"x" * 65536, 160

    def serve(peer: Peer) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(piece) * count)
        peer.answer = lambda asked: peer.send_at_once([head, *[piece] * count])

    async def work(loop: MemoryLoop, transport: Transport) -> tuple[int, int, int]:
        async with sending(transport, request_of()) as response:
            for _ in range(500):
                await asyncio.sleep(0)
            taken = loop.peers[0].delivered
            whole = len(await response.read())
        return taken, whole, len(await ask(transport))

    taken, whole, again = run_transport_in_memory(transport_kind, serve, work)
    assert taken < 2**20
    assert (whole, again) == (len(piece) * count, len(piece) * count)


# Requests that are given up


@pytest.mark.parametrize("kept", [False, True])
def test_a_request_may_be_given_up_at_any_point(kept: bool) -> None:
    """After each number of turns of the loop once: nothing is left open, and the next request is answered."""
    head, middle, end = b"HTTP/1.1 200 OK\r\nTransfer-", b"Encoding: chunked\r\n\r\n2\r\no", b"k\r\n0\r\n\r\n"

    async def one(loop: MemoryLoop, transport: Transport, turns: int) -> bool:
        asking = asyncio.ensure_future(ask(transport))
        for _ in range(turns):
            await asyncio.sleep(0)
        was_done = asking.done()
        asking.cancel()
        await asyncio.wait([asking])
        assert len(loop.open) <= 1
        return was_done

    async def work(loop: MemoryLoop, transport: Transport) -> int:
        turns = 0
        while True:
            if kept:
                assert await ask(transport) == b"ok"
            else:
                await asyncio.sleep(10)  # so that none is kept
                assert loop.open == []
            if await one(loop, transport, turns):
                return turns
            assert await ask(transport) == b"ok"
            turns += 1

    assert run_transport_in_memory("builtin", answers_with(head, middle, end), work) > 3


def test_closing_the_transport_ends_what_runs_and_what_waits() -> None:
    def serve(peer: Peer) -> None:
        peer.answer = lambda asked: (
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na") if asked.body == b"{}" else None
        )

    async def work(loop: MemoryLoop, transport: Transport) -> list[str | None]:
        streaming = await transport.send(request_of())
        assert await streaming.chunk() == b"a"
        waiting = asyncio.ensure_future(transport.send(request_of(b"[]")))
        chunk = asyncio.ensure_future(streaming.chunk())
        await asyncio.sleep(0.1)
        await transport.close()
        assert loop.open == []
        codes = []
        for task in (waiting, chunk, asyncio.ensure_future(transport.send(request_of()))):
            with pytest.raises(SageError) as caught:
                await task
            codes.append(caught.value.code)
        return codes

    assert run_transport_in_memory("builtin", serve, work) == ["shutting_down", "upstream_broken", "shutting_down"]


def test_a_connection_that_opens_as_the_transport_closes_is_closed() -> None:
    async def work(loop: MemoryLoop, transport: Transport) -> str | None:
        loop.connect_delay = 1.0
        asking = asyncio.ensure_future(transport.send(request_of()))
        await asyncio.sleep(0.5)
        await transport.close()
        with pytest.raises(SageError) as caught:
            await asking
        assert (len(loop.peers), loop.open) == (1, [])
        return caught.value.code

    assert run_transport_in_memory("builtin", answers_with(OK), work) == "shutting_down"


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"HTTP/1.1 199 Odd\r\nContent-Length: 1\r\n\r\nx" + OK, "upstream_nonsense"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y%b\r\n" % (b"z" * 60_000) * 5 + b"\r\n", "upstream_head_too_large"),
        (b"HTTP/1.1 103 Early\r\nLink: %b\r\n\r\n" % (b"z" * 60_000) * 5, "upstream_head_too_large"),
    ],
)
def test_heads_that_are_too_much_in_sum_are_refused(head: bytes, code: str) -> None:
    async def work(loop: MemoryLoop, transport: Transport) -> str | None:
        with pytest.raises(UpstreamFailed) as caught:
            await ask(transport)
        return caught.value.code

    pieces = [head[start : start + 50_000] for start in range(0, len(head), 50_000)]
    assert run_transport_in_memory("builtin", answers_with(*pieces), work) == code


def test_a_stream_that_goes_on_for_ever_ends_with_its_time() -> None:
    """Also if there is always something more to read."""

    async def work(loop: MemoryLoop, transport: Transport) -> str | None:
        async with sending(transport, request_of(timeouts=Timeouts(total=10.0))) as response:
            with pytest.raises(SageError) as caught:
                await read_slowly(response)
        return caught.value.code

    pieces = [b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 1000] * 100]
    assert run_transport_in_memory("builtin", answers_with(*pieces), work) == "total_timeout"


async def read_slowly(response: UpstreamResponse) -> None:
    for _ in range(100):
        assert await response.chunk()
        await asyncio.sleep(0.9)


@on_each_transport
def test_what_has_come_of_a_stream_is_given_before_its_failure_is_told(transport_kind: TransportKind) -> None:
    def serve(peer: Peer) -> None:
        peer.answer = lambda asked: (peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na", b"b"), peer.end())

    async def work(loop: MemoryLoop, transport: Transport) -> bytes:
        got: list[bytes] = []
        async with sending(transport, request_of()) as response:
            with pytest.raises(UpstreamFailed, match="cut its answer off"):
                await read_into(got, response)
        return b"".join(got)

    assert run_transport_in_memory(transport_kind, serve, work) == b"ab"


async def read_into(got: list[bytes], response: UpstreamResponse) -> None:
    for _ in range(100):
        got.append(await response.chunk())


def test_hundreds_of_requests_set_few_timers() -> None:
    async def work(loop: MemoryLoop, transport: Transport) -> int:
        await ask(transport)
        set_before = len(loop._scheduled)
        calls = 0
        call_at = loop.call_at

        def counted(*args: object, **more: object) -> asyncio.TimerHandle:
            nonlocal calls
            calls += 1
            return call_at(*args, **more)

        loop.call_at = counted
        for _ in range(300):
            await ask(transport)
        assert len(loop._scheduled) <= set_before + 1
        return calls

    assert run_transport_in_memory("builtin", answers_with(OK), work) <= 1
