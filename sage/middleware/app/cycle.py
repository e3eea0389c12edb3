"""One request of a connection and its answer: uvicorn's ASGI cycle, whose answers cost less.

The head of an answer is written together with the first piece of its body, is checked as a whole, and is not searched
line by line for what it means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGISendEvent

_CONTROLS = bytes([*range(32), 127]).replace(b"\t", b"")
_WITHOUT_BODY = frozenset({204, 304})


class Cycle(RequestResponseCycle):
    """A request and its answer. ``write`` takes the bytes of the answer; names of headers are in lower case (ASGI)."""

    def __init__(self, *, write: Callable[[bytes], None], **options: Any) -> None:
        super().__init__(**options)
        self._write = write
        self._head = b""
        """What is held back until the first piece of the body comes."""

    async def run_asgi(self, app: ASGI3Application) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:
            self.logger.error("Exception in ASGI application\n", exc_info=error)
        try:
            if not (self.response_complete or self.disconnected):
                if not self.response_started:
                    await self.send_500_response()
                elif self._head:
                    self._write(self._head)
                self.transport.close()
        finally:
            self.on_response = self._write = _nothing  # which hold the connection, and that this

    async def send(self, message: ASGISendEvent) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            if message["type"] != "http.response.start":
                raise RuntimeError(f"an answer cannot start with '{message['type']}'")
            self._start(message["status"], [*self.default_headers, *message["headers"]])
        elif self.response_complete:
            raise RuntimeError(f"'{message['type']}' comes after the end of the answer")
        elif message["type"] != "http.response.body":
            raise RuntimeError(f"'{message['type']}' comes after the start of the answer")
        else:
            self._add(message.get("body", b""), message.get("more_body", False))

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        meaning = dict(headers)
        connection = meaning.get(b"connection")
        if connection is not None and b"close" in connection.lower():
            self.keep_alive = False
        elif not self.keep_alive:
            headers.append((b"connection", b"close"))
        length = meaning.get(b"content-length")
        if length is not None:
            self.expected_content_length = int(length)
        elif self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY:
            self.chunked_encoding = True
            headers.append((b"transfer-encoding", b"chunked"))
        lines = [STATUS_LINE[status][:-2], *map(b": ".join, headers), b"\r\n"]
        head = b"\r\n".join(lines)
        if len(head.translate(None, _CONTROLS)) != len(head) - 2 * len(lines):
            raise RuntimeError("a header of the answer holds a control character")
        self._head = head

    def _add(self, body: bytes, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length, body = 0, b""
        elif self.chunked_encoding:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                body += b"0\r\n\r\n"
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the answer is longer than its Content-Length")
        if self._head:
            body, self._head = self._head + body, b""
        if body:
            self._write(body)
        if not more:
            if self.expected_content_length:
                raise RuntimeError("the answer is shorter than its Content-Length")
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()


def _nothing(*_: object) -> None:
    """In the place of what is over."""
