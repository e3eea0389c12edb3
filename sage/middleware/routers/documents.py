"""``/collections/{collection}/documents``: what is in a collection, in and out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.collections.requests import parse
from sage.middleware.routers.http.asgi import note, parse_object, read_body, read_json
from sage.middleware.routers.http.deps import Caller, TheCollections
from sage.middleware.routers.http.guard import GuardedRoute, requires
from sage.middleware.routers.http.openapi_bodies import NDJSON, json_body, media_type
from sage.middleware.settings.retrieval import RetrievalLimits

if TYPE_CHECKING:
    from sage.middleware.retrieval.types.documents import StoredDocument

router = APIRouter(route_class=GuardedRoute, prefix="/collections/{collection}/documents", tags=["Search"])
_PLACE = re.compile(r"documents\[(\d+)\]")
_EXAMPLE = {"documents": [{"id": "1", "text": "This is document 1", "metadata": {"lang": "en"}}]}


class DocumentBody(BaseModel):
    """A document; one with the `id` of another replaces it. Without an `id` it gets one."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(None, max_length=512)
    text: str
    metadata: dict[str, Any] | None = None
    vector: list[float] | None = Field(None, description="In place of one that the collection's embedder makes.")


class DocumentsRequest(BaseModel):
    """Documents to add or replace: all of them, or none."""

    model_config = ConfigDict(extra="forbid")

    documents: list[DocumentBody]


class WriteReply(BaseModel):
    """What an acknowledged write did; `ids` are in the order of the request."""

    ids: list[str]
    inserted: int
    updated: int


class DocumentAnswer(BaseModel):
    """A document as it is in the collection; its `vector` (null: it has none) comes with `?vector=true`."""

    id: str
    text: str
    metadata: dict[str, Any]
    vector: list[float] | None = None


class DocumentPage(BaseModel):
    """Documents in the order in which they came; `cursor` gives the next page, and is null at the last."""

    documents: list[DocumentAnswer]
    cursor: str | None


