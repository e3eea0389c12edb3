"""OpenAI's ``/v1/vector_stores/{id}/files`` and ``/file_batches``."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.collections.requests import parse
from sage.middleware.gateway.vector_stores.files import StoreFiles
from sage.middleware.gateway.vector_stores.requests import AttachBatch, AttachFile, ChangeFile
from sage.middleware.gateway.vector_stores.views import deleted_view
from sage.middleware.routers.http.asgi import read_json
from sage.middleware.routers.http.deps import Caller
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.routers.http.openapi_bodies import json_body
from sage.middleware.routers.items import reply
from sage.middleware.routers.openai.vector_stores import FileCounts, PageSize, note_collection
from sage.middleware.vector_stores.records import FilePosition

router = guarded_router("OpenAI", prefix="/v1/vector_stores/{store}")

Status = Literal["in_progress", "completed", "failed", "cancelled"]


class StoreFileObject(BaseModel):
    """A file of a vector store; `usage_bytes` are those of its text. `last_error` says why it failed."""

    id: str
    object: Literal["vector_store.file"] = "vector_store.file"
    created_at: int
    vector_store_id: str
    status: Status
    usage_bytes: int
    last_error: dict[str, str] | None
    attributes: dict[str, Any]
    chunking_strategy: dict[str, Any]


class StoreFileList(BaseModel):
    """Some files of a store, and whether there are more."""

    object: Literal["list"] = "list"
    data: list[StoreFileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DetachedFile(BaseModel):
    """That a file is no longer in the store."""

    id: str
    object: Literal["vector_store.file.deleted"] = "vector_store.file.deleted"
    deleted: Literal[True] = True


class StoreFileContent(BaseModel):
    """The text of a file, chunk by chunk."""

    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
    data: list[dict[str, str]]
    has_more: bool
    next_page: str | None


class FileBatchObject(BaseModel):
    """Files that came into a store together."""

    id: str
    object: Literal["vector_store.files_batch"] = "vector_store.files_batch"
    created_at: int
    vector_store_id: str
    status: Status
    file_counts: FileCounts


async def store_files(request: Request) -> StoreFiles:
    """The files of vector stores."""
    files = request.app.state.store_files
    assert isinstance(files, StoreFiles)
    return files


async def _position(
    limit: PageSize = 20,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
    before: str | None = None,
    filter: Status | None = None,
) -> FilePosition:
    return FilePosition(limit, order == "asc", after, before, filter)


TheStoreFiles = Annotated[StoreFiles, Depends(store_files)]
Position = Annotated[FilePosition, Depends(_position)]


@router.post(
    "/files",
    name="store_files_create",
    response_model=StoreFileObject,
    openapi_extra=json_body(AttachFile, {"file_id": "file-…"}),
)
@requires(Scope.COLLECTIONS_WRITE)
async def attach_file(store: str, request: Request, who: Caller, files: TheStoreFiles) -> Response:
    """Puts an uploaded file into the store. It is read by a job: ask again until its status is no longer
    `in_progress`."""
    note_collection(request, store)
    wanted = parse(AttachFile, await read_json(request.receive, request.scope))
    return reply(await files.attach(who, store, wanted))


@router.get("/files", name="store_files_list", response_model=StoreFileList)
@requires(Scope.SEARCH)
async def list_files(store: str, who: Caller, files: TheStoreFiles, position: Position) -> Response:
    """The files of the store, the newest first."""
    return reply(await files.page(who, store, position))


@router.get("/files/{file}", name="store_files_get", response_model=StoreFileObject)
@requires(Scope.SEARCH)
async def get_file(store: str, file: str, who: Caller, files: TheStoreFiles) -> Response:
    """One file of the store."""
    return reply(await files.get(who, store, file))


@router.post(
    "/files/{file}",
    name="store_files_change",
    response_model=StoreFileObject,
    openapi_extra=json_body(ChangeFile, {"attributes": {"lang": "en"}}),
)
@requires(Scope.COLLECTIONS_WRITE)
async def change_file(store: str, file: str, request: Request, who: Caller, files: TheStoreFiles) -> Response:
    """Gives the file other attributes, by which searches can filter."""
    note_collection(request, store)
    wanted = parse(ChangeFile, await read_json(request.receive, request.scope))
    return reply(await files.change(who, store, file, wanted.attributes or {}))


@router.delete("/files/{file}", name="store_files_delete", response_model=DetachedFile)
@requires(Scope.COLLECTIONS_WRITE)
async def detach_file(store: str, file: str, request: Request, who: Caller, files: TheStoreFiles) -> Response:
    """Takes the file out of the store. It stays at `/v1/files`."""
    note_collection(request, store)
    await files.detach(who, store, file)
    return reply(deleted_view(file, "vector_store.file"))


@router.get("/files/{file}/content", name="store_files_content", response_model=StoreFileContent)
@requires(Scope.SEARCH)
async def get_content(store: str, file: str, who: Caller, files: TheStoreFiles) -> Response:
    """The text of the file as it was read, in its chunks."""
    return reply(await files.content(who, store, file))


@router.post(
    "/file_batches",
    name="store_batches_create",
    response_model=FileBatchObject,
    openapi_extra=json_body(AttachBatch, {"file_ids": ["file-…"]}),
)
@requires(Scope.COLLECTIONS_WRITE)
async def create_batch(store: str, request: Request, who: Caller, files: TheStoreFiles) -> Response:
    """Puts many files into the store together."""
    note_collection(request, store)
    wanted = parse(AttachBatch, await read_json(request.receive, request.scope))
    return reply(await files.create_batch(who, store, wanted))


@router.get("/file_batches/{batch}", name="store_batches_get", response_model=FileBatchObject)
@requires(Scope.SEARCH)
async def get_batch(store: str, batch: str, who: Caller, files: TheStoreFiles) -> Response:
    """How far a batch is."""
    return reply(await files.get_batch(who, store, batch))


@router.post("/file_batches/{batch}/cancel", name="store_batches_cancel", response_model=FileBatchObject)
@requires(Scope.COLLECTIONS_WRITE)
async def cancel_batch(store: str, batch: str, request: Request, who: Caller, files: TheStoreFiles) -> Response:
    """Ends a batch: its files that are not done are cancelled, the others stay."""
    note_collection(request, store)
    return reply(await files.cancel_batch(who, store, batch))


@router.get("/file_batches/{batch}/files", name="store_batches_files", response_model=StoreFileList)
@requires(Scope.SEARCH)
async def list_batch_files(store: str, batch: str, who: Caller, files: TheStoreFiles, position: Position) -> Response:
    """The files of a batch, the newest first."""
    return reply(await files.page(who, store, replace(position, batch=batch)))
