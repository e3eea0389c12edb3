"""aiohttp's sessions: one with connections that are kept, one with fresh ones, and the same for each Unix socket."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, TypeVar

import aiohttp
from aiohttp.client_proto import ResponseHandler

from sage.middleware.providers.http.errors import MAX_HEAD_LINE, MAX_HEADERS
from sage.middleware.providers.http.pool import KEEP_ALIVE

_Connector = TypeVar("_Connector", bound=aiohttp.BaseConnector)
_newest: ContextVar[object] = ContextVar("newest connection", default=None)


def newest_connection() -> object:
    """Stands for the connection that the running task has opened last.

    If it is the same after a request as before it, the request went over a connection that had been used before.
    """
    return _newest.get()


class UpstreamConnections:
    """The sessions of one event loop, each made on first use."""

    def __init__(self) -> None:
        self.kept: aiohttp.ClientSession | None = None
        """Over TCP, with connections that are kept for further requests."""
        self._by_socket: dict[str, aiohttp.ClientSession] = {}
        self._fresh: dict[str | None, aiohttp.ClientSession] = {}
        """By socket; ``None`` means TCP."""
        self._closing: set[asyncio.Task[None]] = set()

    def open_kept(self) -> aiohttp.ClientSession:
        self.kept = _session(_tcp(force_close=False))
        return self.kept

    def of_socket(self, path: str) -> aiohttp.ClientSession:
        """With connections to the Unix socket ``path`` that are kept."""
        session = self._by_socket.get(path)
        if session is None:
            self._close_ended(path)
            session = self._by_socket[path] = _session(_unix(path, keepalive_timeout=KEEP_ALIVE))
        return session

    def fresh(self, path: str | None) -> aiohttp.ClientSession:
        """Opens a connection for each request, over TCP or to the socket ``path``."""
        session = self._fresh.get(path)
        if session is None:
            connector = _tcp(force_close=True) if path is None else _unix(path, force_close=True)
            session = self._fresh[path] = _session(connector)
        return session

    def _close_ended(self, opened: str) -> None:
        """Closes the sessions of engines that have ended: the next engine has another socket."""
        paths = {*self._by_socket, *(path for path in self._fresh if path is not None)} - {opened}
        ended = [path for path in paths if not os.path.lexists(path)]
        sessions = [self._by_socket.pop(path, None) for path in ended] + [self._fresh.pop(path, None) for path in ended]
        if ended:
            task = asyncio.get_running_loop().create_task(_close(session for session in sessions if session))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        sessions = [*self._by_socket.values(), *self._fresh.values()]
        if self.kept is not None:
            sessions.append(self.kept)
        self.kept, self._by_socket, self._fresh = None, {}, {}
        await _close(sessions)
        if self._closing:
            await asyncio.wait(self._closing)


async def _close(sessions: Iterable[aiohttp.ClientSession]) -> None:
    for session in sessions:
        await session.close()


def _session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        max_line_size=MAX_HEAD_LINE,
        max_field_size=MAX_HEAD_LINE,
        max_headers=MAX_HEADERS,
    )


def _tcp(*, force_close: bool) -> aiohttp.TCPConnector:
    keep: dict[str, Any] = {"force_close": True} if force_close else {"keepalive_timeout": KEEP_ALIVE}
    return _with_protocol(_TCPConnector(limit=0, ttl_dns_cache=60, socket_factory=_tcp_socket, **keep))


def _unix(path: str, **keep: Any) -> aiohttp.UnixConnector:
    return _with_protocol(_UnixConnector(path, limit=0, **keep))


def _with_protocol(connector: _Connector) -> _Connector:
    connector._factory = functools.partial(_Protocol, loop=asyncio.get_running_loop())  # type: ignore[assignment]
    return connector


class _Protocol(ResponseHandler):
    """Mends four faults of aiohttp 3.14, by which answers never end, end too early, or are another request's.

    With chunks that are none, in a later packet than the head, it stops its timers and the reader waits for ever; after
    a 1xx it waits for ever for the answer; a connection that is reset before an answer that ends with it is taken for
    its end; and an answer that comes while nobody asks (408, before a server closes) answers the next request.
    """

    def is_connected(self) -> bool:
        """Asked of an idle connection, before it is used again."""
        return super().is_connected() and not self._buffer and not self._tail and self.exception() is None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        fault = self.exception()
        if fault is not None:
            self._fail_body(fault)
        elif self._buffer and 100 <= self._buffer[-1][0][0].code < 200:
            self.start_timeout()

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc is not None:
            self._fail_body(exc)
        super().connection_lost(exc)

    def _fail_body(self, cause: BaseException) -> None:
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            fault = aiohttp.ClientPayloadError("the answer is damaged or cut off")
            body.set_exception(fault, cause)
            # A reader that has just been woken, by the end of a chunk, looks for bytes only, and waits again.
            asyncio.get_running_loop().call_soon(body.set_exception, fault)


class _TCPConnector(aiohttp.TCPConnector):
    async def _create_connection(self, *args: Any) -> ResponseHandler:
        protocol = await super()._create_connection(*args)
        _newest.set(object())
        return protocol


class _UnixConnector(aiohttp.UnixConnector):
    async def _create_connection(self, *args: Any) -> ResponseHandler:
        protocol = await super()._create_connection(*args)
        _newest.set(object())
        return protocol


def _tcp_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that sends at once: Nagle and delayed ACK together cost 40 ms on the first token."""
    family, kind, protocol, _, _ = info
    sock = socket.socket(family=family, type=kind, proto=protocol)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
