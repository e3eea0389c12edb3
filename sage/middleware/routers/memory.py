"""``/memory``: the memory service, in the caller's tenant."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.collections.requests import ModelName, parse, vector_schema
from sage.middleware.gateway.services.tenant_views import MemoryView
from sage.middleware.routers.http.asgi import read_json
from sage.middleware.routers.http.bodies import SEARCH_BODY
from sage.middleware.routers.http.deps import Caller, TheGateway
from sage.middleware.routers.http.guard import guarded_router, max_body, requires
from sage.middleware.routers.http.openapi_bodies import json_body
from sage.middleware.routers.items import Cleared, Deleted, reply
from sage.middleware.routers.kv import check_size
from sage.middleware.settings.retrieval import MAX_QUERY

router = guarded_router("Services")
_MAX_NAME = 256


class ScopedBody(BaseModel):
    """A body that may name the user and the agent whose memory it is about."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    user: str | None = Field(None, min_length=1, max_length=_MAX_NAME, description="Whose memory it is.")
    agent: str | None = Field(None, min_length=1, max_length=_MAX_NAME, description="Which agent's memory it is.")


class NewMemory(ScopedBody):
    """A memory to store. A text that is stored already adds nothing, and the answer is the `id` that it has."""

    session_id: str = Field(min_length=1, max_length=_MAX_NAME)
    content: str = Field(min_length=1)
    vector: list[float] | None = Field(None, description="Replaces the one that the embedder would make.")
    memory_type: str = Field("conversation", min_length=1, max_length=_MAX_NAME)
    metadata: dict[str, Any] | None = None
    ttl: float | None = Field(None, gt=0, description="Seconds after which it is deleted.")
    created_at: float | None = Field(
        None, ge=0, description="When it was said, in Unix seconds, where that is not now; not with `supersedes`."
    )
    supersedes: str | None = Field(None, description="The memory that this one corrects; both are kept.")
    idempotency_key: str | None = Field(None, min_length=1, max_length=_MAX_NAME)


class MemoryStored(BaseModel):
    """The memory's id."""

    id: str


