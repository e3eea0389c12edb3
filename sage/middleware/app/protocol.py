"""uvicorn's HTTP protocol with what it lacks.

The size of a head and the time it takes are limited; trailers are not taken for headers; requests that cannot be parsed
are answered with our envelope; and a disconnect reaches every request of the connection, also when further requests
were sent behind the running one (uvicorn then stops reading, and notifies only the newest). The class depends on
attributes of `HttpToolsProtocol`, which tests/middleware/app/test_protocol.py checks.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD = 64 * 1024
"""Bytes of a request line and its headers."""
HEAD_SECONDS = 30.0
"""How long a head may take."""
_MAX_WAITING = 16  # requests behind the running one


class JoinedWrites:
    """Sends an answer's head together with the first piece of its body, which saves one write on every request.

    The head is held back until that piece comes or the answer ends.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head = b""
        self._started = False

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif not self._started and not data.startswith(b"HTTP/1.1 1"):
            self._head, self._started = data, True
            return
        self._transport.write(data)

    def end(self) -> None:
        """Ends an answer; the next write is the head of another."""
        if self._head:
            self._transport.write(self._head)
        self._head, self._started = b"", False

    def close(self) -> None:
        self.end()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class GatewayProtocol(HttpToolsProtocol):
    """One connection of a client."""

    _head_size = 0  # bytes of the head that were parsed
    _unparsed = 0  # bytes that came since then
    _message_began = False  # in the bytes that are being read
    _head_complete = False
    _too_large = False
    _running: Any = None
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._writes: Any = JoinedWrites(transport)
        self._expect_head()

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def data_received(self, data: bytes) -> None:
        self._message_began = False
        super().data_received(data)
        if self._head_complete or self.transport.is_closing():
            return
        self._expect_head()
        if not self._message_began:  # otherwise some of the bytes belong to the message before
            self._unparsed += len(data)
            if self._unparsed > MAX_HEAD:
                self._too_large = True
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_size, self._unparsed, self._message_began, self._head_complete = 0, 0, True, False

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_complete:
            return  # a trailer, which must not be taken for a checked header
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD:
            self._too_large = True
            raise ValueError("the head is too large")  # ends the parsing; uvicorn then calls send_400_response

    def on_headers_complete(self) -> None:
        self._head_complete = True
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()
        self.cycle.transport = self._writes
        if self.pipeline:
            self.flow.resume_reading()  # otherwise a disconnect is never noticed
            if len(self.pipeline) > _MAX_WAITING:
                self.transport.close()

    def on_response_complete(self) -> None:
        self._writes.end()
        super().on_response_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        scope: Any = cycle.scope
        scope["sage.task"], scope["sage.loop"] = task, self.loop

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        for cycle in (self._running, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        if self.transport.is_closing():
            return
        if self._running is None or self._running.response_complete:  # otherwise it would end up inside another answer
            if self._too_large:
                message, code, status = f"the request's head is larger than {MAX_HEAD} bytes", "head_too_large", 431
            else:
                message, code, status = "this is not a valid HTTP request", "invalid_http", 400
            self._refuse(status, message, code)
        self.transport.close()

    def _refuse(self, status: int, message: str, code: str) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        body = orjson.dumps({"error": error})
        reason = {400: "Bad Request", 431: "Request Header Fields Too Large"}[status]
        head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
