"""The ASGI layer around everything: request id, host check, body limit, hot routes, errors, headers, access log.

It is a single layer with one wrapped ``send``: each further layer costs every request and every chunk of a stream.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Mapping
from typing import Any

import orjson

from sage.errors import AuthenticationFailed, InvalidRequest, SageError, Unavailable
from sage.middleware.app.access_log import AccessLog
from sage.middleware.app.cors import AllowedOrigins, read_origin
from sage.middleware.app.http.refusals import Refusals
from sage.middleware.app.http.repeated_head import LONGEST
from sage.middleware.app.slashes import Slashes
from sage.middleware.gateway.metrics import CLIENT_LEFT
from sage.middleware.gateway.watch import ClientLeft
from sage.middleware.routers.anthropic.errors import error_answer as anthropic_error
from sage.middleware.routers.anthropic.errors import speaks_anthropic
from sage.middleware.routers.http.asgi import (
    ADDED_HEADERS,
    FIELDS,
    LOW_PRIORITY,
    UNLOGGED,
    ASGIApp,
    Fields,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    error_facts,
    error_headers,
    fields_of,
    note,
)
from sage.middleware.routers.http.bodies import SMALL_BODY, LargeBodies, LargeBody, too_large
from sage.middleware.routers.http.guard import credential
from sage.middleware.settings.settings import LOOPBACK, Settings

logger = logging.getLogger("sage")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_FORWARDED = re.compile(
    rb"forwarded|via|client-ip|true-client-ip|remote-addr|front-end-https|(?:cf|cdn|fly|fastly)-.*"
    rb"|x-(?:forwarded|original|rewrite|real|envoy|remote|proxyuser|appengine|amzn|azure|arr|vercel).*"
    rb"|x-(?:true-|cluster-)?client-(?:ip|addr|host|port|cert).*|x-(?:url-)?scheme|x-host"
)
"""Headers with which a proxy tells of the request that it passes on."""
_PRIORITY = b"x-sage-priority"
_MAX_REMEMBERED = 1000  # well-formed hosts, harmless headers
_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_UPLOADS = "/v1/files"
_FORMS = frozenset(
    {_UPLOADS, "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits", "/v1/images/variations"}
)
"""Where files come in forms, which are not held in memory, each with a limit of its own."""
_FORM = b"multipart/form-data"
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


class EdgeMiddleware:
    """The outermost application. ``hot`` maps (method, path) to guarded ASGI endpoints that skip the framework.

    ``slashes`` knows the paths of all routes.
    """

    def __init__(
        self,
        app: ASGIApp,
        hot: Mapping[tuple[str, str], ASGIApp],
        limits: Mapping[tuple[str, str], int],
        slashes: Slashes,
        settings: Settings,
        log: AccessLog | None,
        secret: str | None = None,
    ) -> None:
        """``secret``: the credential that every request needs; ``None`` means that each route decides."""
        self.app = app
        self._secret = None if secret is None else f"Bearer {secret}".encode()
        self._hot = hot
        self._slashes = slashes
        origins = settings.api.allowed_origins
        self._origins = AllowedOrigins(origins) if origins else None
        self._limit = settings.api.max_body_bytes
        self._limits = {route: min(limit, self._limit) for route, limit in limits.items()}
        self._small = min(SMALL_BODY, self._limit, *self._limits.values())
        self._bodies = LargeBodies(self._limit)
        self._without_auth = not settings.auth.enabled
        names = settings.api.allowed_hosts or (tuple(LOOPBACK) if self._without_auth else ())
        self._hosts = frozenset(name.lower().encode() for name in names)
        self._log = log
        self._known_hosts: set[bytes] = set()
        self._harmless: set[bytes] = set()
        """Names of headers that no proxy adds."""
        self._prefix = secrets.token_hex(6).encode()
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        if FIELDS not in scope:  # under another server than ours
            scope[FIELDS] = fields_of(scope["headers"])
        fields: Fields = scope[FIELDS]
        admitted: AdmittedHead | None = fields.admitted
        request_id = (_given_id(fields) if admitted is None else admitted.request_id) or self._new_id()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        facts: dict[str, Any] = state.setdefault("log", {})
        added = state[ADDED_HEADERS] = [(b"x-request-id", request_id), *_SECURITY_HEADERS]
        answer = scope.get("sage.exchange")
        if answer is not None and self._origins is None:
            answer.added = added  # our own server adds them
        else:
            answer = _AddingSender(send, added, self._origins, scope["headers"], takes_whole=answer is not None)
            send = answer.send
        failure = 0
        try:
            if admitted is not None:
                await admitted.endpoint(scope, receive, send)
                return
            receive = self._admit(scope, fields, receive)
            hot = self._hot.get((scope["method"], scope["path"]))
            if hot is not None:
                await hot(scope, receive, send)
            else:
                await self._run(scope, fields, receive, send)
        except ClientLeft:
            failure = CLIENT_LEFT
        except asyncio.CancelledError:
            # Only the server at shutdown cancels a task from outside, and the task ends here anyway.
            ending = Unavailable("the gateway is shutting down; try again soon", code="shutting_down")
            await self._fail(ending, answer.status, send, scope)
        except SageError as error:
            await self._fail(error, answer.status, send, scope)
        except Exception:
            logger.exception("request %s failed", request_id.decode())
            internal = SageError("an internal error of the gateway; its log has more under this request id")
            await self._fail(internal, answer.status, send, scope)
        finally:
            if admitted is None and isinstance(receive, LargeBody):
                receive.release()
            if self._log is not None:
                status = failure or answer.status
                if UNLOGGED not in facts or status >= 400:
                    self._write(self._log, scope, request_id, status, started, facts)

    async def _run(self, scope: Scope, fields: Fields, receive: Receive, send: Send) -> None:
        """Answers what is no hot route."""
        if scope["method"] == "OPTIONS" and await self._answer_preflight(fields, send):
            return
        if scope["method"] == "HEAD":  # run as GET; the server reads the method from `scope` and omits the body
            scope = {**scope, "method": "GET"}
        await self._hot.get((scope["method"], scope["path"]), self.app)(scope, receive, send)

    def refusals(self) -> Refusals:
        """How the server answers what does not become a request."""
        return Refusals(self._new_id, _SECURITY_HEADERS, self._log)

    def _new_id(self) -> bytes:
        return b"%s-%x" % (self._prefix, next(self._numbers))

    def _check_secret(self, scope: Scope) -> None:
        if not hmac.compare_digest(credential(scope) or b"", self._secret or b""):
            raise AuthenticationFailed("this gateway serves only the program that it is a part of")

    def _admit(self, scope: Scope, fields: Fields, receive: Receive) -> Receive:
        """Checks the head of a request; returns a ``receive`` that enforces the limit on the body."""
        path = scope["path"]
        if "//" in path or path[-1:] == "/":
            scope["path"] = self._slashes.without_extra(path, scope["method"])
        if self._secret is not None:
            self._check_secret(scope)
        host = fields.get(b"host", b"")
        if host not in self._known_hosts:
            self._check_host(scope, host)
        if self._hosts and _host_name(host) not in self._hosts:
            raise InvalidRequest(
                f"the host '{host[:200].decode('latin-1')}' is not one that this gateway accepts (api.allowed_hosts)",
                code="host_not_allowed",
            )
        if len(fields) != len(scope["headers"]) and sum(name == b"host" for name, _ in scope["headers"]) > 1:
            raise InvalidRequest("the request names two hosts", code="host_not_allowed")
        length, chunked = int(fields.get(b"content-length") or 0), b"transfer-encoding" in fields
        if _PRIORITY in fields and _is_low(fields[_PRIORITY]):
            scope["state"][LOW_PRIORITY] = True
        if (chunked or length > self._small) and not _is_file(scope):
            receive = self._bounded(scope, receive, length)
        if self._without_auth:
            self._check_sender(scope, fields, has_body=chunked or length > 0)
        if 0 < length <= LONGEST <= self._small and not chunked and _PRIORITY not in fields:
            self._remember(scope, path, fields)
        return receive

    def _remember(self, scope: Scope, path: str, fields: Fields) -> None:
        """Lets further requests of the connection in that have the very same head, but for the length of a body that is
        small too: no check above would find anything else."""
        hot = self._hot.get((scope["method"], path))
        if hot is not None and scope["path"] == path:
            fields.admitted = AdmittedHead(hot, _given_id(fields))

    def _check_sender(self, scope: Scope, fields: Fields, *, has_body: bool) -> None:
        """Refuses what comes through a proxy, or from a page of another site; for a gateway without auth."""
        if not self._harmless.issuperset(fields):
            for name in fields:
                if name not in self._harmless and self._is_forwarded(name):
                    raise _behind_proxy(name)
        origin = fields.get(b"origin", b"")
        if self._origins is not None and self._origins.allows(origin):
            origin = b""
        _check_browser(scope, fields, origin, has_body=has_body)

    async def _answer_preflight(self, fields: Fields, send: Send) -> bool:
        """Answers a browser that asks what a page of another site may send; tells whether it was one."""
        if b"access-control-request-method" not in fields or b"origin" not in fields:
            return False
        origins = self._origins or AllowedOrigins(())
        answer = origins.preflight(fields[b"origin"], fields.get(b"access-control-request-headers", b""))
        await send({"type": "http.response.start", "status": 204, "headers": answer})
        await send({"type": "http.response.body", "body": b""})
        return True

    def _is_forwarded(self, name: bytes) -> bool:
        if _FORWARDED.fullmatch(name):
            return True
        if len(self._harmless) < _MAX_REMEMBERED and len(name) < 100:
            self._harmless.add(name)
        return False

    def _check_host(self, scope: Scope, host: bytes) -> None:
        """RFC 9112, 3.2: a request without a host, or with an invalid one, is refused."""
        if not host and scope["http_version"] == "1.0":
            return
        if _HOST.fullmatch(host) is None:
            said = f"the host '{host[:200].decode('latin-1')}' is not valid" if host else "the request names no host"
            raise InvalidRequest(f"{said}: it needs a header 'Host: NAME' or 'Host: NAME:PORT'", code="invalid_host")
        if len(self._known_hosts) < _MAX_REMEMBERED and len(host) < 300:
            self._known_hosts.add(host)

    def _bounded(self, scope: Scope, receive: Receive, length: int) -> Receive:
        """``receive`` with the limit of the route on a body that may be large. Raises :class:`PayloadTooLarge`."""
        limit = self._limits.get((scope["method"], scope["path"]), self._limit)
        setting = "api.max_body_bytes" if limit == self._limit else None
        if length > limit:
            raise too_large(limit, setting)
        return LargeBody(receive, scope, self._bodies, limit, setting)

    async def _fail(self, error: SageError, status: int, send: Send, scope: Scope) -> None:
        """Answers with ``error``, unless an answer has begun with ``status``."""
        note(scope, **error_facts(error))
        if not status:  # otherwise uvicorn closes the connection, because the body ends too early
            await answer_error(error, send, scope)

    @staticmethod
    def _write(
        log: AccessLog, scope: Scope, request_id: bytes, status: int, started: float, facts: dict[str, Any]
    ) -> None:
        line: dict[str, Any] = {
            "time": time.time(),
            "request_id": request_id.decode(),
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": int((time.perf_counter() - started) * 100_000) / 100,
        }
        principal = scope["state"].get("principal")
        if principal is not None:
            line["user"] = principal.user
            line["tenant"] = principal.tenant
            line["credential"] = principal.credential
        line.update(facts)
        log.write(line)


class AdmittedHead:
    """What was found in the head of a request that was let in and answered by a hot route."""

    __slots__ = ("endpoint", "request_id")

    def __init__(self, endpoint: ASGIApp, request_id: bytes | None) -> None:
        self.endpoint = endpoint
        self.request_id = request_id
        """The one that the head names, if it does."""


class _AddingSender:
    """Adds the edge's headers to an answer, where the server does not do that, or other sites' pages may read it."""

    def __init__(
        self, send: Send, added: Headers, origins: AllowedOrigins | None, headers: Headers, *, takes_whole: bool
    ) -> None:
        """``headers`` are the request's. ``takes_whole``: the server takes a whole answer in one message."""
        self.status = 0
        """That of the answer; 0 until it has begun."""
        self._send = send
        self._added = added
        self._origins = origins
        self._headers = headers
        self._takes_whole = takes_whole

    def send(self, message: Message) -> Awaitable[None]:  # no coroutine of its own: each chunk would make one
        if message["type"] == "http.response.start":
            self.status = message["status"]
            answer = [*message.get("headers", ()), *self._added]
            if self._origins is not None:
                answer += self._origins.headers(read_origin(self._headers), answer)
            message["headers"] = answer
            if "body" in message and not self._takes_whole:
                return _send_in_two(self._send, message)
        return self._send(message)


