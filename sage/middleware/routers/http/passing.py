"""How a surface answers a call whose answer goes on as it comes, whatever its type."""

from __future__ import annotations

import asyncio

from sage.errors import SageError
from sage.middleware.gateway.gateway import Gateway, GatewayCall
from sage.middleware.gateway.watch import AsgiClient, Watch
from sage.middleware.providers.base import ModelCall, takes_nothing
from sage.middleware.routers.http.asgi import LOW_PRIORITY, Receive, Scope, Send, error_facts, note
from sage.middleware.routers.http.forms.relayed import RelayedForm
from sage.middleware.routers.http.streaming import end_stream, send_events, stream


async def respond_as_it_comes(
    gateway: Gateway,
    call: ModelCall,
    scope: Scope,
    receive: Receive,
    send: Send,
    form: RelayedForm | None = None,
) -> None:
    """Answers ``call`` with what its upstream says, under the media type that the upstream gives.

    ``form`` is the request's body where it may still be on its way.
    """
    state = scope["state"]
    call.request_id = state["request_id"]
    if LOW_PRIORITY in state:
        call.low_priority = True
    client = scope.get("sage.exchange")
    if client is None:
        client = AsgiClient(receive) if form is None else _ClientWithForm(receive, form)
    with Watch(call, gateway.deadlines, client, scope) as watching:
        async with gateway.call(state["principal"], call) as answer:
            state["log"]["deployment"] = answer.deployment
            if answer.is_events:
                await stream(answer, scope, send, watching, media_type=answer.media_type.encode("latin-1"))
            else:
                await _pass_on(answer, scope, send, watching)


class _ClientWithForm(AsgiClient):
    """A client behind another server than ours, of which ``receive`` tells only once its form was read."""

    def __init__(self, receive: Receive, form: RelayedForm) -> None:
        super().__init__(receive)
        self._form = form

    async def _wait_for_disconnect(self) -> None:
        await self._form.ended.wait()
        await super()._wait_for_disconnect()


async def _pass_on(answer: GatewayCall, scope: Scope, send: Send, watching: Watch) -> None:
    """Sends an answer that is no stream of events. One that breaks is cut off: there is no place in it for an error."""
    headers = [(b"content-type", answer.media_type.encode("latin-1")), *answer.headers()]
    if answer.finished:
        watching.stop()
        await send({"type": "http.response.start", "status": 200, "headers": headers, "body": answer.body})
        return
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    client = scope.get("sage.exchange")
    write = takes_nothing if client is None else client.write
    try:
        data = answer.body
        while data:
            await send_events(send, data)
            data = await answer.more(write)
        watching.stop()
        await answer.drain()
    except SageError as error:
        answer.broke(error)
        note(scope, **error_facts(error))
        raise
    except asyncio.CancelledError:
        if not watching.client_left:
            closing = watching.revoked or answer.timed_out()
            if closing is not None:
                answer.broke(closing)
        raise
    await end_stream(send)
