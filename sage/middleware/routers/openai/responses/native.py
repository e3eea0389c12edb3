"""Requests that go on as they are, to a server that has the route of responses itself.

What is kept is kept here alone: the server is told to keep nothing (``store: false``) and is sent the earlier items. So
ids lead nowhere but into the caller's own team, whatever account the server is asked with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from sage.errors import SageError
from sage.middleware.auth.principal import Principal
from sage.middleware.dispatch.deployment import PublicModel
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.providers.base import ModelCall, Native
from sage.middleware.providers.wire.responses import WIRE
from sage.middleware.routers.openai.responses import reasoning, resource
from sage.middleware.routers.openai.responses.events import Keep
from sage.middleware.routers.openai.responses.request import ENCRYPTED, ResponsesRequest

_OF_THE_GATEWAY = frozenset({"previous_response_id", "background", "conversation", "memory", "models"})
_OWN_ITEMS = frozenset({"file_search_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response"})
"""What tools of the gateway have left behind; no server knows it."""
_FIELDS = ("id", "store", "background", "previous_response_id", "created_at", "metadata", "tools")
"""Fields of the response that are the gateway's to say."""


async def is_native(gateway: Gateway, principal: Principal, call: ModelCall) -> bool:
    """Whether a server that may answer ``call`` first has the route."""
    model = gateway.registry.get(call.model)
    if model is None:
        principal.require_model(call.model)
        with contextlib.suppress(SageError):  # which the call itself meets, and says
            model = await gateway.registry.resolve(call.model)
    return model is not None and has_route(model)


def has_route(model: PublicModel) -> bool:
    """Whether any of the servers of ``model`` has the route."""
    for each in model.deployments:  # noqa: SIM110 each request asks it, and a generator costs more
        if WIRE in each.provider.native_answers:
            return True
    return False


def is_captured(gateway: Gateway, principal: Principal) -> bool:
    """Whether the caller's team has its prompts and answers kept, which are read in the wire of chats."""
    return gateway.captures is not None and principal.tenant in gateway.captures.settings


def all_can(models: Sequence[PublicModel], *, translated: bool) -> bool:
    """Whether every server that may be asked takes a request that has no translation: it has the route, and is to be
    sent the request as it is, or may leave out what cannot be done."""
    deployments = [deployment for model in models for deployment in model.deployments]
    return all(
        each.target.drop_unsupported or (not translated and WIRE in each.provider.native_answers)
        for each in deployments
    )


def native_request(request: ResponsesRequest, earlier: Sequence[Any]) -> Native:
    """``request`` for such a server, after the ``earlier`` items."""
    body = {name: value for name, value in request.body.items() if name not in _OF_THE_GATEWAY}
    body["store"] = False
    if earlier or isinstance(body.get("input"), list):
        body["input"] = [each for item in (*earlier, *request.input) for each in _items(item)]
    include = [*request.include]
    if request.store and body.get("reasoning") and ENCRYPTED not in include:
        include.append(ENCRYPTED)  # else it could not go on from what it has thought
    if include:
        body["include"] = include
    return Native(WIRE, body)


def _items(item: Any) -> Iterator[Any]:
    """What a server is sent for one item."""
    if not isinstance(item, dict):
        yield item
        return
    kind = item.get("type")
    if kind == "reasoning":
        content = item.get("encrypted_content")
        if content and not reasoning.is_ours(content):
            yield item
    elif kind == "mcp_call":
        call = {
            "call_id": item["id"],
            "name": f"{item.get('server_label')}__{item.get('name')}",
            "arguments": item.get("arguments"),
        }
        yield {"type": "function_call", **call}
        output = item.get("output")
        yield {
            "type": "function_call_output",
            "call_id": item["id"],
            "output": output if isinstance(output, str) else str(item.get("error") or ""),
        }
    elif kind not in _OWN_ITEMS:
        yield {name: value for name, value in item.items() if name != "id"}  # where nothing is kept, it leads nowhere


def leave_out_thoughts(model: PublicModel | None, chat: dict[str, Any]) -> None:
    """Takes signed thoughts out of ``chat``, unless all that may answer read them: others refuse what they do not know.
    Their text stays."""
    if model is None or not all(each.provider.reads_marks for each in model.deployments):
        for message in chat["messages"]:
            message.pop("thinking_blocks", None)


class NativeEvents:
    """A server's own events under the gateway's id; the last one waits until the response is kept."""

    def __init__(self, response: dict[str, Any], keep: Keep | None) -> None:
        self._response = response
        self._keep = keep
        self._last: tuple[str, dict[str, Any]] | None = None
        self._number = 0

    def translate(self, events: bytes) -> bytes:
        """The complete ``events`` as the caller gets them."""
        return b"".join([self._event(event) for event in events.split(b"\n\n") if event])

    async def end(self) -> bytes:
        """The last event."""
        if self._last is None:
            return b""
        kind, event = self._last
        if self._keep is not None:
            await self._keep(event["response"])
        return _event(kind, event)

    def error_event(self, error: SageError) -> bytes:
        """The last event of a response that broke."""
        resource.failed(self._response, [], error)
        fields = {"sequence_number": self._number, "response": self._response}
        return _event("response.failed", {"type": "response.failed", **fields})

    def _event(self, event: bytes) -> bytes:
        self._number += 1
        if b'"response"' not in event:
            return event + b"\n\n"
        name, _, data = event.partition(b"\ndata: ")
        value = orjson.loads(data)
        if not isinstance(value.get("response"), dict):
            return event + b"\n\n"
        value["response"] = under_our_id(value["response"], self._response)
        kind = name.removeprefix(b"event: ").decode()
        if kind in ("response.completed", "response.incomplete"):
            self._last = kind, value
            return b""
        return _event(kind, value)


def under_our_id(answer: dict[str, Any], response: Mapping[str, Any]) -> dict[str, Any]:
    """A server's ``answer`` with what the gateway says of it."""
    return {**response, **answer, **{name: response[name] for name in _FIELDS}}


def _event(kind: str, event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(event))
