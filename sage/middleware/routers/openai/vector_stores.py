"""OpenAI's ``/v1/vector_stores``, over the collections of the caller's tenant."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.collections.requests import parse
from sage.middleware.gateway.vector_stores.requests import ChangeStore, CreateStore, ExpiresAfter, SearchStore
from sage.middleware.gateway.vector_stores.rewriting import rewritten
from sage.middleware.gateway.vector_stores.stores import VectorStores
from sage.middleware.gateway.vector_stores.views import collection_of, deleted_view
from sage.middleware.routers.http.asgi import note, read_json
from sage.middleware.routers.http.deps import AuditNote, Caller, TheGateway
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.routers.http.openapi_bodies import json_body
from sage.middleware.routers.items import reply

router = guarded_router("OpenAI", prefix="/v1/vector_stores")

PageSize = Annotated[int, Query(ge=1, le=100)]


class FileCounts(BaseModel):
    """How many files there are in each status."""

    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class VectorStoreObject(BaseModel):
    """A vector store. Its `id` is `vs_` and the name of its collection."""

    id: str
    object: Literal["vector_store"] = "vector_store"
    created_at: int
    name: str
    description: str | None = None
    usage_bytes: int
    file_counts: FileCounts
    status: Literal["expired", "in_progress", "completed"]
    expires_after: ExpiresAfter | None = None
    expires_at: int | None = None
    last_active_at: int
    metadata: dict[str, str]


class VectorStoreList(BaseModel):
    """Some stores, and whether there are more."""

    object: Literal["list"] = "list"
    data: list[VectorStoreObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedStore(BaseModel):
    """That a store is deleted."""

    id: str
    object: Literal["vector_store.deleted"] = "vector_store.deleted"
    deleted: Literal[True] = True


class StoreResult(BaseModel):
    """A chunk that a search has found; `score` is its relevance, 0 to 1."""

    file_id: str
    filename: str
    score: float
    attributes: dict[str, Any]
    content: list[dict[str, str]]


class StoreResults(BaseModel):
    """What a search has found, the best first, and what was searched for."""

    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    search_query: list[str]
    data: list[StoreResult]
    has_more: bool
    next_page: str | None


async def vector_stores(request: Request) -> VectorStores:
    """The vector stores of the gateway."""
    stores = request.app.state.vector_stores
    assert isinstance(stores, VectorStores)
    return stores


TheStores = Annotated[VectorStores, Depends(vector_stores)]


def note_collection(request: Request, store: str) -> None:
    """Names the collection in the access log."""
    note(request.scope, collection=collection_of(store) or store)


@router.post(
    "",
    name="vector_stores_create",
    response_model=VectorStoreObject,
    openapi_extra=json_body(CreateStore, {"name": "Support"}),
)
@requires(Scope.COLLECTIONS_WRITE)
async def create_store(request: Request, who: Caller, stores: TheStores, note_audit: AuditNote) -> Response:
    """A new vector store, with the files that it begins with; these are read afterwards."""
    wanted = parse(CreateStore, await read_json(request.receive, request.scope))
    view = await stores.create(who, wanted)
    note_collection(request, view["id"])
    target = f"collection:{collection_of(view['id'])}"
    await note_audit("collection.create", target, {"vector_store": view["id"], "files": view["file_counts"]["total"]})
    return reply(view)


@router.get("", name="vector_stores_list", response_model=VectorStoreList)
@requires(Scope.SEARCH)
async def list_stores(
    who: Caller,
    stores: TheStores,
    limit: PageSize = 20,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
    before: str | None = None,
) -> Response:
    """The vector stores of the caller's tenant, the newest first: every collection is one."""
    return reply(await stores.page(who, limit=limit, order=order, after=after, before=before))


@router.get("/{store}", name="vector_stores_get", response_model=VectorStoreObject)
@requires(Scope.SEARCH)
async def get_store(store: str, who: Caller, stores: TheStores) -> Response:
    """One vector store."""
    return reply(await stores.get(who, store))


@router.post(
    "/{store}",
    name="vector_stores_change",
    response_model=VectorStoreObject,
    openapi_extra=json_body(ChangeStore, {"name": "Support"}),
)
@requires(Scope.COLLECTIONS_WRITE)
async def change_store(store: str, request: Request, who: Caller, stores: TheStores, note_audit: AuditNote) -> Response:
    """Another name, other metadata, another expiry; what is left out stays."""
    note_collection(request, store)
    wanted = parse(ChangeStore, await read_json(request.receive, request.scope))
    view = await stores.change(who, store, wanted)
    details = {"vector_store": view["id"], "changed": sorted(wanted.model_fields_set)}
    await note_audit("collection.change", f"collection:{collection_of(store)}", details)
    return reply(view)


@router.delete("/{store}", name="vector_stores_delete", response_model=DeletedStore)
@requires(Scope.COLLECTIONS_WRITE)
async def delete_store(store: str, request: Request, who: Caller, stores: TheStores, note_audit: AuditNote) -> Response:
    """Deletes a vector store with its collection. Its files stay at `/v1/files`."""
    note_collection(request, store)
    record = await stores.delete(who, store)
    await note_audit("collection.delete", f"collection:{record.collection}", {"vector_store": store})
    return reply(deleted_view(store, "vector_store"))


@router.post(
    "/{store}/search",
    name="vector_stores_search",
    response_model=StoreResults,
    openapi_extra=json_body(SearchStore, {"query": "How long is the warranty?"}),
)
@requires(Scope.SEARCH)
async def search_store(store: str, request: Request, who: Caller, gateway: TheGateway) -> Response:
    """The chunks that answer a question best, or several questions."""
    note_collection(request, store)
    wanted = parse(SearchStore, await read_json(request.receive, request.scope))
    search = gateway.stores
    record = await search.find(who, store)
    queries = await rewritten(gateway, who, wanted) if wanted.rewrite_query else wanted.queries
    found = await search.search(who, [record], queries, wanted)
    return reply(
        {
            "object": "vector_store.search_results.page",
            "search_query": queries,
            "data": [chunk.shown() for chunk in found],
            "has_more": False,
            "next_page": None,
        }
    )
