"""The requests that fronts hand to the owner, as the owner's application sees them: a small ASGI server over frames."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import marshal
from collections.abc import Callable
from typing import Any

from sage.middleware.app.workers.forwarding import FrameKind, expects_continue
from sage.middleware.app.workers.frames import FrameBuffer, FrameProtocol, PeerGone, body_frames, frame
from sage.middleware.routers.http.asgi import ASGIApp, Headers, Message, Scope

_log = logging.getLogger("sage")


class ForwardedConnection(FrameProtocol):
    """One connection of a front; it carries one request at a time. ``tasks`` holds those of running requests."""

    def __init__(self, app: ASGIApp, worker: int, tasks: set[asyncio.Task[None]]) -> None:
        super().__init__()
        self._app = app
        self._worker = worker
        self._tasks = tasks
        self._answer: ForwardedAnswer | None = None

    def frame_received(self, kind: int, payload: bytes) -> None:
        if kind != FrameKind.HEAD:
            if self._answer is not None:
                self._answer.body.put(kind, payload)
            return
        loop = asyncio.get_running_loop()
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "root_path": "",
            "state": {"log": {"worker": self._worker}},
            **marshal.loads(payload),  # noqa: S302 (from a front of ours)
        }
        scope["client"] = tuple(scope["client"]) if scope["client"] else None
        self._answer = ForwardedAnswer(self, scope)
        task = loop.create_task(self._run(self._answer))
        self._answer.task = task
        scope["sage.exchange"] = self._answer
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._answer is not None:
            self._answer.lose()

    async def _run(self, answer: ForwardedAnswer) -> None:
        try:
            await self._app(answer.scope, answer.receive, answer.send)
        except BaseException:
            _log.exception("a forwarded request failed")
        if not answer.is_complete:
            self.close()


class ForwardedAnswer:
    """The ``receive`` and ``send`` of one forwarded request, and who waits for its answer
    (:class:`sage.middleware.gateway.watch.WaitingClient`)."""

    def __init__(self, connection: FrameProtocol, scope: Scope) -> None:
        self.scope = scope
        self.body = FrameBuffer(connection)
        """The frames of the request's body."""
        self.added: Headers = []
        """Headers of the answer beside those that the application gives it."""
        self.status = 0
        """That of the answer; 0 until it has begun."""
        self.is_complete = False
        """Whether the whole answer was sent."""
        self.disconnected = False
        self.on_disconnect: Callable[[], None] | None = None
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._asks_for_body = expects_continue(scope)
        self._body_read = False
        self._start = b""
        """The frame that waits for the first part of the body, so that both go in one write."""

    def lose(self) -> None:
        """The client has left, or the front has ended."""
        if self.is_complete or self.disconnected:
            return
        self.disconnected = True
        self.body.end()
        if self.on_disconnect is not None:
            self.on_disconnect()

    def take_body(self) -> bytes | None:
        """``None``: :meth:`receive` has to be asked for the body."""
        return None

    async def receive(self) -> Message:
        try:
            if self._asks_for_body and not self.is_complete:
                self._asks_for_body = False
                self._connection.write(frame(FrameKind.WANT_BODY))
            while True:
                kind, payload = await self.body.take()
                if kind == FrameKind.BODY:
                    return {"type": "http.request", "body": payload, "more_body": True}
                if kind == FrameKind.END and not self._body_read:
                    self._body_read = True
                    return {"type": "http.request", "body": b"", "more_body": False}
        except PeerGone:
            pass
        return {"type": "http.disconnect"}

    def write(self, body: bytes) -> bool:
        connection = self._connection
        if connection.transport is None or connection.is_full:
            return False
        with contextlib.suppress(PeerGone):
            connection.write(b"".join(body_frames(FrameKind.BODY, body)))
        return True

    async def send(self, message: Message) -> None:
        connection = self._connection
        if connection.transport is None:  # the client has left
            self.status = self.status or message.get("status", 0)
            return
        await connection.drain()
        kind: Any = message["type"]
        if kind == "http.response.start":
            self.status = int(message["status"])
            headers = [(bytes(name), bytes(value)) for name, value in (*message.get("headers", ()), *self.added)]
            if "body" in message:
                headers.append((b"content-length", b"%d" % len(message["body"])))
            self._start = frame(FrameKind.START, marshal.dumps((self.status, headers)))
            if "body" not in message:
                return  # with one it is a whole answer, as our server takes it beyond ASGI
        frames = body_frames(FrameKind.BODY, message.get("body", b""))
        if not message.get("more_body"):
            self.is_complete = True
            frames.append(frame(FrameKind.END))
        start, self._start = self._start, b""
        with contextlib.suppress(PeerGone):
            connection.write(start + b"".join(frames))
        if self.is_complete:
            self.body.drop()
