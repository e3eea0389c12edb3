"""aiohttp's sessions: one with connections that are kept, one with fresh ones, and the same for each Unix socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

MAX_HEAD_LINE = 64 * 1024
"""Bytes of the status line, and of each header, of an answer."""
MAX_HEADERS = 512
# Below the five seconds after which uvicorn, vLLM and llama.cpp drop an idle connection: a request seldom meets a
# connection that is just being closed.
_KEEP_ALIVE = 4.0

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
            session = self._by_socket[path] = _session(_UnixConnector(path, limit=0, keepalive_timeout=_KEEP_ALIVE))
        return session

    def fresh(self, path: str | None) -> aiohttp.ClientSession:
        """Opens a connection for each request, over TCP or to the socket ``path``."""
        session = self._fresh.get(path)
        if session is None:
            connector = _tcp(force_close=True) if path is None else _UnixConnector(path, limit=0, force_close=True)
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
    keep: dict[str, Any] = {"force_close": True} if force_close else {"keepalive_timeout": _KEEP_ALIVE}
    return _TCPConnector(limit=0, ttl_dns_cache=60, socket_factory=_tcp_socket, **keep)


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
