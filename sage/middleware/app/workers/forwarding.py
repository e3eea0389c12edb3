"""How a front hands a request to the owner: the ASGI messages of the request and of its answer, as frames.

Nothing is parsed and nothing gathered: each piece goes on as it comes, and back-pressure goes through. One connection
carries one request at a time; it is used again when both the request and its answer are complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import socket
from enum import IntEnum
from typing import Any, cast

from sage.errors import Unavailable
from sage.middleware.app.edge import answer_error
from sage.middleware.app.http.exchange import Exchange
from sage.middleware.app.workers.frames import FrameQueue, PeerGone, body_frames, frame
from sage.middleware.app.workers.passed_sockets import pass_socket
from sage.middleware.routers.http.asgi import Message, Receive, Scope, Send

LAST_WORDS_WITHIN = 1.0
"""Seconds that a front waits for its owner's last words on a request after the time for running requests is over."""
_MOST_IDLE = 64
"""Connections that are kept for the next requests."""


class FrameKind(IntEnum):
    """Of a frame about a request."""

    HEAD = 1
    """Front to owner: :func:`head_of` the request."""
    BODY = 2
    """A part of a body, either way."""
    END = 3
    """The body is complete, either way."""
    WANT_BODY = 4
    """Owner to front: a client that waits with its body (``Expect: 100-continue``) shall send it."""
    START = 5
    """Owner to front: the status and the headers of the answer."""


_HEAD_FIELDS = ("method", "path", "raw_path", "query_string", "headers", "http_version", "scheme", "client", "server")


def head_of(scope: Scope) -> bytes:
    """What the owner needs of a request's scope. ``marshal``: both ends are the same program."""
    head = {name: scope.get(name) for name in _HEAD_FIELDS}
    head["headers"] = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    return marshal.dumps(head)


def expects_continue(scope: Scope) -> bool:
    """Whether the client sends its body only when it is asked to."""
    return any(name == b"expect" and value.strip().lower() == b"100-continue" for name, value in scope["headers"])


class Forwarder:
    """A front's connections to its owner."""

    def __init__(self, doorway: socket.socket) -> None:
        """``doorway``: over it the owner takes the other ends of new connections."""
        doorway.setblocking(False)
        self._doorway = doorway
        self._idle: list[FrameQueue] = []

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Has the owner answer the request. When the client leaves, the owner is told at once."""
        forwarded = ForwardedRequest(scope, receive, send)
        try:
            connection = self._idle.pop() if self._idle else await self._connect()
            if await forwarded.run(connection) and len(self._idle) < _MOST_IDLE and connection.transport is not None:
                self._idle.append(connection)
        except (PeerGone, OSError):
            await forwarded.fail("the gateway's main process has ended; try again soon")
        except asyncio.CancelledError:
            # The server cancels requests at the end of the time for shutdown, and nobody else does.
            await forwarded.fail("the gateway is shutting down; try again soon")

    async def _connect(self) -> FrameQueue:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            await pass_socket(self._doorway, theirs)
            ours.setblocking(False)
            _, connection = await loop.create_unix_connection(FrameQueue, sock=ours)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return connection

    def close(self) -> None:
        """Closes what is kept."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        self._doorway.close()


class ForwardedRequest:
    """One request on its way to the owner, and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = False
        self._is_sending = False
        self._body_sent = False
        self._client_left = False
        self._body_wanted = asyncio.Event()

    async def run(self, connection: FrameQueue) -> bool:
        """Returns when the answer is complete or the client has left; whether the connection can be used again.

        Raises :class:`PeerGone`.
        """
        if not expects_continue(self._scope):
            self._body_wanted.set()
        connection.write(frame(FrameKind.HEAD, head_of(self._scope)))
        pump = asyncio.get_running_loop().create_task(self._pump(connection))
        is_whole = False
        try:
            try:
                await self._relay(connection)
            except asyncio.CancelledError:
                await self._relay_last_words(connection)
            is_whole = self._body_sent
        except PeerGone:
            if not self._client_left:
                raise
        finally:
            if not is_whole:
                connection.close()
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pump
        return is_whole

    async def _relay_last_words(self, connection: FrameQueue) -> None:
        """The time of running requests is over. It is so at the owner, too, who has something to say of it."""
        task = asyncio.current_task()
        if self._is_sending or task is None:
            raise asyncio.CancelledError  # the client has not taken what came before
        task.uncancel()
        try:
            async with asyncio.timeout(LAST_WORDS_WITHIN):
                await self._relay(connection)
        except TimeoutError:
            raise asyncio.CancelledError from None

    async def _pump(self, connection: FrameQueue) -> None:
        """Sends the body on as it comes, then waits for the client to leave."""
        await self._body_wanted.wait()
        with contextlib.suppress(PeerGone):  # which the other half of the exchange sees too
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self._client_left = True
                    connection.close()
                    return
                if self._body_sent:
                    continue
                frames = body_frames(FrameKind.BODY, message.get("body", b""))
                if not message.get("more_body"):
                    self._body_sent = True
                    frames.append(frame(FrameKind.END))
                for each in frames:
                    connection.write(each)
                    await connection.drain()

    async def _relay(self, connection: FrameQueue) -> None:
        """Sends the answer on as it comes."""
        while True:
            kind, payload = await connection.next_frame()
            if kind == FrameKind.WANT_BODY:
                self._body_wanted.set()
                continue
            self._is_sending = True
            if kind == FrameKind.BODY:
                await self._send({"type": "http.response.body", "body": payload, "more_body": True})
            elif kind == FrameKind.START:
                status, headers = marshal.loads(payload)  # noqa: S302 (from our owner)
                self._started = True
                await self._send({"type": "http.response.start", "status": status, "headers": headers})
            elif kind == FrameKind.END:
                await self._send({"type": "http.response.body", "body": b""})
                return
            self._is_sending = False

    async def fail(self, message: str) -> None:
        """Answers that the owner cannot, unless an answer has begun: then its connection ends without the rest."""
        if not self._started and not self._client_left:
            self._started = True
            await answer_error(Unavailable(message, code="shutting_down"), self._send, self._scope)


class RecordedRequest:
    """A request that a front may answer itself: what it reads of the body is kept until it is known that it does."""

    __slots__ = ("_body", "_exchange", "_parts", "receiver", "send")

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange = exchange
        self._parts: list[Message] | None = []
        self._body = body = exchange.take_body()
        """All of it, if it has come; then the exchange has it, too, and nothing has to be kept as it is read."""
        if body is not None:
            exchange.put_back(body)
        self.receiver: Receive = self._receive if body is None else exchange.receive
        """ASGI's ``receive``."""
        self.send = send
        """Past everything that changes an answer on its way out."""

    async def _receive(self) -> Message:
        message = await self._exchange.receive()
        if self._parts is not None:
            self._parts.append(message)
        return message

    def keep(self) -> None:
        """The request is answered here: what was read of it is not needed again."""
        self._parts = self._body = None

    def again(self) -> Receive:
        """A ``receive`` that begins at the body's first byte."""
        if self._body is not None:
            self._exchange.take_body()  # if nobody has
            parts = iter([cast(Message, {"type": "http.request", "body": self._body, "more_body": False})])
        else:
            parts = iter(cast(list[Message], self._parts))
        self.keep()

        async def receive() -> Message:
            part: Any = next(parts, None)
            return await self._exchange.receive() if part is None else part

        return receive
