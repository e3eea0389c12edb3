"""One HTTP client for all upstreams, behind a protocol small enough to fake.

It is aiohttp: with clients that leave early, httpx's pool stops serving. Redirects are never followed (they could take
our key elsewhere), proxies and netrc of the environment are not read, cookies are not stored.
"""

from __future__ import annotations

import asyncio
import io
import math
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

import aiohttp
from yarl import URL

from sage.errors import DeadlineExceeded, SageError, UpstreamFailed
from sage.middleware.providers.base import UpstreamRequest
from sage.middleware.settings.providers import Timeouts

_LARGE = 2**20
_MAX_ANSWER = 256 * 2**20
_URLS = 1000
# Below the five seconds after which uvicorn, vLLM and llama.cpp drop an idle connection: a request never meets a
# connection that is just being closed.
_KEEP_ALIVE = 4.0


class UpstreamResponse(Protocol):
    """An upstream's answer, its head received."""

    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes:
        """The full body. Raises :class:`UpstreamFailed` if it is cut off, :class:`DeadlineExceeded` if it stalls."""
        ...

    async def chunk(self) -> bytes:
        """The next bytes, as soon as some have arrived; empty at the clean end. Raises as :meth:`read` does."""
        ...

    def close(self) -> None:
        """Ends the exchange. The connection is closed at once unless the body was read to its end."""
        ...


class Transport(Protocol):
    """Sends requests to upstreams."""

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """The answer, its head received. Raises :class:`UpstreamFailed` or :class:`DeadlineExceeded` if none comes."""
        ...

    async def close(self) -> None: ...


class HttpTransport:
    """The real one. Its sessions are made on first use, inside the event loop that uses them.

    Measured: complete headers (so that aiohttp adds none), a payload made here, and no ``total`` of aiohttp's own (a
    timer for each request) save 15 of 130 µs a request.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._by_socket: dict[str, aiohttp.ClientSession] = {}
        self._urls: dict[str, URL] = {}
        self._timeouts: dict[int, tuple[Timeouts, aiohttp.ClientTimeout]] = {}

    def _open(self) -> aiohttp.ClientSession:
        self._loop = asyncio.get_running_loop()
        self._session = _client(
            aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=_KEEP_ALIVE, socket_factory=_socket)
        )
        return self._session

    async def _open_socket(self, path: str) -> aiohttp.ClientSession:
        self._loop = asyncio.get_running_loop()
        session = self._by_socket[path] = _client(aiohttp.UnixConnector(path, limit=0, keepalive_timeout=_KEEP_ALIVE))
        removed = [other for other in self._by_socket if not os.path.lexists(other)]  # noqa: ASYNC240 (one lstat)
        for other in removed:
            if other != path:
                await self._by_socket.pop(other).close()  # its engine has ended, and the next one has another path
        return session

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        if request.socket is None:
            session = self._session or self._open()
        else:
            session = self._by_socket.get(request.socket) or await self._open_socket(request.socket)
        limits = request.timeouts
        total = limits.total if request.total is None else request.total
        started = self._loop.time()
        try:
            response = await session.request(
                request.method,
                self._url(request.url),
                data=_payload(request.body) if request.body else None,
                headers=request.headers,
                timeout=self._timeout(limits) if request.total is None else _timeout(limits, total),
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            if isinstance(exc, aiohttp.ServerTimeoutError) and total <= _limit(exc, limits):
                raise _total_timeout(request) from exc
            if request.retry_on_broken_connection and _broke(exc):
                return await self.send(replace(request, retry_on_broken_connection=False))
            raise _translate(exc, request, "did not answer") from exc
        return _HttpResponse(response, request, self._loop, started + total)

    def _url(self, text: str) -> URL:
        url = self._urls.get(text)
        if url is None:
            if len(self._urls) >= _URLS:
                self._urls.clear()  # engines listen at another port each time
            url = self._urls[text] = URL(text)
        return url

    def _timeout(self, limits: Timeouts) -> aiohttp.ClientTimeout:
        # By identity: hashing a pydantic model costs more than all the rest here.
        cached = self._timeouts.get(id(limits))
        if cached is None:
            # The entry holds the limits, too: their id cannot become another object's.
            cached = self._timeouts[id(limits)] = limits, _timeout(limits, limits.total)
        return cached[1]

    async def close(self) -> None:
        sessions = [*self._by_socket.values(), *((self._session,) if self._session is not None else ())]
        self._session, self._by_socket = None, {}
        for session in sessions:
            await session.close()


def _timeout(limits: Timeouts, total: float) -> aiohttp.ClientTimeout:
    """Without ``ceil_threshold``, aiohttp would round longer limits up to whole seconds of its clock."""
    connect, read = min(limits.connect, total), min(limits.first_byte, total)
    return aiohttp.ClientTimeout(
        total=None, connect=connect, sock_connect=connect, sock_read=read, ceil_threshold=math.inf
    )


def _broke(exc: Exception) -> bool:
    """Whether the connection was established and then broke."""
    return isinstance(exc, aiohttp.ClientOSError | aiohttp.ServerDisconnectedError) and not isinstance(
        exc, aiohttp.ClientConnectorError
    )


def _limit(exc: aiohttp.ServerTimeoutError, limits: Timeouts) -> float:
    """The configured limit that ``exc`` is about."""
    return limits.connect if isinstance(exc, aiohttp.ConnectionTimeoutError) else limits.first_byte


def _client(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


def _payload(body: bytes) -> aiohttp.payload.Payload:
    """The body as aiohttp takes it. Large ones go in pieces, and other tasks run in between."""
    if len(body) > _LARGE:
        return aiohttp.payload.BytesIOPayload(io.BytesIO(body), content_type="application/json")
    return aiohttp.BytesPayload(body, content_type="application/json")


def _socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that sends at once: Nagle and delayed ACK together cost 40 ms on the first token."""
    family, kind, protocol, _, _ = info
    sock = socket.socket(family=family, type=kind, proto=protocol)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class _HttpResponse:
    """An answer of aiohttp's. It needs no timer of its own: aiohttp's read timeout is set to the limit in force."""

    def __init__(
        self, response: aiohttp.ClientResponse, request: UpstreamRequest, loop: asyncio.AbstractEventLoop, ends: float
    ) -> None:
        self._response = response
        self._request = request
        self._loop = loop
        self._ends = ends
        self._limit = request.timeouts.first_byte
        total = request.timeouts.total if request.total is None else request.total
        self._read_timeout = min(request.timeouts.first_byte, total)  # aiohttp's current one
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        first = await self.chunk()
        if self._response.content.at_eof():
            return first
        parts, size = [first], len(first)
        while data := await self.chunk():
            parts.append(data)
            size += len(data)
            if size > _MAX_ANSWER:
                raise UpstreamFailed(f"the provider '{self._request.provider}' sent more than {_MAX_ANSWER} bytes")
        return b"".join(parts)

    async def chunk(self) -> bytes:
        remaining = self._ends - self._loop.time()
        if remaining <= 0:
            raise _total_timeout(self._request)
        content = self._response.content
        if not content.is_eof():
            self._set_read_timeout(min(self._limit, remaining))
        try:
            data = await content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            if isinstance(exc, aiohttp.SocketTimeoutError) and self._read_timeout == remaining:
                raise _total_timeout(self._request) from exc
            raise _translate(exc, self._request, "cut its answer off") from exc
        self._limit = self._request.timeouts.between_chunks
        return data

    def _set_read_timeout(self, seconds: float) -> None:
        if seconds == self._read_timeout:
            return
        self._read_timeout = seconds
        connection = self._response.connection
        if connection is not None and connection.protocol is not None:
            connection.protocol.read_timeout = seconds
            connection.protocol.start_timeout()

    def close(self) -> None:
        self._response.close()


