"""One connection of a client, on httptools' parser: the protocol that uvicorn's server makes for each of them.

The size of a head is limited, and so is how long a client may keep a connection waiting (``connections.py``); no timer
runs for that. Trailers are not taken for headers. What cannot be parsed is answered with our envelope, and is in the
access log. A disconnect reaches every request of the connection at once, also those that wait behind the running one.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from sage.errors import InvalidRequest, RequestTimeout, SageError, Unavailable
from sage.middleware.app.http.connections import ClientConnections, Phase
from sage.middleware.app.http.exchange import Exchange
from sage.middleware.app.http.framing import (
    FRAMING,
    MAX_HEAD,
    Headers,
    check_framing,
    check_no_body,
    check_target,
    head_too_large,
    size_of,
)
from sage.middleware.app.http.refusals import Refusals
from sage.middleware.app.http.repeated_head import OF_ONE_REQUEST, RepeatedHead, repeatable
from sage.middleware.app.http.waiters import Waiters
from sage.middleware.auth.addresses import network_of
from sage.middleware.routers.http.asgi import FIELDS, Scope, fields_of

_MAX_WAITING = 16  # requests behind the running one
_OF_A_REQUEST = ("method", "path", "raw_path", "query_string", "headers", FIELDS, *OF_ONE_REQUEST)
_REQUEST = "request"
_MAX_HELD = 64 * 1024
"""Bytes of a body that the application has not taken; at more of them nothing more is read."""


class GatewayProtocol(asyncio.Protocol):
    """One connection of a client. The first four arguments are what uvicorn's server gives to a protocol."""

    __slots__ = (
        "_all",
        "_app",
        "_app_state",
        "_asks_upgrade",
        "_begun",
        "_expects_continue",
        "_first",
        "_head_complete",
        "_headers",
        "_is_between",
        "_is_over",
        "_latest",
        "_missing",
        "_newest",
        "_parser",
        "_plain",
        "_received",
        "_refusals",
        "_repeated",
        "_running",
        "_scope",
        "_unparsed",
        "_url",
        "_waiting",
        "address",
        "loop",
        "read_paused",
        "server_state",
        "transport",
        "writable",
        "write_paused",
        "written",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: ClientConnections,
        refusals: Refusals,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self._app = config.loaded_app
        self._app_state = app_state
        self.server_state = server_state
        self._all = connections
        self._refusals = refusals
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # the first request is answered
        self._waiting: list[tuple[Exchange, Scope]] = []
        """Requests that came behind the running one."""
        self._running: Exchange | None = None
        self._newest: Exchange | None = None
        self.read_paused = self.write_paused = False
        self.writable = Waiters(self.loop)
        self.address = ""
        self._is_over = False
        """Whether nothing more is read: the running request is the last."""
        self._latest = 0  # bytes that came at once
        self._first = 0  # bytes that came at once when the message began; at their end it did
        self._unparsed = 0  # bytes that came after these, or since the last bytes of a body
        self._received = self.written = 0  # bytes in all
        self._url = b""
        self._headers: Headers = []
        self._head_complete = self._asks_upgrade = self._expects_continue = False
        self._is_between = True
        """Whether the parser waits for a new request, and has nothing of it."""
        self._plain: Scope | None = None
        """That of the newest request, if nothing but a length decides where its body ends and whether another may come;
        only until the bytes are parsed that have come."""
        self._repeated: RepeatedHead | None = None
        """The head of the last request, if another one with it need not be parsed."""
        self._begun = 0  # requests that began in the bytes that are parsed
        self._missing = 0  # bytes of the body of a request that was not parsed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.server_state.connections.add(self)  # type: ignore[arg-type]
        self.transport = transport
        client = get_remote_addr(transport)
        self._scope: Scope = {  # every request has a copy, which need not grow
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": get_local_addr(transport),
            "client": client,
            "scheme": "https" if is_ssl(transport) else "http",
            "root_path": "",
            **dict.fromkeys(_OF_A_REQUEST),
        }
        self.address = network_of(client[0]) if client else ""
        if not self._all.admit(self, self.loop.time()):
            self._refuse(Unavailable("there are too many connections; try again soon", code="too_many_connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.connections.discard(self)
        self._all.remove(self)
        lost = [exchange for exchange, _ in self._waiting]
        if self._running is not None:
            lost.append(self._running)
        # Nothing is left that holds this and is held by it.
        self._parser = self._running = self._newest = None  # type: ignore[assignment]
        self._waiting.clear()
        for exchange in lost:
            exchange.lose()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._missing:
            data = self._take_rest(data)
            if not data:
                return
        repeated, running = self._repeated, self._running
        if not self._received:
            repeated = self._known_head(data)
        if repeated is not None and self._is_between and (running is None or running.answered):
            body = repeated.body_of(data)
            if body is not None:
                self._repeat(repeated, body, len(data))
                return
        self._parse(data)

    def _known_head(self, data: bytes) -> RepeatedHead | None:
        """Of the first bytes of a connection: the head that other connections of this client had, if they may have
        it."""
        known = self._all.heads.get(self.address)
        if known is not None and not self.transport.is_closing():
            self._repeated = known.of_connection(data, self._scope)
        return self._repeated

    def _repeat(self, repeated: RepeatedHead, body: bytes, size: int) -> None:
        """Runs a request with the head of the last one, of which so many bytes have come."""
        self._received += size
        self._head_complete = True
        scope = repeated.scope()
        missing = repeated.length - len(body)
        exchange = self._exchange(scope, True, True, None if missing else body)
        if missing:
            self._missing, self._is_between = missing, False
            if body:
                exchange.add_body(body)
        self._run(exchange, scope)

    def _take_rest(self, data: bytes) -> bytes:
        """Takes what is missing of a body whose head was not parsed; returns what comes after it."""
        part, rest = data[: self._missing], data[self._missing :]
        self._missing -= len(part)
        self._received += len(part)
        self.on_body(part)
        if not self._missing:
            self.on_message_complete()
        return rest

    def _parse(self, data: bytes) -> None:
        if self._is_over:
            return
        was_between = self._is_between
        self._begun = 0
        self._latest = size = len(data)
        self._received += size
        self._unparsed += size
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            assert self._newest is not None
            self._newest.keep_alive = False  # another protocol than WebSocket, which a server may ignore
        except httptools.HttpParserError as error:
            fault = error.__context__  # what a method below has raised
            self._end_reading(fault if isinstance(fault, SageError) else None)
            return
        if self._unparsed + self._first > MAX_HEAD and self._is_too_large():
            # Of a head, or of extensions of chunks or trailers, which would be kept until they end.
            self._end_reading(None if self._head_complete else head_too_large())
        if self._plain is not None:
            if was_between and self._begun == 1:  # the bytes are those of this request alone
                self._repeated = repeatable(data, self._plain)
                if self._repeated is not None:
                    self._all.heads[self.address] = self._repeated
            self._plain = None

    def on_message_begin(self) -> None:
        self._is_between = False
        self._begun += 1
        self._first, self._unparsed = self._latest, 0
        self._url, self._headers = b"", []
        self._head_complete = self._asks_upgrade = self._expects_continue = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_complete:
            return  # a trailer, which must not be taken for a checked header
        self._headers.append((name.lower(), value))

    def _read_framing(self) -> None:
        version = self._parser.get_http_version()
        for name, value in self._headers:
            if name in FRAMING:
                value = value.strip().lower()
                if name == b"expect":
                    self._expects_continue = value == b"100-continue"
                elif name == b"upgrade":
                    self._asks_upgrade = True
                check_framing(name, value, version)

    def _is_too_large(self) -> bool:
        """Of the head, or of what came since the last bytes of a body."""
        if self._head_complete or self._unparsed > MAX_HEAD:
            return self._unparsed > MAX_HEAD
        return size_of(self._url, self._headers) > MAX_HEAD

    def on_headers_complete(self) -> None:
        # What came at once may hold much of the body behind the head.
        if self._unparsed + self._first > MAX_HEAD and size_of(self._url, self._headers) > MAX_HEAD:
            raise head_too_large()
        parser, url, headers = self._parser, self._url, self._headers
        fields = fields_of(headers)
        is_plain = FRAMING.isdisjoint(fields)
        if not is_plain:
            self._read_framing()
        if self._asks_upgrade and parser.should_upgrade():
            check_no_body(headers)
        if url.startswith(b"/") and url.find(b"#") < 0:
            raw_path, _, query = url.partition(b"?")
        else:
            check_target(url, headers)
            target = httptools.parse_url(url)
            raw_path, query = target.path, target.query or b""
        path = raw_path.decode("ascii")
        self._head_complete = True
        version = parser.get_http_version()
        is_current = version == "1.1"
        keep_alive = is_current and parser.should_keep_alive()
        scope = self._scope.copy()  # type: ignore[attr-defined]
        if not is_current:
            scope["http_version"] = version
        scope["method"] = parser.get_method().decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = raw_path
        scope["query_string"] = query
        scope["headers"] = headers
        scope[FIELDS] = fields
        self._plain = scope if is_plain and keep_alive else None
        exchange = self._exchange(scope, is_current, keep_alive, None)
        if self._running is None or self._running.answered:
            self._run(exchange, scope)
            return
        self._waiting.append((exchange, scope))
        if len(self._waiting) > _MAX_WAITING:
            self.transport.close()

    def _exchange(self, scope: Scope, is_current: bool, keep_alive: bool, body: bytes | None) -> Exchange:
        """The newest request; its ``body`` if all of that has come."""
        scope["state"] = state = self._app_state.copy()
        self._newest = scope["sage.exchange"] = exchange = Exchange(
            self, state, scope["method"] == "HEAD", is_current, keep_alive, self._expects_continue, body
        )
        return exchange

    def _run(self, exchange: Exchange, scope: Scope) -> None:
        self._running = exchange
        # Not the loop's `create_task`, which numbers each task and makes a name of that.
        exchange.task = asyncio.Task(exchange.run(self._app, scope), loop=self.loop, name=_REQUEST)

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        exchange = self._newest
        assert exchange is not None
        if exchange.answered:
            return
        exchange.add_body(body)
        if exchange.held > _MAX_HELD and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        self._is_between = True
        assert self._newest is not None
        self._newest.end_body()

    def resume_reading(self) -> None:
        """Reads on, if it was paused."""
        if self.read_paused and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self.writable.wake()

    def answered(self, keep_alive: bool) -> None:
        """The running request has its whole answer: the next one runs."""
        self.server_state.total_requests += 1
        if not keep_alive:
            self.transport.close()
        if self.transport.is_closing():
            return
        if self.read_paused:
            self.resume_reading()
        if self._waiting:
            self._run(*self._waiting.pop(0))

    def shutdown(self) -> None:
        """The server ends: the newest request is the last one."""
        if self._newest is None or self._newest.answered:
            self.transport.close()
        else:
            self._newest.keep_alive = False

    def waits_for(self) -> Phase:
        """See :class:`sage.middleware.app.http.connections.ClientConnection`, as for the next three."""
        newest, closing = self._newest, self.transport.is_closing()
        answered = newest is None or newest.answered
        if (closing or answered or self.write_paused) and self.transport.get_write_buffer_size():
            return Phase.READING
        if closing:
            return Phase.IDLE
        if not self._head_complete:
            return Phase.HEAD
        if newest is not None and newest.more_body:
            if answered:
                return Phase.REST
            return Phase.WORK if self.read_paused else Phase.BODY
        return Phase.IDLE if answered and not self._waiting else Phase.WORK

    def moved(self, phase: Phase) -> int:
        if phase is Phase.READING:
            return self.written - self.transport.get_write_buffer_size()
        return self._received

    def request(self) -> object:
        return self._newest

    def give_up(self, phase: Phase) -> None:
        if phase is Phase.READING:
            self.transport.abort()
        elif phase is Phase.BODY or (phase is Phase.HEAD and self._received):
            self._end_reading(RequestTimeout(f"the rest of the request's {phase.value} did not come in time"))
        else:
            self.transport.close()

    def _end_reading(self, fault: SageError | None) -> None:
        """Answers with ``fault``, if that would be taken for the answer to the faulty request."""
        self._repeated = None
        if self.transport.is_closing():
            return
        fault = fault or InvalidRequest("this is not a valid HTTP request", code="invalid_http")
        running = self._running
        if running is None or running.answered:
            self._refuse(fault)
            return
        if not running.status:
            if not running.more_body:
                # It came whole, and the fault stands behind it: it is answered, and nothing after it.
                self._waiting.clear()
                self._is_over, running.keep_alive = True, False
                return
            # The request runs, and will find that its client has left.
            self.transport.write(self._refusals.answer(fault, running.state.setdefault("log", {}), self._url))
        self.transport.close()

    def _refuse(self, fault: SageError) -> None:
        method = self._parser.get_method().decode("ascii") if self._url else ""
        self.transport.write(self._refusals.refuse(fault, method, self._url))
        self.transport.close()
