"""The gateway's own tools, as its MCP server offers them: what each takes, gives and needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.collections.requests import parse, parse_search
from sage.middleware.gateway.context.context import add_context
from sage.middleware.gateway.context.generate_request import parse_generate
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.services.tenant_views import KVView, MemoryView
from sage.middleware.gateway.watch import Watch
from sage.middleware.providers.wire.messages import finish_of, read_message
from sage.middleware.settings.retrieval import MAX_QUERY

_NAME = 256
_MOST = 50


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """One call of a tool by a client."""

    gateway: Gateway
    principal: Principal
    arguments: dict[str, Any]
    http: MutableMapping[str, Any]
    """The scope of the request over HTTP, by which the caller's rights are looked up again."""


class ToolArguments(BaseModel):
    """The arguments of a tool: checked, and described to clients."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class SearchArguments(ToolArguments):
    """A query for a collection."""

    query: str = Field(min_length=1, max_length=MAX_QUERY, description="What to look for, in any language.")
    collection: str = Field("default", description="The collection to search; list the resources to see which exist.")
    top_k: int = Field(5, ge=1, le=_MOST, description="How many results.")
    mode: Literal["hybrid", "dense", "bm25"] = Field("hybrid", description="By meaning and words, or by one of them.")
    filter: dict[str, Any] | None = Field(None, description='On metadata: {"lang": "zh", "year": {"$gte": 2020}}.')


class RememberArguments(ToolArguments):
    """A memory."""

    content: str = Field(min_length=1, description="What to remember, as one or a few sentences.")
    session_id: str = Field("mcp", min_length=1, max_length=_NAME, description="The conversation that it belongs to.")
    memory_type: str = Field("conversation", min_length=1, max_length=_NAME)
    metadata: dict[str, Any] | None = None
    user: str | None = Field(None, min_length=1, max_length=_NAME, description="Whose memory it is.")
    agent: str | None = Field(None, min_length=1, max_length=_NAME, description="Which agent's memory it is.")


class RecallArguments(ToolArguments):
    """A question to the memory."""

    query: str = Field(min_length=1, max_length=MAX_QUERY)
    session_id: str | None = Field(None, min_length=1, max_length=_NAME, description="Left out: all conversations.")
    limit: int = Field(5, ge=1, le=_MOST)
    user: str | None = Field(None, min_length=1, max_length=_NAME)
    agent: str | None = Field(None, min_length=1, max_length=_NAME)


class ChatTurn(ToolArguments):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class SearchedSources(ToolArguments):
    """Where the sources of an answer are looked for."""

    collection: str = "default"
    top_k: int = Field(5, ge=1, le=_MOST)


class GenerateArguments(ToolArguments):
    """A question to a model: give `prompt` or `messages`."""

    model: str = Field(min_length=1, max_length=_NAME, description="One of those that list_models shows.")
    prompt: str | None = None
    messages: list[ChatTurn] | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | int | None = Field(None, ge=0)
    search: SearchedSources | None = Field(None, description="Answer from documents that this search finds.")


class KeyArguments(ToolArguments):
    """A key."""

    key: str = Field(min_length=1, max_length=1024)


class EntryArguments(KeyArguments):
    """A key and its value."""

    value: Any = Field(description="Any JSON.")
    ttl: float | None = Field(None, gt=0, description="Seconds after which it is gone; left out, it stays.")


class SearchHit(BaseModel):
    """A document that a search has found; a higher score is better."""

    id: str
    score: float
    text: str
    metadata: dict[str, Any]


class ToolAnswer(BaseModel):
    """The result of a tool."""


class SearchResults(ToolAnswer):
    """The best documents first; `total` is how many match in all."""

    results: list[SearchHit]
    total: int
    warnings: list[str] | None = None


class MemoryId(ToolAnswer):
    """The memory's id."""

    id: str


class RecalledText(BaseModel):
    """A memory that was recalled; a higher score is nearer."""

    id: str
    session_id: str
    content: str
    created_at: float
    score: float


class RecalledTexts(ToolAnswer):
    """The nearest memories first."""

    results: list[RecalledText]


class ModelShown(BaseModel):
    """A model that may be asked."""

    name: str
    provider: str


class ModelsShown(ToolAnswer):
    """The models that the caller may ask."""

    models: list[ModelShown]


class GeneratedText(ToolAnswer):
    """A model's answer, with the sources that it was shown."""

    text: str
    model: str
    finish_reason: str | None
    usage: dict[str, Any] | None
    sources: list[dict[str, Any]] | None = None
    warnings: list[str] | None = None


class StoredEntry(ToolAnswer):
    """A key and its value."""

    key: str
    value: Any = None


class KeyPut(ToolAnswer):
    """The key that was written."""

    key: str


@dataclass(frozen=True, slots=True)
class GatewayTool:
    """One tool. ``changes`` says that it writes, ``repeatable`` that to call it twice is to call it once."""

    name: str
    title: str
    description: str
    scope: Scope
    takes: type[ToolArguments]
    gives: type[ToolAnswer]
    run: Callable[[ToolRequest], Awaitable[dict[str, Any]]]
    changes: bool = False
    repeatable: bool = True


