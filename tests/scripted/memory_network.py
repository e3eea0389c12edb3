"""Connections in memory under a virtual clock: what a client of HTTP does with the bytes of a server, to the byte.

A loop of this kind opens each Unix connection to a :class:`Peer`, which a test plays. Everything happens in the order
in which it is said, hours pass in milliseconds, and what would hang fails.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from transports import make_transport
from virtual_time import VirtualLoop

from sage.middleware.providers.base import UpstreamRequest
from sage.middleware.providers.transport import Transport
from sage.middleware.settings.providers import Timeouts
from sage.middleware.settings.settings import TransportKind

PATH = "/memory/socket"
"""The Unix socket that requests name; no such file is looked for."""
_TURNS = 500_000
_END = object()


def request_of(body: bytes = b"{}", timeouts: Timeouts | None = None, **fields: Any) -> UpstreamRequest:
    """A request to a peer."""
    headers = {"host": "memory", "content-type": "application/json", "content-length": str(len(body))}
    limits = timeouts or Timeouts()
    return UpstreamRequest("up", "POST", "http://memory/x", headers, body, limits, socket=PATH, **fields)


@dataclass(frozen=True)
class Asked:
    """One request as a peer got it; names of headers are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Peer:
    """The server's end of one connection.

    ``answer`` is called with each request, ``send`` and its kin say what the client gets, in that order and each in a
    turn of the loop of its own. While ``takes`` is false, what the client writes stays in its buffer.
    """

    def __init__(self, loop: MemoryLoop, protocol: asyncio.Protocol) -> None:
        self.loop = loop
        self.takes = True
        self.received = bytearray()
        """What of the client's bytes is no whole request yet."""
        self.total = 0
        """All bytes that the client has written and this end has taken."""
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], None] = lambda asked: None
        self.left = False
        """Whether the client has closed the connection, or knows that it is closed."""
        self.client = MemoryTransport(self, protocol)
        self.delivered = 0
        """Bytes that the client has read."""
        self._coming: deque[Any] = deque()
        self._scheduled = False

    def send(self, *pieces: bytes) -> None:
        """Each of ``pieces`` comes in a read of its own."""
        self._coming.extend(piece for piece in pieces if piece)
        self.schedule()

    def send_at_once(self, pieces: Iterable[bytes]) -> None:
        """Each of ``pieces`` comes in a read of its own, all in one turn of the loop, as far as the client reads."""
        self._coming.append([piece for piece in pieces if piece])
        self.schedule()

    def end(self) -> None:
        """No more bytes: FIN."""
        self._coming.append(_END)
        self.schedule()

    def reset(self) -> None:
        self._coming.append(ConnectionResetError(104, "Connection reset by peer"))
        self.schedule()

    @property
    def settled(self) -> bool:
        """Whether the client has got all that was sent, or has left."""
        return self.left or not self._coming

    def schedule(self) -> None:
        if not self._scheduled and self._coming and self.client.is_reading():
            self._scheduled = True
            self.loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        client = self.client
        if not client.is_reading() or not self._coming:
            return
        item = self._coming.popleft()
        if isinstance(item, list):
            for number, piece in enumerate(item):
                if not client.is_reading():
                    self._coming.appendleft(item[number:])
                    break
                self._give(piece)
        elif isinstance(item, bytes):
            self._give(item)
        elif item is _END:
            client.protocol.eof_received() or client.close()
        else:
            client.lose(item)
        self.schedule()

    def _give(self, data: bytes) -> None:
        self.delivered += len(data)
        self.client.protocol.data_received(data)

    def take(self, data: bytes) -> None:
        self.received += data
        self.total += len(data)
        self.loop.call_soon(self._look)

    def _look(self) -> None:
        while (asked := _parse(self.received)) is not None:
            self.asked.append(asked)
            self.answer(asked)


def _parse(received: bytearray) -> Asked | None:
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = received[:end].decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    assert version == "HTTP/1.1"
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    size = int(headers.get("content-length", "0"))
    if len(received) < end + 4 + size:
        return None
    body = bytes(received[end + 4 : end + 4 + size])
    del received[: end + 4 + size]
    return Asked(method, target, headers, body)


