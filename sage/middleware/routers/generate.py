"""``/generate``: a prompt in, a text out, for any model."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.gateway.context.context import Context, add_context
from sage.middleware.gateway.context.generate_request import GenerateRequest, parse_generate
from sage.middleware.gateway.gateway import Gateway, GatewayCall
from sage.middleware.gateway.tools.mcp_request import parse_mcp, with_mcp
from sage.middleware.providers.wire.chunks import usage_object
from sage.middleware.providers.wire.messages import DeltaReader, finish_of, read_message
from sage.middleware.providers.wire.sse import payloads, read_usage
from sage.middleware.providers.wire.tool_calls import ToolCall
from sage.middleware.routers.http.asgi import Receive, Scope, Send, caller, caller_of_request, note, read_json
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.respond import Events, respond
from sage.middleware.usage.records import usd


class TokenUsage(BaseModel):
    """Tokens of one answer, as the upstream counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class SourceShown(BaseModel):
    """A source that the model was shown, under the `number` that it cites; `text` is what it was shown of it."""

    number: int
    id: str
    collection: str
    text: str
    metadata: dict[str, Any]
    score: float


class MemoryShown(BaseModel):
    """A memory that the model was shown; `text` is what it was shown of it."""

    model_config = ConfigDict(extra="allow")

    id: str
    session_id: str
    text: str
    memory_type: str
    metadata: dict[str, Any]
    score: float
    created_at: float


class GenerateAnswer(BaseModel):
    """The answer of ``/generate``, with `sources` if the request has `search`, and `memories` if it has `memory`.
    A model that refuses does so in `text`, and `refusal` says that it is one. `tool_calls` have OpenAI's shape.
    `warnings` tell what did not work in the search or the memory, such as a turn that could not be stored."""

    id: str
    model: str
    text: str
    finish_reason: str | None
    usage: TokenUsage | None = Field(description="Null where the provider does not tell it.")
    provider: str
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_runs: list[dict[str, Any]] | None = None
    sources: list[SourceShown] | None = None
    memories: list[MemoryShown] | None = None
    warnings: list[str] | None = None
    cost: float | None = Field(None, description="In US dollars, where `cost` was asked for; null: nobody knows.")
    priced: bool | None = None


