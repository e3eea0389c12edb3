"""``/vdb``: the vector service, in the caller's tenant."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.collections.requests import parse
from sage.middleware.gateway.services.tenant_views import VDBView
from sage.middleware.routers.http.asgi import note, read_body, read_json
from sage.middleware.routers.http.bodies import SEARCH_BODY
from sage.middleware.routers.http.deps import AuditNote, Caller, TheGateway
from sage.middleware.routers.http.guard import guarded_router, max_body, requires
from sage.middleware.routers.http.openapi_bodies import json_body
from sage.middleware.routers.items import (
    Cleared,
    Deleted,
    Item,
    ItemsWritten,
    NewItem,
    Selection,
    filter_of,
    list_of,
    reply,
    select,
)
from sage.middleware.settings.retrieval import MAX_QUERY

router = guarded_router("Services")
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ItemsRequest(BaseModel):
    """Items to add or replace: all of them, or none."""

    model_config = ConfigDict(extra="forbid")

    items: list[NewItem]


class VectorSearchRequest(BaseModel):
    """A vector, a text, or both; `where` is a filter on metadata and acts before the best are chosen."""

    model_config = _STRICT

    vector: list[float] | None = None
    text: str | None = Field(None, min_length=1, max_length=MAX_QUERY)
    n_results: int = Field(10, ge=1)
    where: dict[str, Any] | None = None
    mode: Literal["hybrid", "dense", "bm25"] | None = Field(None, description="None: by what is given.")
    syntax: Literal["auto", "query", "plain"] = Field("auto", description="As in `/search`.")
    score_threshold: float | None = Field(None, ge=0, le=1, description="As in `/search`.")


class ItemFound(BaseModel):
    """Of `score`, higher is nearer."""

    id: str
    score: float
    metadata: dict[str, Any]
    text: str


class ItemsFound(BaseModel):
    """The nearest first."""

    results: list[ItemFound]


class ItemPage(BaseModel):
    """Items in the order in which they came; `cursor` gives the next page, and is null at the last."""

    items: list[Item]
    cursor: str | None


class ItemChange(BaseModel):
    """What is to be changed: `metadata` as a whole."""

    model_config = _STRICT

    vector: list[float] | None = None
    metadata: dict[str, Any] | None = None
    text: str | None = None


class DeleteItems(Selection):
    """Which items: by `ids`, or by `where` on metadata."""

    where: dict[str, Any] | None = None


class VectorCollections(BaseModel):
    """The names of the tenant's collections."""

    collections: list[str]


def _view(gateway: TheGateway, principal: Caller) -> VDBView:
    return VDBView(gateway.services, principal)


TheVDB = Annotated[VDBView, Depends(_view)]
WithVector = Annotated[bool, Query(description="With its vector.")]


@router.get("/vdb", name="vdb_collections", response_model=VectorCollections)
@requires(Scope.VDB)
async def list_collections(vdb: TheVDB) -> Response:
    """The tenant's collections of vectors."""
    return reply({"collections": await vdb.collections()})


@router.post(
    "/vdb/{collection}",
    name="vdb_add",
    response_model=ItemsWritten,
    openapi_extra=json_body(ItemsRequest, {"items": [{"id": "1", "vector": [0.1, 0.2], "metadata": {"lang": "en"}}]}),
)
@requires(Scope.VDB)
@max_body(None)
async def add_items(collection: str, request: Request, vdb: TheVDB, gateway: TheGateway) -> Response:
    """Adds items, or replaces those of the same `id`; a collection that is not there is made."""
    note(request.scope, collection=collection)
    body = await read_body(request.receive)
    items = await gateway.services.read(lambda: _items(body, vdb.limits.max_items), vdb.tenant)
    return reply({"ids": await vdb.add(collection, items)})


@router.post(
    "/vdb/{collection}/search",
    name="vdb_search",
    response_model=ItemsFound,
    openapi_extra=json_body(VectorSearchRequest, {"vector": [0.1, 0.2], "n_results": 3, "where": {"lang": "en"}}),
)
@requires(Scope.VDB)
@max_body(SEARCH_BODY)
async def search_items(collection: str, request: Request, vdb: TheVDB) -> Response:
    """The items nearest to a vector or a text."""
    note(request.scope, collection=collection)
    wanted = parse(VectorSearchRequest, await read_json(request.receive, request.scope, vectors=True))
    if wanted.vector is None and wanted.text is None:
        raise InvalidRequest("give a 'vector', or a 'text'", param="vector")
    results = await vdb.search(
        collection,
        wanted.vector,
        wanted.n_results,
        wanted.where,
        wanted.text,
        wanted.mode,
        wanted.syntax,
        wanted.score_threshold,
    )
    return reply({"results": results})


