"""Servers of raw bytes in asyncio, whose connections all end with them, also one that they are just accepting."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Self

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Connections:
    """Serves each connection in a task of its own."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._ended = False

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """For ``asyncio.start_server``."""
        if self._ended:
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._run(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._open.pop)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left
        except RuntimeError:
            if not writer.transport.is_closing():
                raise
            # The client has left, and uvloop takes no more bytes for it.
        finally:
            writer.close()

    async def end(self) -> None:
        """Cuts all of them off."""
        self._ended = True
        connections = dict(self._open)
        for task, writer in connections.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # closes the sockets


class RawServer(ABC):
    """One on a free port of 127.0.0.1, in a thread of its own with an event loop of its own; ends with its block."""

    port: int

    def __init__(self) -> None:
        self._listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name=type(self).__name__)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    @abstractmethod
    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection, which is closed afterwards."""

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        connections = Connections(self.connected)
        server = await asyncio.start_server(connections.accept, "127.0.0.1", 0, limit=2**26)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stop.wait()
        for _ in range(3):
            await asyncio.sleep(0)  # as its server closes, asyncio loses a socket that is accepted, but not attached
        server.close()
        await connections.end()
