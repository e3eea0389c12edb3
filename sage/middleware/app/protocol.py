"""uvicorn's HTTP protocol with what it lacks.

The size of a head is limited, and so is how long a client may keep a connection waiting (``connections.py``); trailers
are not taken for headers; requests that cannot be parsed are answered with our envelope, and are in the access log; and
a disconnect reaches every request of the connection, also when further requests were sent behind the running one
(uvicorn then stops reading, and notifies only the newest). The class depends on attributes of `HttpToolsProtocol`,
which tests/middleware/app/test_protocol.py checks.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sage.errors import InvalidRequest, RequestTimeout, SageError, Unavailable
from sage.middleware.app.connections import ClientConnections, Phase
from sage.middleware.app.refusals import Refusals
from sage.middleware.auth.addresses import network_of

MAX_HEAD = 64 * 1024
"""Bytes of a request line and its headers."""
_MAX_WAITING = 16  # requests behind the running one
_FRAMING = frozenset({b"expect", b"transfer-encoding", b"upgrade"})


class JoinedWrites:
    """Sends an answer's head together with the first piece of its body, which saves one write on every request.

    The head is held back until that piece comes or the answer ends.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head = b""
        self._started = False
        self.written = 0
        """Bytes in all."""

    def write(self, data: bytes) -> None:
        self.written += len(data)
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


class HeadTooLarge(InvalidRequest):
    """A request line and headers of more than :data:`MAX_HEAD` bytes (431)."""

    status = 431
    default_code = "head_too_large"


