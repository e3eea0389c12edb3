"""The way of a call over HTTP, one for every surface: watched, dispatched, and answered whole or as a stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sage.errors import SageError
from sage.middleware.gateway.gateway import Gateway, GatewayCall
from sage.middleware.providers.base import ModelCall
from sage.middleware.routers.http.asgi import Receive, Scope, Send, caller, note, send_json, watch
from sage.middleware.routers.http.streaming import EVENTS, End, Translate, stream


@dataclass(frozen=True, slots=True)
class Events:
    """How a surface with a wire of its own writes a stream (:func:`sage.middleware.routers.http.streaming.stream`)."""

    translate: Translate
    end: End | None = None
    broken: Callable[[SageError], bytes] | None = None
    media_type: bytes = EVENTS


async def respond(
    gateway: Gateway,
    call: ModelCall,
    scope: Scope,
    receive: Receive,
    send: Send,
    whole: Callable[[GatewayCall], bytes | Awaitable[bytes]] | None = None,
    events: Callable[[], Events] | None = None,
) -> None:
    """Answers ``call``: ``whole`` makes the body of an answer that is no stream, ``events`` those of one that is.

    Without them the answer goes on as it is, in OpenAI's wire.
    """
    with watch(call, scope, receive) as watching:
        async with gateway.call(caller(scope), call) as answer:
            note(scope, deployment=answer.deployment)
            if not call.stream:
                if whole is None:
                    await send_json(send, answer.body, answer.headers())
                else:
                    body = whole(answer)
                    await send_json(send, body if isinstance(body, bytes) else await body, answer.headers())
            elif events is None:
                await stream(answer, scope, send, watching)
            else:
                written = events()
                await stream(
                    answer, scope, send, watching, written.translate, written.end, written.broken, written.media_type
                )