class DeleteRequest(BaseModel):
    """Which documents to delete: by `ids`, or by a `filter` on metadata."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ids: list[str] | None = Field(None, min_length=1)
    filter: dict[str, Any] | None = None


class DeleteReply(BaseModel):
    """How many documents were there and are gone."""

    deleted: int


@router.post(
    "",
    name="documents_add",
    response_model=WriteReply,
    openapi_extra=json_body(DocumentsRequest, _EXAMPLE, others=(NDJSON,)),
)
@requires(Scope.COLLECTIONS_WRITE)
async def add_documents(collection: str, request: Request, principal: Caller, collections: TheCollections) -> Response:
    """Adds documents, or replaces those of the same `id`; answers once they are durable, and found by every search.

    Takes `{"documents": […]}`, or one document a line (`application/x-ndjson`). What is refused leaves nothing behind.
    A collection that is not there is made, as the configuration says.
    """
    note(request.scope, collection=collection)
    body, limits = await read_body(request.receive), collections.limits
    if media_type(request) == NDJSON:
        lines = JsonLinesBody(limits)
        with lines.naming():
            written = await collections.add(principal, collection, lambda: lines.parse(body))
    else:
        written = await collections.add(principal, collection, lambda: _listed(body))
    return _json({"ids": written.ids, "inserted": written.inserted, "updated": written.updated})


@router.get("", name="documents_list", response_model=DocumentPage)
@requires(Scope.SEARCH)
async def list_documents(
    collection: str,
    principal: Caller,
    collections: TheCollections,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: str | None = None,
    filter: Annotated[str | None, Query(description='As JSON: `{"lang": "en"}`.')] = None,
) -> Response:
    """A page of the documents, in the order in which they came."""
    condition = _filter(filter) if filter is not None else None
    found, following = await collections.page(principal, collection, cursor, limit, condition)
    return _json({"documents": [_document(document) for document in found], "cursor": following})


@router.post(
    "/delete",
    name="documents_delete_many",
    response_model=DeleteReply,
    openapi_extra=json_body(DeleteRequest, {"ids": ["1"]}),
)
@requires(Scope.COLLECTIONS_WRITE)
async def delete_documents(
    collection: str, request: Request, principal: Caller, collections: TheCollections
) -> Response:
    """Deletes documents by id or by filter. Ids that are not there are passed over."""
    wanted = parse(DeleteRequest, await read_json(request.receive))
    note(request.scope, collection=collection)
    if (wanted.ids is None) == (wanted.filter is None):
        raise InvalidRequest("give either 'ids' or 'filter'", param="ids")
    return _json({"deleted": await collections.delete_documents(principal, collection, wanted.ids, wanted.filter)})


@router.get("/{id:path}", name="documents_show", response_model=DocumentAnswer)
@requires(Scope.SEARCH)
async def show_document(
    collection: str, id: str, principal: Caller, collections: TheCollections, vector: bool = False
) -> Response:
    """One document by its id, which may contain `/`."""
    found = await collections.document(principal, collection, id, vector=vector)
    shown = _document(found)
    if vector:
        shown["vector"] = found.vector.tolist() if found.vector is not None else None
    return _json(shown)


@router.delete("/{id:path}", name="documents_delete", status_code=204)
@requires(Scope.COLLECTIONS_WRITE)
async def delete_document(collection: str, id: str, principal: Caller, collections: TheCollections) -> None:
    """Deletes one document by its id."""
    if not await collections.delete_documents(principal, collection, [id], None):
        await collections.document(principal, collection, id)  # says that it is not there


class JsonLinesBody:
    """A body of one document a line; empty lines are passed over."""

    def __init__(self, limits: RetrievalLimits) -> None:
        self._most = limits.max_documents
        self._numbers: list[int] = []
        """Of each document the line that it stands on."""

    def parse(self, body: bytes) -> list[dict[str, Any]]:
        """The documents; raises :class:`InvalidRequest` that names the line."""
        documents: list[dict[str, Any]] = []
        for number, line in _lines(body):
            if len(documents) == self._most:
                raise InvalidRequest(
                    f"line {number}: one request may carry {self._most} documents (retrieval.limits.max_documents); "
                    "send them in parts",
                    param="documents",
                )
            try:
                documents.append(parse_object(line))
            except InvalidRequest as exc:
                said = (
                    exc.message.removeprefix("the body") if exc.message.startswith("the body") else f": {exc.message}"
                )
                raise InvalidRequest(f"line {number}{said}", param="documents", code=exc.code) from None
            self._numbers.append(number)
        return documents

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Errors of a write that name a document by its place name its line."""
        try:
            yield
        except InvalidRequest as exc:
            found = _PLACE.match(exc.message)
            if found is None or int(found[1]) >= len(self._numbers):
                raise
            said = f"line {self._numbers[int(found[1])]}{exc.message[found.end() :]}"
            raise InvalidRequest(said, param=exc.param, code=exc.code) from None


def _lines(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Each line with its number, without making a list of all."""
    start, number = 0, 0
    while start < len(body):
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        number += 1
        line = body[start:end].strip()
        if line:
            yield number, line
        start = end + 1


def _listed(body: bytes) -> list[Any]:
    given = parse_object(body)
    unknown = next((name for name in given if name != "documents"), None)
    if unknown is not None:
        raise InvalidRequest(f"unknown field '{unknown}'; give 'documents'", param=unknown)
    documents = given.get("documents")
    if not isinstance(documents, list):
        raise InvalidRequest('\'documents\' must be a list such as [{"text": "…"}]', param="documents")
    return documents


def _filter(text: str) -> dict[str, Any]:
    try:
        return parse_object(text.encode())
    except InvalidRequest:
        raise InvalidRequest('\'filter\' must be a JSON object such as {"lang": "en"}', param="filter") from None


def _document(document: StoredDocument) -> dict[str, Any]:
    return {"id": document.id, "text": document.text, "metadata": document.metadata}


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
