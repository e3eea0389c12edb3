"""Inference in Ollama's wire format: ``/api/chat``, ``/api/generate``, ``/api/embed`` and ``/api/embeddings``.

It works for every model of the gateway, as on every other surface. Errors are ``{"error": "…"}``, with the other fields
of our envelope beside it.

Source: Ollama's API reference (docs/api.md).
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import orjson
from pydantic import BaseModel, Field

from sage.errors import Conflict, SageError
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.gateway import admission
from sage.middleware.gateway.gateway import Gateway, GatewayCall
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.routers.http.asgi import (
    ASGIApp,
    Receive,
    Scope,
    Send,
    caller,
    error_facts,
    error_headers,
    note,
    read_json,
    send_json,
    take_flag,
    take_model,
)
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.openapi_bodies import NDJSON, OpenBody
from sage.middleware.routers.http.respond import Events, respond
from sage.middleware.routers.http.streaming import end_stream, send_events, start_stream
from sage.middleware.routers.ollama import translation

_LATEST = ":latest"
_OPTIONS = "Those that load a model (`num_ctx`, `num_gpu`…) are for models at an Ollama server, and ignored by others."


def error_body(error: SageError) -> bytes:
    """An error as Ollama's clients read it, with the other fields of our envelope beside it."""
    detail = error.envelope()["error"]
    return orjson.dumps({"error": detail.pop("message"), **detail})


def error_line(error: SageError) -> bytes:
    """An error as the last line of a stream."""
    return error_body(error) + b"\n"


class OllamaErrors:
    """An endpoint whose errors are sent in Ollama's shape."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_on(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except SageError as error:
            if started:
                raise
            note(scope, **error_facts(error))
            body = error_body(error)
            await send(
                {"type": "http.response.start", "status": error.status, "headers": error_headers(error, len(body))}
            )
            await send({"type": "http.response.body", "body": body})


class OllamaGeneration:
    """``/api/chat`` or ``/api/generate``: a stream unless ``stream`` is false."""

    def __init__(self, gateway: Gateway, *, chat: bool) -> None:
        self._gateway = gateway
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = await read_json(receive, scope)
        model = registered_name(self._gateway, take_model(request))
        note(scope, model=model)
        stream = request.get("stream") is None or take_flag(request, "stream")
        if self._is_empty(request):
            await self._load_or_unload(scope, send, model, request.get("keep_alive"), stream)
            return
        call = self._call(request, model, stream)
        answer = translation.OllamaAnswer(call, chat=self._chat)
        await respond(
            self._gateway,
            call,
            scope,
            receive,
            send,
            lambda upstream: answer.body(upstream.body),
            lambda _: Events(answer.translate, answer.end, error_line, NDJSON.encode()),
        )

    def _call(self, request: dict[str, Any], model: str, stream: bool) -> ModelCall:
        fallbacks = admission.fallbacks(request)
        if self._chat:
            operation, body = Operation.CHAT, translation.chat_body(request)
        else:
            operation, body = translation.generate_body(request)
        body["model"] = model
        if stream:
            body["stream"] = True
        return ModelCall(
            operation,
            body,
            model,
            stream=stream,
            wants_usage=True,
            fallbacks=fallbacks,
            hints=translation.hints(request),
        )

    def _is_empty(self, request: dict[str, Any]) -> bool:
        """Whether there is no question. Ollama then loads the model, or unloads it."""
        if self._chat:
            return request.get("messages") in (None, [])
        return not any(request.get(field) for field in ("prompt", "suffix", "images"))

    async def _load_or_unload(self, scope: Scope, send: Send, model: str, keep_alive: Any, stream: bool) -> None:
        principal, registry = caller(scope), self._gateway.registry
        principal.require(Permission.MODELS_WRITE)
        principal.require_model(model)
        unload = translation.wants_unload(keep_alive)
        try:
            await (registry.unload(model) if unload else registry.load(model))
        except Conflict as error:
            if unload or error.code != "not_managed":
                raise
            # A model that runs elsewhere needs no loading.
        empty: dict[str, Any] = {"message": {"role": "assistant", "content": ""}} if self._chat else {"response": ""}
        line = {"model": model, "created_at": translation.now(), **empty, "done": True}
        body = orjson.dumps({**line, "done_reason": "unload" if unload else "load"})
        if not stream:
            await send_json(send, body, [])
            return
        await start_stream(send, [], NDJSON.encode())
        await send_events(send, body + b"\n")
        await end_stream(send)


class OllamaEmbedding:
    """``/api/embed``, or ``/api/embeddings``, its older form for one text."""

    def __init__(self, gateway: Gateway, *, one: bool) -> None:
        self._gateway = gateway
        self._one = one

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter_ns()
        request = await read_json(receive, scope)
        model = registered_name(self._gateway, take_model(request))
        fallbacks = admission.fallbacks(request)
        body = {**translation.embed_body(request, "prompt" if self._one else "input"), "model": model}
        call = ModelCall(Operation.EMBEDDINGS, body, model, fallbacks=fallbacks, hints=translation.hints(request))
        note(scope, model=model)

        def make_body(answer: GatewayCall) -> bytes:
            embedded = translation.embedding_answer(model, answer.body, started)
            return orjson.dumps({"embedding": embedded["embeddings"][0]} if self._one else embedded)

        await respond(self._gateway, call, scope, receive, send, make_body)


def registered_name(gateway: Gateway, name: str) -> str:
    """``name``, without the tag ``latest`` that clients add if only the name without it is registered."""
    untagged = name.removesuffix(_LATEST)
    return untagged if gateway.registry.get(name) is None and gateway.registry.get(untagged) is not None else name


class OllamaError(BaseModel):
    """Every error of Ollama's routes."""

    error: str
    type: str
    param: str | None
    code: str


