"""Requests to upstreams over aiohttp: all that go through a proxy, and every one if ``llm.transport`` says so.

Redirects are never followed (they could take
our key elsewhere), the netrc file is not read, cookies are not stored; a request goes through the proxy that it names.
"""

from __future__ import annotations

import asyncio
import io
import math
import os
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import replace

import aiohttp
from aiohttp.hdrs import CONTENT_ENCODING
from aiohttp.http_exceptions import LineTooLong
from yarl import URL

from sage.errors import DeadlineExceeded, SageError, Unavailable, UpstreamFailed
from sage.middleware.providers.aiohttp_client.sessions import (
    MAX_HEAD_LINE,
    MAX_HEADERS,
    UpstreamConnections,
    newest_connection,
)
from sage.middleware.providers.base import UpstreamRequest, UpstreamResponse
from sage.middleware.providers.wire.compression import Decoder, decoder
from sage.middleware.settings.providers import Timeouts

_LARGE = 2**20
_MAX_ANSWER = 256 * 2**20
_MOST_CACHED = 1000
# A server that closes an idle connection just as it is used again does so within a round trip. A connection that breaks
# later than this was at work on the request.
_CLOSED_AS_USED = 5.0
# The share of the time of a whole answer that may be left without setting the timer anew for the rest of its bytes.
_NEARLY = 0.98


class AiohttpTransport:
    """aiohttp's client. Its sessions are made on first use, inside the event loop that uses them.

    Measured: complete headers (so that aiohttp adds none), a payload made here, and no ``total`` of aiohttp's own (a
    timer for each request) save 15 of 130 µs a request.
    """

    def __init__(self) -> None:
        self._connections = UpstreamConnections()
        self._urls: dict[str, URL] = {}
        self._timeouts: dict[int, tuple[Timeouts, aiohttp.ClientTimeout, aiohttp.ClientTimeout]] = {}
        self._closed = False

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        if self._closed:
            raise _shutting_down()
        connections = self._connections
        if request.socket is not None:
            session = connections.of_socket(request.socket)
        else:
            session = connections.kept or connections.open_kept()
        loop = asyncio.get_running_loop()
        started, before = loop.time(), newest_connection()
        total = request.timeouts.total if request.total is None else request.total
        try:
            response = await self._request(session, request)
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            if self._closed:
                raise _shutting_down() from exc
            took = loop.time() - started
            was_kept = newest_connection() is before and took < _CLOSED_AS_USED
            may_repeat = was_kept or (request.retry_on_broken_connection and not request.once)
            if not may_repeat or not _broke_before_answer(exc):
                raise _translate(exc, request, total) from exc
            if request.once:
                closed = f"the provider '{request.provider}' closed a kept connection as it was used"
                raise UpstreamFailed(closed, code="upstream_closed") from exc
            response = await self._send_again(request, max(total - took, 0.001))
        encoding = response.headers.get(CONTENT_ENCODING)
        if encoding is not None:
            return _CompressedResponse(response, request, loop, started + total, encoding)
        return _HttpResponse(response, request, loop, started + total)

    async def _send_again(self, request: UpstreamRequest, total: float) -> aiohttp.ClientResponse:
        """Sends ``request`` over a fresh connection, after a kept one broke before anything of an answer came.

        Servers close idle connections when they like, perhaps as one is used again; then they have not read the
        request, and have not failed (RFC 9112, 9.3.1).
        """
        request.sent_again = True
        try:
            return await self._request(self._connections.fresh(request.socket), replace(request, total=total))
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise _translate(exc, request, total) from exc

    def _request(self, session: aiohttp.ClientSession, request: UpstreamRequest) -> Awaitable[aiohttp.ClientResponse]:
        return session.request(
            request.method,
            self._url(request.url),
            data=_payload(request.body) if request.body else None,
            headers=request.headers,
            timeout=self._timeout(request),
            allow_redirects=False,
            proxy=None if request.proxy is None else self._url(request.proxy),
        )

    def _url(self, text: str) -> URL:
        url = self._urls.get(text)
        if url is None:
            if len(self._urls) >= _MOST_CACHED:
                self._urls.clear()  # engines listen at another port each time
            url = self._urls[text] = URL(text)
        return url

    def _timeout(self, request: UpstreamRequest) -> aiohttp.ClientTimeout:
        limits = request.timeouts
        if request.total is not None:
            return _timeout(limits, request.total, whole=request.whole)
        # By identity: hashing a pydantic model costs more than all the rest here.
        cached = self._timeouts.get(id(limits))
        if cached is None:
            if len(self._timeouts) >= _MOST_CACHED:
                self._timeouts.clear()  # models come and go, each with limits of its own
            of_stream, of_whole = (_timeout(limits, limits.total, whole=whole) for whole in (False, True))
            # The entry holds the limits, too: their id cannot become another object's.
            cached = self._timeouts[id(limits)] = limits, of_stream, of_whole
        return cached[2] if request.whole else cached[1]

    async def close(self) -> None:
        """Ends every exchange; none begins from now on."""
        self._closed = True
        await self._connections.close()


def _shutting_down() -> Unavailable:
    return Unavailable("the gateway is shutting down; try again soon", code="shutting_down")


def _timeout(limits: Timeouts, total: float, *, whole: bool) -> aiohttp.ClientTimeout:
    """Without ``ceil_threshold``, aiohttp would round longer limits up to whole seconds of its clock."""
    connect, read = min(limits.connect, total), _first_limit(limits, total, whole=whole)
    return aiohttp.ClientTimeout(
        total=None, connect=connect, sock_connect=connect, sock_read=read, ceil_threshold=math.inf
    )


