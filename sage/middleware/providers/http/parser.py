"""Reads answers out of the bytes of a connection. The grammar is llhttp's, through httptools; the bounds are ours."""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from sage.middleware.providers.http.answer import AnswerFault, HttpAnswer
from sage.middleware.providers.http.errors import MAX_HEAD, MAX_HEAD_LINE
from sage.middleware.providers.http.response_head import (
    ends_with_connection,
    fault_of_head,
    final_head,
    is_chunked_only,
    is_unusual,
    parse_headers,
    values_of,
)

_SLICE = 16 * 1024
"""Bytes that are parsed at a time, where many have come and not all may be of a body."""


class _ParsingStopped(Exception):
    """Raised inside a callback: llhttp reads no further, and ``feed_data`` raises an error of its own."""


_NOBODY = HttpAnswer(0.0, 0.0)


class AnswerParser:
    """Parses the answers on one connection, one after the other; :meth:`begin` comes before each.

    ``on_header`` is left out, so that httptools makes no objects of headers that nobody asks for.
    """

    __slots__ = (
        "_answer",
        "_fault",
        "_is_bodyless",
        "_is_chunked",
        "_llhttp",
        "_overhead",
        "_received",
        "can_stay",
        "is_complete",
        "on_body",
        "parts",
    )

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        """What has come of the body and is not taken yet."""
        self.is_complete = False
        self.can_stay = False
        """Of a complete answer: it ended by its own framing, the connection stays, and nothing came after it."""
        self.on_body = self.parts.append  # called by the parser, without a frame of Python's
        self._answer = _NOBODY
        self._is_bodyless = False
        self._is_chunked = False
        self._fault: AnswerFault | None = None
        self._received: list[bytes | memoryview] = []
        """All that has come of a head that is not complete."""
        self._overhead = 0
        """Bytes of the head, or since the last byte of the body."""
        self._llhttp = HttpResponseParser(self)

    def begin(self, answer: HttpAnswer, is_bodyless: bool) -> None:
        """``answer`` is what comes next. ``is_bodyless``: whatever its head says, it has no body (``HEAD``)."""
        self._answer = answer
        self._is_bodyless = is_bodyless
        self.is_complete = self._is_chunked = False
        self._overhead = 0

    @property
    def has_begun(self) -> bool:
        return bool(self._answer.status or self._received)

    def feed_large(self, data: bytes) -> AnswerFault | None:
        """As :meth:`feed`, for more bytes than a line of a head may have: in slices, if not all may be of a body."""
        if self._answer.status and not self._is_chunked:
            return self.feed(data)
        view = memoryview(data)
        for start in range(0, len(view), _SLICE):
            fault = self.feed(view[start : start + _SLICE])
            if fault is not None or (self.is_complete and not self.can_stay):
                return fault
        return None

    def feed(self, data: bytes | memoryview) -> AnswerFault | None:
        """Parses ``data``; the fault of an answer that cannot be taken."""
        count, status = len(self.parts), self._answer.status
        if not status:
            self._received.append(data)
        try:
            self._llhttp.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self.can_stay = False  # or something came after the end
            if self.is_complete:
                return None
            return self._fault or (AnswerFault.BROKEN if self._answer.status else AnswerFault.NONSENSE)
        if self.is_complete:
            return None
        if len(self.parts) != count or self._answer.status != status:
            self._overhead = 0
            return None
        self._overhead += len(data)
        return self._fault_of_size()

    def _fault_of_size(self) -> AnswerFault | None:
        """Too much of what is no body: a head, trailers, or what stands beside the sizes of chunks."""
        if self._answer.status:
            return AnswerFault.BROKEN if self._overhead > MAX_HEAD_LINE else None
        if self._overhead <= MAX_HEAD:
            return None
        last_line = b"".join(self._received).rpartition(b"\n")[2]
        return AnswerFault.LONG_LINE if len(last_line) > MAX_HEAD_LINE else AnswerFault.LONG_HEAD

    def take(self) -> bytes:
        """The part of the body that has come since the last time."""
        parts = self.parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return data

    def release(self) -> bytes:
        """The rest of an answer that is over; nothing of it is held from now on."""
        self._answer = _NOBODY
        if self._received:
            self._received.clear()
        parts = self.parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return data

    def end(self) -> AnswerFault | None:
        """The connection has ended properly: whether that completes the answer, or is its fault."""
        if not self.has_begun:
            return AnswerFault.UNANSWERED
        if self._answer.status and ends_with_connection(self._answer.head):
            self.is_complete, self.can_stay = True, False
            return None
        return AnswerFault.BROKEN

    def close(self) -> None:
        """Parses nothing more. The parser and its callbacks hold each other."""
        del self._llhttp

    # What httptools calls

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise _ParsingStopped

    def on_headers_complete(self) -> None:
        status = self._llhttp.get_status_code()
        if status < 200 and status >= 100 and status != 101:
            return  # an interim answer: the real one follows
        answer, received = self._answer, self._received
        answer.head = head = final_head(bytes(received[0]) if len(received) == 1 else b"".join(received))
        received.clear()
        if status < 200 or is_unusual(head):
            self._look_at(head, status)
        answer.status = status
        if self._is_bodyless:
            self.is_complete = True
            raise _ParsingStopped

    def _look_at(self, head: bytes, status: int) -> None:
        """Reads what decides how the body is read; stops at what cannot be taken."""
        self._fault = fault_of_head(head) if status >= 200 else AnswerFault.NONSENSE
        if self._fault is not None:
            raise _ParsingStopped
        if is_chunked_only(head):
            self._is_chunked = True
            return
        headers = parse_headers(head)
        coding = values_of(headers, "transfer-encoding")
        self._is_chunked = coding is not None
        self._answer.encoding = values_of(headers, "content-encoding")
        if coding is not None and coding.lower() != "chunked":
            self._fault = AnswerFault.TRANSFER_CODING
            raise _ParsingStopped

    def on_message_complete(self) -> None:
        if self._answer.status:
            self.is_complete = True
            self.can_stay = self._llhttp.should_keep_alive()
        elif self.parts:
            raise _ParsingStopped  # an interim answer has no body
