"""Requests to upstreams over aiohttp: all that go through a proxy, and every one if ``llm.transport`` says so.

Redirects are never followed (they could take
our key elsewhere), the netrc file is not read, cookies are not stored; a request goes through the proxy that it names.
"""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Awaitable, Mapping
from dataclasses import replace

import aiohttp
from aiohttp.hdrs import CONTENT_ENCODING
from aiohttp.http_exceptions import LineTooLong
from yarl import URL

from sage.errors import SageError, UpstreamFailed
from sage.middleware.providers.aiohttp_client.sessions import (
    UpstreamConnections,
    newest_connection,
)
from sage.middleware.providers.aiohttp_client.uploads import SentUpload
from sage.middleware.providers.base import ReadInChunks, UpstreamRequest, UpstreamResponse
from sage.middleware.providers.call_steps import OpenedConnection
from sage.middleware.providers.http import errors
from sage.middleware.providers.http.decoded import DecodedResponse
from sage.middleware.providers.http.whole_answer import read_whole
from sage.middleware.settings.providers import Timeouts

_LARGE = 2**20
# The largest body that goes out at once: aiohttp's limit on silence begins when all of the body is out.
_UNAWAITED = 2**16
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
            raise errors.shutting_down()
        if request.upload is not None:
            return await self._send_upload(request, SentUpload(request.upload))
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
                raise errors.shutting_down() from exc
            took = loop.time() - started
            was_kept = newest_connection() is before and took < _CLOSED_AS_USED
            may_repeat = was_kept or (request.retry_on_broken_connection and not request.once)
            if not may_repeat or not _broke_before_answer(exc):
                raise _translate(exc, request, total) from exc
            if request.once:
                raise errors.closed_as_used(request) from exc
            response = await self._send_again(request, max(total - took, 0.001))
        encoding = response.headers.get(CONTENT_ENCODING)
        if encoding is not None:
            return DecodedResponse(_AiohttpResponse(response, request, loop, started + total), request, encoding)
        return _AiohttpResponse(response, request, loop, started + total)

    async def _send_upload(self, request: UpstreamRequest, upload: SentUpload) -> UpstreamResponse:
        """Over a fresh connection, as our own client does it."""
        loop = asyncio.get_running_loop()
        total = request.timeouts.total if request.total is None else request.total
        ends = loop.time() + total
        try:
            response = await self._connections.fresh(request.socket).request(
                request.method,
                self._url(request.url),
                data=upload.pieces(),
                headers=upload.headers(request.headers),
                # The limit on silence would begin before all of the body is out.
                timeout=_timeout(request.timeouts, total, whole=True, all_in_all=total),
                allow_redirects=False,
                proxy=None if request.proxy is None else self._url(request.proxy),
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            if upload.failure is not None:
                raise upload.failure from exc
            if self._closed:
                raise errors.shutting_down() from exc
            raise _translate(exc, request, total) from exc
        answer = _AiohttpResponse(response, request, loop, ends)
        encoding = response.headers.get(CONTENT_ENCODING)
        return answer if encoding is None else DecodedResponse(answer, request, encoding)

    async def _send_again(self, request: UpstreamRequest, total: float) -> aiohttp.ClientResponse:
        """Sends ``request`` over a fresh connection, after a kept one broke before anything of an answer came.

        Servers close idle connections when they like, perhaps as one is used again; then they have not read the
        request, and have not failed (RFC 9112, 9.3.1).
        """
        request.opened = OpenedConnection(None, None, sent_again=True)
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
        if len(request.body) > _UNAWAITED:
            total = limits.total if request.total is None else request.total
            return _timeout(limits, total, whole=request.whole, all_in_all=total)
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


def _timeout(limits: Timeouts, total: float, *, whole: bool, all_in_all: float | None = None) -> aiohttp.ClientTimeout:
    """Without ``ceil_threshold``, aiohttp would round longer limits up to whole seconds of its clock."""
    connect, read = min(limits.connect, total), _first_limit(limits, total, whole=whole)
    return aiohttp.ClientTimeout(
        total=all_in_all, connect=connect, sock_connect=connect, sock_read=read, ceil_threshold=math.inf
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


class _AiohttpResponse(ReadInChunks):
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
        return first if self._response.content.at_eof() else await read_whole(self, self._request, first)

    async def chunk(self) -> bytes:
        remaining = self._ends - self._loop.time()
        if remaining <= 0:
            raise errors.total_timeout(self._request)
        content, whole = self._response.content, self._request.whole
        if not content.is_eof() and not (whole and remaining > _NEARLY * self._read_timeout):
            self._set_read_timeout(min(self._limit, remaining))
        try:
            data = await content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            if isinstance(exc, aiohttp.SocketTimeoutError) and (whole or self._read_timeout == remaining):
                raise errors.total_timeout(self._request) from exc
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


def _translate(exc: Exception, request: UpstreamRequest, total: float, what: str = "did not answer") -> SageError:
    """aiohttp's exceptions as ours, by type. ``total``: the seconds that the request had for all of its answer."""
    if isinstance(exc, TimeoutError) and not isinstance(exc, aiohttp.ServerTimeoutError):
        return errors.total_timeout(request)
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        is_total = total <= request.timeouts.connect
        return errors.total_timeout(request) if is_total else errors.connect_timeout(request)
    if isinstance(exc, aiohttp.SocketTimeoutError):
        is_total = total <= _first_limit(request.timeouts, total, whole=request.whole)
        return errors.total_timeout(request) if is_total else errors.read_timeout(request)
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return UpstreamFailed(
            f"the proxy of {errors.who(request)} answered {exc.status}: it opened no way to {URL(request.url).host}; "
            f"an administrator has to check llm.providers.{request.provider}.proxy",
            code="proxy_refused",
        )
    if isinstance(exc, aiohttp.ClientConnectorError):
        return _unreachable(exc, request)
    if isinstance(exc, aiohttp.ClientResponseError):
        return _fault_of_head(exc, request)
    return errors.broken(request, what)


def _unreachable(exc: aiohttp.ClientConnectorError, request: UpstreamRequest) -> UpstreamFailed:
    is_proxy = isinstance(exc, aiohttp.ClientProxyConnectionError)
    url = URL(request.proxy if is_proxy and request.proxy is not None else request.url)
    where = f"{url.host}:{url.port}" if request.socket is None else "its socket"
    where = f"its proxy, {where}" if is_proxy else where
    os_error = exc.certificate_error if isinstance(exc, aiohttp.ClientConnectorCertificateError) else exc.os_error
    no_such_host = isinstance(exc, aiohttp.ClientConnectorDNSError)
    cause = os_error if isinstance(os_error, OSError) else None
    return errors.unreachable(request, where, cause, no_such_host=no_such_host)


def _fault_of_head(exc: aiohttp.ClientResponseError, request: UpstreamRequest) -> UpstreamFailed:
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, LineTooLong):
            return errors.head_too_large(request, f"a header of more than {errors.MAX_HEAD_LINE} bytes")
        if str(getattr(cause, "message", "")).startswith("Too many headers"):
            return errors.head_too_large(request, f"more than {errors.MAX_HEADERS} headers")
        cause = cause.__cause__
    return errors.nonsense(request)
