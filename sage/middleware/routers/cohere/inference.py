"""Cohere's surface: ``/v2/chat`` and ``/v2/embed``, for any model. ``/v2/rerank`` is in ``openai/rerank.py``.

A provider that speaks Cohere's wire format gets the caller's body unchanged; others get it in OpenAI's shape.
"""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import Field

from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.gateway import admission
from sage.middleware.gateway.gateway import Gateway, GatewayCall
from sage.middleware.providers.base import ModelCall, Native, Operation
from sage.middleware.routers.cohere import translation
from sage.middleware.routers.cohere.events import ChatEvents
from sage.middleware.routers.http.asgi import Receive, Scope, Send, note, read_json, take_flag, take_model
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.openapi_bodies import OpenBody
from sage.middleware.routers.http.respond import Events, respond

_KIND = "cohere"


class Chat:
    """The ASGI endpoint of ``/v2/chat``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = chat_call(await read_json(receive, scope))
        note(scope, model=call.model)
        await respond(self._gateway, call, scope, receive, send, _chat_answer, _chat_events)


def _chat_answer(answer: GatewayCall) -> bytes:
    return orjson.dumps(translation.chat_answer(orjson.loads(answer.body)))


def _chat_events(_answer: GatewayCall) -> Events:
    events = ChatEvents()
    return Events(events.translate, events.end, events.error_event)


def chat_call(body: dict[str, Any]) -> ModelCall:
    """The same question in OpenAI's shape."""
    model = take_model(body)
    fallbacks = admission.fallbacks(body)
    stream = take_flag(body, "stream")
    chat = translation.chat_body(body)
    call = ModelCall(Operation.CHAT, chat, model, stream=stream, wants_usage=True, fallbacks=fallbacks)
    call.native = Native(_KIND, body)
    if translation.disables_thinking(body):
        call.hints = {"reasoning_effort": "none"}
    return call


class Embed:
    """The ASGI endpoint of ``/v2/embed``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_json(receive, scope)
        model = take_model(body)
        fallbacks = admission.fallbacks(body)
        call = ModelCall(Operation.EMBEDDINGS, translation.embed_body(body), model, fallbacks=fallbacks)
        call.native = Native(_KIND, body)
        note(scope, model=model)

        def make_body(answer: GatewayCall) -> bytes:
            return orjson.dumps(translation.embed_answer(body, orjson.loads(answer.body)))

        await respond(self._gateway, call, scope, receive, send, make_body)


class CohereChatRequest(OpenBody):
    """Cohere's chat request. Fields that are not listed go on to the provider unchanged."""

    model: str = Field(examples=["command-a-03-2025"])
    messages: list[dict[str, Any]] = Field(examples=[[{"role": "user", "content": "What is the capital of France?"}]])
    stream: bool = False
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | None = Field(None, description="`REQUIRED` or `NONE`; left out, the model chooses.")
    strict_tools: bool | None = None
    documents: list[str | dict[str, Any]] | None = None
    citation_options: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    max_tokens: int | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    p: float | None = None
    k: int | None = None
    seed: int | None = None
    logprobs: bool | None = None
    models: list[str] | None = Field(None, description="Names of models that may answer instead, in this order.")


class CohereEmbedRequest(OpenBody):
    """Cohere's embed request: one of `texts`, `images` and `inputs`."""

    model: str = Field(examples=["embed-v4.0"])
    texts: list[str] | None = Field(None, examples=[["The sky is blue."]])
    images: list[str] | None = None
    inputs: list[dict[str, Any]] | None = None
    input_type: str | None = Field(
        None, description="What the vectors are for; models without such a difference ignore it."
    )
    embedding_types: list[str] | None = None
    output_dimension: int | None = None
    truncate: str | None = None
    models: list[str] | None = Field(None, description="Names of models that may answer instead, in this order.")


ROUTES = (
    HotRoute(
        path="/v2/chat",
        name="cohere_chat",
        scope=Permission.GENERATE,
        tag="Cohere",
        summary="Chat",
        request=CohereChatRequest,
        endpoint=Chat,
    ),
    HotRoute(
        path="/v2/embed",
        name="cohere_embed",
        scope=Permission.GENERATE,
        tag="Cohere",
        summary="Embeddings",
        request=CohereEmbedRequest,
        endpoint=Embed,
    ),
)
