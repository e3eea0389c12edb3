"""Our own retrieval engine behind a vector service: durable in a directory, or in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from sage.errors import Conflict, InvalidRequest, NotFound, Unsupported
from sage.middleware.retrieval.collection import Collection
from sage.middleware.retrieval.collections import EXISTS
from sage.middleware.retrieval.columns import NumberOrder
from sage.middleware.retrieval.types.documents import NewDocument, StoredDocument
from sage.middleware.retrieval.types.search import Mode, Search, SearchResult
from sage.middleware.retrieval.updates import Revision
from sage.middleware.settings.retrieval import CollectionOptions, Retrieval
from sage.service.vdb.backends import CollectionDefaults, no_collection, no_item
from sage.service.vdb.items import LIMITS, check_dimensions
from sage.service.vdb.memory_collections import InMemoryCollections
from sage.service.vdb.sharded.collections import AnyCollection, TenantCollections
from sage.service.vdb.sharded.hosting import ShardHosting, in_actor


class RetrievalBackend:
    """Several processes may work on one ``directory``; a collection keeps to the metric, the dimension and the
    embedder that it was made with."""

    keywords = True

    def __init__(self, directory: Path | None, defaults: CollectionDefaults, shards: int = 0) -> None:
        """``shards``: over how many a new collection is spread, which needs a ``directory``; they are actors where the
        service itself is one. 0 means one store."""
        self._directory = directory
        self._dimension = defaults.dimension
        self._embeds = defaults.embedder != "none"
        options = CollectionOptions(
            embedder=defaults.embedder, dimension=defaults.dimension, metric=defaults.metric, vectors=defaults.vectors
        )
        self._collections: TenantCollections | InMemoryCollections
        if directory is None:
            self._collections = InMemoryCollections(options, defaults.models, LIMITS)
        else:
            settings = Retrieval(defaults=options, limits=LIMITS, shards=shards)
            hosting = ShardHosting("ray" if in_actor() else "local")
            self._collections = TenantCollections(directory, settings, defaults.models, hosting)

    def add(self, tenant: str, collection: str, items: Sequence[NewDocument]) -> None:
        while True:
            try:
                self._write(self._collections.open(tenant, collection), items)
                return
            except NotFound as exc:  # a new one, or dropped just now
                if exc.code != "collection_not_found":
                    raise
            if (dimension := self._dimension or _first_dimension(items)) is not None:
                check_dimensions(items, dimension)
            try:
                self._collections.create_with(tenant, collection, [_document(item) for item in items])
                return
            except Conflict as exc:
                if exc.code != EXISTS:
                    raise

    def _write(self, collection: AnyCollection, items: Sequence[NewDocument]) -> None:
        try:
            if self._embeds and any(item.vector is None for item in items):
                collection.add([_document(item) for item in items])
            else:
                collection.put(items)
        except InvalidRequest as exc:
            if exc.code == "wrong_dimension" and (dimension := collection.identity.dimension) is not None:
                check_dimensions(items, dimension)
            raise

    def search(self, tenant: str, collection: str, search: Search) -> list[SearchResult]:
        with self._opened(tenant, collection) as opened:
            if search.mode is Mode.DENSE and search.vector is None and opened.identity.embedder is None:
                raise InvalidRequest(
                    f"collection '{collection}' has no embedder, so a dense search must bring its 'vector'; or use "
                    "mode 'bm25', or give the service an 'embedder' before the collection is made",
                    param="vector",
                )
            return opened.search(search).results

    def get(self, tenant: str, collection: str, id: str, vector: bool) -> StoredDocument:
        with self._opened(tenant, collection, id) as opened:
            return opened.get(id, vector=vector)

    def find(self, tenant: str, collection: str, ids: Sequence[str], vector: bool) -> list[StoredDocument]:
        with self._opened(tenant, collection) as opened:
            return opened.get_many(ids, vectors=vector)

    def groups(
        self, tenant: str, collection: str, by: str, of: str, where: Mapping[str, Any] | None
    ) -> Mapping[str, tuple[int, float, float]]:
        with self._opened(tenant, collection) as opened:
            found = _in_one_store(opened).groups(by, of, where)
        return {text: (group.count, group.lowest, group.highest) for text, group in found.items()}

    def page_by(
        self, tenant: str, collection: str, order: NumberOrder, limit: int, where: Mapping[str, Any] | None
    ) -> list[StoredDocument]:
        with self._opened(tenant, collection) as opened:
            return _in_one_store(opened).page_by(order, limit, where)

    def page(
        self,
        tenant: str,
        collection: str,
        where: Mapping[str, Any] | None,
        limit: int,
        cursor: str | None,
        vectors: bool,
    ) -> tuple[list[StoredDocument], str | None]:
        with self._opened(tenant, collection) as opened:
            items, cursor_after = opened.page(cursor, limit, where)
            if not vectors:
                return items, cursor_after
            ids = [item.id for item in items]
        return self.find(tenant, collection, ids, True), cursor_after

    def update(self, tenant: str, collection: str, id: str, revision: Revision) -> None:
        with self._opened(tenant, collection, id) as opened:
            opened.update(id, text=revision.text, metadata=revision.metadata, vector=revision.vector)

    def delete(self, tenant: str, collection: str, ids: Sequence[str] | None, where: Mapping[str, Any] | None) -> int:
        with self._opened(tenant, collection) as opened:
            return opened.delete(ids, where)

    def purge(self, tenant: str, collection: str) -> None:
        with self._opened(tenant, collection) as opened:
            opened.purge()

    def count(self, tenant: str, collection: str, where: Mapping[str, Any] | None) -> int:
        with self._opened(tenant, collection) as opened:
            return opened.count(where)

    def revision(self, tenant: str, collection: str) -> tuple[str, int]:
        with self._opened(tenant, collection) as opened:
            return opened.revision()

    def collections(self, tenant: str) -> list[str]:
        return self._collections.names(tenant)

    def drop(self, tenant: str, collection: str) -> None:
        with self._opened(tenant, collection):
            self._collections.delete(tenant, collection)

    def health(self) -> Mapping[str, Any]:
        return {"backend": "retrieval", "durable": self._directory is not None}

    def close(self) -> None:
        self._collections.close()

    @contextmanager
    def _opened(self, tenant: str, collection: str, id: str = "") -> Iterator[AnyCollection]:
        try:
            yield self._collections.open(tenant, collection)
        except NotFound as exc:
            if exc.code == "document_not_found":
                raise no_item(collection, id) from None
            if exc.code != "collection_not_found":
                raise
            raise no_collection(collection, self._collections.names(tenant)) from None


def _first_dimension(items: Sequence[NewDocument]) -> int | None:
    return next((item.vector.size for item in items if item.vector is not None), None)


def _document(item: NewDocument) -> dict[str, Any]:
    document: dict[str, Any] = {"id": item.id, "text": item.text, "metadata": orjson.loads(item.metadata)}
    if item.vector is not None:
        document["vector"] = item.vector
    return document


def _in_one_store(collection: AnyCollection) -> Collection:
    """Raises :class:`Unsupported` for a sharded collection."""
    if isinstance(collection, Collection):
        return collection
    raise Unsupported("a sharded collection has neither groups nor an order by a number", param="collection")