class MemoryTransport(asyncio.Transport):
    """The client's end, with the promises of asyncio's own over sockets."""

    def __init__(self, peer: Peer, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": PATH, "sockname": "", "socket": None})
        self.protocol = protocol
        self._peer = peer
        self._paused = False
        self._closing = False
        self._lost = False
        self._buffer = bytearray()
        self.most_buffered = 0
        self._high, self._low = 65536, 16384
        self._asked_to_pause = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._peer.schedule()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 65536 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data:
            return
        if self._peer.takes and not self._buffer:
            self._peer.take(bytes(data))
            return
        self._buffer += data
        self.most_buffered = max(self.most_buffered, len(self._buffer))
        if len(self._buffer) > self._high and not self._asked_to_pause:
            self._asked_to_pause = True
            self.protocol.pause_writing()

    def drain(self, size: int) -> None:
        """The peer takes up to ``size`` bytes of what was written."""
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._peer.take(taken)
        if self._asked_to_pause and len(self._buffer) <= self._low and not self._lost:
            self._asked_to_pause = False
            self.protocol.resume_writing()
        if self._closing and not self._buffer:
            self.lose(None)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        return None

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._peer.left = True
            if not self._buffer:
                self.lose(None)

    def abort(self) -> None:
        self.lose(None)

    def lose(self, exc: Exception | None) -> None:
        """The connection is over; the protocol is told in the next turn."""
        self._closing = self._peer.left = True
        self._buffer.clear()
        if not self._lost:
            self._lost = True
            self._peer.loop.call_soon(self.protocol.connection_lost, exc)


class MemoryLoop(VirtualLoop):
    """``serve`` gets each new peer. ``faults`` holds what nobody caught."""

    def __init__(self, serve: Callable[[Peer], None]) -> None:
        super().__init__()
        self.serve = serve
        self.peers: list[Peer] = []
        self.faults: list[dict[str, Any]] = []
        self.connect_delay = 0.0
        self.turns = 0
        self.set_exception_handler(lambda loop, context: self.faults.append(context))

    async def create_unix_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], path: str | None = None, **_: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        assert path == PATH
        await asyncio.sleep(self.connect_delay)
        protocol = protocol_factory()
        peer = Peer(self, protocol)
        self.peers.append(peer)
        made = self.create_future()
        self.call_soon(protocol.connection_made, peer.client)
        self.call_soon(lambda: made.done() or made.set_result(None))
        try:
            await made
        except BaseException:
            peer.client.close()
            raise
        self.serve(peer)
        return peer.client, protocol

    def _run_once(self) -> None:
        self.turns += 1
        assert self.turns < _TURNS, "it turns round and round"
        super()._run_once()  # type: ignore[misc]

    async def settle(self) -> None:
        """Until every client has got what it was sent."""
        while not all(peer.settled for peer in self.peers):
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    @property
    def open(self) -> list[Peer]:
        """The connections that the client has not closed."""
        return [peer for peer in self.peers if not peer.left]


def run_in_memory(serve: Callable[[Peer], None], work: Callable[[MemoryLoop], Coroutine[Any, Any, Any]]) -> Any:
    """What ``work`` returns. Fails if anything was left to the loop's exception handler, or a connection left open."""
    loop = MemoryLoop(serve)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        result = runner.run(work(loop))
        runner.run(asyncio.sleep(0))
        assert loop.open == [], "connections were left open"
    assert loop.faults == []
    return result


def run_transport_in_memory(
    kind: TransportKind,
    serve: Callable[[Peer], None],
    work: Callable[[MemoryLoop, Transport], Coroutine[Any, Any, Any]],
) -> Any:
    """As :func:`run_in_memory`, with a client of that kind, which is closed at the end."""

    async def scenario(loop: MemoryLoop) -> Any:
        transport = make_transport(kind)
        try:
            return await work(loop, transport)
        finally:
            await transport.close()

    return run_in_memory(serve, scenario)
