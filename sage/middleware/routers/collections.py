"""``/collections``: what there is to search, how it is made, embedded again, copied and restored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.collections.requests import ModelName, parse
from sage.middleware.routers.http.asgi import note, read_json
from sage.middleware.routers.http.deps import AuditNote, Caller, TheCollections
from sage.middleware.routers.http.guard import guarded_router, max_body, requires
from sage.middleware.routers.http.openapi_bodies import EVENTS, bytes_body, json_body
from sage.middleware.routers.http.progress import ProgressStream
from sage.middleware.routers.openai.vector_stores import TheStores
from sage.middleware.routers.snapshots import SnapshotStream, receive_file
from sage.middleware.settings.retrieval import CollectionOptions

router = guarded_router("Search")


class NewCollection(CollectionOptions):
    """A collection's name and what it is made with; what is left out is the configuration's (`retrieval.defaults`)."""

    name: str = Field(
        description="Letters of any script, digits, `.`, `_` and `-`, the first a letter or digit; up to 64.",
        json_schema_extra={"minLength": 1, "maxLength": 64},
    )
    shards: int | None = Field(
        None, ge=0, le=1024, description="Over how many shards; 0 means one store, null the configuration's number."
    )


class ReembedRequest(BaseModel):
    """What makes all vectors again: `local`, or a model's name, or `provider/model`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    embedder: ModelName


class CollectionState(BaseModel):
    """A collection. `bytes` are on disk, `created_at` is in Unix seconds; `embedder` is the exact name of what made its
    vectors (null: they come with the documents), `languages` those that it speaks (null: not known to be limited), and
    `reembedding` how far new vectors are. `shards` is over how many shards it is spread (null: it is in one store);
    while those do not run, its `documents` and `bytes` are null in the list, and so is a `dimension` that the first
    vector decided. `warnings` say why searches in it could be better. A collection that cannot be opened has only its
    `name` and an `error`."""

    model_config = ConfigDict(extra="allow")

    name: str
    documents: int | None = None
    dimension: int | None = None
    embedder: str | None = None
    languages: list[str] | None = None
    metric: str | None = None
    bytes: int | None = None
    created_at: float | None = None
    options: dict[str, Any] | None = None
    index: dict[str, Any] | None = None
    reembedding: dict[str, Any] | None = None
    shards: int | None = None
    warnings: list[str] | None = None
    error: str | None = None


class CollectionStates(BaseModel):
    """The collections of the caller's tenant."""

    collections: list[CollectionState]


@router.get("/collections", name="collections_list", response_model=CollectionStates)
@requires(Scope.SEARCH)
async def list_collections(principal: Caller, collections: TheCollections) -> JSONResponse:
    """The collections of the caller's tenant, in the order of the alphabet."""
    return JSONResponse({"collections": await collections.describe_all(principal)})


@router.post(
    "/collections",
    name="collections_create",
    status_code=201,
    response_model=CollectionState,
    openapi_extra=json_body(NewCollection, {"name": "notes"}),
)
@requires(Scope.COLLECTIONS_WRITE)
async def create_collection(
    request: Request, principal: Caller, collections: TheCollections, note_audit: AuditNote
) -> JSONResponse:
    """A new, empty collection."""
    body = await read_json(request.receive, request.scope)
    name = body.pop("name", None)
    if not isinstance(name, str):
        raise InvalidRequest("'name' must be text, such as \"notes\"", param="name")
    note(request.scope, collection=name)
    shards = body.pop("shards", None)
    state = await collections.create(principal, name, body, shards)
    await note_audit("collection.create", f"collection:{name}", {**body, "shards": state.get("shards")})
    return JSONResponse(state, status_code=201)


@router.get("/collections/{collection}", name="collections_show", response_model=CollectionState)
@requires(Scope.SEARCH)
async def show_collection(collection: str, principal: Caller, collections: TheCollections) -> JSONResponse:
    """One collection: how many documents, what makes its vectors, the state of its index."""
    return JSONResponse(await collections.describe(principal, collection))


