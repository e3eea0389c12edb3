"""``/collections/{collection}/documents``: what is in a collection, in and out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.json_object import parse_object
from sage.middleware.routers.http.asgi import note, read_body, read_json
from sage.middleware.routers.http.deps import Caller, TheCollections
from sage.middleware.routers.http.guard import guarded_router, max_body, requires
from sage.middleware.routers.http.openapi_bodies import NDJSON, json_body, media_type
from sage.middleware.routers.items import (
    Cleared,
    Item,
    ItemsWritten,
    NewItem,
    Selection,
    filter_of,
    list_of,
    reply,
    select,
)
from sage.middleware.settings.retrieval import RetrievalLimits

if TYPE_CHECKING:
    from sage.middleware.retrieval.types.documents import StoredDocument

router = guarded_router("Search", prefix="/collections/{collection}/documents")
_PLACE = re.compile(r"documents\[(\d+)\]")
_EXAMPLE = {"documents": [{"id": "1", "text": "This is document 1", "metadata": {"lang": "en"}}]}


class DocumentBody(NewItem):
    """A document; one with the `id` of another replaces it. Without an `id` it gets one."""

    text: str


class DocumentsRequest(BaseModel):
    """Documents to add or replace: all of them, or none."""

    model_config = ConfigDict(extra="forbid")

    documents: list[DocumentBody]


class DocumentsWritten(ItemsWritten):
    """What an acknowledged write did; `ids` are in the order of the request. `warnings` say what makes the documents
    hard to find, such as an embedder that does not know their language."""

    inserted: int
    updated: int
    warnings: list[str] | None = None


class DocumentPage(BaseModel):
    """Documents in the order in which they came; `cursor` gives the next page, and is null at the last."""

    documents: list[Item]
    cursor: str | None


class DeleteDocuments(Selection):
    """Which documents: by `ids`, or by a `filter` on metadata."""

    filter: dict[str, Any] | None = None


@router.post(
    "",
    name="documents_add",
    response_model=DocumentsWritten,
    openapi_extra=json_body(DocumentsRequest, _EXAMPLE, others=(NDJSON,)),
)
@requires(Scope.COLLECTIONS_WRITE)
@max_body(None)
async def add_documents(
    collection: str,
    request: Request,
    principal: Caller,
    collections: TheCollections,
    create: Annotated[bool, Query(description="Make the collection if it is not there.")] = True,
) -> Response:
    """Adds documents, or replaces those of the same `id`; answers once they are durable, and found by every search.

    Takes `{"documents": […]}`, or one document a line (`application/x-ndjson`). What is refused leaves nothing behind.
    A collection that is not there is made, as the configuration says.
    """
    note(request.scope, collection=collection)
    body, limits = await read_body(request.receive), collections.limits
    if media_type(request) == NDJSON:
        lines = JsonLinesBody(limits)
        with lines.naming():
            written = await collections.add(principal, collection, lambda: lines.parse(body), create=create)
    else:
        written = await collections.add(
            principal, collection, lambda: list_of(body, "documents", '{"text": "…"}'), create=create
        )
    answer: dict[str, Any] = {"ids": written.ids, "inserted": written.inserted, "updated": written.updated}
    if written.warnings:
        answer["warnings"] = written.warnings
    return reply(answer)


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
    condition = filter_of(filter, "filter")
    page, following = await collections.page(principal, collection, cursor, limit, condition)
    return reply({"documents": [_document(document) for document in page], "cursor": following})


@router.post(
    "/delete",
    name="documents_delete_many",
    response_model=Cleared,
    openapi_extra=json_body(DeleteDocuments, {"ids": ["1"]}),
)
@requires(Scope.COLLECTIONS_WRITE)
@max_body(None)
async def delete_documents(
    collection: str, request: Request, principal: Caller, collections: TheCollections
) -> Response:
    """Deletes documents by id or by filter. Ids that are not there are passed over."""
    note(request.scope, collection=collection)
    selection = select(DeleteDocuments, await read_json(request.receive, request.scope), "filter")
    deleted = await collections.delete_documents(principal, collection, selection.ids, selection.filter)
    return reply({"deleted": deleted})


@router.get("/{id:path}", name="documents_show", response_model=Item)
@requires(Scope.SEARCH)
async def show_document(
    collection: str, id: str, principal: Caller, collections: TheCollections, vector: bool = False
) -> Response:
    """One document by its id, which may contain `/`."""
    document = await collections.document(principal, collection, id, vector=vector)
    content = _document(document)
    if vector:
        content["vector"] = document.vector.tolist() if document.vector is not None else None
    return reply(content)


@router.delete("/{id:path}", name="documents_delete", status_code=204)
@requires(Scope.COLLECTIONS_WRITE)
async def delete_document(collection: str, id: str, principal: Caller, collections: TheCollections) -> None:
    """Deletes one document by its id."""
    if not await collections.delete_documents(principal, collection, [id], None):
        await collections.document(principal, collection, id)  # raises that it is not there


class JsonLinesBody:
    """A body of one document a line; empty lines are passed over."""

    def __init__(self, limits: RetrievalLimits) -> None:
        self._most = limits.max_documents
        self._numbers: list[int] = []
        """The line of each document."""

    def parse(self, body: bytes) -> list[dict[str, Any]]:
        """The documents; raises :class:`InvalidRequest` that names the line."""
        documents: list[dict[str, Any]] = []
        for number, line in _lines(body):
            if not line:
                if number - len(documents) > self._most:
                    raise InvalidRequest(f"line {number}: more than {self._most} lines are empty", param="documents")
                continue
            if len(documents) == self._most:
                raise InvalidRequest(
                    f"line {number}: one request may carry {self._most} documents (retrieval.limits.max_documents); "
                    "send them in parts",
                    param="documents",
                )
            try:
                documents.append(parse_object(line, vectors=True))
            except InvalidRequest as exc:
                own = exc.message.startswith("the body")
                reason = exc.message.removeprefix("the body") if own else f": {exc.message}"
                raise InvalidRequest(f"line {number}{reason}", param="documents", code=exc.code) from None
            self._numbers.append(number)
        return documents

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Makes errors of a write that name a document by its place in the list name its line."""
        try:
            yield
        except InvalidRequest as exc:
            match = _PLACE.match(exc.message)
            if match is None or int(match[1]) >= len(self._numbers):
                raise
            message = f"line {self._numbers[int(match[1])]}{exc.message[match.end() :]}"
            raise InvalidRequest(message, param=exc.param, code=exc.code) from None


def _lines(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Each line with its number, without making a list of all."""
    start, number = 0, 0
    while start < len(body):
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        number += 1
        yield number, body[start:end].strip()
        start = end + 1


def _document(document: StoredDocument) -> dict[str, Any]:
    return {"id": document.id, "text": document.text, "metadata": document.metadata}
