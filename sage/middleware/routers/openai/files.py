"""OpenAI's ``/v1/files``: what users upload for batches and jobs, and what those make."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.jobs.files import FileGateway
from sage.middleware.queue.files import StoredFile
from sage.middleware.routers.http.deps import Caller, TheQueue
from sage.middleware.routers.http.file_content import FileContent
from sage.middleware.routers.http.forms.parts import FORM
from sage.middleware.routers.http.guard import guarded_router, max_body, requires
from sage.middleware.routers.http.openapi_bodies import BYTES
from sage.middleware.routers.items import reply
from sage.middleware.routers.openai.uploads import MAX_EXPIRY, MIN_EXPIRY, UPLOAD_PURPOSES, receive_upload
from sage.middleware.routers.openai.vector_store_files import TheStoreFiles

router = guarded_router("OpenAI")

_MOST_LISTED = 10_000
_FORM_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(UPLOAD_PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": MIN_EXPIRY, "maximum": MAX_EXPIRY},
                    },
                }
            }
        },
    }
}


class FileObject(BaseModel):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None


class FileList(BaseModel):
    """Some files, and whether there are more."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    """That a file is deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


async def _files(queue: TheQueue) -> FileGateway:
    return (await queue.open()).files


TheFiles = Annotated[FileGateway, Depends(_files)]


@router.post("/v1/files", name="files_create", response_model=FileObject, openapi_extra=_FORM_BODY)
@requires(Scope.TASKS)
@max_body(None)
async def create_file(request: Request, files: TheFiles) -> Response:
    """Uploads a file, which goes to disk as it comes. `queue.limits` says how large it may be.

    A file for a batch expires after 30 days unless the form says when; others stay until they are deleted.
    """
    return reply(file_object(await receive_upload(request, files)))


@router.get("/v1/files", name="files_list", response_model=FileList)
@requires(Scope.TASKS)
async def list_files(
    who: Caller,
    files: TheFiles,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=_MOST_LISTED)] = _MOST_LISTED,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> Response:
    """The files of the caller's tenant, the newest first. `after` is the id of the last file of the page before."""
    page = await files.page(who, limit=limit, purpose=purpose, after=after, oldest_first=order == "asc")
    data = [file_object(file) for file in page.files]
    ids = [file["id"] for file in data] or [None]
    return reply({"object": "list", "data": data, "first_id": ids[0], "last_id": ids[-1], "has_more": page.has_more})


@router.get("/v1/files/{file_id}", name="files_get", response_model=FileObject)
@requires(Scope.TASKS)
async def get_file(file_id: str, who: Caller, files: TheFiles) -> Response:
    """What is known of a file."""
    return reply(file_object(await files.get(who, file_id)))


@router.get(
    "/v1/files/{file_id}/content",
    name="files_content",
    response_class=Response,
    responses={200: {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}},
)
@requires(Scope.TASKS)
async def get_content(file_id: str, who: Caller, files: TheFiles) -> FileContent:
    """The bytes of a file. A `Range` of them may be asked for."""
    stored, file = await files.open(who, file_id)
    return FileContent(file, stored.size, stored.filename, stored.id, partial(files.run, who))


@router.delete("/v1/files/{file_id}", name="files_delete", response_model=DeletedFile)
@requires(Scope.TASKS)
async def delete_file(file_id: str, who: Caller, files: TheFiles, stores: TheStoreFiles) -> Response:
    """Deletes a file, and takes it out of the vector stores where the caller may change these. A batch that still reads
    it goes on."""
    await files.delete(who, file_id)
    if Scope.COLLECTIONS_WRITE in who.scopes:
        await stores.detach_everywhere(who.tenant, file_id)
    return reply({"id": file_id, "object": "file", "deleted": True})


def file_object(file: StoredFile) -> dict[str, Any]:
    """The file in OpenAI's shape."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
