"""The server's protocol without a network: one connection whose client sends and reads when the test says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from uvicorn import Config
from uvicorn.server import ServerState

from sage.middleware.app.http.connections import ClientConnections, ConnectionLimits
from sage.middleware.app.http.protocol import GatewayProtocol
from sage.middleware.app.http.refusals import Refusals
from sage.middleware.routers.http.asgi import ASGIApp

HIGH_WATER = 64 * 1024


class MemoryTransport(asyncio.Transport):
    """Bytes of answers wait in ``buffer`` until the client reads them."""

    def __init__(self, protocol: GatewayProtocol, loop: asyncio.AbstractEventLoop, client: tuple[str, int]) -> None:
        super().__init__({"peername": client, "sockname": ("10.0.0.2", 80)})
        self._protocol = protocol
        self._loop = loop
        self.buffer = bytearray()
        self.got = bytearray()
        """What the client has read."""
        self.paused = self.writing_paused = self.closing = self.lost = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.lost:
            return
        self.buffer += data
        if len(self.buffer) > HIGH_WATER and not self.writing_paused:
            self.writing_paused = True
            self._protocol.pause_writing()

    def read(self, most: int) -> None:
        """The client reads at most so many bytes."""
        self.got += self.buffer[:most]
        del self.buffer[:most]
        if self.writing_paused and len(self.buffer) <= HIGH_WATER // 4:
            self.writing_paused = False
            self._protocol.resume_writing()
        if self.closing and not self.buffer:
            self._lose()

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            if not self.buffer:
                self._loop.call_soon(self._lose)

    def abort(self) -> None:
        self.closing = True
        self.buffer.clear()
        self._loop.call_soon(self._lose)

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self._protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        assert not self.closing
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)


class MemoryConnection:
    """A connection to ``app``; to be made within a running loop. ``connections`` are those of its server, if it has
    others."""

    def __init__(
        self,
        app: ASGIApp,
        client: tuple[str, int] = ("10.0.0.1", 5),
        connections: ClientConnections | None = None,
    ) -> None:
        config = Config(app, ws="none", lifespan="off", log_config=None, proxy_headers=False)
        config.load()
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"now")]
        self.connections = ClientConnections(ConnectionLimits(10, 10, 30.0)) if connections is None else connections
        self._others = len(self.connections)
        self.protocol = GatewayProtocol(
            config,
            self.state,
            {},
            connections=self.connections,
            refusals=Refusals(lambda: b"id", (), None),
        )
        self.transport = MemoryTransport(self.protocol, asyncio.get_running_loop(), client)
        self.protocol.connection_made(self.transport)

    @property
    def got(self) -> bytes:
        return bytes(self.transport.got)

    async def send(self, pieces: Iterable[bytes], *, pause: int = 1, reads: int = 2**30) -> None:
        """Sends ``pieces``; after each the loop turns ``pause`` times, and the client reads ``reads`` bytes."""
        for piece in pieces:
            while self.transport.paused and not self.transport.closing:
                await self.turn(reads)
            if self.transport.closing:
                return
            self.protocol.data_received(piece)
            for _ in range(pause):
                await self.turn(reads)

    async def turn(self, reads: int = 2**30) -> None:
        """One turn of the loop, in which the client reads so many bytes."""
        await asyncio.sleep(0)
        self.transport.read(reads)

    async def settle(self, reads: int = 2**30) -> bytes:
        """All that the client gets until nothing happens any more."""
        quiet = 0
        while quiet < 12:
            before = len(self.transport.got)
            await self.turn(reads)
            quiet = 0 if len(self.transport.got) > before or self.transport.buffer else quiet + 1
        return self.got

    async def leave(self) -> None:
        """The client closes the connection at once."""
        self.transport.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while self.state.tasks or self.state.connections:
                    await asyncio.sleep(0)
        assert not self.state.tasks
        assert not self.state.connections
        assert len(self.connections) == self._others
