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
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sage.errors import InvalidRequest, RequestTimeout, SageError, Unavailable
from sage.middleware.app.connections import ClientConnections, Phase
from sage.middleware.app.cycle import Cycle
from sage.middleware.app.refusals import Refusals
from sage.middleware.auth.addresses import network_of

MAX_HEAD = 64 * 1024
"""Bytes of a request line and its headers."""
_MAX_WAITING = 16  # requests behind the running one
_FRAMING = frozenset({b"expect", b"transfer-encoding", b"upgrade"})


class HeadTooLarge(InvalidRequest):
    """A request line and headers of more than :data:`MAX_HEAD` bytes (431)."""

    status = 431
    default_code = "head_too_large"


class GatewayProtocol(HttpToolsProtocol):
    """One connection of a client."""

    address = ""
    url = b""
    _latest = 0  # bytes that came at once
    _first = 0  # bytes that came at once when the message began; at their end it did
    _unparsed = 0  # bytes that came after these, or since the last bytes of a body
    _received = 0  # bytes in all
    _written = 0  # bytes in all
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
        self.address = network_of(self.client[0]) if self.client else ""
        if not self._all.admit(self, self.loop.time()):
            self._refuse(Unavailable("there are too many connections; try again soon", code="too_many_connections"))

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._latest = len(data)
        self._received += self._latest
        self._unparsed += self._latest
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("")
            return
        except httptools.HttpParserUpgrade:
            self.cycle.keep_alive = False  # another protocol than WebSocket, which a server may ignore
        if self._unparsed + self._first > MAX_HEAD and self._is_too_large() and not self.transport.is_closing():
            # Of a head, or of extensions of chunks or trailers, which would be kept until they end.
            self._fault = None if self._head_complete else _head_too_large()
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._first, self._unparsed = self._latest, 0
        self._head_complete = self._asks_upgrade = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_complete:
            return  # a trailer, which must not be taken for a checked header
        name = name.lower()
        if name in _FRAMING:
            self._check_framing(name, value.strip().lower())
        self.headers.append((name, value))

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

    def _is_too_large(self) -> bool:
        """Of the head, or of what came since the last bytes of a body."""
        if self._head_complete or self._unparsed > MAX_HEAD:
            return self._unparsed > MAX_HEAD
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD

    def on_headers_complete(self) -> None:
        if self._unparsed + self._first > MAX_HEAD and self._is_too_large():
            self._fault = _head_too_large()
            raise ValueError(self._fault.code)
        parser, scope = self.parser, self.scope
        if self._asks_upgrade and parser.should_upgrade():
            self._check_no_body()
        if not self.url.startswith(b"/"):
            self._check_target()
        self._head_complete = True
        version = parser.get_http_version()
        if version != "1.1":
            scope["http_version"] = version
        target = httptools.parse_url(self.url)
        path = target.path.decode("ascii")
        scope["method"] = parser.get_method().decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = target.path
        scope["query_string"] = target.query or b""
        before = self.cycle
        self.cycle = Cycle(
            write=self._write,
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
            return
        # It waits behind the running one. uvicorn would stop reading here; a disconnect would never be noticed.
        self.pipeline.appendleft((self.cycle, self.app))
        if len(self.pipeline) > _MAX_WAITING:
            self.transport.close()

    def _write(self, data: bytes) -> None:
        self._written += len(data)
        self.transport.write(data)

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

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
            return self._written - self.transport.get_write_buffer_size()
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
