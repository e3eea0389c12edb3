"""``/v1/messages/count_tokens``: by the vendor, by the model's own tokenizer, or else estimated.

The header ``x-sage-token-count`` says which: ``exact`` is the vendor's count, or that of the model's tokenizer over the
whole prompt; ``texts`` is that of the tokenizer over the texts, with an estimate of what stands between them;
``estimate`` asks no tokenizer.
"""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import BaseModel, Field

from sage.errors import InvalidRequest, Unsupported
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.gateway.gateway import Gateway, GatewayCall
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.providers.wire.messages import reasoning_of, text_of
from sage.middleware.routers.anthropic.credentials import WithApiKey
from sage.middleware.routers.anthropic.errors import AnthropicErrorEnvelope, add_request_id
from sage.middleware.routers.anthropic.inference import in_chat_shape, take_names
from sage.middleware.routers.anthropic.targets import Targets, native_request, targets_of
from sage.middleware.routers.http.asgi import Receive, Scope, Send, caller, read_json, send_json
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.openapi_bodies import OpenBody
from sage.middleware.routers.http.respond import respond
from sage.middleware.usage.estimates import estimate_prompt

_HEADER = b"x-sage-token-count"
_QUESTION = frozenset({"model", "messages", "tools"})
"""The fields of a chat that have tokens."""
_BETWEEN = 4
"""Tokens for the role of a message and what separates it from the next."""


class CountTokens:
    """The ASGI endpoint. It asks a tokenizer as any call asks a model, and generates nothing."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_json(receive, scope)
        model, fallbacks = take_names(body, scope)
        targets = await targets_of(self._gateway, caller(scope), model, fallbacks)
        request = in_chat_shape(body, model, targets, marks=False, bounded=False)
        chat = {name: value for name, value in request.body.items() if name in _QUESTION}
        call, how, extra = _question(chat, model, fallbacks, targets)
        if targets.native:
            call.native = native_request(scope, body)
        if targets.tokenizes:
            try:
                await respond(self._gateway, call, scope, receive, _saying(send, how, scope), _counted(extra))
                return
            except InvalidRequest as error:  # a server that cannot count this: with pictures, without a template
                if error.upstream_status is None and not isinstance(error, Unsupported):
                    raise
        await self._gateway.admit(caller(scope), ModelCall(Operation.CHAT, chat, model, fallbacks=fallbacks))
        await send_json(_saying(send, b"estimate", scope), _count_body(estimate_prompt(chat)), [])


def _question(
    chat: dict[str, Any], model: str, fallbacks: tuple[str, ...], targets: Targets
) -> tuple[ModelCall, bytes, int]:
    """The call that counts, what its count is, and the tokens to add to it."""
    if "messages" in targets.tokenizes:
        return ModelCall(Operation.TOKENIZE, chat, model, fallbacks=fallbacks), b"exact", 0
    prompt = {"model": model, "prompt": _texts(chat)}
    between = _BETWEEN * len(chat["messages"])
    return ModelCall(Operation.TOKENIZE, prompt, model, fallbacks=fallbacks), b"texts", between


def _texts(chat: dict[str, Any]) -> str:
    """All texts of a chat, and its tools as JSON."""
    texts = []
    for message in chat["messages"]:
        texts += [reasoning_of(message), text_of(message.get("content"))]
        texts += [orjson.dumps(call["function"]).decode() for call in message.get("tool_calls", ())]
    texts += [orjson.dumps(tool).decode() for tool in chat.get("tools", ())]
    return "\n".join(filter(None, texts))


def _counted(extra: int) -> Any:
    def make_body(answer: GatewayCall) -> bytes:
        return _count_body(orjson.loads(answer.body)["count"] + extra)

    return make_body


def _count_body(count: int) -> bytes:
    return orjson.dumps({"input_tokens": count})


def _saying(send: Send, how: bytes, scope: Scope) -> Send:
    """``send`` with the header that says what is counted."""

    async def send_on(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (_HEADER, how)]
            add_request_id(scope["state"])
        await send(message)

    return send_on


class CountTokensRequest(OpenBody):
    """The message whose tokens are to be counted."""

    model: str = Field(examples=["gemma-3-270m"])
    messages: list[dict[str, Any]] = Field(examples=[[{"role": "user", "content": "What is the capital of France?"}]])
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None


class TokenCount(BaseModel):
    """How many tokens the prompt has; the header `x-sage-token-count` tells how they were counted."""

    input_tokens: int


ROUTES = (
    HotRoute(
        path="/v1/messages/count_tokens",
        name="anthropic_count_tokens",
        scope=Permission.GENERATE,
        tag="Anthropic",
        summary="Tokens of a message",
        request=CountTokensRequest,
        answer=TokenCount,
        endpoint=CountTokens,
        errors=WithApiKey,
        error_model=AnthropicErrorEnvelope,
    ),
)