def _total_timeout(request: UpstreamRequest) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the provider '{request.provider}' took longer than {request.timeouts.total:g} s in all", code="total_timeout"
    )


def _translate(exc: Exception, request: UpstreamRequest, what: str) -> SageError:
    """aiohttp's exceptions as ours, by type."""
    limits, who = request.timeouts, f"the provider '{request.provider}'"
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        return DeadlineExceeded(f"{who} took no connection within {limits.connect:g} s", code="connect_timeout")
    if isinstance(exc, aiohttp.SocketTimeoutError):
        return DeadlineExceeded(
            f"{who} was silent for too long (first byte {limits.first_byte:g} s, "
            f"then {limits.between_chunks:g} s between chunks)",
            code="read_timeout",
        )
    if isinstance(exc, aiohttp.ClientConnectorError):
        if request.socket is not None:
            return UpstreamFailed(f"{who} cannot be reached at its socket", code="connect_failed")
        address = URL(request.url)
        return UpstreamFailed(f"{who} cannot be reached at {address.host}:{address.port}", code="connect_failed")
    return UpstreamFailed(f"{who} {what}", code="upstream_broken")


class FakeResponse:
    """An answer from memory. Each call returns the next of ``chunks``; an exception among them is raised."""

    def __init__(
        self, status: int = 200, chunks: list[bytes | Exception] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.headers = headers or {}
        self.closed = False
        self._chunks = list(chunks or [])

    async def read(self) -> bytes:
        body = b""
        while data := await self.chunk():
            body += data
        return body

    async def chunk(self) -> bytes:
        await asyncio.sleep(0)
        if not self._chunks:
            return b""
        item = self._chunks.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self.closed = True


class FakeTransport:
    """For tests and examples: ``handler`` answers each request from memory; ``sent`` holds the requests."""

    def __init__(self, handler: Callable[[UpstreamRequest], FakeResponse]) -> None:
        self._handler = handler
        self.sent: list[UpstreamRequest] = []

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        self.sent.append(request)
        return self._handler(request)

    async def close(self) -> None:
        return None


@asynccontextmanager
async def sending(transport: Transport, request: UpstreamRequest) -> AsyncIterator[UpstreamResponse]:
    """``transport.send``; the answer is closed when the block ends, however it ends."""
    response = await transport.send(request)
    try:
        yield response
    finally:
        response.close()
