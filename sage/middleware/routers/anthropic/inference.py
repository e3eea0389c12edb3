"""Anthropic's surface: ``/v1/messages``, for any model. ``/v1/messages/count_tokens`` is in ``token_count.py``.

A provider that speaks Anthropic's wire gets the caller's body unchanged, and its answer goes back as it is; others get
it in OpenAI's shape.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import orjson
from pydantic import BaseModel, Field

from sage.errors import Unsupported
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.gateway import admission
from sage.middleware.gateway.context.chat_memory import MemoryRequest
from sage.middleware.gateway.context.context import add_context
from sage.middleware.gateway.gateway import Gateway, GatewayCall
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.routers.anthropic import answer as answers
from sage.middleware.routers.anthropic.credentials import WithApiKey
from sage.middleware.routers.anthropic.errors import AnthropicErrorEnvelope, add_request_id
from sage.middleware.routers.anthropic.events import MessageEvents
from sage.middleware.routers.anthropic.request import ChatRequest, chat_request
from sage.middleware.routers.anthropic.targets import KIND, Targets, known_targets, native_request, targets_of
from sage.middleware.routers.http.asgi import (
    Receive,
    Scope,
    Send,
    caller,
    caller_of_request,
    take_flag,
    take_model,
)
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.json_endpoint import JsonEndpoint
from sage.middleware.routers.http.memory_turn import MakeBody, MakeEvents, in_context, read_memory
from sage.middleware.routers.http.openapi_bodies import OpenBody
from sage.middleware.routers.http.respond import Events, respond
from sage.middleware.usage.estimates import answer_tokens

_MOST_EFFORT = {"xhigh": "high", "max": "high"}
"""Efforts beyond what all models of OpenAI's that think have."""


class Messages(JsonEndpoint):
    """The ASGI endpoint of ``/v1/messages``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def _answer(self, body: dict[str, Any], scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        model, fallbacks = take_names(body, scope)
        targets = known_targets(self._gateway, model, fallbacks) if "memory" not in body else None
        if targets is None:
            return self._look_up(body, model, fallbacks, scope, receive, send)
        call = message_call(scope, body, model, fallbacks, targets)
        answer = _Answer(call, scope["state"])
        return respond(self._gateway, call, scope, receive, send, answer.body, answer.events)

    async def _look_up(
        self,
        body: dict[str, Any],
        model: str,
        fallbacks: tuple[str, ...],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answers where it has to be looked up which deployments may answer, or what is remembered."""
        memory = read_memory(body) if "memory" in body else None
        targets = await targets_of(self._gateway, caller(scope), model, fallbacks)
        if memory is not None:
            targets = targets._replace(native=False)  # the caller's own body has no memories
        call = message_call(scope, body, model, fallbacks, targets)
        del body
        answer = _Answer(call, scope["state"])
        make_body: MakeBody = answer.body
        make_events: MakeEvents = answer.events
        if memory is not None:
            context = await add_context(self._gateway, caller_of_request(scope), call, None, memory)
            make_body, make_events = in_context(context, make_body, make_events, inside="message")
        await respond(self._gateway, call, scope, receive, send, make_body, make_events)


def take_names(body: dict[str, Any], scope: Scope) -> tuple[str, tuple[str, ...]]:
    """The name of the model in ``body``, and those of the models that may answer instead."""
    model = take_model(body)
    scope["state"]["log"]["model"] = model
    return model, admission.fallbacks(body)


def in_chat_shape(body: dict[str, Any], model: str, targets: Targets, *, marks: bool, bounded: bool) -> ChatRequest:
    """The question in OpenAI's shape. Raises :class:`Unsupported` for what only Anthropic can do, where none of the
    deployments is there; ``marks`` and ``bounded`` are those of :func:`chat_request`."""
    request = chat_request(body, marks=marks, bounded=bounded)
    if request.foreign is not None and not targets.native:
        raise Unsupported(
            f"{request.foreign.where}: '{request.foreign.kind}' is something that only models at Anthropic can do, and "
            f"'{model}' is none of them; leave it out, or ask another model",
            param=request.foreign.where,
        )
    return request


def message_call(
    scope: Scope, body: dict[str, Any], model: str, fallbacks: tuple[str, ...], targets: Targets
) -> ModelCall:
    """The same question in OpenAI's shape, and as it came for who speaks its wire.

    Raises :class:`Unsupported` for what only Anthropic can do, where none of the deployments is there.
    """
    request = in_chat_shape(body, model, targets, marks=targets.marks, bounded=True)
    stream = take_flag(body, "stream")
    call = ModelCall(Operation.CHAT, request.body, model, stream=stream, wants_usage=True, fallbacks=fallbacks)
    if targets.native:
        call.native = native_request(scope, body)
    if request.effort is not None:
        call.hints = {"reasoning_effort": request.effort}
        if request.effort != "none" and "reasoning_effort" not in call.body and targets.read_effort:
            call.body["reasoning_effort"] = _MOST_EFFORT.get(request.effort, request.effort)
    return call


class _Answer:
    """How the answer to one call is written; ``state`` is that of its request."""

    __slots__ = ("_is_native", "_model", "_state", "_stops")

    def __init__(self, call: ModelCall, state: dict[str, Any]) -> None:
        self._model = call.model
        self._stops = call.body.get("stop") or ()
        self._is_native = call.native is not None
        self._state = state

    def body(self, answer: GatewayCall) -> bytes:
        made = answer.body if self._is_native and answer.answers_in(KIND) else self._message(answer)
        add_request_id(self._state)
        return made

    def _message(self, answer: GatewayCall) -> bytes:
        chat = orjson.loads(answer.body)
        estimated = (0, 0)
        if chat.get("usage") is None:
            estimated = (answer.prompt_estimate, answer_tokens(answer.body))
        return orjson.dumps(answers.message(chat, self._stops, estimated))

    def events(self, answer: GatewayCall) -> Events:
        add_request_id(self._state)
        request_id: bytes = self._state["request_id"]
        events = MessageEvents(self._model, self._stops, answer.prompt_estimate, request_id.decode(), answer.sender)
        if self._is_native and answer.answers_in(KIND):
            return Events(None, None, events.error_event)
        return Events(events.translate, events.end, events.error_event)


class MessagesRequest(OpenBody):
    """Anthropic's request for a message. Fields that are not listed go on to the provider unchanged."""

    model: str = Field(examples=["gemma-3-270m"])
    max_tokens: int = Field(examples=[100])
    messages: list[dict[str, Any]] = Field(examples=[[{"role": "user", "content": "What is the capital of France?"}]])
    system: str | list[dict[str, Any]] | None = None
    stream: bool = False
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    memory: MemoryRequest | None = Field(None, description="What the answer is to remember, as in `/generate`.")
    models: list[str] | None = Field(None, description="Names of models that may answer instead, in this order.")


class MessageUsage(BaseModel):
    """Tokens of one answer; those of the vendor's cache are not among `input_tokens`."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class MessageAnswer(BaseModel):
    """Anthropic's message."""

    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: list[dict[str, Any]]
    stop_reason: str
    stop_sequence: str | None
    usage: MessageUsage


ROUTES = (
    HotRoute(
        path="/v1/messages",
        name="anthropic_messages",
        scope=Permission.GENERATE,
        tag="Anthropic",
        summary="A message",
        request=MessagesRequest,
        answer=MessageAnswer,
        endpoint=Messages,
        errors=WithApiKey,
        error_model=AnthropicErrorEnvelope,
    ),
)
