"""What the hot routes share: a JSON body in, JSON or events out, and the client's departure, in plain ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import orjson

from sage.errors import InvalidRequest, SageError
from sage.middleware.auth.principal import Principal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

# A request that is answered within this many seconds is not watched for its client's departure: watching costs a task.
_WATCH_AFTER = 0.02


class ClientLeft(Exception):
    """The client closed its connection before it had its answer. Nobody is there to be answered."""


async def read_json(receive: Receive) -> dict[str, Any]:
    """The body as a JSON object; raises :class:`InvalidRequest` for anything else."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts = [body]
        while message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
        body = b"".join(parts)
    if message["type"] == "http.disconnect":
        raise ClientLeft
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"the body is not JSON: {exc}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    return value


def take_model(body: dict[str, Any]) -> str:
    """The name of the model in ``body``."""
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise InvalidRequest("'model' must name a model (GET /models lists them)", param="model")
    if len(name) > 256:
        raise InvalidRequest("'model' is longer than 256 characters", param="model")
    return name


def take_flag(body: Mapping[str, Any], name: str) -> bool:
    """A truth value that may be left out."""
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise InvalidRequest(f"'{name}' must be true or false", param=name)


def caller(scope: Scope) -> Principal:
    """Who calls: put there by the route's guard."""
    principal = scope["state"]["principal"]
    assert isinstance(principal, Principal)
    return principal


def note(scope: Scope, **facts: Any) -> None:
    """Adds facts (never secrets, never contents) to the request's line in the access log."""
    scope["state"]["log"].update(facts)


async def send_json(send: Send, body: bytes, headers: Headers) -> None:
    """Answers with JSON that is already encoded."""
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def start_events(send: Send, headers: Headers) -> None:
    """Begins a stream of server-sent events."""
    head = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
        *headers,
    ]
    await send({"type": "http.response.start", "status": 200, "headers": head})


async def send_events(send: Send, events: bytes) -> None:
    await send({"type": "http.response.body", "body": events, "more_body": True})


async def end_events(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def error_event(error: SageError) -> bytes:
    """The event that says that a stream broke. ``[DONE]`` never follows it."""
    return b"data: " + orjson.dumps(error.envelope()) + b"\n\n"


class Departure:
    """Ends the request's work as soon as its client leaves: ``with Departure(receive): …``.

    Raises :class:`ClientLeft` in the place of the cancellation. Enter it once the body has been read.
    """

    __slots__ = ("_left", "_receive", "_task", "_timer", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER, self._begin)

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        assert self._task is not None
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: Any) -> None:
        self._timer.cancel()
        if self._watcher is not None and not self._left:
            self._watcher.cancel()
        if self._left and self._task is not None:
            self._task.uncancel()
            if kind is None or issubclass(kind, asyncio.CancelledError | SageError):
                raise ClientLeft
