"""The server of a front."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator

from sage.middleware.app.gateway_server import GatewayServer, http_config
from sage.middleware.app.http.connections import ClientConnections, ConnectionLimits, allow_more_files
from sage.middleware.app.http.refusals import Refusals
from sage.middleware.routers.http.asgi import ASGIApp
from sage.middleware.settings.settings import Settings


class FrontServer(GatewayServer):
    """Ends at SIGTERM, which the owner sends when it ends itself."""

    def __init__(
        self,
        app: ASGIApp,
        refusals: Refusals,
        settings: Settings,
        opening: Callable[[], Awaitable[None]],
        listening: Callable[[], None],
        closing: Callable[[], Awaitable[None]],
    ) -> None:
        """``opening`` is called before connections are taken, ``listening`` once they are, ``closing`` after the last
        request."""
        allow_more_files(settings.api.max_connections)
        connections = ClientConnections(ConnectionLimits.of(settings.api))
        super().__init__(http_config(app, refusals, settings, connections, lifespan="off"), connections)
        self._opening = opening
        self._listening = listening
        self._closing = closing

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._opening()
        await super().startup(sockets)

    async def on_listening(self, sockets: list[socket.socket]) -> None:
        self._listening()

    async def after_requests(self) -> None:
        await self._closing()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # it concerns the owner
            yield
