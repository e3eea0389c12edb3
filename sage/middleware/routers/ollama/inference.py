"""What generates in Ollama's wire: ``/api/chat``, ``/api/generate``, ``/api/embed`` and ``/api/embeddings``.

They go the same way as every other surface, for every model of the gateway. Errors are ``{"error": "…"}`` with the
rest of our envelope beside it.

Source: Ollama's API reference (docs/api.md).
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

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
    error_headers,
    note,
    read_json,
    send_json,
    take_flag,
    take_model,
)
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.openapi_bodies import NDJSON
from sage.middleware.routers.http.respond import Events, respond
from sage.middleware.routers.http.streaming import end_stream, send_events, start_stream
from sage.middleware.routers.ollama import translation as wire

_LATEST = ":latest"


def error_body(error: SageError) -> bytes:
    """An error as Ollama's clients read it, with the rest of our envelope beside it."""
    detail = error.envelope()["error"]
    return orjson.dumps({"error": detail.pop("message"), **detail})


def broken(error: SageError) -> bytes:
    return error_body(error) + b"\n"


class OllamaErrors:
    """An endpoint whose errors are told in Ollama's shape."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def answer(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except SageError as error:
            if begun:
                raise
            note(scope, error=error.code)
            body = error_body(error)
            await send(
                {"type": "http.response.start", "status": error.status, "headers": error_headers(error, len(body))}
            )
            await send({"type": "http.response.body", "body": body})


class _Generating:
    """``/api/chat`` or ``/api/generate``: a stream unless ``stream`` is false."""

    def __init__(self, gateway: Gateway, *, chat: bool) -> None:
        self._gateway = gateway
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = await read_json(receive)
        model = known_name(self._gateway, take_model(asked))
        note(scope, model=model)
        streams = asked.get("stream") is None or take_flag(asked, "stream")
        if self._asks_nothing(asked):
            await self._keep(scope, send, model, asked.get("keep_alive"), streams)
            return
        call = self._call(asked, model, streams)
        reply = wire.Reply(call, chat=self._chat)

        def events() -> Events:
            return Events(reply.translate, reply.end, broken, NDJSON.encode())

        await respond(self._gateway, call, scope, receive, send, lambda answer: reply.whole(answer.body), events)

    def _call(self, asked: dict[str, Any], model: str, streams: bool) -> ModelCall:
        others = admission.fallbacks(asked)
        operation, body = (Operation.CHAT, wire.chat_body(asked)) if self._chat else wire.generate_body(asked)
        body["model"] = model
        if streams:
            body["stream"] = True
        return ModelCall(operation, body, model, stream=streams, wants_usage=True, fallbacks=others)

    def _asks_nothing(self, asked: dict[str, Any]) -> bool:
        """Ollama takes a request without a question for one to load the model, or to unload it."""
        if self._chat:
            return asked.get("messages") in (None, [])
        return not any(asked.get(field) for field in ("prompt", "suffix", "images"))

    async def _keep(self, scope: Scope, send: Send, model: str, keep_alive: Any, streams: bool) -> None:
        principal, registry = caller(scope), self._gateway.registry
        principal.require(Permission.MODELS_WRITE)
        principal.require_model(model)
        unload = wire.wants_unload(keep_alive)
        try:
            await (registry.unload(model) if unload else registry.load(model))
        except Conflict as error:
            if unload or error.code != "not_managed":
                raise
            # A model that runs elsewhere is always there.
        said: dict[str, Any] = {"message": {"role": "assistant", "content": ""}} if self._chat else {"response": ""}
        line = {"model": model, "created_at": wire.now(), **said, "done": True}
        body = orjson.dumps({**line, "done_reason": "unload" if unload else "load"})
        if not streams:
            await send_json(send, body, [])
            return
        await start_stream(send, [], NDJSON.encode())
        await send_events(send, body + b"\n")
        await end_stream(send)


class _Embedding:
    """``/api/embed``, or ``/api/embeddings``, its older form for one text."""

    def __init__(self, gateway: Gateway, *, one: bool) -> None:
        self._gateway = gateway
        self._one = one

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter_ns()
        asked = await read_json(receive)
        model = known_name(self._gateway, take_model(asked))
        others = admission.fallbacks(asked)
        body = {**wire.embed_body(asked, "prompt" if self._one else "input"), "model": model}
        call = ModelCall(Operation.EMBEDDINGS, body, model, fallbacks=others)
        note(scope, model=model)

        def whole(answer: GatewayCall) -> bytes:
            made = wire.embedding_answer(model, answer.body, begun)
            return orjson.dumps({"embedding": made["embeddings"][0]} if self._one else made)

        await respond(self._gateway, call, scope, receive, send, whole)


def known_name(gateway: Gateway, name: str) -> str:
    """``name`` without the tag ``latest``, which clients add, where it is known without it alone."""
    bare = name.removesuffix(_LATEST)
    return bare if gateway.registry.get(name) is None and gateway.registry.get(bare) is not None else name


class OllamaError(BaseModel):
    """Every error of Ollama's routes."""

    error: str
    type: str
    param: str | None
    code: str


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class OllamaChatRequest(_Open):
    """Ollama's chat, for any model. What `options` hold beside the usual is for models at an Ollama server."""

    model: str = Field(examples=["gemma-3-270m"])
    messages: list[dict[str, Any]] = Field(examples=[[{"role": "user", "content": "What is the capital of France?"}]])
    tools: list[dict[str, Any]] | None = None
    format: str | dict[str, Any] | None = Field(None, description="`json`, or a JSON schema.")
    options: dict[str, Any] | None = None
    think: bool | str | None = None
    stream: bool = True
    logprobs: bool | None = None
    top_logprobs: int | None = None
    keep_alive: float | str | None = Field(None, description="Passed over: the gateway's configuration decides.")


class OllamaGenerateRequest(_Open):
    """Ollama's answer to one prompt; with `raw` or a `suffix`, a text that goes on."""

    model: str = Field(examples=["gemma-3-270m"])
    prompt: str = Field("", examples=["What is the capital of France?"])
    suffix: str | None = None
    system: str | None = None
    images: list[str] | None = None
    raw: bool | None = None
    format: str | dict[str, Any] | None = Field(None, description="`json`, or a JSON schema.")
    options: dict[str, Any] | None = None
    think: bool | str | None = None
    stream: bool = True


class OllamaEmbedRequest(_Open):
    """Ollama's embeddings."""

    model: str = Field(examples=["all-minilm"])
    input: str | list[str] = Field(examples=["The sky is blue."])
    truncate: bool | None = None
    dimensions: int | None = None


class OllamaEmbeddingsRequest(_Open):
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
        endpoint=partial(_Generating, chat=True),
    ),
    _hot_route(
        path="/api/generate",
        name="ollama_generate",
        summary="A prompt in, a text out",
        request=OllamaGenerateRequest,
        endpoint=partial(_Generating, chat=False),
    ),
    _hot_route(
        path="/api/embed",
        name="ollama_embed",
        summary="Embeddings",
        request=OllamaEmbedRequest,
        endpoint=partial(_Embedding, one=False),
    ),
    _hot_route(
        path="/api/embeddings",
        name="ollama_embeddings",
        summary="Embedding of one text",
        request=OllamaEmbeddingsRequest,
        endpoint=partial(_Embedding, one=True),
    ),
)
