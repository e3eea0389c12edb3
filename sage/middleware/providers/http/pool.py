"""The connections to one address: those that are kept for a further request, the one that served last first."""

from __future__ import annotations

import asyncio

from sage.middleware.providers.http.address import Address
from sage.middleware.providers.http.connection import HttpConnection

KEEP_ALIVE = 4.0
"""Seconds for which an idle connection is kept. It is less than the five seconds after which uvicorn, vLLM and
llama.cpp drop one: a request seldom meets a connection that is just being closed."""


class ConnectionPool:
    """The :class:`ConnectionOwner` of the connections to one address. There may be any number of them."""

    def __init__(self, address: Address, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self.loop = loop
        self._idle: dict[HttpConnection, float] = {}
        """Each with the moment since which it is idle; the newest is last."""
        self.open: set[HttpConnection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def take(self, now: float) -> HttpConnection | None:
        """The one that became idle last; ``None`` means that there is none that could still be good."""
        idle = self._idle
        while idle:
            connection, since = idle.popitem()
            if now - since <= KEEP_ALIVE and connection.is_usable():
                return connection
            connection.end()
        return None

    def keep(self, connection: HttpConnection) -> None:
        self._idle[connection] = self.loop.time()
        if self._sweep is None:
            self._sweep = self.loop.call_later(KEEP_ALIVE, self._close_idle)

    def _close_idle(self) -> None:
        """Closes what has been idle for too long; looks again when the next may be."""
        self._sweep = None
        overdue = self.loop.time() - KEEP_ALIVE
        for connection, since in list(self._idle.items()):
            if since > overdue:
                self._sweep = self.loop.call_at(since + KEEP_ALIVE, self._close_idle)
                return
            connection.end()

    def drop(self, connection: HttpConnection) -> None:
        self._idle.pop(connection, None)

    def opened(self, connection: HttpConnection) -> None:
        self.open.add(connection)

    def closed(self, connection: HttpConnection) -> None:
        self.open.discard(connection)
        if not self._idle and self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