async def _search(request: ToolRequest) -> dict[str, Any]:
    search = parse_search(parse(SearchArguments, request.arguments).model_dump(exclude_none=True))
    answer = (await request.gateway.collections.search(request.principal, [search]))[0]
    shown = [result.shown() for result in answer.results]
    results = [{name: each[name] for name in SearchHit.model_fields} for each in shown]
    warnings = {"warnings": answer.warnings} if answer.warnings else {}
    return {"results": results, "total": answer.total, **warnings}


async def _remember(request: ToolRequest) -> dict[str, Any]:
    fields = parse(RememberArguments, request.arguments).model_dump(exclude_none=True)
    memory = MemoryView(request.gateway.services, request.principal)
    _check_size(fields, memory.limits.max_value)
    return {"id": await memory.store(**fields)}


async def _recall(request: ToolRequest) -> dict[str, Any]:
    fields = parse(RecallArguments, request.arguments).model_dump(exclude_none=True)
    found = await MemoryView(request.gateway.services, request.principal).search(**fields)
    return {"results": [{name: each[name] for name in RecalledText.model_fields} for each in found]}


async def _list_models(request: ToolRequest) -> dict[str, Any]:
    parse(ToolArguments, request.arguments)
    models = [each for each in request.gateway.registry.models() if request.principal.allows_model(each.name)]
    shown = [(each.name, each.deployments[0].provider.name if each.deployments else "none") for each in models]
    return {"models": [{"name": name, "provider": provider} for name, provider in shown]}


async def _generate(request: ToolRequest) -> dict[str, Any]:
    body = parse(GenerateArguments, request.arguments).model_dump(exclude_none=True)
    wanted = parse_generate(body)
    gateway, principal = request.gateway, request.principal
    if wanted.search is not None:
        principal.require(Scope.SEARCH)
    call = wanted.call()
    call.request_id = request.http["state"]["request_id"]
    context = await add_context(gateway, principal, call, wanted.search, None)
    with Watch(call, gateway.deadlines, None, request.http):
        async with gateway.call(principal, call) as answer:
            chat = orjson.loads(answer.body)
    choice = chat["choices"][0] if chat["choices"] else {}
    usage = chat.get("usage")
    return {
        "text": read_message(choice.get("message")).shown,
        "model": chat["model"],
        "finish_reason": finish_of(choice),
        "usage": usage if isinstance(usage, dict) else None,
        **context.fields(),
        **context.warnings(),
    }


async def _kv_get(request: ToolRequest) -> dict[str, Any]:
    key = parse(KeyArguments, request.arguments).key
    value = await KVView(request.gateway.services, request.principal).get(key)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return {"key": key, "value": value}


async def _kv_put(request: ToolRequest) -> dict[str, Any]:
    wanted = parse(EntryArguments, request.arguments)
    view = KVView(request.gateway.services, request.principal)
    _check_size({"value": wanted.value}, view.limits.max_value)
    await view.put(wanted.key, wanted.value, wanted.ttl)
    return {"key": wanted.key}


def _check_size(fields: dict[str, Any], most: int) -> None:
    size = len(orjson.dumps(fields))
    if size > most:
        raise InvalidRequest(f"this takes {size} bytes; it may take {most} (services.limits.max_value)")


GATEWAY_TOOLS = (
    GatewayTool(
        "search",
        "Search documents",
        "Search a collection of documents by meaning and by words; returns the best texts with their scores.",
        Scope.SEARCH,
        SearchArguments,
        SearchResults,
        _search,
    ),
    GatewayTool(
        "remember",
        "Remember",
        "Store a fact or a turn of a conversation in long-term memory. Every later recall can find it.",
        Scope.MEMORY,
        RememberArguments,
        MemoryId,
        _remember,
        changes=True,
    ),
    GatewayTool(
        "recall",
        "Recall",
        "Find what long-term memory holds about a question.",
        Scope.MEMORY,
        RecallArguments,
        RecalledTexts,
        _recall,
    ),
    GatewayTool(
        "list_models",
        "List models",
        "List the models that may be asked with generate.",
        Scope.MODELS_READ,
        ToolArguments,
        ModelsShown,
        _list_models,
    ),
    GatewayTool(
        "generate",
        "Ask a model",
        "Ask a model a question, if wanted with sources from a collection. It counts against the caller's limits.",
        Scope.GENERATE,
        GenerateArguments,
        GeneratedText,
        _generate,
        repeatable=False,
    ),
    GatewayTool(
        "kv_get",
        "Read an entry",
        "Read the value of a key from the team's key-value store.",
        Scope.KV,
        KeyArguments,
        StoredEntry,
        _kv_get,
    ),
    GatewayTool(
        "kv_put",
        "Write an entry",
        "Write a value under a key of the team's key-value store, in place of what is there.",
        Scope.KV,
        EntryArguments,
        KeyPut,
        _kv_put,
        changes=True,
    ),
)
