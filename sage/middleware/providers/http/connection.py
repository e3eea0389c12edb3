"""One connection to an upstream: requests go out and answers come in over it, one at a time."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol, cast

from sage.middleware.providers.base import Sink
from sage.middleware.providers.http.answer import AnswerFault, HttpAnswer
from sage.middleware.providers.http.deadline import CLOCK, Deadline
from sage.middleware.providers.http.errors import MAX_HEAD_LINE
from sage.middleware.providers.http.parser import AnswerParser
from sage.middleware.providers.http.upload import UploadPump

MAX_UNREAD = 256 * 1024
"""Bytes of an answer that may wait for their reader; then nothing more is read from the connection."""
_JOINED = 64 * 1024
"""The largest body that goes out in one piece with its head."""
_PIECE = 256 * 1024
"""Bytes of a larger body that go out at a time; other tasks run in between."""


class ConnectionOwner(Protocol):
    """Keeps the connections to one address."""

    def keep(self, connection: HttpConnection) -> None:
        """It can serve a further request."""
        ...

    def drop(self, connection: HttpConnection) -> None:
        """It can no longer."""
        ...

    def opened(self, connection: HttpConnection) -> None: ...

    def closed(self, connection: HttpConnection) -> None: ...


class HttpConnection(asyncio.Protocol):
    """A connection. It serves again only after an answer that ended by its own framing, with nothing after it, to a
    request that went out whole; else it is closed."""

    __slots__ = (
        "_answer",
        "_deadline",
        "_gone",
        "_is_paused",
        "_loop",
        "_owner",
        "_parser",
        "_transport",
        "_unread",
        "_unsent",
        "_upload",
        "is_full",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: ConnectionOwner) -> None:
        self._loop = loop
        self._owner = owner
        self._answer: HttpAnswer | None = None
        self._parser = AnswerParser()
        self._deadline = Deadline(loop, self._expired)
        self._unread = 0
        self._is_paused = False
        self._unsent: memoryview | None = None
        """The rest of a body that has not gone out whole; empty while an upload goes out."""
        self._upload: UploadPump | None = None
        self.is_full = False
        """Whether the upstream has not taken yet what was sent."""
        self._transport: asyncio.Transport
        self._gone: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one but does not derive from it
        self._owner.opened(self)

    def is_usable(self) -> bool:
        """For a further request, as far as is known here."""
        return not self._transport.is_closing()

    # The request

    def begin(self, answer: HttpAnswer, head: bytes, body: bytes, is_bodyless: bool) -> asyncio.Future[None]:
        """Sends a request. The future is done once the head of ``answer`` has come, or the answer is over.

        ``is_bodyless``: whatever its head says, the answer has no body (``HEAD``).
        """
        self._answer = answer
        self._parser.begin(answer, is_bodyless)
        if len(body) <= _JOINED:
            self._transport.write(head + body)
            return self.wait(answer)
        waiter = answer.waiter = self._loop.create_future()
        self._deadline.set(answer.ends)
        self._unsent = memoryview(body)
        self._transport.write(head)
        self._write_piece()
        return waiter

    def _write_piece(self) -> None:
        unsent, answer = self._unsent, self._answer
        if unsent is None or answer is None:
            return
        piece, rest = unsent[:_PIECE], unsent[_PIECE:]
        self._unsent = rest or None
        self._transport.write(piece)
        if not rest:
            if answer.waiter is not None:
                self._set_deadline(answer)  # from now on its silence counts
        elif not self.is_full:
            self._loop.call_soon(self._write_piece)

    def begin_upload(self, answer: HttpAnswer, head: bytes, upload: UploadPump) -> asyncio.Future[None]:
        """As :meth:`begin`, for a request whose body ``upload`` sends from now on."""
        self._answer = answer
        self._parser.begin(answer, False)
        waiter = answer.waiter = self._loop.create_future()
        self._deadline.set(answer.ends)
        self._unsent = memoryview(b"")
        self._upload = upload
        self._transport.write(head)
        upload.start()
        return waiter

    def write_upload(self, data: bytes) -> None:
        """The next piece of the upload."""
        self._transport.write(data)

    def end_upload(self, last: bytes) -> None:
        """The upload is whole with ``last``."""
        self._transport.write(last)
        self._unsent = self._upload = None
        if self._answer is not None and self._answer.waiter is not None:
            self._set_deadline(self._answer)  # from now on its silence counts

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        if self._upload is not None:
            self._upload.wake()
        else:
            self._write_piece()

    # The answer

    def wait(self, answer: HttpAnswer) -> asyncio.Future[None]:
        """Done when more of ``answer`` has come, or it is over."""
        loop = self._loop
        waiter = answer.waiter = loop.create_future()
        at = loop.time() + answer.silence  # as `_set_deadline`, without a call
        self._deadline.set(at if at < answer.ends else answer.ends)
        return waiter

    def stop_waiting(self, answer: HttpAnswer) -> None:
        """Its reader has left off waiting; from now on its silence does not count."""
        answer.waiter = answer.sink = None
        self._deadline.at = math.inf

    def _set_deadline(self, answer: HttpAnswer) -> None:
        at = self._loop.time() + answer.silence
        self._deadline.set(at if at < answer.ends else answer.ends)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self._close()  # nobody has asked
            return
        parser = self._parser
        fault = parser.feed(data) if len(data) <= MAX_HEAD_LINE else parser.feed_large(data)
        if fault is not None:
            self._fail(fault)
        elif parser.is_complete:
            self._finish(answer)
        elif answer.sink is not None:
            self._pass_on(answer, answer.sink)
        elif answer.waiter is None:
            self._unread += len(data)
            if self._unread > MAX_UNREAD and not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()
        elif answer.status:
            self._deadline.at = math.inf
            answer.wake()
        elif self._unsent is None:
            self._set_deadline(answer)

    def _pass_on(self, answer: HttpAnswer, sink: Sink) -> None:
        """Gives what has come to ``sink``: no task has to wake up for each piece of a stream."""
        at = self._loop.time() + answer.silence
        self._deadline.at = at if at < answer.ends else answer.ends  # later than its timer rings, which looks again
        data = self._parser.take()
        if data and not sink(data):
            self._deadline.at = math.inf
            answer.sink = None
            answer.wake()

    def take(self) -> bytes:
        """The part of the answer's body that has come since the last time; may be empty."""
        self._unread = 0
        if self._is_paused:
            self._resume()
        return self._parser.take()

    def _resume(self) -> None:
        self._is_paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _finish(self, answer: HttpAnswer) -> None:
        """The answer is complete: another may use the connection, even before this one is read."""
        self._release(answer, None)
        transport = self._transport
        if self._parser.can_stay and self._unsent is None and not transport.get_write_buffer_size():
            if self._is_paused:
                self._resume()
            self._owner.keep(self)
        else:
            self._close()

    def _fail(self, fault: AnswerFault) -> None:
        answer = self._answer
        if answer is not None:
            self._release(answer, fault)
        self._close()

    def _release(self, answer: HttpAnswer, fault: AnswerFault | None) -> None:
        self._answer = None
        self._deadline.at = math.inf
        self._unread = 0
        answer.rest = self._parser.release()
        answer.fault = fault
        answer.is_over = True
        waiter = answer.waiter  # as `answer.wake`, without a call
        if waiter is not None:
            answer.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    # The end

    def _expired(self) -> None:
        answer = self._answer
        if answer is not None:
            late = self._loop.time() >= answer.ends - CLOCK
            self._fail(AnswerFault.LATE if late else AnswerFault.SILENT)

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)
        self._parser.close()
        self._deadline.close()
        self._owner.closed(self)
        if self._gone is not None:
            self._gone.set_result(None)

    @property
    def gone(self) -> asyncio.Future[None]:
        """Of an open connection: done once it is closed."""
        if self._gone is None:
            self._gone = self._loop.create_future()
        return self._gone

    def _ended(self, exc: Exception | None) -> None:
        if self._answer is not None:
            fault = self._parser.end()
            if exc is not None and fault is None:
                fault = AnswerFault.BROKEN  # it was reset, not closed
            if fault is not None:
                self._fail(fault)
            else:
                self._finish(self._answer)
        self._close()

    def end(self, fault: AnswerFault = AnswerFault.BROKEN) -> None:
        """Closes the connection at once. Its answer, if there is one, ends with ``fault``."""
        self._fail(fault)

    def _close(self) -> None:
        self._unsent = None
        if self._upload is not None:
            self._upload.wake()
            self._upload = None
        self._deadline.at = math.inf
        self._transport.abort()
        self._owner.drop(self)
