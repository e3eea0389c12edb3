"""OpenAI's ``POST /v1/responses``, for any model: passed on as it is where the model's server has that route, and
translated to a chat where it has not."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import Field

from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.gateway import admission
from sage.middleware.gateway.gateway import Gateway, GatewayCall
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.routers.http.asgi import Receive, Scope, Send, note, read_json, take_model
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.openapi_bodies import OpenBody
from sage.middleware.routers.http.respond import Events, respond
from sage.middleware.routers.openai.responses import answer, resource
from sage.middleware.routers.openai.responses.events import ChatStreamEvents, EventWriter
from sage.middleware.routers.openai.responses.request import ResponsesRequest


class Responses:
    """The ASGI endpoint of ``/v1/responses``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_json(receive, scope)
        model = take_model(body)
        fallbacks = admission.fallbacks(body)
        note(scope, model=model)
        request = ResponsesRequest(body)
        chat = request.translate()
        if request.only_native is not None:
            raise request.only_native
        chat["model"] = model
        call = ModelCall(Operation.CHAT, chat, model, stream=request.stream, wants_usage=True, fallbacks=fallbacks)
        response = resource.new_response(body, resource.response_id())

        def make_body(done: GatewayCall) -> bytes:
            return orjson.dumps(answer.complete(request, response, orjson.loads(done.body)))

        def make_events(_done: GatewayCall) -> Events:
            events = ChatStreamEvents(request, EventWriter(response))
            return Events(events.translate, events.end, events.error_event)

        await respond(self._gateway, call, scope, receive, send, make_body, make_events)


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
