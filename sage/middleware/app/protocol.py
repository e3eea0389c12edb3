"""uvicorn's HTTP protocol with three things that it leaves open.

A head has a bound; what cannot be parsed is answered with our envelope; and a client's departure reaches every request
of its connection, also when further requests were sent behind the one that runs (uvicorn then stops reading, and tells
only the newest). It leans on `HttpToolsProtocol`'s attributes, which tests/gateway/test_protocol.py holds.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD = 64 * 1024
"""Bytes of a request line and its headers."""
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

    _head = 0
    _head_is_whole = False
    _running: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._writes: Any = JoinedWrites(transport)

    def on_response_complete(self) -> None:
        self._writes.end()
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_is_whole:
            return
        self._head += len(data)
        if self._head > MAX_HEAD:
            self._refuse(431, f"the request's head is larger than {MAX_HEAD} bytes", "head_too_large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head, self._head_is_whole = 0, False

    def on_headers_complete(self) -> None:
        self._head_is_whole = True
        before = self.cycle
        super().on_headers_complete()
        self.cycle.transport = self._writes
        if before is None or before.response_complete:
            return
        if self._running is None or self._running.response_complete:
            self._running = before
        self.flow.resume_reading()  # else the client's departure is never read
        if len(self.pipeline) > _MOST_WAITING:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        scope: Any = cycle.scope
        scope["sage.task"], scope["sage.loop"] = task, self.loop

    def connection_lost(self, exc: Exception | None) -> None:
        for cycle in (self._running, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no HTTP request that can be understood", "invalid_http")

    def _refuse(self, status: int, message: str, code: str) -> None:
        if self.transport.is_closing():
            return
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        body = orjson.dumps({"error": error})
        reason = {400: "Bad Request", 431: "Request Header Fields Too Large"}[status]
        head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()
