"""A caller leaves at every moment there is: after it the client serves on, and no connection is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import uvloop
from memory_network import Asked, MemoryLoop, Peer, request_of, run_in_memory
from raw_server import Connections
from transports import READERS, make_transport, on_each_transport, with_each_reader

from sage.middleware.providers.base import UpstreamRequest
from sage.middleware.providers.transport import Transport
from sage.middleware.settings.providers import Timeouts

pytestmark = pytest.mark.slow  # thousands of requests

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE = b"L" * (3 * 2**20)


def stream(peer: Peer, asked: Asked) -> None:
    """A head in two parts, a 1xx before it, chunks of which some are torn, and trailers."""
    text = asked.body[-4:]
    peer.send(b"HTTP/1.1 100 Continue\r\n\r\n", CHUNKED[:20], CHUNKED[20:], b"4\r\n%b\r\n" % text, b"4\r\n", text[:2])
    peer.send(text[2:] + b"\r\n", b"0\r\n", b"X-Sum: 1\r\n", b"\r\n")


def whole(peer: Peer, asked: Asked) -> None:
    text = asked.body[-4:]
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n", text, text)


def until_end(peer: Peer, asked: Asked) -> None:
    text = asked.body[-4:]
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n", text, text)
    peer.end()


def slowly(peer: Peer, asked: Asked) -> None:
    text = asked.body[-4:]
    for turn, data in enumerate((CHUNKED, b"4\r\n%b\r\n" % text, b"4\r\n%b\r\n" % text, b"0\r\n\r\n")):
        peer.loop.call_later(turn + 1, peer.send, data)


ANSWERS = {"stream": stream, "whole": whole, "until end": until_end, "slowly": slowly}


async def ask(transport: Transport, body: bytes, reader: str = "chunks") -> bytes:
    response = await transport.send(request_of(body))
    try:
        content: list[bytes] = []
        await READERS[reader](response, content)
        return b"".join(content)
    finally:
        response.close()


class Leaving:
    """Cancels a request after so many turns of the loop, and sees what is left."""

    def __init__(
        self, kind: str, answer: Callable[[Peer, Asked], None], *, size: int, warm: bool, reader: str = "chunks"
    ) -> None:
        self._kind = kind
        self._reader = reader
        self._answer = answer
        self._size = size
        self._warm = warm

    def serve(self, peer: Peer) -> None:
        peer.answer = lambda asked: self._answer(peer, asked)

    def body(self, number: int) -> bytes:
        return LARGE[: self._size] + b"%04d" % number

    async def after(self, loop: MemoryLoop, turns: int) -> bool:
        """Whether the request was cancelled before its end."""
        transport = make_transport(self._kind)
        try:
            if self._warm:
                assert await ask(transport, self.body(1)) == b"00010001"
            task = asyncio.ensure_future(ask(transport, self.body(2), self._reader))
            for _ in range(turns):
                await asyncio.sleep(0)
            cancelled = task.cancel()
            if cancelled:
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                assert await task == b"00020002"
            for number in (3, 4):  # the second one over the connection of the first
                assert await ask(transport, self.body(number)) == b"%04d" % number * 2
            await loop.settle()
            await asyncio.sleep(0)
            assert len(loop.open) <= 1 + self._warm, "a connection is left that nobody uses"
            return cancelled
        finally:
            await transport.close()


def leave_at_every_moment(leaving: Leaving, most: int) -> int:
    """How many turns the request took."""
    for turns in range(most):
        if not run_in_memory(leaving.serve, lambda loop, turns=turns: leaving.after(loop, turns)):
            return turns
    raise AssertionError(f"it still runs after {most} turns")


@on_each_transport
@with_each_reader
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("answer", [name for name in ANSWERS if name != "slowly"])
def test_a_caller_can_leave_in_every_turn(transport_kind: str, answer: str, warm: bool, reader: str) -> None:
    leaving = Leaving(transport_kind, ANSWERS[answer], size=0, warm=warm, reader=reader)
    assert leave_at_every_moment(leaving, 200) >= 5


@on_each_transport
def test_a_caller_can_leave_while_its_body_goes_out(transport_kind: str) -> None:
    leaving = Leaving(transport_kind, stream, size=len(LARGE), warm=True)
    assert leave_at_every_moment(leaving, 300) >= 10


@on_each_transport
@with_each_reader
@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.5, 2.5, 3.5])
def test_a_caller_can_leave_in_every_pause_of_a_stream(transport_kind: str, seconds: float, reader: str) -> None:
    leaving = Leaving(transport_kind, slowly, size=0, warm=False)

    async def work(loop: MemoryLoop) -> None:
        transport = make_transport(transport_kind)
        task = asyncio.ensure_future(ask(transport, b"0002", reader))
        await asyncio.sleep(seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)
        assert loop.open == []
        assert await ask(transport, b"0003") == b"00030003"
        await transport.close()

    run_in_memory(leaving.serve, work)


@on_each_transport
def test_a_caller_can_leave_while_the_connection_opens(transport_kind: str) -> None:
    async def work(loop: MemoryLoop) -> None:
        loop.connect_delay = 3.0
        transport = make_transport(transport_kind)
        for seconds in (0.0, 1.0, 2.999, 3.0):
            task = asyncio.ensure_future(ask(transport, b"0002"))
            await asyncio.sleep(seconds)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
            await asyncio.sleep(10)
            assert loop.open == []
        assert await ask(transport, b"0003") == b"00030003"
        await transport.close()

    run_in_memory(Leaving(transport_kind, stream, size=0, warm=False).serve, work)


@on_each_transport
def test_many_that_leave_at_once_leave_nothing(transport_kind: str) -> None:
    """A storm of departures: a thousand requests, and two of three are cancelled, each after some turns."""

    async def work(loop: MemoryLoop) -> None:
        transport = make_transport(transport_kind)
        tasks: list[asyncio.Future[bytes]] = []
        for number in range(1000):
            tasks.append(asyncio.ensure_future(ask(transport, b"%04d" % number)))
            if number % 3 == 0:
                await asyncio.sleep(0)
            else:
                tasks[max(0, number - number % 40)].cancel()
                tasks[number - number % 7].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            assert isinstance(outcome, asyncio.CancelledError) or outcome == b"%04d" % number * 2
        assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) >= 100
        await loop.settle()
        answers = await asyncio.gather(*(ask(transport, b"%04d" % number) for number in range(100)))
        assert answers == [b"%04d" % number * 2 for number in range(100)]
        await transport.close()

    run_in_memory(Leaving(transport_kind, stream, size=0, warm=False).serve, work)


@on_each_transport
def test_callers_that_leave_leave_no_connection_to_a_real_server(transport_kind: str) -> None:
    """In the gateway's loop, at any moment: while it connects, sends, waits and reads."""
    there: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
                writer.write(CHUNKED + b"4\r\n%b\r\n" % body[-4:])
                await asyncio.sleep(0.002)
                writer.write(b"4\r\n%b\r\n0\r\n\r\n" % body[-4:])
        finally:
            there.discard(writer)

    async def one(transport: Transport, url: str, number: int) -> bytes:
        headers = {"host": "real"}
        body = LARGE[: (number % 3) * 200_000] + b"%04d" % number
        response = await transport.send(UpstreamRequest("up", "POST", url, headers, body, Timeouts(total=30)))
        try:
            return await response.read()
        finally:
            response.close()

    async def work(url: str) -> int:
        faults: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context))
        transport, moments, left = make_transport(transport_kind), Random(3), 0
        for start in range(0, 300, 20):
            tasks = [asyncio.ensure_future(one(transport, url, number)) for number in range(start, start + 20)]
            for task in tasks:
                loop.call_later(moments.uniform(0, 0.008), task.cancel)
            for number, outcome in enumerate(await asyncio.gather(*tasks, return_exceptions=True), start):
                left += isinstance(outcome, asyncio.CancelledError)
                assert isinstance(outcome, asyncio.CancelledError) or outcome == b"%04d" % number * 2
        answers = await asyncio.gather(*(one(transport, url, number) for number in range(20)))
        assert answers == [b"%04d" % number * 2 for number in range(20)]
        async with asyncio.timeout(10):
            while len(there) > 40:  # idle ones of two rounds at most
                await asyncio.sleep(0.01)
        await transport.close()
        async with asyncio.timeout(10):
            while there:
                await asyncio.sleep(0.01)
        assert faults == []
        return left

    async def run() -> int:
        connections = Connections(serve)
        server = await asyncio.start_server(connections.accept, "127.0.0.1", 0)
        try:
            return await work(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x")
        finally:
            server.close()
            await connections.end()

    assert uvloop.run(run()) >= 30
