"""Memory is bounded both ways: a server that floods, one that does not read, one that refuses a body early."""

from __future__ import annotations

import asyncio

import pytest
from memory_network import MemoryLoop, Peer, request_of, run_transport_in_memory
from transports import on_each_transport

from sage.errors import SageError
from sage.middleware.providers.transport import Transport
from sage.middleware.settings.providers import Timeouts

pytestmark = pytest.mark.slow  # megabytes

MOST = 2**20
"""Bytes of an answer that wait for their reader, and of a body that wait for their server, at most."""
LARGE = b"0123456789abcdef" * (50 * 2**16)  # 50 MiB
PIECE = b"p" * 65536


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


FRAMINGS = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (400 * len(PIECE)), [PIECE] * 400),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        [b"%x\r\n%b\r\n" % (len(PIECE), PIECE)] * 400 + [b"0\r\n\r\n"],
    ),
    "end": (b"HTTP/1.1 200 OK\r\n\r\n", [PIECE] * 400),
}


@on_each_transport
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_server_that_floods_waits_for_the_reader(transport_kind: str, framing: str) -> None:
    head, pieces = FRAMINGS[framing]

    def serve(peer: Peer) -> None:
        def answer(_: object) -> None:
            peer.send(head, *pieces)
            if framing == "end":
                peer.end()

        peer.answer = answer

    async def work(loop: MemoryLoop, transport: Transport) -> tuple[int, int]:
        response = await transport.send(request_of())
        peer = loop.peers[0]
        seen = most_ahead = 0
        while True:
            await turns(1000)  # everything that may come has come
            most_ahead = max(most_ahead, peer.delivered - seen)
            data = await response.chunk()
            if not data:
                break
            seen += len(data)
        response.close()
        return seen, most_ahead

    seen, most_ahead = run_transport_in_memory(transport_kind, serve, work)
    assert seen == 400 * len(PIECE)
    assert 0 < most_ahead <= MOST


@on_each_transport
@pytest.mark.parametrize("step", [1000, 100_000, 10**9])
def test_a_large_body_goes_out_as_its_server_takes_it(transport_kind: str, step: int) -> None:
    """Whole and in order, and never much ahead of what the server takes."""
    body = LARGE if step > 1000 else LARGE[: 2**20 + 77]

    def serve(peer: Peer) -> None:
        peer.takes = False
        peer.answer = lambda asked: peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntaken")

    async def work(loop: MemoryLoop, transport: Transport) -> tuple[bytes, bool, int]:
        async def take() -> None:
            while not loop.peers:
                await asyncio.sleep(0)
            peer = loop.peers[0]
            while not peer.asked:
                await asyncio.sleep(0)
                if peer.client.get_write_buffer_size():
                    peer.client.drain(step)

        taking = asyncio.ensure_future(take())
        response = await transport.send(request_of(body))
        answer = await response.read()
        response.close()
        await taking
        peer = loop.peers[0]
        peer.takes = True
        again = await transport.send(request_of())
        await again.read()
        again.close()
        assert len(loop.peers) == 1, "a connection that has sent all can be used again"
        return answer, peer.asked[0].body == body, peer.client.most_buffered

    answer, same, most = run_transport_in_memory(transport_kind, serve, work)
    assert (answer, same) == (b"taken", True)
    assert most <= MOST


@on_each_transport
@pytest.mark.parametrize("size", [100_000, 50 * 2**20])
def test_a_server_that_does_not_read_is_not_waited_for_without_end(transport_kind: str, size: int) -> None:
    limits = Timeouts(first_byte=120, total=300)

    def serve(peer: Peer) -> None:
        peer.takes = False

    async def work(loop: MemoryLoop, transport: Transport) -> tuple[int, float]:
        began = loop.time()
        with pytest.raises(SageError) as caught:
            await transport.send(request_of(LARGE[:size], limits))
        assert caught.value.code in ("read_timeout", "total_timeout")
        return loop.peers[0].client.most_buffered, loop.time() - began

    most, after = run_transport_in_memory(transport_kind, serve, work)
    assert most <= MOST
    assert 120 <= after <= 300.2


REFUSAL = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n%b\r\nbig"


@on_each_transport
@pytest.mark.parametrize("ending", ["close", "stay", "reset later"])
def test_a_body_that_is_refused_early_is_sent_no_further(transport_kind: str, ending: str) -> None:
    """The server answers 413 when it has seen the head, and reads no further; the caller gets that answer."""

    def serve(peer: Peer) -> None:
        peer.takes = False

    async def work(loop: MemoryLoop, transport: Transport) -> tuple[int, bytes, int, int]:
        async def refuse() -> None:
            while not loop.peers or not loop.peers[0].client.get_write_buffer_size():
                await asyncio.sleep(0)
            peer = loop.peers[0]
            peer.client.drain(1000)
            peer.send(REFUSAL % (b"Connection: close\r\n" if ending == "close" else b""))
            if ending == "close":
                peer.end()
            elif ending == "reset later":
                loop.call_later(1, peer.reset)

        refusing = asyncio.ensure_future(refuse())
        response = await transport.send(request_of(LARGE))
        answer = response.status, await response.read()
        response.close()
        await refusing
        loop.serve = lambda peer: setattr(
            peer, "answer", lambda asked: peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        )
        again = await transport.send(request_of())
        again.close()
        await asyncio.sleep(2)
        return *answer, len(loop.peers), loop.peers[0].total

    status, body, connections, taken = run_transport_in_memory(transport_kind, serve, work)
    assert (status, body) == (413, b"big")
    assert connections == 2, "half a body is on the first one"
    assert taken == 1000


@on_each_transport
def test_a_server_that_answers_before_it_has_read_all_is_heard_and_sent_the_rest(transport_kind: str) -> None:
    """As one does that streams what it makes of a body that still comes."""

    def serve(peer: Peer) -> None:
        peer.takes = False
        peer.answer = lambda asked: peer.send(b"4\r\nlast\r\n0\r\n\r\n")

    async def work(loop: MemoryLoop, transport: Transport) -> tuple[list[bytes], bool]:
        sending = asyncio.ensure_future(transport.send(request_of(LARGE[: 5 * 2**20])))
        while not loop.peers or not loop.peers[0].client.get_write_buffer_size():
            await asyncio.sleep(0)
        peer = loop.peers[0]
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        response = await sending
        seen = [await response.chunk()]
        while not peer.asked:
            peer.client.drain(100_000)
            await asyncio.sleep(0)
        while data := await response.chunk():
            seen.append(data)
        response.close()
        return seen, peer.asked[0].body == LARGE[: 5 * 2**20]

    assert run_transport_in_memory(transport_kind, serve, work) == ([b"first", b"last"], True)
