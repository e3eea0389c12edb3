"""How every surface answers a call over HTTP: watched, dispatched, and sent as JSON or as a stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from sage.errors import SageError
from sage.middleware.auth.principal import Principal
from sage.middleware.dispatch.deadlines import Deadlines
from sage.middleware.gateway.gateway import GatewayCall
from sage.middleware.gateway.watch import AsgiClient, Watch
from sage.middleware.providers.base import ModelCall
from sage.middleware.routers.http.asgi import LOW_PRIORITY, Receive, Scope, Send, send_json
from sage.middleware.routers.http.streaming import EVENTS, End, Translate, stream


@dataclass(slots=True)
class Events:
    """How a surface writes a stream in its own wire format (:func:`sage.middleware.routers.http.streaming.stream`)."""

    translate: Translate | None
    """``None`` means that the answer is in that format already."""
    end: End | None = None
    error_event: Callable[[SageError], bytes] | None = None
    media_type: bytes = EVENTS


class AnswersCalls(Protocol):
    """A gateway, or :class:`sage.middleware.gateway.tools.loop.WithTools` around one."""

    @property
    def deadlines(self) -> Deadlines: ...

    def call(self, principal: Principal, call: ModelCall) -> GatewayCall: ...


async def respond(
    gateway: AnswersCalls,
    call: ModelCall,
    scope: Scope,
    receive: Receive,
    send: Send,
    make_body: Callable[[GatewayCall], bytes | Awaitable[bytes]] | None = None,
    make_events: Callable[[GatewayCall], Events] | None = None,
) -> None:
    """Answers ``call``. ``make_body`` makes the body of an answer without a stream, ``make_events`` the events of one.

    Without them the answer is sent as it is, in OpenAI's wire format.
    """
    state = scope["state"]
    call.request_id = state["request_id"]
    if LOW_PRIORITY in state:
        call.low_priority = True
    client = scope.get("sage.exchange") or AsgiClient(receive)
    with Watch(call, gateway.deadlines, client, scope) as watching:
        async with gateway.call(state["principal"], call) as answer:
            state["log"]["deployment"] = answer.deployment
            if not call.stream:
                body = answer.body if make_body is None else make_body(answer)
                await send_json(send, body if isinstance(body, bytes) else await body, answer.headers())
            elif make_events is None:
                await stream(answer, scope, send, watching)
            else:
                events = make_events(answer)
                await stream(
                    answer,
                    scope,
                    send,
                    watching,
                    events.translate,
                    events.end,
                    events.error_event,
                    events.media_type,
                )
