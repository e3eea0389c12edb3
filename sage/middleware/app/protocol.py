"""uvicorn's HTTP protocol with what it leaves open.

A head has a bound in size and time; trailers are no headers; what cannot be parsed is answered with our envelope; and a
client's departure reaches every request of its connection, also when further requests were sent behind the one that
runs (uvicorn then stops reading, and tells only the newest). It leans on `HttpToolsProtocol`'s attributes, which
tests/gateway/test_protocol.py holds.
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
_MOST_WAITING = 16  # requests behind the one that runs


class JoinedWrites:
    """Sends an answer's head together with the first piece of its body: one write less on every request.

    A head is held until that piece comes or the answer ends: an endpoint sends its head when it has something to say.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._held = b""
        self._begun = False

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        elif not self._begun and not data.startswith(b"HTTP/1.1 1"):
            self._held, self._begun = data, True
            return
        self._transport.write(data)

    def end(self) -> None:
        """The answer is whole; the next write is another's head."""
        if self._held:
            self._transport.write(self._held)
        self._held, self._begun = b"", False

    def close(self) -> None:
        self.end()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class GatewayProtocol(HttpToolsProtocol):
    """One connection of a client."""

    _head = 0  # bytes of the head that were understood
    _unread = 0  # bytes that came since, without ending it
    _began = False  # a message began in the bytes that are being read
    _head_is_whole = False
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
        self._began = False
        super().data_received(data)
        if self._head_is_whole or self.transport.is_closing():
            return
        self._expect_head()
        if not self._began:  # what stood before a message that began is no part of its head
            self._unread += len(data)
            if self._unread > MAX_HEAD:
                self._too_large = True
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head, self._unread, self._began, self._head_is_whole = 0, 0, True, False

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_is_whole:
            return  # a trailer, which is no header: nobody has checked it
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD:
            self._too_large = True
            raise ValueError("the head is too large")  # ends the parsing; uvicorn then asks for a 400

    def on_headers_complete(self) -> None:
        self._head_is_whole = True
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()
        self.cycle.transport = self._writes
        if self.pipeline:
            self.flow.resume_reading()  # else the client's departure is never read
            if len(self.pipeline) > _MOST_WAITING:
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
        if self._running is None or self._running.response_complete:  # else it would stand in another's answer
            if self._too_large:
                message, code, status = f"the request's head is larger than {MAX_HEAD} bytes", "head_too_large", 431
            else:
                message, code, status = "this is no HTTP request that can be understood", "invalid_http", 400
            self._refuse(status, message, code)
        self.transport.close()

    def _refuse(self, status: int, message: str, code: str) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        body = orjson.dumps({"error": error})
        reason = {400: "Bad Request", 431: "Request Header Fields Too Large"}[status]
        head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
