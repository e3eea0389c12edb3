"""One connection to a Redis server for all calls of a process: commands go out as they come, and are answered in turn.

A client library has a connection for each command that waits, and one that is cancelled leaves its connection unusable
or its answer to the next command. Here nothing is taken back: whoever leaves, its answer is read, and what it took is
given back.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import cast
from urllib.parse import parse_qs, unquote, urlsplit

from sage.middleware.limits.redis_wire import Part, RedisError, Reply, ReplyReader, encode

_PORT = 6379
_CONNECT_WITHIN = 2.0
"""Seconds."""


class LinkLost(Exception):
    """The connection was lost, for this reason."""


OnReply = Callable[[Reply], None]
"""Takes a reply; ``None`` means that the connection was lost before it came."""


class RedisLink(asyncio.Protocol):
    """A connection that is lost as a whole: when the server leaves it, or answers later than ``patience`` seconds."""

    def __init__(self, patience: float) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why it was lost."""
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._replies = ReplyReader()
        self._waiting: deque[tuple[float, OnReply]] = deque()
        """Of each command when it was sent, and who takes the reply; in their order."""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.WriteTransport | None = None

    def send(self, on_reply: OnReply, command: bytes) -> None:
        """Sends a command at once, as :func:`sage.middleware.limits.redis_wire.encode` makes it."""
        now = self._loop.time()
        if self._transport is None or self.lost.done():
            on_reply(None)
            return
        self._waiting.append((now, on_reply))
        self._transport.write(command)
        if self._timer is None:
            self._timer = self._loop.call_at(now + self._patience, self._look)

    async def ask(self, *parts: Part) -> Reply:
        """The reply to a command. Raises :class:`RedisError` and :class:`LinkLost`."""
        answered: asyncio.Future[Reply] = self._loop.create_future()

        def on_reply(reply: Reply) -> None:
            if not answered.done():
                answered.set_result(reply)

        self.send(on_reply, encode(parts))
        reply = await answered
        if isinstance(reply, RedisError):
            raise reply
        if self.lost.done():
            raise LinkLost(self.lost.result())
        return reply

    def lose(self, reason: str) -> None:
        """Ends the connection. Everybody who waits is told."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        while self._waiting:
            _, on_reply = self._waiting.popleft()
            on_reply(None)

    def _look(self) -> None:
        """Is the oldest command still unanswered? One timer does for all of them."""
        self._timer = None
        if not self._waiting:
            return
        due = self._waiting[0][0] + self._patience
        if due > self._loop.time():
            self._timer = self._loop.call_at(due, self._look)
        else:
            self.lose(f"it does not answer within {self._patience * 1000:g} ms")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for reply in self._replies.feed(data):
                _, on_reply = self._waiting.popleft()
                on_reply(reply)
        except (ValueError, IndexError):
            self.lose("what answers is no Redis server")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose("it has closed the connection")


class RedisServer:
    """Where a server is and how it is opened, from its URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "localhost", parts.port or _PORT
        self._username, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._database = parts.path.strip("/") or "0"
        self._is_tls = parts.scheme == "rediss"
        self._query = {name: values[-1] for name, values in parse_qs(parts.query).items()}

    def __str__(self) -> str:
        """Without the password."""
        return f"Redis at {self._host}:{self._port}"

    async def connect(self, patience: float) -> RedisLink:
        """A connection that is open for commands. Raises :class:`OSError`, :class:`TimeoutError`, :class:`LinkLost`,
        and :class:`RedisError` when it is refused."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_WITHIN):
            _, link = await loop.create_connection(
                lambda: RedisLink(patience), self._host, self._port, ssl=self._context() if self._is_tls else None
            )
            try:
                if self._password:
                    await link.ask("AUTH", *((self._username,) if self._username else ()), self._password)
                if self._database != "0":
                    await link.ask("SELECT", self._database)
            except BaseException:
                link.lose("it was not opened")
                raise
        return link

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._query.get("ssl_ca_certs"))
        if self._query.get("ssl_cert_reqs") == "none":
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
