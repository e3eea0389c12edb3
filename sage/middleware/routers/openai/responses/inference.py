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
from sage.middleware.gateway.context.chat_memory import MemoryRequest
from sage.middleware.gateway.context.context import add_context
from sage.middleware.gateway.gateway import Gateway, GatewayCall
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.routers.http.asgi import Receive, Scope, Send, caller, send_json, take_model
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.json_endpoint import JsonEndpoint
from sage.middleware.routers.http.memory_turn import in_context, read_memory
from sage.middleware.routers.http.openapi_bodies import OpenBody
from sage.middleware.routers.http.respond import AnswersCalls, Events, respond
from sage.middleware.routers.http.streaming import end_stream, send_events, start_stream
from sage.middleware.routers.openai.responses import approvals, background, native, resource
from sage.middleware.routers.openai.responses.answering import ResponseAnswering, ToolAnswering
from sage.middleware.routers.openai.responses.events import Keep
from sage.middleware.routers.openai.responses.plain import PlainRequest
from sage.middleware.routers.openai.responses.recall import keeper, recall
from sage.middleware.routers.openai.responses.request import ResponsesRequest
from sage.middleware.routers.openai.responses.server_tools import open_tools
from sage.middleware.routers.openai.responses.truncation import context_of, truncate

_CHAT = Operation.CHAT  # to look up a member of an enum costs a call on Python 3.11


class Responses(JsonEndpoint):
    """The ASGI endpoint of ``/v1/responses``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def _answer(self, body: dict[str, Any], scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        request = PlainRequest.read(body)
        public = self._gateway.registry.get(request.model) if request is not None else None
        if request is None or public is None or native.has_route(public):
            return self._look_at(body, scope, receive, send)
        state, model = scope["state"], request.model
        state["log"]["model"] = model
        keep = keeper(self._gateway, state["principal"], request) if request.store else None
        call = ModelCall(_CHAT, request.chat, model, stream=request.stream, wants_usage=True)
        answering = ResponseAnswering(request, request.response(resource.response_id()), keep, False)
        return respond(self._gateway, call, scope, receive, send, answering.whole, answering.events)

    async def _look_at(self, body: dict[str, Any], scope: Scope, receive: Receive, send: Send) -> None:
        """Answers any request, also one that needs more than a chat."""
        memory = read_memory(body) if "memory" in body else None
        model = take_model(body)
        fallbacks = admission.fallbacks(body)
        state = scope["state"]
        state["log"]["model"] = model
        request, principal = ResponsesRequest(body), state["principal"]
        keep = keeper(self._gateway, principal, request) if request.store else None
        earlier: list[dict[str, Any]] = []
        if request.previous_id is not None or request.references:
            earlier = await recall(self._gateway, principal, request)
        chat = request.translate(earlier)
        chat["model"] = model
        if request.stream:
            chat["stream"] = True
        call = ModelCall(Operation.CHAT, chat, model, stream=request.stream, wants_usage=True, fallbacks=fallbacks)
        response = resource.new_response(body, resource.response_id())
        asked: AnswersCalls = self._gateway
        if request.tools.own or request.approved:
            asked, answering = await self._with_tools(principal, request, response, keep, earlier)
        else:
            if request.refuses and request.only_native is not None:
                raise request.only_native
            public = self._gateway.registry.get(model)
            is_open = public is None or request.only_native is not None or native.has_route(public)
            if is_open and memory is None and not request.refuses:  # the caller's own body has no memories
                await self._choose_wire(principal, call, request, earlier)
            answering = ResponseAnswering(request, response, keep, call.native is not None)
        if request.has_thoughts or request.truncates:
            self._fit(request, call)
        if memory is not None or request.approved:
            await self._recall(principal, call, answering, memory)
        if request.background:
            await self._in_background(scope, receive, send, asked, call, answering, memory)
        else:
            await respond(asked, call, scope, receive, send, *answering.within())

    def _fit(self, request: ResponsesRequest, call: ModelCall) -> None:
        """Leaves out of the chat what its model does not read, and what is too much for it."""
        public = self._gateway.registry.get(call.model)
        if request.has_thoughts:
            native.leave_out_thoughts(public, call.body)
        if request.truncates and public is not None and (context := context_of(public)) is not None:
            truncate(call.body, context)

    async def _recall(
        self, principal: Principal, call: ModelCall, answering: ResponseAnswering, memory: MemoryRequest | None
    ) -> None:
        """Puts what earlier conversations hold before the model, and uses the approvals of the request; for one in the
        background its job does."""
        request = answering.request
        if memory is not None and request.only_native is not None:
            raise request.only_native
        if request.background and not principal.in_job:
            return
        if memory is not None:
            answering.context = await add_context(self._gateway, principal, call, None, memory)
        if request.approved:
            await self._gateway.admit(principal, call)  # what is wrong uses up no approval
            await approvals.use(self._gateway.responses, principal.tenant, request.approved)

    async def _in_background(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        asked: AnswersCalls,
        call: ModelCall,
        answering: ResponseAnswering,
        memory: MemoryRequest | None,
    ) -> None:
        """Accepts a response that is made later; in its job, makes it."""
        principal, request = scope["state"]["principal"], answering.request
        if principal.in_job:
            await self._run(scope, receive, send, asked, call, answering)
            return
        await self._gateway.admit(principal, call)  # what is wrong is said at once
        if memory is not None:
            principal.require(Permission.MEMORY)
            request.body["memory"] = memory.model_dump(exclude_unset=True)  # its job recalls and stores
        await background.accept(self._gateway, principal, request, answering.response, call.fallbacks)
        await self._accepted(scope, send, request, answering.response)

    async def _with_tools(
        self,
        principal: Principal,
        request: ResponsesRequest,
        response: dict[str, Any],
        keep: Keep | None,
        earlier: list[dict[str, Any]],
    ) -> tuple[AnswersCalls, ResponseAnswering]:
        """What is asked where tools of the gateway may run, and how it answers."""
        if request.only_native is not None:
            raise request.only_native
        tools = await open_tools(self._gateway, principal, request)
        lists = tools.lists(request, earlier, response["id"])
        return tools.answering, ToolAnswering(request, response, keep, tools, lists)

    async def _run(
        self, scope: Scope, receive: Receive, send: Send, asked: AnswersCalls, call: ModelCall, made: ResponseAnswering
    ) -> None:
        """Makes a response in the background, while the worker of its job waits."""
        run = await background.BackgroundRun.begin(self._gateway, caller(scope), made.response, made.request.body)
        made.keep, call.stream, call.body["stream"] = run.keep, True, True

        def events(answer: GatewayCall) -> Events:
            return run.recorded(made.written(answer))

        make_events = events if made.context is None else in_context(made.context, None, events, inside="response")[1]
        await respond(asked, call, scope, receive, send, None, make_events)

    async def _accepted(self, scope: Scope, send: Send, request: ResponsesRequest, response: dict[str, Any]) -> None:
        """Answers with a response that is made later, or with its events as they come."""
        if not request.stream:
            await send_json(send, orjson.dumps(response), [])
            return
        await start_stream(send, [])
        tenant = caller(scope).tenant
        async for event in background.follow(self._gateway.responses, tenant, response["id"], -1):
            await send_events(send, event)
        await end_stream(send)

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
    memory: MemoryRequest | None = Field(
        None, description="Recall what earlier conversations hold, and store this turn once it is answered."
    )
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
