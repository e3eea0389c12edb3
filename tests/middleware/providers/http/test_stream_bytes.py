"""Streams byte by byte: nothing is kept back, nothing comes twice, and nothing that was cut is whole.

In memory to the byte, and over real sockets in the gateway's loop.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable

import pytest
import uvloop
from memory_network import MemoryLoop, Peer, request_of, run_in_memory
from raw_server import Connections
from transports import READERS, make_transport, on_each_transport, with_each_reader

from sage.errors import SageError
from sage.middleware.providers.base import UpstreamRequest, UpstreamResponse
from sage.middleware.providers.transport import sending
from sage.middleware.settings.providers import Timeouts

EVENTS = [b"data: %b\n\n" % json.dumps({"text": text}).encode() for text in ("Hel", "lo ", "wörld", "值", "")]
TEXT = b"".join([*EVENTS, b"data: [DONE]\n\n"])
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def in_chunks(data: bytes, size: int) -> bytes:
    pieces = (data[place : place + size] for place in range(0, len(data), size))
    return CHUNKED + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"


def packed(encoding: bytes, data: bytes) -> bytes:
    head = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: %b\r\n\r\n" % encoding)
    return head + chunk(data[: len(data) // 2]) + chunk(data[len(data) // 2 :]) + b"0\r\n\r\n"


WIRES = {
    "chunks": CHUNKED + b"".join(map(chunk, [*EVENTS, b"data: [DONE]\n\n"])) + b"0\r\n\r\n",
    "chunks of a byte": in_chunks(TEXT, 1),
    "chunks of seven": in_chunks(TEXT, 7),
    "trailers": in_chunks(TEXT, 50)[:-2] + b"X-Sum: 1\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(TEXT), TEXT),
    "gzip": packed(b"gzip", gzip.compress(TEXT)),
    "deflate": packed(b"deflate", zlib.compress(TEXT)),
}


async def gathered(response: UpstreamResponse, into: list[bytes], reader: str) -> None:
    """Adds what comes to ``into``, until the clean end."""
    await READERS[reader](response, into)
    assert await response.chunk() == b"", "the end stays the end"


def played(kind: str, pieces: list[bytes], end: str = "stay", reader: str = "chunks") -> tuple[bytes, bool]:
    """What a reader gets of a stream of these reads, and whether it was told that this is all."""

    def serve(peer: Peer) -> None:
        def answer(_: object) -> None:
            peer.send(*pieces)
            if end != "stay":
                getattr(peer, end)()

        peer.answer = answer

    async def work(_: MemoryLoop) -> tuple[bytes, bool]:
        transport, seen = make_transport(kind), list[bytes]()
        try:
            async with sending(transport, request_of()) as response:
                await gathered(response, seen, reader)
        except SageError as exc:
            if exc.code not in ("upstream_broken", "upstream_encoding"):
                raise
            return b"".join(seen), False
        finally:
            await transport.close()
        return b"".join(seen), True

    return run_in_memory(serve, work)


def single(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


@on_each_transport
@with_each_reader
@pytest.mark.parametrize("name", WIRES)
def test_a_stream_that_comes_byte_by_byte_is_whole(transport_kind: str, name: str, reader: str) -> None:
    assert played(transport_kind, single(WIRES[name]), reader=reader) == (TEXT, True)


@pytest.mark.slow
@on_each_transport
@pytest.mark.parametrize("name", [name for name in WIRES if name != "chunks of a byte"])
def test_a_stream_that_is_cut_anywhere_is_not_whole(transport_kind: str, name: str) -> None:
    """After each byte: what was sent has come, or less, and its end is told as a failure."""
    wire = WIRES[name]
    for size in range(1, len(wire), 1 if transport_kind == "builtin" else 5):
        pieces = [wire[:size]] if size % 3 else single(wire[:size])
        seen, whole = played(transport_kind, pieces, ("end", "reset")[size % 2], [*READERS][size % 7 % 3])
        assert not whole, wire[:size]
        assert TEXT.startswith(seen)


@on_each_transport
@with_each_reader
def test_a_stream_to_the_end_of_its_connection(transport_kind: str, reader: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    assert played(transport_kind, single(head + TEXT), "end", reader) == (TEXT, True)
    seen, whole = played(transport_kind, single(head + TEXT), "reset", reader)
    assert (TEXT.startswith(seen), whole) == (True, False)


@on_each_transport
@with_each_reader
def test_what_came_before_a_failure_is_given_before_it_is_told(transport_kind: str, reader: str) -> None:
    """To a reader that is slower than the failure."""
    if transport_kind == "aiohttp":
        pytest.skip("aiohttp tells the failure at once, and forgets what has come")

    def serve(peer: Peer) -> None:
        def answer(_: object) -> None:
            peer.send(CHUNKED + chunk(EVENTS[0]), chunk(EVENTS[1]), b"5\r\nhal")
            peer.reset()

        peer.answer = answer

    async def work(loop: MemoryLoop) -> bytes:
        transport, seen = make_transport(transport_kind), list[bytes]()
        async with sending(transport, request_of()) as response:
            await loop.settle()
            with pytest.raises(SageError):
                await gathered(response, seen, reader)
        await transport.close()
        return b"".join(seen)

    assert run_in_memory(serve, work) == EVENTS[0] + EVENTS[1] + b"hal"


@on_each_transport
@pytest.mark.parametrize("at_a_time", [1, 10_000])
@pytest.mark.parametrize("poured", [False, True])
def test_each_event_is_there_before_the_next_is_sent(transport_kind: str, at_a_time: int, poured: bool) -> None:
    """Over a real socket, whose server writes so many bytes at a time and goes on only when the last event was seen."""
    turns, events = asyncio.Queue[None](), [*EVENTS, b"data: [DONE]\n\n"]

    async def read(response: UpstreamResponse) -> None:
        for event in events:
            seen = b""
            while len(seen) < len(event):
                seen += await response.chunk()
            assert seen == event
            turns.put_nowait(None)

    async def pour(response: UpstreamResponse) -> None:
        seen, expected = b"", list(events)

        def take(data: bytes) -> bool:
            nonlocal seen
            seen += data
            if seen == expected[0]:
                turns.put_nowait(expected.pop(0) and None)
                seen = b""
            return True

        take(await response.chunk())
        assert await response.pour(take)
        assert expected == []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        wire = [CHUNKED + chunk(events[0]), *map(chunk, events[1:]), b"0\r\n\r\n"]
        for data in wire:
            await turns.get()
            for place in range(0, len(data), at_a_time):
                writer.write(data[place : place + at_a_time])
                await writer.drain()
                await asyncio.sleep(0)
        await reader.read()

    async def work(url: str) -> None:
        transport = make_transport(transport_kind)
        request = UpstreamRequest("up", "POST", url, {}, b"{}", Timeouts(first_byte=20, between_chunks=20))
        turns.put_nowait(None)
        async with sending(transport, request) as response:
            await (pour if poured else read)(response)
            assert await response.chunk() == b""
        await transport.close()

    in_real_loop(serve, work)


@on_each_transport
def test_a_body_is_read_byte_by_byte(transport_kind: str) -> None:
    """A server with a tiny buffer takes a byte at a time, and gets every one of them once."""
    body = json.dumps({"text": "x" * 3000, "end": True}).encode()

    def serve(peer: Peer) -> None:
        peer.takes = False
        peer.answer = lambda asked: peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def work(loop: MemoryLoop) -> bytes:
        transport = make_transport(transport_kind)
        sending_it = asyncio.ensure_future(transport.send(request_of(body)))
        while not loop.peers or not loop.peers[0].asked:
            await asyncio.sleep(0)
            if loop.peers and loop.peers[0].client.get_write_buffer_size():
                loop.peers[0].client.drain(1)
        response = await sending_it
        assert await response.read() == b"ok"
        response.close()
        await transport.close()
        return loop.peers[0].asked[0].body

    assert run_in_memory(serve, work) == body


def in_real_loop(serve: Callable, work: Callable) -> None:
    async def run() -> None:
        connections = Connections(serve)
        server = await asyncio.start_server(connections.accept, "127.0.0.1", 0)
        try:
            async with asyncio.timeout(60):
                await work(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x")
        finally:
            server.close()
            await connections.end()

    uvloop.run(run())