def _given_id(fields: Fields) -> bytes | None:
    """The id that a client has given its request, if it is well formed."""
    given = fields.get(b"x-request-id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else None


async def _send_in_two(send: Send, message: Message) -> None:
    """Sends an answer that is whole in one message, which only our own server takes, as ASGI has it."""
    body = message.pop("body")
    message["headers"].append((b"content-length", b"%d" % len(body)))
    await send(message)
    await send({"type": "http.response.body", "body": body})


async def answer_error(error: SageError, send: Send, scope: Scope) -> None:
    """Sends an answer with the envelope of ``error``, in the shape that the sender of the request reads."""
    if speaks_anthropic(scope):
        body, headers = anthropic_error(error, scope["state"].get("request_id", b"").decode())
    else:
        body = orjson.dumps(error.envelope())
        headers = error_headers(error, len(body))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _host_name(host: bytes) -> bytes:
    """The name in a Host header, without its port."""
    if host.startswith(b"["):
        return host[1:].partition(b"]")[0].lower()
    return host.partition(b":")[0].lower()


def _behind_proxy(header: bytes) -> InvalidRequest:
    return InvalidRequest(
        f"the header '{header.decode()}' is refused without auth: the gateway must not run behind a proxy with "
        "--no-auth",
        code="forwarded",
    )


def _is_low(value: bytes) -> bool:
    """Whether ``x-sage-priority`` asks that live requests go first; raises :class:`InvalidRequest` for a wrong one."""
    priority = value.strip().lower()
    if priority in (b"low", b"normal"):
        return priority == b"low"
    raise InvalidRequest(
        f"'x-sage-priority' is 'low' or 'normal', not '{value[:100].decode('latin-1')}'",
        param="x-sage-priority",
        code="invalid_priority",
    )


def _is_file(scope: Scope) -> bool:
    """Whether the body is a file, which goes on as it comes and has a limit of its own: a snapshot to restore, or a
    form."""
    path: str = scope["path"]
    if scope["method"] == "PUT":
        return path.startswith("/collections/") and path.endswith("/snapshot")
    return path in _FORMS and scope["method"] == "POST" and (path == _UPLOADS or _is_form(scope))


def _is_form(scope: Scope) -> bool:
    content_type: bytes = scope[FIELDS].get(b"content-type", b"")
    return content_type.partition(b";")[0].strip().lower() == _FORM


def _check_browser(scope: Scope, fields: Fields, origin: bytes, *, has_body: bool) -> None:
    """Refuses requests that a page of another site makes through its visitor's browser; for a gateway without auth."""
    if origin and origin.lower() != b"%s://%s" % (scope["scheme"].encode(), fields.get(b"host", b"").lower()):
        raise _of_another_site(f"the origin '{origin[:200].decode('latin-1')}'")
    content_type = fields.get(b"content-type", b"")
    media_type = content_type.partition(b";")[0].strip().lower()
    if scope["path"].startswith("/flower/"):
        return  # its pages send forms; what they change must come from a page of ours (`routers/flower`)
    allowed: tuple[bytes, ...] = (b"application/json", b"application/x-ndjson")
    # A page may send these to another site only after a preflight request, which is refused here.
    if _is_file(scope):
        allowed = (b"application/octet-stream",)
        if scope["path"] in _FORMS:  # a form needs no preflight: what the browser says of the page decides
            allowed = (_FORM,)
            if fields.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
                raise _of_another_site("pages of other sites")
    if scope["method"] in _WITH_BODY and (has_body or content_type) and media_type not in allowed:
        raise InvalidRequest(
            f"without auth, a body needs its media type: add the header 'Content-Type: {allowed[0].decode()}'",
            code="content_type",
        )


def _of_another_site(where: str) -> InvalidRequest:
    return InvalidRequest(f"requests from {where} are refused without auth", code="origin")
