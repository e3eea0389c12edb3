"""OpenAI's surface: ``/v1/chat/completions``, ``/v1/completions`` and ``/v1/embeddings``.

They are plain ASGI on the gateway's hottest path: bytes in, the few fields that decide, bytes out.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Any

from pydantic import Field

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.gateway import admission
from sage.middleware.gateway.collections.requests import SourcesRequest, parse
from sage.middleware.gateway.context.chat_memory import MemoryRequest
from sage.middleware.gateway.context.context import add_context
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.tools.mcp_request import take_mcp, with_mcp
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.routers.http.asgi import (
    Receive,
    Scope,
    Send,
    caller,
    caller_of_request,
    note,
    take_flag,
    take_model,
)
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.json_endpoint import JsonEndpoint
from sage.middleware.routers.http.memory_turn import in_context, read_memory
from sage.middleware.routers.http.openapi_bodies import OpenBody
from sage.middleware.routers.http.respond import respond

_CHAT = Operation.CHAT  # to look up a member of an enum costs a call on Python 3.11
_OURS = frozenset({"search", "memory", "mcp"})
"""Fields of a chat that no provider sees."""


class Inference(JsonEndpoint):
    """The ASGI endpoint of one operation. All fields of the body go on to the provider unchanged, also unknown ones."""

    def __init__(self, gateway: Gateway, operation: Operation) -> None:
        self._gateway = gateway
        self._operation = operation
        self._streams = operation in (Operation.CHAT, Operation.COMPLETIONS)

    def _answer(self, body: dict[str, Any], scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if not _OURS.isdisjoint(body) and self._operation is _CHAT:
            return self._in_context(body, scope, receive, send)
        call = self._parse(body)
        scope["state"]["log"]["model"] = call.model
        return respond(self._gateway, call, scope, receive, send)

    async def _in_context(self, body: dict[str, Any], scope: Scope, receive: Receive, send: Send) -> None:
        """A chat before whose model sources or memories are put, or in which the gateway runs tools."""
        memory, given, mcp = read_memory(body), body.pop("search", None), take_mcp(body)
        search = None if given is None else parse(SourcesRequest, given, "search")
        call = self._parse(body)
        scope["state"]["log"]["model"] = call.model
        gateway = self._gateway if mcp is None else await with_mcp(self._gateway, caller(scope), mcp)
        if search is None and memory is None:
            await respond(gateway, call, scope, receive, send)
            return
        if search is not None:
            note(scope, collection=search.collection)
        context = await add_context(self._gateway, caller_of_request(scope), call, search, memory)
        await respond(gateway, call, scope, receive, send, *in_context(context))

    def _parse(self, body: dict[str, Any]) -> ModelCall:
        model = take_model(body)
        fallbacks = admission.fallbacks(body)
        if "stream" not in body or not self._streams or not take_flag(body, "stream"):
            return ModelCall(self._operation, body, model, fallbacks=fallbacks)
        options = body.get("stream_options")
        if options is not None and not isinstance(options, dict):
            raise InvalidRequest("'stream_options' must be an object", param="stream_options")
        wants_usage = bool(options and take_flag(options, "include_usage"))
        return ModelCall(self._operation, body, model, stream=True, wants_usage=wants_usage, fallbacks=fallbacks)


class ChatCompletionRequest(OpenBody):
    """OpenAI's chat request. Fields that are not listed go on to the provider unchanged."""

    model: str = Field(examples=["gemma-3-270m"])
    messages: list[dict[str, Any]] = Field(examples=[[{"role": "user", "content": "What is the capital of France?"}]])
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None
    models: list[str] | None = Field(None, description="Names of models that may answer instead, in this order.")
    search: SourcesRequest | None = Field(
        None,
        description="Answer from sources: documents that this search finds are put before the model, and come back as "
        "`sources`, in a stream with its first chunk.",
    )
    memory: MemoryRequest | None = Field(
        None,
        description="Recall what earlier conversations hold, and store this turn once it is answered. What was "
        "recalled comes back as `memories`, in a stream with its first chunk.",
    )
    mcp: list[str | dict[str, Any]] | None = Field(
        None,
        description="MCP servers of the configuration whose tools the gateway runs in this answer: names, or "
        '`{"server": …, "tools": […]}`. What was run comes back as `tool_runs`.',
        examples=[["docs"]],
    )


class CompletionRequest(OpenBody):
    """OpenAI's completion request: raw text, no chat template."""

    model: str = Field(examples=["gemma-3-270m"])
    prompt: str | list[str] | list[int] | list[list[int]] = Field(examples=["Question: What is 1+1?\nAnswer:"])
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    models: list[str] | None = Field(None, description="Names of models that may answer instead, in this order.")


class EmbeddingRequest(OpenBody):
    """OpenAI's embeddings request."""

    model: str = Field(examples=["text-embedding-3-small"])
    input: str | list[str] | list[int] | list[list[int]] = Field(examples=["The sky is blue."])
    encoding_format: str | None = None
    dimensions: int | None = None


_hot_route = partial(HotRoute, scope=Permission.GENERATE, tag="OpenAI")
ROUTES = (
    _hot_route(
        path="/v1/chat/completions",
        name="chat_completions",
        summary="Chat completion",
        request=ChatCompletionRequest,
        endpoint=partial(Inference, operation=Operation.CHAT),
    ),
    _hot_route(
        path="/v1/completions",
        name="completions",
        summary="Text completion",
        request=CompletionRequest,
        endpoint=partial(Inference, operation=Operation.COMPLETIONS),
    ),
    _hot_route(
        path="/v1/embeddings",
        name="embeddings",
        summary="Embeddings",
        request=EmbeddingRequest,
        endpoint=partial(Inference, operation=Operation.EMBEDDINGS),
    ),
)
