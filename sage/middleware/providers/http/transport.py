"""Our own HTTP client towards all upstreams: HTTP/1.1 over asyncio's transports, parsed by llhttp.

It knows what a gateway's requests are: the same heads again and again, bodies in memory, whole answers that come at
once, and streams that are read to their end. Redirects are never followed (they could take our key elsewhere), and
cookies are not stored. Requests that go through a proxy are aiohttp's.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from sage.errors import SageError
from sage.middleware.providers.base import UpstreamRequest, UpstreamResponse
from sage.middleware.providers.call_steps import OpenedConnection
from sage.middleware.providers.http import errors
from sage.middleware.providers.http.address import Address, address_of
from sage.middleware.providers.http.answer import AnswerFault
from sage.middleware.providers.http.connection import HttpConnection
from sage.middleware.providers.http.deadline import TimeLimit
from sage.middleware.providers.http.decoded import DecodedResponse
from sage.middleware.providers.http.dialer import Dialer, NoSuchHost
from sage.middleware.providers.http.pool import ConnectionPool
from sage.middleware.providers.http.request_head import RequestHead
from sage.middleware.providers.http.response import HttpResponse, UploadResponse
from sage.middleware.providers.transport import Transport

_Prepared = tuple[RequestHead, ConnectionPool]

_UNANSWERED = AnswerFault.UNANSWERED  # to look up a member of an enum costs a call on Python 3.11
_MOST_CACHED = 1000
# A server that closes an idle connection just as it is used again does so within a round trip. A connection that breaks
# later than this was at work on the request.
_CLOSED_AS_USED = 5.0
_CLOSING_TIME = 1.0
"""Seconds that the event loop may take until all connections are closed."""


class HttpTransport:
    """Our own client. It belongs to the event loop in which it is first used."""

    def __init__(self) -> None:
        self._pools: dict[Address, ConnectionPool] = {}
        self._prepared: dict[tuple[int, str, str, str | None], _Prepared] = {}
        """By the identity of the headers, the URL, the method and the socket."""
        self._dialer = Dialer()
        self._proxied: Transport | None = None
        self._is_closed = False

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        if self._is_closed:
            raise errors.shutting_down()
        if request.proxy is not None:
            return await self._through_proxy(request)
        # By identity: the headers of an endpoint are one object, and comparing them would cost more than all the rest.
        prepared = self._prepared.get((id(request.headers), request.url, request.method, request.socket))
        if prepared is None:
            if request.upload is not None:  # whose headers are its own, so that nothing is known of it before
                return await self._send_upload(request)
            prepared = self._prepare(request)
        head, pool = prepared
        loop = pool.loop
        started = loop.time()
        total = request.timeouts.total if request.total is None else request.total
        connection = pool.take(started)
        if connection is None:
            response = await self._send_fresh(request, prepared, total)
        else:
            response = HttpResponse(request, connection, loop, started + total)
            try:
                body = request.body  # as `response.begin`, without a call
                await connection.begin(response, head.to_send(body), body, head.is_bodyless)
            except BaseException:
                response.close()
                raise
            if response.fault is _UNANSWERED:
                took = loop.time() - started
                may_repeat = took < _CLOSED_AS_USED or (request.retry_on_broken_connection and not request.once)
                response = await self._send_again(request, prepared, total - took, may_repeat, response)
        if not response.status:
            raise response.error()
        if response.encoding is not None:
            return DecodedResponse(response, request, response.encoding)
        return response

    async def _send_fresh(self, request: UpstreamRequest, prepared: _Prepared, total: float) -> HttpResponse:
        """Over a fresh connection, and once more over another if that breaks and the request allows it."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + total
        response = await self._ask_fresh(request, prepared, total)
        if response.fault is _UNANSWERED and request.retry_on_broken_connection and not request.once:
            return await self._send_again(request, prepared, ends - loop.time(), True, response)
        return response

    async def _send_again(
        self, request: UpstreamRequest, prepared: _Prepared, total: float, may_repeat: bool, broken: HttpResponse
    ) -> HttpResponse:
        """Sends ``request`` over a fresh connection, after one broke before anything of an answer came.

        Servers close idle connections when they like, perhaps as one is used again; then they have not read the
        request, and have not failed (RFC 9112, 9.3.1).
        """
        if not may_repeat:
            raise broken.error()
        if request.once:
            raise errors.closed_as_used(request)
        return await self._ask_fresh(request, prepared, max(total, 0.001), sent_again=True)

    async def _ask_fresh(
        self, request: UpstreamRequest, prepared: _Prepared, total: float, *, sent_again: bool = False
    ) -> HttpResponse:
        loop = asyncio.get_running_loop()
        began = loop.time()
        ends = began + total
        head, pool = prepared
        if sent_again:  # also where no further connection can be opened
            request.opened = OpenedConnection(None, None, sent_again)
        connection = await self._connect(request, pool, total)
        request.opened = OpenedConnection(began, loop.time(), sent_again)
        if self._is_closed:
            connection.end()
            raise errors.shutting_down()
        if not connection.is_usable():  # it broke before this task went on
            return HttpResponse.unanswered(request, connection, loop, ends)
        response = HttpResponse(request, connection, loop, ends)
        try:
            await response.begin(head)
        except BaseException:
            response.close()
            raise
        return response

    async def _connect(self, request: UpstreamRequest, pool: ConnectionPool, total: float) -> HttpConnection:
        limit = TimeLimit(pool.loop, min(request.timeouts.connect, total))
        try:
            with limit:
                return await self._dialer.dial(pool)
        except OSError as exc:
            raise self._connect_error(request, pool.address, exc, limit.expired, total) from exc

    def _connect_error(
        self, request: UpstreamRequest, address: Address, exc: OSError, is_timeout: bool, total: float
    ) -> SageError:
        if self._is_closed:
            return errors.shutting_down()
        if is_timeout:
            is_total = total <= request.timeouts.connect
            return errors.total_timeout(request) if is_total else errors.connect_timeout(request)
        return errors.unreachable(request, str(address), exc, no_such_host=isinstance(exc, NoSuchHost))

    async def _send_upload(self, request: UpstreamRequest) -> UpstreamResponse:
        """Over a fresh connection: one that breaks because it was kept too long could not be told from one that breaks
        at work, and what has gone out of an upload may be gone."""
        loop = asyncio.get_running_loop()
        total = request.timeouts.total if request.total is None else request.total
        ends = loop.time() + total
        pool = self._pool(request)
        head = RequestHead(request, pool.address)
        connection = await self._connect(request, pool, total)
        if self._is_closed:
            connection.end()
            raise errors.shutting_down()
        response = UploadResponse(request, connection, loop, ends)
        try:
            await response.begin(head)
            if not response.status:
                response.raise_failure()
                raise response.error()
        except BaseException:
            response.close()
            raise
        if response.encoding is not None:
            return DecodedResponse(response, request, response.encoding)
        return response

    def _prepare(self, request: UpstreamRequest) -> _Prepared:
        if len(self._prepared) >= _MOST_CACHED:  # engines listen at another port each time
            self._prepared.clear()
            self._pools = {address: pool for address, pool in self._pools.items() if pool.open}
        pool = self._pool(request)
        prepared = RequestHead(request, pool.address), pool
        self._prepared[id(request.headers), request.url, request.method, request.socket] = prepared
        return prepared

    def _pool(self, request: UpstreamRequest) -> ConnectionPool:
        try:
            address = address_of(request.url, request.socket)
        except UnicodeError as exc:
            host = urlsplit(request.url).hostname or ""
            raise errors.unreachable(request, host, None, no_such_host=True) from exc
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = ConnectionPool(address, asyncio.get_running_loop())
        return pool

    async def _through_proxy(self, request: UpstreamRequest) -> UpstreamResponse:
        if self._proxied is None:
            from sage.middleware.providers.aiohttp_client.transport import AiohttpTransport

            self._proxied = AiohttpTransport()
        return await self._proxied.send(request)

    async def close(self) -> None:
        self._is_closed = True
        opened = [connection for pool in self._pools.values() for connection in pool.open]
        for connection in opened:
            connection.end(AnswerFault.SHUT_DOWN)
        if opened:
            await asyncio.wait([connection.gone for connection in opened], timeout=_CLOSING_TIME)
        if self._proxied is not None:
            await self._proxied.close()