@router.post(
    "/vdb/{collection}/delete",
    name="vdb_delete_many",
    response_model=Cleared,
    openapi_extra=json_body(DeleteItems, {"ids": ["1"]}),
)
@requires(Scope.VDB)
@max_body(None)
async def delete_items(collection: str, request: Request, vdb: TheVDB) -> Response:
    """Deletes items by id or by filter. Ids that are not there are passed over."""
    note(request.scope, collection=collection)
    selection = select(DeleteItems, await read_json(request.receive, request.scope), "where")
    return reply({"deleted": await vdb.delete(collection, selection.ids, selection.where)})


@router.get("/vdb/{collection}", name="vdb_list", response_model=ItemPage)
@requires(Scope.VDB)
async def list_items(
    collection: str,
    vdb: TheVDB,
    limit: int = 100,
    cursor: str | None = None,
    where: Annotated[str | None, Query(description='As JSON: `{"lang": "en"}`.')] = None,
    vector: WithVector = False,
) -> Response:
    """A page of a collection's items, in the order in which they came."""
    return reply(await vdb.page(collection, filter_of(where, "where"), limit, cursor, vector))


@router.delete("/vdb/{collection}", name="vdb_drop", status_code=204)
@requires(Scope.VDB)
async def drop_collection(collection: str, request: Request, vdb: TheVDB, note_audit: AuditNote) -> None:
    """Deletes a collection with all its items."""
    note(request.scope, collection=collection)
    await vdb.drop(collection)
    await note_audit("vdb.drop", f"vdb:{collection}")


@router.get("/vdb/{collection}/{id:path}", name="vdb_get", response_model=Item)
@requires(Scope.VDB)
async def get_item(collection: str, id: str, vdb: TheVDB, vector: WithVector = False) -> Response:
    """One item by its id, which may contain `/`."""
    return reply(await vdb.get(collection, id, vector))


@router.patch(
    "/vdb/{collection}/{id:path}",
    name="vdb_update",
    response_model=Item,
    openapi_extra=json_body(ItemChange, {"metadata": {"lang": "zh"}}),
)
@requires(Scope.VDB)
@max_body(None)
async def update_item(collection: str, id: str, request: Request, vdb: TheVDB) -> Response:
    """Changes what is given of one item; the item as it is then."""
    note(request.scope, collection=collection)
    wanted = parse(ItemChange, await read_json(request.receive, request.scope, vectors=True))
    changes = {name: getattr(wanted, name) for name in wanted.model_fields_set if getattr(wanted, name) is not None}
    if not changes:
        raise InvalidRequest("give 'vector', 'metadata' or 'text' to change")
    await vdb.update(collection, id, changes)
    return reply(await vdb.get(collection, id, False))


@router.delete("/vdb/{collection}/{id:path}", name="vdb_delete", response_model=Deleted)
@requires(Scope.VDB)
async def delete_item(collection: str, id: str, request: Request, vdb: TheVDB) -> Response:
    """Deletes one item by its id."""
    note(request.scope, collection=collection)
    return reply({"deleted": bool(await vdb.delete(collection, [id]))})


def _items(body: bytes, most: int) -> list[dict[str, Any]]:
    """The items of a body. Raises :class:`InvalidRequest` for a field that items do not have."""
    items = list_of(body, "items", '{"vector": [0.1, 0.2]}')
    if len(items) > most:
        raise InvalidRequest(
            f"'items' holds {len(items)}; one request may hold {most} (services.limits.max_items)", param="items"
        )
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidRequest(f"items[{index}] must be an object", param="items")
        unknown = next((name for name in item if name not in NewItem.model_fields), None)
        if unknown is not None:
            raise InvalidRequest(f"items[{index}]: unknown field '{unknown}'", param=f"items[{index}].{unknown}")
    return items
