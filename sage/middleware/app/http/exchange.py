"""One request of a connection and its answer.

The head of an answer is written together with the first piece of its body, and is checked as a whole. No event, timer
or future is made for a request that need not wait.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Generator
from http import HTTPStatus
from typing import Any, Protocol

from uvicorn.server import ServerState

from sage.middleware.app.http.waiters import Waiters
from sage.middleware.routers.http.asgi import ASGIApp, Headers, Message, Scope

_CONTROLS = bytes([*range(32), 127]).replace(b"\t", b"")
_WITHOUT_BODY = frozenset({204, 304})
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_STATUS_LINES = {status: b"HTTP/1.1 %d %b" % (status, _PHRASES.get(status, b"")) for status in range(100, 600)}
_FRAMING = frozenset({b"content-length", b"connection", b"transfer-encoding"})
_FAILED = b"Internal Server Error"


class _Done:
    """An awaitable that has nothing to wait for."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return iter(())  # type: ignore[return-value]  # a generator would be made each time


_DONE = _Done()


class Connection(Protocol):
    """What an exchange asks of its connection."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    server_state: ServerState
    read_paused: bool
    write_paused: bool
    writable: Waiters
    written: int
    """Bytes in all."""

    def resume_reading(self) -> None: ...

    def answered(self, keep_alive: bool) -> None:
        """The answer is complete."""
        ...


class Exchange:
    """A request and its answer, as an ASGI application sees them: names of headers are in lower case.

    It is also the application's own way to the connection (``scope["sage.exchange"]``, see
    :class:`sage.middleware.gateway.watch.WaitingClient`).
    """

    _head: bytes
    """Of an answer that comes in pieces: what is held back until the first piece of its body."""
    _chunked: bool
    """Whether such an answer is."""
    _remaining: float
    """Bytes of its body that are to come, as far as its Content-Length says."""

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_expects_continue",
        "_head",
        "_is_current",
        "_is_head",
        "_news",
        "_parts",
        "_remaining",
        "_waiters",
        "added",
        "answered",
        "disconnected",
        "held",
        "keep_alive",
        "more_body",
        "on_disconnect",
        "state",
        "status",
        "task",
    )

    def __init__(
        self,
        connection: Connection,
        state: dict[str, Any],
        is_head: bool,
        is_current: bool,
        keep_alive: bool,
        expects_continue: bool,
        body: bytes | None,
    ) -> None:
        """``is_current`` tells HTTP/1.1 from older versions; ``body``, if all of it has come. Arguments by name would
        cost more than all the rest."""
        self._connection = connection
        self.state = state
        self._is_head = is_head
        self._is_current = is_current
        self.keep_alive = keep_alive
        self._expects_continue = expects_continue
        self._parts: list[bytes] | None = None
        self._body = body
        """All of the request's body, if it has come at once and was not taken."""
        self.task: asyncio.Task[None] | None = None
        """Where the application runs."""
        self.on_disconnect: Callable[[], None] | None = None
        """Called once when the client disconnects before it has the whole answer."""
        self._waiters: Waiters | None = None
        self._news = body is not None  # something for the next `receive`
        self.held = 0
        """Bytes of the request's body that the application has not taken."""
        self.more_body = body is None
        """Whether the request's body has not come to its end."""
        self.added: Headers = []
        """Headers of the answer beside those that the application gives it, none of the length or the connection."""
        self.status = 0
        """That of the answer; 0 until it has begun."""
        self.answered = False
        """Whether it has ended."""
        self.disconnected = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Lets the application answer; what it fails to do is an answer of status 500, or one that is cut off."""
        connection, task = self._connection, self.task
        assert task is not None
        connection.server_state.tasks.add(task)
        try:
            await app(scope, self.receive, self.send)
        except BaseException as error:
            logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=error)
        try:
            if not (self.answered or self.disconnected):
                if not self.status:
                    await self._fail()
                elif self._head:
                    connection.transport.write(self._head)
                connection.transport.close()
        finally:
            connection.server_state.tasks.discard(task)

    async def _fail(self) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(_FAILED))]
        headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": _FAILED})

    def add_body(self, body: bytes) -> None:
        """Another piece of the request's body came."""
        if self._parts is None:
            self._parts = []
        self._parts.append(body)
        self.held += len(body)
        self._news = True
        if self._waiters is not None:
            self._waiters.wake()

    def end_body(self) -> None:
        """The request is complete."""
        self.more_body = False
        self._news = True
        if self._waiters is not None:
            self._waiters.wake()

    def lose(self) -> None:
        """The client has disconnected."""
        if self.answered or self.disconnected:
            return
        self.disconnected = self._news = True
        if self._waiters is not None:
            self._waiters.wake()
        if self.on_disconnect is not None:
            self.on_disconnect()

    def take_body(self) -> bytes | None:
        """The whole body of a request that has come as a whole; ``None`` means that :meth:`receive` has to be asked.
        To be called once, in its place."""
        body = self._body
        if body is not None and not self.disconnected:
            self._body, self._news = None, False
            return body
        if self.more_body or self._expects_continue or self.disconnected or self._connection.read_paused:
            return None
        return self._taken()

    def put_back(self, body: bytes) -> None:
        """Has the whole body that was taken again, for another reader."""
        self._body, self._news = body, True

    def _taken(self) -> bytes:
        """What has come of the body and was not taken."""
        body, parts = self._body, self._parts
        if body is None:
            body = b"" if parts is None else parts[0] if len(parts) == 1 else b"".join(parts)
        self._body, self._parts, self.held, self._news = None, None, 0, False
        return body

    async def receive(self) -> Message:
        """ASGI's. What came of the body so far is one piece."""
        connection = self._connection
        if self._expects_continue:
            self._expects_continue = False
            if not connection.transport.is_closing():
                connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if connection.read_paused:
            connection.resume_reading()
        if not self._news:
            if self._waiters is None:
                self._waiters = Waiters(connection.loop)
            while not self._news:
                await self._waiters.wait()
        if self.disconnected or self.answered:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._taken(), "more_body": self.more_body}

    def send(self, message: Message) -> Awaitable[None]:
        """ASGI's; beyond that, a start that has a ``body`` is a whole answer, of which no header is of the length or of
        the connection. Waits while the client does not read what was written."""
        if self._connection.write_paused and not self.disconnected:
            return self._send_later(message)
        self._send(message)
        return _DONE  # no coroutine is made where there is nothing to wait for

    async def _send_later(self, message: Message) -> None:
        connection = self._connection
        while connection.write_paused and not self.disconnected:
            await connection.writable.wait()
        self._send(message)

    def _send(self, message: Message) -> None:
        if self.disconnected:
            self.status = self.status or message.get("status", 0)  # as the log tells it, though nobody hears it
            return
        kind = message["type"]
        if not self.status:
            if kind != "http.response.start":
                raise RuntimeError(f"an answer cannot start with '{kind}'")
            headers = [*self._connection.server_state.default_headers, *message.get("headers", ()), *self.added]
            if "body" in message:
                self._answer(message["status"], headers, message["body"])
            else:
                self._start(message["status"], headers)
        elif self.answered:
            raise RuntimeError(f"'{kind}' comes after the end of the answer")
        elif kind != "http.response.body":
            raise RuntimeError(f"'{kind}' comes after the start of the answer")
        else:
            self._add(message.get("body", b""), message.get("more_body", False))

    def write(self, body: bytes) -> bool:
        """Sends a further piece of an answer that has begun, if it can be written at once; whether it was."""
        connection = self._connection
        if connection.write_paused or self.disconnected:
            return False
        if self._head or self._is_head or not self._chunked:
            self._add(body, True)
            return True
        data = b"%x\r\n%b\r\n" % (len(body), body)
        connection.written += len(data)
        connection.transport.write(data)
        return True

    def _answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole answer."""
        headers.append((b"content-length", b"%d" % len(body)))
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        whole = _head(status, headers) if self._is_head else _head(status, headers) + body
        connection = self._connection
        connection.written += len(whole)
        connection.transport.write(whole)
        self.status = status
        self._end(connection)

    def _start(self, status: int, headers: Headers) -> None:
        length = None
        announced = self._chunked = False
        self._remaining = 0.0
        for name, value in headers:
            if name not in _FRAMING:
                continue
            if name == b"content-length":
                length = int(value)
            elif name == b"connection" and b"close" in value.lower():
                self.keep_alive, announced = False, True
            elif name == b"transfer-encoding":
                self._chunked = True
        if not (self.keep_alive or announced):
            headers.append((b"connection", b"close"))
        if length is not None:
            self._remaining, self._chunked = length, False
        elif not self._chunked and not self._is_head and status not in _WITHOUT_BODY:
            if self._is_current:
                self._chunked = True
                headers.append((b"transfer-encoding", b"chunked"))
            else:
                self._remaining = math.inf  # HTTP/1.0 knows no chunks: the answer ends with the connection
        self._head = _head(status, headers)
        self.status = status
        self._expects_continue = False

    def _add(self, body: bytes, more: bool) -> None:
        if self._is_head:
            self._remaining, body = 0, b""
        elif self._chunked:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                body += b"0\r\n\r\n"
        else:
            self._remaining -= len(body)
            if self._remaining < 0:
                raise RuntimeError("the answer is longer than its Content-Length")
        if self._head:
            body, self._head = self._head + body, b""
        connection = self._connection
        if body:
            connection.written += len(body)
            connection.transport.write(body)
        if not more:
            if 0 < self._remaining < math.inf:
                raise RuntimeError("the answer is shorter than its Content-Length")
            self._end(connection)

    def _end(self, connection: Connection) -> None:
        """The whole answer was written."""
        self.answered = self._news = True
        if self._waiters is not None:
            self._waiters.wake()
        connection.answered(self.keep_alive)


def _head(status: int, headers: Headers) -> bytes:
    """The head of an answer; raises :class:`RuntimeError` if a header would be more than one line of it."""
    lines = [_STATUS_LINES[status], *map(b": ".join, headers), b"\r\n"]
    head = b"\r\n".join(lines)
    if len(head.translate(None, _CONTROLS)) != len(head) - 2 * len(lines):
        raise RuntimeError("a header of the answer holds a control character")
    return head
