"""An answer of an upstream, read as it comes or as a whole."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from sage.errors import SageError, UpstreamFailed
from sage.middleware.providers.base import Sink, UpstreamRequest
from sage.middleware.providers.http import errors
from sage.middleware.providers.http.answer import AnswerFault, HttpAnswer
from sage.middleware.providers.http.connection import HttpConnection
from sage.middleware.providers.http.request_head import RequestHead
from sage.middleware.providers.http.response_head import parse_headers, values_of
from sage.middleware.providers.http.upload import UploadPump
from sage.middleware.providers.http.whole_answer import read_whole

_ENDLESS = math.inf


class HttpResponse(HttpAnswer):
    """An answer. What came with its head costs no further wait, and no headers are made unless they are asked for."""

    __slots__ = ("_connection", "_headers", "_loop", "_request")

    def __init__(
        self, request: UpstreamRequest, connection: HttpConnection, loop: asyncio.AbstractEventLoop, ends: float
    ) -> None:
        # As `HttpAnswer` does it, without a call.
        self.status = 0
        self.head = self.rest = b""
        self.is_over = False
        self.encoding = self.fault = self.waiter = self.sink = None
        self.ends = ends
        self.silence = _ENDLESS if request.whole else request.timeouts.first_byte
        self._request = request
        self._connection = connection
        self._loop = loop
        self._headers: Mapping[str, str] | None = None

    @classmethod
    def unanswered(
        cls, request: UpstreamRequest, connection: HttpConnection, loop: asyncio.AbstractEventLoop, ends: float
    ) -> HttpResponse:
        """Of a request that has not been sent, since the connection had broken."""
        response = cls(request, connection, loop, ends)
        response.is_over, response.fault = True, AnswerFault.UNANSWERED
        return response

    def begin(self, head: RequestHead) -> asyncio.Future[None]:
        """Sends the request. The future is done once the head of the answer has come, or it has failed."""
        body = self._request.body
        return self._connection.begin(self, head.to_send(body), body, head.is_bodyless)

    @property
    def headers(self) -> Mapping[str, str]:
        if self._headers is None:
            self._headers = parse_headers(self.head)
        return self._headers

    async def read(self) -> bytes:
        if self.is_over and self.fault is None:
            data, self.rest = self.rest, b""
            return data
        return await read_whole(self, self._request)

    async def chunk(self) -> bytes:
        connection, data = self._connection, b""
        while not self.is_over:
            data = connection.take()
            if data:
                if self._loop.time() >= self.ends:  # where nothing comes, the deadline of the wait says so
                    raise errors.total_timeout(self._request)
                break
            waiter = connection.wait(self)
            try:
                await waiter
            except asyncio.CancelledError:
                connection.stop_waiting(self)
                raise
        else:
            data, self.rest = self.rest, b""
            if not data and self.fault is not None:
                raise self.error("cut its answer off")
        if not self._request.whole:
            self.silence = self._request.timeouts.between_chunks
        return data

    async def pour(self, sink: Sink) -> bool:
        connection = self._connection
        while not self.is_over:
            data = connection.take()
            if data:
                if self._loop.time() >= self.ends:
                    raise errors.total_timeout(self._request)
                if not sink(data):
                    return False
                continue
            waiter = connection.wait(self)
            self.sink = sink
            try:
                await waiter
            except asyncio.CancelledError:
                connection.stop_waiting(self)
                raise
            if self.sink is None:
                return False
            self.sink = None
        data, self.rest = self.rest, b""
        takes_more = not data or sink(data)
        if self.fault is None:
            return True
        if takes_more:
            raise self.error("cut its answer off")
        return False

    def error(self, what: str = "did not answer") -> SageError:
        """The error that its fault means."""
        request, fault = self._request, self.fault
        if fault is AnswerFault.SILENT:
            return errors.read_timeout(request)
        if fault is AnswerFault.LATE:
            return errors.total_timeout(request)
        if fault is AnswerFault.NONSENSE:
            return errors.nonsense(request)
        if fault is AnswerFault.TRANSFER_CODING:
            return self._coding_error()
        if fault is AnswerFault.SHUT_DOWN and not self.status:
            return errors.shutting_down()
        return self._size_error() or errors.broken(request, what)

    def _size_error(self) -> UpstreamFailed | None:
        if self.fault is AnswerFault.LONG_LINE:
            return errors.head_too_large(self._request, f"a header of more than {errors.MAX_HEAD_LINE} bytes")
        if self.fault is AnswerFault.MANY_HEADERS:
            return errors.head_too_large(self._request, f"more than {errors.MAX_HEADERS} headers")
        if self.fault is AnswerFault.LONG_HEAD:
            return errors.head_too_large(self._request, f"a head of more than {errors.MAX_HEAD} bytes")
        return None

    def _coding_error(self) -> UpstreamFailed:
        coding = values_of(parse_headers(self.head), "transfer-encoding") or ""
        return errors.unreadable_encoding(
            self._request, f"its answer has the transfer coding '{coding[:50]}', which was not asked for"
        )

    def close(self) -> None:
        if not self.is_over:
            self._connection.end()


class UploadResponse(HttpResponse):
    """The answer to a request whose body goes out as it comes in, perhaps while the answer comes."""

    __slots__ = ("_pump",)
    _pump: UploadPump

    def begin(self, head: RequestHead) -> asyncio.Future[None]:
        upload = self._request.upload
        assert upload is not None
        self._pump = UploadPump(upload, self._connection)
        return self._connection.begin_upload(self, head.to_send_upload(upload.length), self._pump)

    async def chunk(self) -> bytes:
        try:
            return await super().chunk()
        except SageError:
            self.raise_failure()
            raise

    async def pour(self, sink: Sink) -> bool:
        try:
            return await super().pour(sink)
        except SageError:
            self.raise_failure()
            raise

    def raise_failure(self) -> None:
        """Raises what was wrong with the body, if the connection was closed because of that."""
        if self._pump.failure is not None:
            raise self._pump.failure

    def close(self) -> None:
        self._pump.stop()
        super().close()
