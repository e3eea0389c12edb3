"""One HTTP client for all upstreams, behind a seam small enough to fake.

aiohttp, since with clients that leave early httpx's pool stops serving. Redirects are never followed (they could carry
our key elsewhere), proxies and netrc of the environment are not read, cookies are not kept.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import aiohttp
from yarl import URL

from sage.errors import DeadlineExceeded, SageError, UpstreamFailed
from sage.middleware.providers.base import UpstreamRequest
from sage.middleware.settings import Timeouts

_MAX_ANSWER = 256 * 2**20
# Below the five seconds after which uvicorn, vLLM and llama.cpp drop an idle connection: a request never meets a
# connection that is just being closed.
_KEEP_ALIVE = 4.0


class UpstreamResponse(Protocol):
    """An upstream's answer, its head received."""

    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes:
        """The whole body; raises :class:`UpstreamFailed` if it is cut, :class:`DeadlineExceeded` if it stalls."""
        ...

    async def chunk(self) -> bytes:
        """What has arrived, as soon as there is any; empty at the clean end. Raises as :meth:`read` does."""
        ...

    def close(self) -> None:
        """Ends the exchange: at once, by closing the connection, unless the body was read to its end."""
        ...


class Transport(Protocol):
    """Sends requests to upstreams."""

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """The answer's head; raises :class:`UpstreamFailed` or :class:`DeadlineExceeded` if there is none."""
        ...

    async def close(self) -> None: ...


class HttpTransport:
    """The real one. It is built on first use, inside the event loop that uses it."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}
        self._timeouts: dict[Timeouts, aiohttp.ClientTimeout] = {}

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ttl_dns_cache=60, keepalive_timeout=_KEEP_ALIVE, socket_factory=_socket
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        return self._session

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        session = self._session or self._open()
        url = self._urls.get(request.url)
        if url is None:
            url = self._urls[request.url] = URL(request.url)
        timeout = self._timeouts.get(request.timeouts)
        if timeout is None:
            limits = request.timeouts
            timeout = self._timeouts[limits] = aiohttp.ClientTimeout(
                total=limits.total, sock_connect=limits.connect, sock_read=limits.first_byte
            )
        try:
            response = await session.request(
                request.method,
                url,
                data=request.body or None,
                headers=request.headers,
                timeout=timeout,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise _translate(exc, request.timeouts, "did not answer") from exc
        return _HttpResponse(response, request.timeouts)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def _socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that sends at once: Nagle and delayed ACK together cost 40 ms on the first token."""
    family, kind, protocol, _, _ = info
    sock = socket.socket(family=family, type=kind, proto=protocol)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class _HttpResponse:
    def __init__(self, response: aiohttp.ClientResponse, timeouts: Timeouts) -> None:
        self._response = response
        self._timeouts = timeouts
        self._stalled = timeouts.first_byte
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        length = self._response.content_length
        if length is not None and length > _MAX_ANSWER:
            raise UpstreamFailed(f"the upstream's answer is {length} bytes; the limit is {_MAX_ANSWER}")
        try:
            return await self._response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise _translate(exc, self._timeouts, "cut its answer off") from exc

    async def chunk(self) -> bytes:
        try:
            data = await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise _translate(exc, self._timeouts, "cut its stream off") from exc
        if self._stalled != self._timeouts.between_chunks:
            self._stalled = self._timeouts.between_chunks
            connection = self._response.connection
            if connection is not None and connection.protocol is not None:
                connection.protocol.read_timeout = self._stalled
        return data

    def close(self) -> None:
        self._response.close()


def _translate(exc: Exception, timeouts: Timeouts, what: str) -> SageError:
    """aiohttp's exceptions as ours, by type."""
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        return DeadlineExceeded(
            f"the upstream took no connection within {timeouts.connect:g} s", code="connect_timeout"
        )
    if isinstance(exc, aiohttp.SocketTimeoutError):
        return DeadlineExceeded(
            f"the upstream was silent for too long (first byte {timeouts.first_byte:g} s, "
            f"then {timeouts.between_chunks:g} s between chunks)",
            code="read_timeout",
        )
    if isinstance(exc, TimeoutError):
        return DeadlineExceeded(f"the upstream took longer than {timeouts.total:g} s in all", code="total_timeout")
    if isinstance(exc, aiohttp.ClientConnectorError):
        return UpstreamFailed("no connection to the upstream could be made", code="connect_failed")
    return UpstreamFailed(f"the upstream {what}", code="upstream_broken")


class FakeResponse:
    """An answer from memory: ``chunks`` are given out one a call; an exception among them is raised."""

    def __init__(
        self, status: int = 200, chunks: list[bytes | Exception] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.headers = headers or {}
        self.closed = False
        self._chunks = list(chunks or [])

    async def read(self) -> bytes:
        whole = b""
        while data := await self.chunk():
            whole += data
        return whole

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
    """For tests and examples: ``handler`` answers each request from memory; ``sent`` keeps what was asked."""

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
    """``transport.send`` whose answer is closed when the block ends, however it ends."""
    response = await transport.send(request)
    try:
        yield response
    finally:
        response.close()