class GatewayProtocol(HttpToolsProtocol):
    """One connection of a client."""

    address = ""
    url = b""
    _head_size = 0  # bytes of the head that were parsed
    _unparsed = 0  # bytes that came since a message began, or since the last bytes of a body
    _received = 0  # bytes in all
    _head_complete = False
    _asks_upgrade = False
    _fault: SageError | None = None
    _running: Any = None
    _is_over = False
    """Whether nothing more is read: the running request is the last."""

    def __init__(self, *args: Any, connections: ClientConnections, refusals: Refusals, **options: Any) -> None:
        super().__init__(*args, **options)
        self._all = connections
        self._refusals = refusals

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._writes: Any = JoinedWrites(transport)
        self.address = network_of(self.client[0]) if self.client else ""
        if not self._all.admit(self, self.loop.time()):
            self._refuse(Unavailable("there are too many connections; try again soon", code="too_many_connections"))

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._received += len(data)
        self._unparsed += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("")
            return
        except httptools.HttpParserUpgrade:
            self.cycle.keep_alive = False  # another protocol than WebSocket, which a server may ignore
        if self._unparsed > MAX_HEAD and not self.transport.is_closing():
            # Of a head, or of extensions of chunks or trailers, which would be kept until they end.
            self._fault = None if self._head_complete else _head_too_large()
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_size, self._unparsed, self._head_complete, self._asks_upgrade = 0, 0, False, False

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_complete:
            return  # a trailer, which must not be taken for a checked header
        name = name.lower()
        if name in _FRAMING:
            self._check_framing(name, value.strip().lower())
        self.headers.append((name, value))
        self._count(len(name) + len(value) + 4)

    def _check_framing(self, name: bytes, value: bytes) -> None:
        """Refuses what would leave it open where the body ends. An exception ends the parsing; uvicorn's parser then
        makes :meth:`data_received` call :meth:`send_400_response`."""
        if name == b"expect":
            self.expect_100_continue = value == b"100-continue"
        elif name == b"upgrade":
            self._asks_upgrade = True
            if b"websocket" in value:
                self._fault = InvalidRequest(
                    "WebSocket is not spoken here; streams are server-sent events ('stream': true)",
                    code="upgrade_refused",
                )
        elif name == b"transfer-encoding" and (value != b"chunked" or self.parser.get_http_version() != "1.1"):
            self._fault = InvalidRequest(
                f"the transfer encoding '{value[:100].decode('latin-1')}' is not known; a body has a Content-Length, "
                "or comes with 'Transfer-Encoding: chunked' in HTTP/1.1",
                code="transfer_encoding",
            )
        if self._fault is not None:
            raise ValueError(self._fault.code)

    def _check_target(self) -> None:
        """RFC 9112, 3.2.2: a target that names a host is as good as the header. Two hosts would leave it open which
        of them was checked."""
        authority = self.url.partition(b"://")[2]
        host = re.split(rb"[/?#]", authority, maxsplit=1)[0].lower()
        if host and any(name == b"host" and value.strip().lower() != host for name, value in self.headers):
            self._fault = InvalidRequest("the request names two hosts", code="host_not_allowed")
            raise ValueError(self._fault.code)

    def _check_no_body(self) -> None:
        """The parser takes no body after a head that asks for another protocol."""
        if any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in self.headers
        ):
            self._fault = InvalidRequest(
                "a request with a body cannot ask for another protocol ('Upgrade'); send it as HTTP/1.1 (in Java: "
                "HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1))",
                code="upgrade_refused",
            )
            raise ValueError(self._fault.code)

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD:
            self._fault = _head_too_large()
            raise ValueError(self._fault.code)

    def on_headers_complete(self) -> None:
        if self._asks_upgrade and self.parser.should_upgrade():
            self._check_no_body()
        if not self.url.startswith(b"/"):
            self._check_target()
        self._head_complete = True
        super().on_headers_complete()
        self.cycle.transport = self._writes
        if self.pipeline:
            self.flow.resume_reading()  # otherwise a disconnect is never noticed
            if len(self.pipeline) > _MAX_WAITING:
                self.transport.close()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        self._writes.end()
        super().on_response_complete()

    def _should_upgrade(self) -> bool:
        return False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        scope: Any = cycle.scope
        scope["sage.task"], scope["sage.loop"] = task, self.loop

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.remove(self)
        for cycle in (self._running, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def waits_for(self) -> Phase:
        """See :class:`sage.middleware.app.connections.ClientConnection`, as for the next three."""
        cycle, closing = self.cycle, self.transport.is_closing()
        answered = cycle is None or cycle.response_complete
        if (closing or answered or self.flow.write_paused) and self.transport.get_write_buffer_size():
            return Phase.READING
        if closing:
            return Phase.IDLE
        if not self._head_complete:
            return Phase.HEAD
        if cycle.more_body:
            if answered:
                return Phase.REST
            return Phase.WORK if self.flow.read_paused else Phase.BODY
        return Phase.IDLE if answered and not self.pipeline else Phase.WORK

    def moved(self, phase: Phase) -> int:
        if phase is Phase.READING:
            return int(self._writes.written) - self.transport.get_write_buffer_size()
        return self._received

    def request(self) -> object:
        return self.cycle

    def give_up(self, phase: Phase) -> None:
        if phase is Phase.READING:
            self.transport.abort()
        elif phase is Phase.BODY or (phase is Phase.HEAD and self._received):
            self._fault = RequestTimeout(f"the rest of the request's {phase.value} did not come in time")
            self.send_400_response("")
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answers with the fault that was found, if an answer would be taken for that of the faulty request."""
        if self.transport.is_closing():
            return
        fault = self._fault or InvalidRequest("this is not a valid HTTP request", code="invalid_http")
        running = self._running
        if running is None or running.response_complete:
            self._refuse(fault)
        elif not running.response_started:
            if running.more_body:
                # The request runs, and will find that its client has left.
                self.transport.write(self._refusals.answer(fault, running.scope["state"].setdefault("log", {})))
            else:
                # It came whole, and the fault stands behind it: it is answered, and nothing after it.
                self.pipeline.clear()
                self._is_over, running.keep_alive = True, False
                return
        self.transport.close()

    def _refuse(self, fault: SageError) -> None:
        method = self.parser.get_method().decode("ascii") if self.url else ""
        self.transport.write(self._refusals.refuse(fault, method, self.url))
        self.transport.close()


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the request's head is larger than {MAX_HEAD} bytes")