@router.delete("/collections/{collection}", name="collections_delete", status_code=204)
@requires(Scope.COLLECTIONS_WRITE)
async def delete_collection(
    *,
    collection: str,
    request: Request,
    principal: Caller,
    collections: TheCollections,
    stores: TheStores,
    note_audit: AuditNote,
) -> None:
    """Deletes a collection with all its documents; requests that run on it end first."""
    note(request.scope, collection=collection)
    await collections.delete(principal, collection)
    await stores.forget(principal.tenant, collection)
    await note_audit("collection.delete", f"collection:{collection}")


@router.post(
    "/collections/{collection}/reembed",
    name="collections_reembed",
    response_class=Response,
    openapi_extra=json_body(ReembedRequest, {"embedder": "local"}),
    responses={
        200: {"content": {EVENTS: {}}},
        202: {"model": CollectionState},
    },
)
@requires(Scope.COLLECTIONS_WRITE)
async def reembed_collection(
    *,
    collection: str,
    request: Request,
    principal: Caller,
    collections: TheCollections,
    note_audit: AuditNote,
    wait: bool = True,
) -> Response:
    """Makes all vectors again, with another embedder; searches use the old ones until it is done.

    Its progress comes as events `{"status", "completed", "total"}`, then `[DONE]`; it goes on if the client leaves.
    Under `?wait=false` the answer is a 202 at once, and `reembedding` of the collection tells how far it is. One that
    was interrupted continues where it was when it is requested again.
    """
    wanted = parse(ReembedRequest, await read_json(request.receive, request.scope))
    note(request.scope, collection=collection)
    running = await collections.reembed(principal, collection, wanted.embedder)
    await note_audit("collection.reembed", f"collection:{collection}", {"embedder": wanted.embedder})
    if wait:
        return ProgressStream(running.progress())
    return JSONResponse(await collections.describe(principal, collection), status_code=202)


@router.delete("/collections/{collection}/reembed", name="collections_reembed_stop", status_code=204)
@requires(Scope.COLLECTIONS_WRITE)
async def stop_reembedding(collection: str, request: Request, principal: Caller, collections: TheCollections) -> None:
    """Stops making new vectors, after the current batch; searches keep the old ones. The same request as before goes
    on where it was."""
    note(request.scope, collection=collection)
    await collections.stop_reembed(principal, collection)


@router.post("/collections/{collection}/optimize", name="collections_optimize", response_model=CollectionState)
@requires(Scope.COLLECTIONS_WRITE)
async def optimize_collection(
    collection: str, request: Request, principal: Caller, collections: TheCollections
) -> JSONResponse:
    """Brings the index into its fastest shape and answers when that is done. It happens by itself, too."""
    note(request.scope, collection=collection)
    return JSONResponse(await collections.optimize(principal, collection))


@router.get(
    "/collections/{collection}/snapshot",
    name="collections_snapshot",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
)
@requires(Scope.SEARCH)
async def snapshot_collection(
    collection: str, request: Request, principal: Caller, collections: TheCollections
) -> Response:
    """One consistent state of a collection as a file, while others write."""
    note(request.scope, collection=collection)
    stream = SnapshotStream(collection)
    await stream.begin(lambda write: collections.snapshot(principal, collection, write))
    return stream


@router.put(
    "/collections/{collection}/snapshot",
    name="collections_restore",
    status_code=201,
    response_model=CollectionState,
    openapi_extra=bytes_body(),
)
@requires(Scope.COLLECTIONS_WRITE)
@max_body(None)
async def restore_collection(
    *,
    collection: str,
    request: Request,
    principal: Caller,
    collections: TheCollections,
    note_audit: AuditNote,
    shards: int | None = None,
) -> JSONResponse:
    """A new collection from a snapshot, whole or not at all; over so many `shards` (0 means one store). Without
    `shards`, their number is the configuration's."""
    note(request.scope, collection=collection)
    async with receive_file(request, collections) as file:
        restored: Mapping[str, Any] = await collections.restore(principal, collection, file, shards)
    await note_audit("collection.restore", f"collection:{collection}", {"documents": restored.get("documents")})
    return JSONResponse(restored, status_code=201)
