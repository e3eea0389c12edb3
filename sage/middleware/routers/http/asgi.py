"""Plain ASGI for the hot routes: reading a JSON body, and sending JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import replace
from functools import partial
from typing import Any

from sage.errors import InvalidRequest, SageError
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.json_object import parse_object
from sage.middleware.gateway.watch import ClientLeft
from sage.middleware.providers.base import MAX_NAME
from sage.middleware.routers.http.bodies import SMALL_BODY, LargeBody
from sage.surrogates import replace_halves

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
FIELDS = "sage.fields"
"""In the scope of a request: its :class:`Fields`."""
ADDED_HEADERS = "added_headers"
"""In the state of a request: a list of the headers that its answer has beside those that the route gives it."""
LOW_PRIORITY = "low_priority"
"""In the state of a request whose calls of models live ones go before."""
UNLOGGED = "unlogged"
"""A fact of a request that has no line in the access log unless it fails: one that comes every second."""
_MOST_REASON = 300
_JSON = (b"content-type", b"application/json")
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Fields(dict[bytes, bytes]):
    """The headers of a request by their names, of several with one name the first. They are never changed: requests of
    a connection whose heads are the same share them, and what was found out of them."""

    __slots__ = ("admitted", "digest", "keyed")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        super().__init__(headers)
        self.admitted: Any = None
        """What the edge has found in a head that it lets in."""
        self.digest: bytes | None = None
        """That of the credential."""
        self.keyed: Fields | None = None
        """The same with the credential in ``Authorization``, where it came in another header."""

    def with_field(self, name: bytes, value: bytes) -> Fields:
        """The same with another ``value`` of the header ``name``, on which nothing depends that was found out."""
        fields = Fields(self.items())
        fields[name] = value
        fields.admitted, fields.digest = self.admitted, self.digest
        if self.keyed is not None:
            fields.keyed = self.keyed.with_field(name, value)
        return fields


def fields_of(headers: Headers) -> Fields:
    """The headers of a request by their names."""
    fields = Fields(headers)
    return fields if len(fields) == len(headers) else Fields(reversed(headers))


def read_json_at_once(receive: Receive, scope: Scope) -> dict[str, Any] | None:
    """As :func:`read_json`, where the whole body has come and is small; ``None`` means that it has to be waited for."""
    exchange = scope.get("sage.exchange")
    if exchange is None or receive != exchange.receive:
        return None
    body = exchange.take_body()
    return _parse_mended(body, scope, vectors=False) if body is not None else None


async def read_json(receive: Receive, scope: Scope, *, vectors: bool = False) -> dict[str, Any]:
    """The body as a JSON object; raises :class:`InvalidRequest` for anything else. ``vectors`` says that it may hold
    vectors of numbers. A large body is parsed on a thread. Halves of surrogate pairs are replaced by U+FFFD, which the
    answer and the access log tell."""
    exchange = scope.get("sage.exchange")
    body = exchange.take_body() if exchange is not None and receive == exchange.receive else None
    if body is None:
        message = await receive()
        body = message["body"] if message.get("more_body") is False else await read_body(receive, message)
    if len(body) > SMALL_BODY and isinstance(receive, LargeBody):
        parse = partial(_parse_mended, body, scope, vectors=vectors)
        return await asyncio.get_running_loop().run_in_executor(receive.threads, parse)
    return _parse_mended(body, scope, vectors=vectors)


def _parse_mended(body: bytes, scope: Scope, *, vectors: bool) -> dict[str, Any]:
    try:
        return parse_object(body, vectors=vectors)
    except InvalidRequest:
        mended, count = replace_halves(body)
        if mended == body:
            raise
    value = parse_object(mended, vectors=vectors)
    if count:
        note(scope, replaced_text=count)
        scope["state"][ADDED_HEADERS].append((b"x-sage-replaced-text", b"%d" % count))
    return value


async def read_body(receive: Receive, first: Message | None = None) -> bytes:
    """The complete body; raises :class:`ClientLeft` when the client disconnects before it has sent all of it. ``first``
    is the first message if it was received already."""
    message = first if first is not None else await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts = [body]
        while message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
        body = b"".join(parts)
    if message["type"] == "http.disconnect":
        raise ClientLeft
    return body


def take_model(body: dict[str, Any]) -> str:
    """The name of the model in ``body``; raises :class:`InvalidRequest` when there is none."""
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise InvalidRequest("'model' must name a model (GET /models lists them)", param="model")
    if len(name) > MAX_NAME:
        raise InvalidRequest(f"'model' is longer than {MAX_NAME} characters", param="model")
    return name


def take_flag(body: Mapping[str, Any], name: str) -> bool:
    """A boolean field of ``body``; ``False`` when it is left out."""
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise InvalidRequest(f"'{name}' must be true or false", param=name)


def caller(scope: Scope) -> Principal:
    """The caller, as the route's guard has identified it."""
    principal = scope["state"]["principal"]
    assert isinstance(principal, Principal)
    return principal


def caller_of_request(scope: Scope) -> Principal:
    """As :func:`caller`, with the id of its request: for work that asks models on the caller's behalf."""
    return replace(caller(scope), request_id=scope["state"]["request_id"])


def note(scope: Scope, **facts: Any) -> None:
    """Adds ``facts`` to the request's line in the access log; never secrets, never contents."""
    scope["state"]["log"].update(facts)


def error_facts(error: SageError) -> dict[str, Any]:
    """What the access log says of ``error``: its code, and the reason where an upstream could not be reached or read.

    What an upstream has said itself is left out, since it may quote the request.
    """
    if error.status == 502 and error.upstream_status is None:
        return {"error": error.code, "reason": error.message[:_MOST_REASON]}
    return {"error": error.code}


def error_headers(error: SageError, size: int) -> Headers:
    """The headers of an answer that has ``error`` as ``size`` bytes of JSON."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % size)]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after + 0.499))))
    headers += error.headers
    if error.status == 401 and not any(name == b"www-authenticate" for name, _ in error.headers):
        headers.append((b"www-authenticate", b'Bearer realm="sage"'))
    if error.status == 413:
        headers.append((b"connection", b"close"))
    return headers


def send_json(send: Send, body: bytes, headers: Headers) -> Awaitable[None]:
    """Sends an answer of JSON that is already encoded, in one message (``app/edge.py``). Its length is added there."""
    return send({"type": "http.response.start", "status": 200, "headers": [_JSON, *headers], "body": body})
