"""The pure ASGI layer around everything: request id, host check, body limit, hot routes, errors, headers, access log.

One layer with one wrapped ``send``, since each further one costs every request and every chunk of a stream.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

import orjson

from sage.errors import InvalidRequest, PayloadTooLarge, SageError, Unavailable
from sage.middleware.app.access_log import AccessLog
from sage.middleware.gateway.metrics import CLIENT_LEFT
from sage.middleware.gateway.watch import ClientLeft
from sage.middleware.routers.http.asgi import ASGIApp, Message, Receive, Scope, Send, error_headers
from sage.middleware.settings.settings import LOOPBACK, Settings

logger = logging.getLogger("sage")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip")
_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


class EdgeMiddleware:
    """The outermost application. ``hot`` maps (method, path) to guarded ASGI endpoints that skip the framework."""

    def __init__(
        self, app: ASGIApp, hot: Mapping[tuple[str, str], ASGIApp], settings: Settings, log: AccessLog | None
    ) -> None:
        self.app = app
        self._hot = hot
        self._limit = settings.api.max_body_bytes
        self._open_door = not settings.auth.enabled
        names = settings.api.allowed_hosts or (tuple(LOOPBACK) if self._open_door else ())
        self._hosts = frozenset(name.lower().encode() for name in names)
        self._log = log
        self._prefix = secrets.token_hex(6).encode()
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        headers = scope["headers"]
        request_id = self._request_id(headers)
        facts: dict[str, Any] = {}
        scope.setdefault("state", {})["log"] = facts
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id), *_SECURITY_HEADERS]
            await send(message)

        try:
            receive = self._admit(scope, headers, receive)
            inner = scope
            if scope["method"] == "HEAD":  # as GET, in a scope of its own: by this one uvicorn leaves the body out
                inner = {**scope, "method": "GET"}
            app = self._hot.get((inner["method"], inner["path"]), self.app)
            await app(inner, receive, answer)
        except ClientLeft:
            status = CLIENT_LEFT
        except asyncio.CancelledError:
            # Only the end of the server's patience at shutdown comes this far, and the task ends here anyway.
            ending = Unavailable("the gateway is shutting down; try again soon", code="shutting_down")
            await self._fail(ending, status, answer, facts)
        except SageError as error:
            await self._fail(error, status, answer, facts)
        except Exception:
            logger.exception("request %s failed", request_id.decode())
            broken = SageError("an error of the gateway's own; its log has more under this request id")
            await self._fail(broken, status, answer, facts)
        finally:
            if self._log is not None:
                self._write(scope, request_id, status, begun, facts)

    def _request_id(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        for name, value in headers:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return value
        return b"%s-%x" % (self._prefix, next(self._numbers))

    def _admit(self, scope: Scope, headers: list[tuple[bytes, bytes]], receive: Receive) -> Receive:
        """Checks what can be told from the head alone; returns what reads the body, bounded."""
        host = length = origin = kind = b""
        chunked = False
        for name, value in headers:
            if name == b"host":
                if host:
                    raise InvalidRequest("the request names two hosts", code="host_not_allowed")
                host = value
            elif name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                chunked = True
            elif name == b"origin":
                origin = value
            elif name == b"content-type":
                kind = value
            elif self._open_door and name in _FORWARDED:
                raise InvalidRequest(
                    f"the header '{name.decode()}' is refused without auth: the gateway is not to stand behind a proxy "
                    "with --no-auth",
                    code="forwarded",
                )
        if self._hosts and _host_name(host) not in self._hosts:
            raise InvalidRequest(
                f"the host '{host[:200].decode('latin-1')}' is not one that this gateway answers to "
                "(api.allowed_hosts)",
                code="host_not_allowed",
            )
        if length and int(length) > self._limit and not _is_file(scope):
            raise self._too_large()
        if self._open_door:
            _check_browser(scope, host, origin, kind, bool(length.strip(b"0")) or chunked)
        return self._bounded(receive) if chunked and not _is_file(scope) else receive

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"the body is larger than {self._limit} bytes (api.max_body_bytes)")

    def _bounded(self, receive: Receive) -> Receive:
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise self._too_large()
            return message

        return bounded

    async def _fail(self, error: SageError, begun: int, answer: Send, facts: dict[str, Any]) -> None:
        facts["error"] = error.code
        if not begun:  # else only the connection can still tell: uvicorn closes it when a body ends short
            await answer_error(error, answer)

    def _write(self, scope: Scope, request_id: bytes, status: int, begun: float, facts: dict[str, Any]) -> None:
        principal = scope["state"].get("principal")
        line: dict[str, Any] = {
            "time": time.time(),
            "request_id": request_id.decode(),
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": int((time.perf_counter() - begun) * 100_000) / 100,
        }
        if principal is not None:
            line["user"] = principal.user
            line["tenant"] = principal.tenant
            line["credential"] = principal.credential
        if facts:
            line.update(facts)
        assert self._log is not None
        self._log.write(line)


async def answer_error(error: SageError, send: Send) -> None:
    """Answers with the envelope of ``error``."""
    body = orjson.dumps(error.envelope())
    headers = error_headers(error, len(body))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _host_name(host: bytes) -> bytes:
    """The name in a Host header, without its port."""
    if host.startswith(b"["):
        return host[1:].partition(b"]")[0].lower()
    return host.partition(b":")[0].lower()


def _is_file(scope: Scope) -> bool:
    """Whether the body goes to disk as it comes, under a bound of its own: a snapshot that is restored."""
    path: str = scope["path"]
    return scope["method"] == "PUT" and path.startswith("/collections/") and path.endswith("/snapshot")


def _check_browser(scope: Scope, host: bytes, origin: bytes, kind: bytes, has_body: bool) -> None:
    """Without auth, no page of another site may reach us through its visitor's browser."""
    if origin and origin.partition(b"://")[2].lower() != host.lower():
        raise InvalidRequest(
            f"requests from the origin '{origin[:200].decode('latin-1')}' are refused without auth", code="origin"
        )
    media = kind.partition(b";")[0].strip().lower()
    # A page can send none of these to another site without asking it first, which gets no answer here.
    allowed = (b"application/octet-stream",) if _is_file(scope) else (b"application/json", b"application/x-ndjson")
    if scope["method"] in _WITH_BODY and (has_body or kind) and media not in allowed:
        raise InvalidRequest(
            f"without auth, this body must be sent as such: add the header 'Content-Type: {allowed[0].decode()}'",
            code="content_type",
        )
