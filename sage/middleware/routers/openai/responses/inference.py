"""OpenAI's ``POST /v1/responses``, for any model: passed on as it is where the model's server has that route, and
translated to a chat where it has not."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import orjson
from pydantic import Field

from sage.middleware.auth.principal import Principal
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.gateway import admission
from sage.middleware.gateway.gateway import Gateway, GatewayCall
from sage.middleware.gateway.tools.loop import ToolLoop
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.providers.wire.responses import WIRE
from sage.middleware.routers.http.asgi import Receive, Scope, Send, caller, note, read_json, take_model
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.openapi_bodies import OpenBody
from sage.middleware.routers.http.respond import Events, respond
from sage.middleware.routers.openai.responses import native, resource
from sage.middleware.routers.openai.responses.answer import complete, complete_steps
from sage.middleware.routers.openai.responses.events import ChatStreamEvents, Keep
from sage.middleware.routers.openai.responses.recall import keeper, recall
from sage.middleware.routers.openai.responses.request import ResponsesRequest
from sage.middleware.routers.openai.responses.server_tools import ServerTools, open_tools
from sage.middleware.routers.openai.responses.writer import EventWriter


class Responses:
    """The ASGI endpoint of ``/v1/responses``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_json(receive, scope)
        model = take_model(body)
        fallbacks = admission.fallbacks(body)
        note(scope, model=model)
        request, principal = ResponsesRequest(body), caller(scope)
        keep = keeper(self._gateway, principal, request) if request.store else None
        earlier: list[dict[str, Any]] = []
        if request.previous_id is not None or request.references:
            earlier = await recall(self._gateway, principal, request)
        chat = request.translate(earlier)
        chat["model"] = model
        call = ModelCall(Operation.CHAT, chat, model, stream=request.stream, wants_usage=True, fallbacks=fallbacks)
        response = resource.new_response(body, resource.response_id())
        if request.tools.own:
            if request.only_native is not None:
                raise request.only_native
            tools = await open_tools(self._gateway, principal, request)
            running = ToolAnswering(request, response, keep, tools, tools.lists(request, earlier, response["id"]))
            await respond(tools.answering, call, scope, receive, send, running.whole, running.events)
            return
        await self._choose_wire(principal, call, request, earlier)
        answering = ResponseAnswering(request, response, keep, call.native is not None)
        await respond(self._gateway, call, scope, receive, send, answering.whole, answering.events)

    async def _choose_wire(
        self, principal: Principal, call: ModelCall, request: ResponsesRequest, earlier: list[dict[str, Any]]
    ) -> None:
        """Has the request go on as it is to servers that have the route. Raises :class:`sage.errors.Unsupported` for
        one that has no translation where another server may be asked."""
        gateway = self._gateway
        if await native.is_native(gateway, principal, call) and not native.is_captured(gateway, principal):
            call.native = native.native_request(request, earlier)
        if request.only_native is not None:
            models = await gateway.admit(principal, call)
            if not native.all_can(models, translated=call.native is None):
                raise request.only_native


class ResponseAnswering:
    """How one response is answered."""

    def __init__(
        self, request: ResponsesRequest, response: dict[str, Any], keep: Keep | None, has_native: bool
    ) -> None:
        """``has_native`` says whether the answer may be a server's own response."""
        self._request = request
        self._response = response
        self._keep = keep
        self._has_native = has_native

    def whole(self, answer: GatewayCall) -> bytes | Awaitable[bytes]:
        """The body of an answer without a stream."""
        parsed = orjson.loads(answer.body)
        if self._has_native and answer.answers_in(WIRE):
            response = native.under_our_id(parsed, self._response)
        else:
            response = complete(self._request, self._response, parsed)
        return orjson.dumps(response) if self._keep is None else self._kept(self._keep, response)

    async def _kept(self, keep: Keep, response: dict[str, Any]) -> bytes:
        await keep(response)
        return orjson.dumps(response)

    def events(self, answer: GatewayCall) -> Events:
        """The events of a stream."""
        events: native.NativeEvents | ChatStreamEvents
        if self._has_native and answer.answers_in(WIRE):
            events = native.NativeEvents(self._response, self._keep)
        else:
            events = ChatStreamEvents(self._request, EventWriter(self._response), self._keep)
        return Events(events.translate, events.end, events.error_event)


class ToolAnswering(ResponseAnswering):
    """How a response is answered in which tools of the gateway may run."""

    def __init__(
        self,
        request: ResponsesRequest,
        response: dict[str, Any],
        keep: Keep | None,
        tools: ServerTools,
        lists: list[dict[str, Any]],
    ) -> None:
        super().__init__(request, response, keep, False)
        self._tools = tools
        self._lists = lists

    def whole(self, answer: GatewayCall) -> bytes | Awaitable[bytes]:
        assert isinstance(answer, ToolLoop)
        chat = orjson.loads(answer.body)
        response = complete_steps(self._request, self._response, chat, answer.steps, self._tools, self._lists)
        return orjson.dumps(response) if self._keep is None else self._kept(self._keep, response)

    def events(self, answer: GatewayCall) -> Events:
        assert isinstance(answer, ToolLoop)
        found = None if self._tools.search is None else self._tools.search.results
        writer = EventWriter(self._response)
        events = ChatStreamEvents(self._request, writer, self._keep, found, answer.run, self._lists)
        return Events(events.translate, events.end, events.error_event)


class CreateResponse(OpenBody):
    """OpenAI's request for a response. Fields that are not listed go on to the model's server unchanged."""

    model: str = Field(examples=["gemma-3-270m"])
    input: str | list[dict[str, Any]] | None = Field(None, examples=["What is the capital of France?"])
    instructions: str | None = None
    stream: bool = False
    store: bool | None = Field(None, description="Whether the response is kept for later; it is unless this is false.")
    previous_response_id: str | None = None
    background: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    truncation: str | None = None
    metadata: dict[str, str] | None = None
    models: list[str] | None = Field(None, description="Names of models that may answer instead, in this order.")


ROUTES = (
    HotRoute(
        path="/v1/responses",
        name="responses_create",
        scope=Permission.GENERATE,
        tag="OpenAI",
        summary="Response",
        request=CreateResponse,
        endpoint=Responses,
    ),
)