def _first_limit(limits: Timeouts, total: float, *, whole: bool) -> float:
    """The seconds until the first byte: a model that thinks before a whole answer sends none until it has all."""
    return total if whole else min(limits.first_byte, total)


def _broke_before_answer(exc: Exception) -> bool:
    """Whether the connection was established and then broke, before anything of an answer had come."""
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return isinstance(exc.message, str)  # else it is the part of a head that has come
    return isinstance(exc, aiohttp.ClientOSError) and not isinstance(exc, aiohttp.ClientConnectorError)


def _payload(body: bytes) -> aiohttp.payload.Payload:
    """The body as aiohttp takes it. Large ones go in pieces, and other tasks run in between."""
    if len(body) > _LARGE:
        return aiohttp.payload.BytesIOPayload(io.BytesIO(body), content_type="application/json")
    return aiohttp.BytesPayload(body, content_type="application/json")


class _HttpResponse:
    """An answer of aiohttp's. It needs no timer of its own: aiohttp's read timeout is set to the limit in force."""

    def __init__(
        self, response: aiohttp.ClientResponse, request: UpstreamRequest, loop: asyncio.AbstractEventLoop, ends: float
    ) -> None:
        self._response = response
        self._request = request
        self._loop = loop
        self._ends = ends
        self._limit = math.inf if request.whole else request.timeouts.first_byte
        total = request.timeouts.total if request.total is None else request.total
        self._read_timeout = min(self._limit, total)  # aiohttp's current one
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        first = await self.chunk()
        return first if self._response.content.at_eof() else await self._read_on(first)

    async def _read_on(self, first: bytes) -> bytes:
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
        content, whole = self._response.content, self._request.whole
        if not content.is_eof() and not (whole and remaining > _NEARLY * self._read_timeout):
            self._set_read_timeout(min(self._limit, remaining))
        try:
            data = await content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            if isinstance(exc, aiohttp.SocketTimeoutError) and (whole or self._read_timeout == remaining):
                raise _total_timeout(self._request) from exc
            raise _translate(exc, self._request, math.inf, "cut its answer off") from exc
        if not whole:
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


class _CompressedResponse(_HttpResponse):
    """An answer that came compressed."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        request: UpstreamRequest,
        loop: asyncio.AbstractEventLoop,
        ends: float,
        encoding: str,
    ) -> None:
        super().__init__(response, request, loop, ends)
        self._encoding = encoding
        self._decoder: Decoder | None = None
        self._pieces: Iterator[bytes] = iter(())

    async def read(self) -> bytes:
        return await self._read_on(b"")

    async def chunk(self) -> bytes:
        try:
            if self._decoder is None:
                self._decoder = decoder(self._encoding)
            while not (piece := next(self._pieces, b"")):
                data = await super().chunk()
                if not data:
                    self._decoder.close()
                    return b""
                self._pieces = self._decoder.feed(data)
        except ValueError as exc:
            raise UpstreamFailed(f"the provider '{self._request.provider}': {exc}", code="upstream_encoding") from exc
        return piece


def _total_timeout(request: UpstreamRequest) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the provider '{request.provider}' took longer than {request.timeouts.total:g} s in all", code="total_timeout"
    )


def _translate(exc: Exception, request: UpstreamRequest, total: float, what: str = "did not answer") -> SageError:
    """aiohttp's exceptions as ours, by type. ``total``: the seconds that the request had for all of its answer."""
    limits, who = request.timeouts, f"the provider '{request.provider}'"
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        if total <= limits.connect:
            return _total_timeout(request)
        return DeadlineExceeded(f"{who} took no connection within {limits.connect:g} s", code="connect_timeout")
    if isinstance(exc, aiohttp.SocketTimeoutError):
        if total <= _first_limit(limits, total, whole=request.whole):
            return _total_timeout(request)
        return DeadlineExceeded(
            f"{who} was silent for too long (first byte {limits.first_byte:g} s, "
            f"then {limits.between_chunks:g} s between chunks)",
            code="read_timeout",
        )
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return UpstreamFailed(
            f"the proxy of {who} answered {exc.status}: it opened no way to {URL(request.url).host}; an administrator "
            f"has to check llm.providers.{request.provider}.proxy",
            code="proxy_refused",
        )
    if isinstance(exc, aiohttp.ClientConnectorError):
        is_proxy = isinstance(exc, aiohttp.ClientProxyConnectionError)
        url = URL(request.proxy if is_proxy and request.proxy is not None else request.url)
        where = f"{url.host}:{url.port}" if request.socket is None else "its socket"
        where = f"its proxy, {where}" if is_proxy else where
        return UpstreamFailed(f"{who} cannot be reached at {where}{_why_unreachable(exc)}", code="connect_failed")
    if isinstance(exc, aiohttp.ClientResponseError):
        fault, code = _fault_of_head(exc)
        return UpstreamFailed(f"{who} answered with {fault}", code=code)
    return UpstreamFailed(f"{who} {what}", code="upstream_broken")


def _why_unreachable(exc: aiohttp.ClientConnectorError) -> str:
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return f": its certificate is not accepted ({exc.certificate_error})"
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return ": there is no such host"
    return f": {os.strerror(exc.os_error.errno)}" if exc.os_error.errno else ""


def _fault_of_head(exc: aiohttp.ClientResponseError) -> tuple[str, str]:
    """What is wrong with the head of an answer, and the code of the error. The head itself is never quoted."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, LineTooLong):
            return f"a header of more than {MAX_HEAD_LINE} bytes", "upstream_head_too_large"
        if str(getattr(cause, "message", "")).startswith("Too many headers"):
            return f"more than {MAX_HEADERS} headers", "upstream_head_too_large"
        cause = cause.__cause__
    return "something that is not HTTP/1.1", "upstream_nonsense"