class OllamaChatRequest(OpenBody):
    """Ollama's chat, for any model."""

    model: str = Field(examples=["gemma-3-270m"])
    messages: list[dict[str, Any]] = Field(examples=[[{"role": "user", "content": "What is the capital of France?"}]])
    tools: list[dict[str, Any]] | None = None
    format: str | dict[str, Any] | None = Field(None, description="`json`, or a JSON schema.")
    options: dict[str, Any] | None = Field(None, description=_OPTIONS)
    think: bool | str | None = None
    stream: bool = True
    logprobs: bool | None = None
    top_logprobs: int | None = None
    keep_alive: float | str | None = Field(None, description="Ignored: the gateway's configuration decides.")


class OllamaGenerateRequest(OpenBody):
    """Ollama's answer to one prompt; with `raw` or a `suffix`, the continuation of a text."""

    model: str = Field(examples=["gemma-3-270m"])
    prompt: str = Field("", examples=["What is the capital of France?"])
    suffix: str | None = None
    system: str | None = None
    images: list[str] | None = None
    raw: bool | None = None
    format: str | dict[str, Any] | None = Field(None, description="`json`, or a JSON schema.")
    options: dict[str, Any] | None = Field(None, description=_OPTIONS)
    think: bool | str | None = None
    stream: bool = True


class OllamaEmbedRequest(OpenBody):
    """Ollama's embeddings."""

    model: str = Field(examples=["all-minilm"])
    input: str | list[str] = Field(examples=["The sky is blue."])
    truncate: bool | None = None
    dimensions: int | None = None


class OllamaEmbeddingsRequest(OpenBody):
    """Ollama's older form of embeddings, for one text."""

    model: str = Field(examples=["all-minilm"])
    prompt: str = Field(examples=["The sky is blue."])


_hot_route = partial(
    HotRoute,
    scope=Permission.GENERATE,
    tag="Ollama",
    stream_media=NDJSON,
    errors=OllamaErrors,
    error_model=OllamaError,
)
ROUTES = (
    _hot_route(
        path="/api/chat",
        name="ollama_chat",
        summary="Chat",
        request=OllamaChatRequest,
        endpoint=partial(OllamaGeneration, chat=True),
    ),
    _hot_route(
        path="/api/generate",
        name="ollama_generate",
        summary="A prompt in, a text out",
        request=OllamaGenerateRequest,
        endpoint=partial(OllamaGeneration, chat=False),
    ),
    _hot_route(
        path="/api/embed",
        name="ollama_embed",
        summary="Embeddings",
        request=OllamaEmbedRequest,
        endpoint=partial(OllamaEmbedding, one=False),
    ),
    _hot_route(
        path="/api/embeddings",
        name="ollama_embeddings",
        summary="Embedding of one text",
        request=OllamaEmbeddingsRequest,
        endpoint=partial(OllamaEmbedding, one=True),
    ),
)
