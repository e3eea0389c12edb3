"""The server under the gateway's application: uvicorn's, with our protocol, shutdown and signals."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from functools import partial
from types import FrameType
from typing import Literal

import uvicorn

from sage.errors import ConfigError
from sage.middleware.app.http.connections import KEEP_ALIVE, ClientConnections
from sage.middleware.app.http.protocol import GatewayProtocol
from sage.middleware.app.http.refusals import Refusals
from sage.middleware.app.memory import UnusedMemory
from sage.middleware.routers.http.asgi import ASGIApp
from sage.middleware.settings.settings import Settings

_BACKLOG = 2048
_LAST_WORDS_WITHIN = 2.0
"""Seconds in which a request says its last words, when the time for running requests is over."""


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; raises :class:`ConfigError` with advice, when the address cannot be used. Several sockets of
    this user may have the same address if all of them are ``shared``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
    try:
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} on {host} is taken; end its program or choose another port") from exc
        raise ConfigError(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
    return sock


def url_of(host: str, port: int) -> str:
    """The address at which a program on this machine reaches a server that listens there."""
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class GatewayServer(uvicorn.Server):
    """uvicorn's server that reports when it is ready, and tells what ended it."""

    def __init__(self, config: uvicorn.Config, connections: ClientConnections) -> None:
        self.interrupted = False
        """Whether Ctrl-C has ended it."""
        self._exiting = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exit_requested = asyncio.Event()
        super().__init__(config)
        self._connections = connections
        self._unused = UnusedMemory()

    async def on_listening(self, sockets: list[socket.socket]) -> None:
        """Called once connections are taken."""

    async def before_closing(self) -> None:
        """Called at the end, while requests are still taken. It returns early at a second signal."""

    def closing(self) -> None:
        """Called when from now on no more connections are taken, and running requests have their last time."""

    async def after_requests(self) -> None:
        """Called when no request runs any more, and before the application closes. It returns early at a second
        signal."""

    def is_busy(self) -> bool:
        """Whether there is more to wait for than connections and running requests."""
        return False

    @property
    def should_exit(self) -> bool:
        """Whether the server is to end. It may be set from any thread or signal handler, and takes effect at once."""
        return self._exiting

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._exiting = value
        if value and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._exit_requested.set)

    async def main_loop(self) -> None:
        """Once a second updates the date of answers and looks at the connections, until the server is to end."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            try:
                self._connections.check(self._loop.time())
                self._unused.look(len(self.server_state.connections))
            except Exception:  # a fault of one connection must not end the server
                logging.getLogger("sage").exception("connections could not be checked")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._exit_requested.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            await self.on_listening(sockets or [])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals as uvicorn does, but does not raise them again, and stays active until the process ends."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._on_signal)
        yield

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = self.interrupted or number == signal.SIGINT
        if self.should_exit:  # the second signal ends running requests
            self.force_exit = True
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self.before_closing()
        self.closing()
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                await self._wait_for_requests()
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel("the time for running requests is over")
        tasks = list(self.server_state.tasks)
        if tasks and not self.force_exit:
            await asyncio.wait(tasks, timeout=_LAST_WORDS_WITHIN)
        await self.after_requests()
        if not self.force_exit:
            await self.lifespan.shutdown()

    async def _wait_for_requests(self) -> None:
        """Returns when every connection is closed and every request has ended, or at a second signal."""
        state, pause = self.server_state, 0.001
        while (state.connections or state.tasks or self.is_busy()) and not self.force_exit:
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.1)
        for server in self.servers:
            await server.wait_closed()


def http_config(
    app: ASGIApp,
    refusals: Refusals,
    settings: Settings,
    connections: ClientConnections,
    *,
    lifespan: Literal["on", "off"] = "on",
) -> uvicorn.Config:
    """How uvicorn runs ``app`` under ``settings``, with our protocol."""
    return uvicorn.Config(
        app,
        interface="asgi3",
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=partial(GatewayProtocol, connections=connections, refusals=refusals),  # type: ignore[arg-type]
        ws="none",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(KEEP_ALIVE),
        timeout_graceful_shutdown=math.ceil(settings.api.shutdown_grace),
    )