class Generate:
    """The ASGI endpoint of ``/generate``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = parse_generate(await read_json(receive, scope))
        call = request.call()
        note(scope, model=call.model)
        if request.cost:
            _ = self._gateway.prices  # a front process leaves the whole request to the one that knows them
        context = Context()
        if request.search is not None or request.memory is not None:
            if request.search is not None:
                note(scope, collection=request.search.collection)
            context = await add_context(self._gateway, caller_of_request(scope), call, request.search, request.memory)
        gateway = self._gateway
        answering = gateway if request.mcp is None else await with_mcp(gateway, caller(scope), parse_mcp(request.mcp))
        await respond(
            answering,
            call,
            scope,
            receive,
            send,
            lambda answer: _body_with_cost(answer, context) if request.cost else _body(answer, context),
            lambda _: _events(context),
        )


def _body(answer: GatewayCall, context: Context) -> bytes | Awaitable[bytes]:
    if context.memory is None:
        return orjson.dumps({**complete_answer(answer, context), **context.warnings()})
    return _body_after_storing(answer, context)


async def _body_with_cost(answer: GatewayCall, context: Context) -> bytes:
    complete = complete_answer(answer, context)
    if context.memory is not None:
        await context.store_turn(complete["text"], complete.get("tool_calls"))
    cost = await answer.cost()
    return orjson.dumps({**complete, **context.warnings(), "cost": usd(cost), "priced": cost is not None})


async def _body_after_storing(answer: GatewayCall, context: Context) -> bytes:
    complete = complete_answer(answer, context)
    await context.store_turn(complete["text"], complete.get("tool_calls"))
    return orjson.dumps({**complete, **context.warnings()})


def _events(context: Context) -> Events:
    texts = TextStream(context)
    return Events(texts.translate, texts.end if context.memory is None else texts.end_after_storing)


def complete_answer(answer: GatewayCall, context: Context) -> dict[str, Any]:
    """``{id, model, text, finish_reason, usage, provider, refusal?, tool_calls?, sources?, memories?}`` from a complete
    chat answer."""
    chat = orjson.loads(answer.body)
    choice = chat["choices"][0] if chat["choices"] else {}
    message = read_message(choice.get("message"))
    return {
        "id": chat.get("id") or f"gen-{secrets.token_hex(12)}",
        "model": chat["model"],
        "text": message.shown,
        "finish_reason": finish_of(choice),
        "usage": _usage(chat.get("usage")),
        "provider": answer.provider,
        **_beside_text(message.refusal, message.calls),
        **_told_by_gateway(chat),
        **context.fields(),
    }


class TextStream:
    """Turns chat events into ``{"text"}`` events; the last one, from :meth:`end`, has the finish reason and the usage.

    Sources and memories come first, in an event of their own whose text is empty.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._first = context.fields()
        self._reader = DeltaReader()
        self._refusal: list[str] = []
        self._pieces: list[str] = []
        self._finish_reason: str | None = None
        self._usage: Any = None
        self._told: dict[str, Any] = {}
        """Runs of tools that the next event tells of."""

    def texts(self, events: bytes) -> list[str]:
        """The pieces of text in ``events``."""
        pieces = []
        for chunk in payloads(events):
            if not isinstance(chunk, dict):
                continue
            self._usage = chunk.get("usage") or self._usage
            self._told |= _told_by_gateway(chunk)
            choices = chunk.get("choices")
            if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
                continue
            if choices[0].get("finish_reason"):
                self._finish_reason = finish_of(choices[0])
            delta = self._reader.read(choices[0].get("delta"))
            if delta.refusal:
                self._refusal.append(delta.refusal)
            if text := delta.shown:
                pieces.append(text)
        if self._context.memory is not None:
            self._pieces += pieces
        return pieces

    def translate(self, events: bytes) -> bytes:
        """The same pieces as events of ``/generate``."""
        translated = b"".join([b"data: " + orjson.dumps({"text": text}) + b"\n\n" for text in self.texts(events)])
        if self._told:
            told, self._told = {"text": "", **self._told}, {}
            translated += b"data: " + orjson.dumps(told) + b"\n\n"
        if not self._first:
            return translated
        first, self._first = {"text": "", **self._first}, {}
        return b"data: " + orjson.dumps(first) + b"\n\n" + translated

    def end(self) -> bytes:
        last = {
            "text": "",
            "finish_reason": self._finish_reason,
            "usage": _usage(self._usage),
            **_beside_text("".join(self._refusal), self._reader.calls),
            **self._context.warnings(),
        }
        return b"data: " + orjson.dumps(last) + b"\n\ndata: [DONE]\n\n"

    async def end_after_storing(self) -> bytes:
        """As :meth:`end`, once the turn is stored."""
        await self.store_turn()
        return self.end()

    async def store_turn(self) -> None:
        """Stores the turn in memory; to be called when the stream is complete."""
        await self._context.store_turn("".join(self._pieces), self._reader.calls)


def _beside_text(refusal: str, calls: list[ToolCall]) -> dict[str, Any]:
    """What a model said that is no plain text, if it did."""
    fields: dict[str, Any] = {"refusal": refusal} if refusal else {}
    return fields | ({"tool_calls": [call.as_openai() for call in calls]} if calls else {})


def _told_by_gateway(chat: dict[str, Any]) -> dict[str, Any]:
    """What the gateway says of tools that it has run, in an answer or a chunk."""
    runs = chat.get("tool_runs")
    return {"tool_runs": runs} if isinstance(runs, list) else {}


def _usage(usage: Any) -> dict[str, int] | None:
    """What the upstream counted; ``None`` means that it told nothing, which is not zero."""
    counted = read_usage(usage)
    if counted is None or not {"prompt_tokens", "completion_tokens"} & usage.keys():
        return None
    return usage_object(counted)


ROUTES = (
    HotRoute(
        path="/generate",
        name="generate",
        scope=Permission.GENERATE,
        tag="Generate",
        summary="A prompt in, a text out",
        request=GenerateRequest,
        answer=GenerateAnswer,
        endpoint=Generate,
    ),
)