class MemorySearchRequest(ScopedBody):
    """A search by text, by vector, or by both."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["query"], "properties": {"query": {"type": "string"}}},
                {
                    "required": ["vector"],
                    "properties": {
                        "vector": {"type": "array"},
                        "rerank": {"type": "null"},
                        "decompose": {"enum": [False]},
                    },
                },
            ]
        }
    )

    query: str | None = Field(None, min_length=1, max_length=MAX_QUERY)
    vector: list[float] | None = Field(None, json_schema_extra=vector_schema)
    session_id: str | None = Field(None, min_length=1, max_length=_MAX_NAME)
    memory_type: str | None = Field(None, min_length=1, max_length=_MAX_NAME)
    limit: int = Field(10, ge=1)
    score_threshold: float | None = Field(
        None, description="The least `relevance` of a result: 0 means nothing in common, 1 the same."
    )
    filter: dict[str, Any] | None = Field(None, description="On metadata, as in `/search`.")
    as_of: float | None = Field(None, description="Search the memories of that time, in Unix seconds.")
    explain: bool = False
    recency: float = Field(0.0, ge=0)
    importance: float = Field(0.0, ge=0)
    diversity: float = Field(0.0, ge=0, le=1)
    rerank: ModelName | None = None
    decompose: bool = Field(
        False, description="Search also for the simpler questions that `services.memory.questions_model` makes of it."
    )


class Remembered(BaseModel):
    """One memory."""

    model_config = ConfigDict(extra="allow")

    id: str
    session_id: str
    content: str
    memory_type: str
    metadata: dict[str, Any]
    created_at: float


class MemoryFound(Remembered):
    """One memory; a higher `score` is nearer, `created_at` is in Unix seconds. `relevance`, 0 to 1, is comparable
    between questions, as `score` is not."""

    score: float
    relevance: float


class MemoriesFound(BaseModel):
    """Memories, the nearest first."""

    results: list[MemoryFound]


class Session(BaseModel):
    """What is known of a session."""

    model_config = ConfigDict(extra="allow")

    session_id: str


class SessionShown(Session):
    """A session and a page of its memories, in the order in which they came."""

    memories: list[Remembered]
    next: str | None


class SessionList(BaseModel):
    """Sessions; `next` is the `after` of the next page, and null at the last."""

    sessions: list[Session]
    next: str | None


class Forgotten(BaseModel):
    """How many sessions there were, and memories in them."""

    sessions: int
    deleted: int


class History(BaseModel):
    """The memories that a memory superseded and those that superseded it, the oldest first."""

    history: list[Remembered]


def _view(gateway: TheGateway, principal: Caller) -> MemoryView:
    return MemoryView(gateway.services, principal)


def _scope(
    user: Annotated[str | None, Query(min_length=1, max_length=_MAX_NAME, description="Whose memory.")] = None,
    agent: Annotated[str | None, Query(min_length=1, max_length=_MAX_NAME, description="Which agent's.")] = None,
) -> dict[str, str]:
    return {name: value for name, value in (("user", user), ("agent", agent)) if value is not None}


TheMemory = Annotated[MemoryView, Depends(_view)]
TheScope = Annotated[dict[str, str], Depends(_scope)]


@router.post(
    "/memory",
    name="memory_store",
    response_model=MemoryStored,
    openapi_extra=json_body(NewMemory, {"session_id": "s1", "content": "I prefer tea to coffee."}),
)
@requires(Scope.MEMORY)
@max_body(None)
async def store_memory(
    request: Request,
    memory: TheMemory,
    idempotency_key: Annotated[str | None, Header(description="As the field of that name.")] = None,
) -> Response:
    """Stores a memory. Every later search finds it."""
    body = parse(NewMemory, await read_json(request.receive, request.scope, vectors=True))
    check_size(body.content, memory.limits.max_value, "content")
    check_size(body.metadata, memory.limits.max_value, "metadata")
    fields = body.model_dump(exclude_none=True)
    if idempotency_key:
        fields.setdefault("idempotency_key", idempotency_key)
    return reply({"id": await memory.store(**fields)})


@router.post(
    "/memory/search",
    name="memory_search",
    response_model=MemoriesFound,
    openapi_extra=json_body(MemorySearchRequest, {"query": "What do I drink?", "limit": 3}),
)
@requires(Scope.MEMORY)
@max_body(SEARCH_BODY)
async def search_memories(request: Request, memory: TheMemory) -> Response:
    """The memories nearest to a text or a vector; without `session_id` those of every session of the scope."""
    body = parse(MemorySearchRequest, await read_json(request.receive, request.scope, vectors=True))
    if body.query is None and body.vector is None:
        raise InvalidRequest("give a 'query', or a 'vector'", param="query")
    return reply({"results": await memory.search(**body.model_dump(exclude_none=True))})


@router.delete("/memory", name="memory_forget", response_model=Forgotten)
@requires(Scope.MEMORY)
async def forget_scope(memory: TheMemory, scope: TheScope) -> Response:
    """Deletes everything that is remembered of a user, or of an agent, for good."""
    if not scope:
        raise InvalidRequest("name whose memory is to be deleted: ?user=…, ?agent=…, or both", param="user")
    sessions, memories = await memory.forget(**scope)
    return reply({"sessions": sessions, "deleted": memories})


@router.get("/memory/sessions", name="memory_sessions", response_model=SessionList)
@requires(Scope.MEMORY)
async def list_sessions(memory: TheMemory, scope: TheScope, limit: int = 100, after: str | None = None) -> Response:
    """The sessions that have memories."""
    sessions, cursor = await memory.sessions(limit, after, **scope)
    return reply({"sessions": sessions, "next": cursor})


@router.get("/memory/sessions/{session:path}", name="memory_session", response_model=SessionShown)
@requires(Scope.MEMORY)
async def show_session(
    session: str,
    memory: TheMemory,
    scope: TheScope,
    limit: int = 100,
    after: str | None = None,
    memory_type: str | None = None,
) -> Response:
    """One session: what is known of it, and its memories."""
    fields = await memory.session(session, **scope)
    memories, cursor = await memory.turns(session, limit, after, memory_type, **scope)
    return reply({**fields, "session_id": session, "memories": memories, "next": cursor})


@router.delete("/memory/sessions/{session:path}", name="memory_clear_session", response_model=Cleared)
@requires(Scope.MEMORY)
async def clear_session(session: str, memory: TheMemory, scope: TheScope) -> Response:
    """Deletes a session with all its memories for good."""
    if not session:
        raise InvalidRequest("name the session: /memory/sessions/{session}", param="session")
    return reply({"deleted": await memory.clear_session(session, **scope)})


@router.get("/memory/{id}/history", name="memory_history", response_model=History)
@requires(Scope.MEMORY)
async def show_history(id: str, memory: TheMemory, scope: TheScope) -> Response:
    """The corrections that a memory is part of."""
    return reply({"history": await memory.history(id, **scope)})


@router.post("/memory/{id}/restore", name="memory_restore", response_model=MemoryStored)
@requires(Scope.MEMORY)
async def restore_memory(id: str, memory: TheMemory, scope: TheScope) -> Response:
    """Makes a superseded memory current again."""
    return reply({"id": await memory.restore(id, **scope)})


@router.get("/memory/{id}", name="memory_get", response_model=Remembered)
@requires(Scope.MEMORY)
async def get_memory(id: str, memory: TheMemory, scope: TheScope) -> Response:
    """One memory, current or superseded."""
    return reply(await memory.get(id, **scope))


@router.delete("/memory/{id}", name="memory_delete", response_model=Deleted)
@requires(Scope.MEMORY)
async def delete_memory(id: str, memory: TheMemory, scope: TheScope) -> Response:
    """Deletes a memory for good."""
    return reply({"deleted": await memory.delete(id, **scope)})
