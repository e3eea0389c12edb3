"""ChromaDB behind a vector service. Vectors are always given by us: Chroma makes none."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

from sage.errors import InvalidRequest, NotFound, Unsupported
from sage.middleware.retrieval.columns import NumberOrder
from sage.middleware.retrieval.embedding.builtin import name_of_maker
from sage.middleware.retrieval.embedding.protocols import Embedder
from sage.middleware.retrieval.query.relevance import RelevanceScale
from sage.middleware.retrieval.types.documents import NewDocument, StoredDocument, Vector
from sage.middleware.retrieval.types.search import Mode, Search, SearchResult, check_search
from sage.middleware.retrieval.updates import Revision
from sage.middleware.settings.retrieval import Metric
from sage.service.vdb.backends import CollectionDefaults, no_collection, no_item
from sage.service.vdb.chroma.client import GONE, close, connect, made_anew, translated
from sage.service.vdb.chroma.filters import chroma_where
from sage.service.vdb.chroma.records import (
    DIMENSION,
    EMBEDDER,
    METRIC,
    SPACES,
    collection_of,
    encoded_metadata,
    encoded_name,
    exact_scores,
    replacing,
    scores_of,
)
from sage.service.vdb.embedded import embedded
from sage.service.vdb.items import LIMITS, check_dimensions

_PREFIX = "sage"
_OURS = ("alpha", "fusion", "rerank", "explain", "highlight")
Result = TypeVar("Result")


class ChromaBackend:
    """An add is all or nothing up to Chroma's own batch (thousands of items; what is wrong is found before the first).
    What reads and then writes (updates, the replacing of metadata) is in one piece among the threads of this service,
    but not among several processes. A page's cursor counts items: deletions in between shift the pages."""

    keywords = False

    def __init__(self, directory: Path | None, url: str | None, defaults: CollectionDefaults) -> None:
        self._client = connect(directory, url)
        self._url = url
        self._defaults = defaults
        # All clients in memory of one process share one Chroma.
        self._in_memory = directory is None and url is None
        self._prefix = f"{_PREFIX}{secrets.token_hex(8)}" if self._in_memory else _PREFIX
        self._handles: dict[str, Any] = {}
        self._writing = threading.RLock()
        with translated(url):
            self._most = int(self._client.get_max_batch_size())

    def add(self, tenant: str, collection: str, items: Sequence[NewDocument]) -> None:
        metadatas = [encoded_metadata(item, f"items[{index}]") for index, item in enumerate(items)]
        embedder = self._embedder_of(tenant, collection)
        complete = _with_vectors(items, embedder)

        def run(handle: Any) -> None:
            check_dimensions(complete, _dimension(handle))
            for start in range(0, len(complete), self._most):
                part = slice(start, start + self._most)
                _upsert(handle, complete[part], metadatas[part])

        with self._writing:
            try:
                self._on(tenant, collection, run)
            except NotFound:
                dimension = self._defaults.dimension or _size_of(complete[0])
                check_dimensions(complete, dimension)
                self._make(tenant, collection, dimension, embedder)
                self._on(tenant, collection, run)

    def _make(self, tenant: str, collection: str, dimension: int, embedder: Embedder | None) -> None:
        metric = self._defaults.metric
        maker = {} if embedder is None else {EMBEDDER: embedder.name}
        with translated(self._url):
            self._client.get_or_create_collection(
                encoded_name(self._prefix, tenant, collection),
                metadata={METRIC: metric.value, DIMENSION: dimension, **maker},
                configuration={"hnsw": {"space": SPACES[metric]}},
                embedding_function=None,
            )

    def _embedder_of(self, tenant: str, collection: str) -> Embedder | None:
        """The one that made the collection's vectors; of a collection that is not there, the one that will."""
        spec = self._defaults.embedder
        try:
            made_by = self._on(tenant, collection, lambda handle: handle.metadata.get(EMBEDDER))
        except NotFound:
            return self._defaults.models.embedder(spec)
        return self._defaults.models.embedder(name_of_maker(made_by, spec))

    def search(self, tenant: str, collection: str, search: Search) -> list[SearchResult]:
        _refuse_ours(search)
        embedder = self._embedder_of(tenant, collection)
        query = _query_vector(search, embedder)
        maker = None if embedder is None else embedder.name
        where = chroma_where(search.filter)

        def run(handle: Any) -> list[SearchResult]:
            with_vector = replace(search, vector=query)
            check_search(with_vector, dimension=_dimension(handle), max_results=LIMITS.max_results)
            if where is False:
                return []
            return _nearest(handle, query, search, maker, None if where is True else where)

        return self._on(tenant, collection, run)

    def get(self, tenant: str, collection: str, id: str, vector: bool) -> StoredDocument:
        def run(handle: Any) -> StoredDocument:
            items = _stored(handle.get(ids=[id], include=_included(vector)))
            if not items:
                raise no_item(collection, id)
            return items[0]

        return self._on(tenant, collection, run)

    def find(self, tenant: str, collection: str, ids: Sequence[str], vector: bool) -> list[StoredDocument]:
        def run(handle: Any) -> list[StoredDocument]:
            items = {
                item.id: item for item in _stored(handle.get(ids=list(dict.fromkeys(ids)), include=_included(vector)))
            }
            return [items[id] for id in ids if id in items]

        return self._on(tenant, collection, run) if ids else []

    def revision(self, tenant: str, collection: str) -> tuple[str, int]:
        raise Unsupported("Chroma does not tell whether a collection was changed", param="collection")

    def groups(
        self, tenant: str, collection: str, by: str, of: str, where: Mapping[str, Any] | None
    ) -> Mapping[str, tuple[int, float, float]]:
        raise _no_columns()

    def page_by(
        self, tenant: str, collection: str, order: NumberOrder, limit: int, where: Mapping[str, Any] | None
    ) -> list[StoredDocument]:
        raise _no_columns()

    def page(
        self,
        tenant: str,
        collection: str,
        where: Mapping[str, Any] | None,
        limit: int,
        cursor: str | None,
        vectors: bool,
    ) -> tuple[list[StoredDocument], str | None]:
        condition, offset = chroma_where(where), _offset(cursor)

        def run(handle: Any) -> tuple[list[StoredDocument], str | None]:
            if condition is False:
                return [], None
            narrowed = None if condition is True else condition
            items = _stored(handle.get(where=narrowed, limit=limit + 1, offset=offset, include=_included(vectors)))
            return items[:limit], f"o{offset + limit:x}" if len(items) > limit else None

        return self._on(tenant, collection, run)

    def update(self, tenant: str, collection: str, id: str, revision: Revision) -> None:
        with self._writing:
            stored = self.get(tenant, collection, id, True)
            changed = NewDocument(
                id,
                stored.text if revision.text is None else revision.text,
                orjson.dumps(stored.metadata) if revision.metadata is None else revision.metadata,
                stored.vector if revision.vector is None else revision.vector,
            )
            if revision.text is not None and revision.vector is None and self._defaults.embedder != "none":
                changed = replace(changed, vector=None)
            (changed,) = _with_vectors([changed], self._embedder_of(tenant, collection))
            metadata = encoded_metadata(changed, "update")

            def run(handle: Any) -> None:
                check_dimensions([changed], _dimension(handle))
                _upsert(handle, [changed], [metadata])

            self._on(tenant, collection, run)

    def delete(self, tenant: str, collection: str, ids: Sequence[str] | None, where: Mapping[str, Any] | None) -> int:
        condition = chroma_where(where) if ids is None else True

        def run(handle: Any) -> int:
            matching = (
                _ids_passing(handle, condition) if ids is None else self._existing_ids(handle, list(dict.fromkeys(ids)))
            )
            for start in range(0, len(matching), self._most):
                handle.delete(ids=matching[start : start + self._most])
            return len(matching)

        with self._writing:
            return self._on(tenant, collection, run)

    def _existing_ids(self, handle: Any, ids: Sequence[str]) -> list[str]:
        parts = (ids[start : start + self._most] for start in range(0, len(ids), self._most))
        return [id for part in parts for id in handle.get(ids=part, include=[])["ids"]]

    def purge(self, tenant: str, collection: str) -> None:
        self.count(tenant, collection, None)
        raise Unsupported(
            "Chroma cannot be made to leave no byte of what was deleted in its files; drop the collection, or use "
            "backend 'retrieval'",
            param="backend",
        )

    def count(self, tenant: str, collection: str, where: Mapping[str, Any] | None) -> int:
        condition = chroma_where(where)

        def run(handle: Any) -> int:
            return int(handle.count()) if condition is True else len(_ids_passing(handle, condition))

        return self._on(tenant, collection, run)

    def collections(self, tenant: str) -> list[str]:
        return sorted(name for name in (collection_of(n, self._prefix, tenant) for n in self._names()) if name)

    def _names(self) -> Iterator[str]:
        with translated(self._url):
            offset = 0
            while page := self._client.list_collections(limit=1000, offset=offset):
                yield from (collection.name for collection in page)
                offset += len(page)

    def drop(self, tenant: str, collection: str) -> None:
        name = encoded_name(self._prefix, tenant, collection)
        with self._writing:
            self.count(tenant, collection, None)
            self._handles.pop(name, None)
            with translated(self._url):
                self._client.delete_collection(name)

    def health(self) -> Mapping[str, Any]:
        with translated(self._url):
            self._client.heartbeat()
        return {"backend": "chroma", "durable": not self._in_memory}

    def close(self) -> None:
        self._handles.clear()
        try:
            if self._in_memory:
                for name in [name for name in self._names() if name.startswith(f"{self._prefix}.")]:
                    self._client.delete_collection(name)
        finally:
            close(self._client)

    def _on(self, tenant: str, collection: str, run: Callable[[Any], Result]) -> Result:
        """With the collection; once more when it may have been made anew since it was last used."""
        name = encoded_name(self._prefix, tenant, collection)
        handle = self._handles.get(name)
        try:
            with translated(self._url):
                if handle is not None:
                    try:
                        return run(handle)
                    except Exception as exc:
                        if not made_anew(exc):
                            raise
                handle = self._handles[name] = self._client.get_collection(name, embedding_function=None)
                return run(handle)
        except NotFound as exc:
            if exc.code != GONE:
                raise
            self._handles.pop(name, None)
            raise no_collection(collection, self.collections(tenant)) from None


def _with_vectors(items: Sequence[NewDocument], embedder: Embedder | None) -> list[NewDocument]:
    complete = embedded(items, embedder)
    for index, item in enumerate(complete):
        if item.vector is None:
            raise Unsupported(
                f"items[{index}] has no 'vector', which Chroma needs of each; give it one, or the service an "
                "'embedder'",
                param="items",
            )
    return complete


def _refuse_ours(search: Search) -> None:
    default = Search()
    for name in _OURS:
        if getattr(search, name) != getattr(default, name):
            raise Unsupported(
                f"'{name}' is of the backend 'retrieval'; Chroma searches by vectors alone", param="options"
            )
    if search.mode is not Mode.DENSE:
        raise Unsupported(
            f"mode '{search.mode}' goes by words, and Chroma by vectors alone; use 'dense', or backend 'retrieval'",
            param="mode",
        )


def _query_vector(search: Search, embedder: Embedder | None) -> Vector:
    if search.vector is not None:
        if search.query:
            raise Unsupported(
                "Chroma searches by one vector: give 'vector' or 'text', or use backend 'retrieval'", param="text"
            )
        return search.vector
    if embedder is None:
        raise Unsupported(
            "Chroma searches by vectors: give 'vector', or the service an 'embedder', or use backend 'retrieval'",
            param="text",
        )
    vector: Vector = embedder.embed([search.query], query=True)[0]
    return vector


def _no_columns() -> Unsupported:
    return Unsupported("Chroma has neither groups nor an order by a number; use backend 'retrieval'", param="backend")


def _upsert(handle: Any, items: Sequence[NewDocument], metadatas: Sequence[Mapping[str, Any]]) -> None:
    """One batch; of items that were existing, the metadata as a complete is replaced."""
    ids = [item.id for item in items]
    existing = handle.get(ids=ids, include=["metadatas"])
    stored = dict(zip(existing["ids"], existing["metadatas"], strict=True))
    handle.upsert(
        ids=ids,
        embeddings=[item.vector for item in items],
        metadatas=[replacing(metadata, stored.get(id)) for id, metadata in zip(ids, metadatas, strict=True)],
        documents=[item.text for item in items],
    )


def _nearest(
    handle: Any, query: Vector, search: Search, embedder: str | None, where: dict[str, Any] | None
) -> list[SearchResult]:
    wanted = search.offset + search.top_k
    metric = Metric(handle.metadata[METRIC])
    scale = RelevanceScale.of(metric, embedder, search)
    if not search.exact:
        rows = handle.query(
            query_embeddings=[query], n_results=wanted, where=where, include=["metadatas", "documents", "distances"]
        )
        ids = rows["ids"][0]
        if len(ids) == wanted or len(ids) == len(_ids_passing(handle, where or True)):
            scores = scores_of(np.asarray(rows["distances"][0], np.float64), metric)
            return _results(ids, scores, rows["documents"][0], rows["metadatas"][0], search, scale)
    # Chroma's graph may find fewer than existing are, of those that a filter lets through.
    rows = handle.get(where=where, include=["embeddings", "metadatas", "documents"])
    if not rows["ids"]:
        return []
    scores = exact_scores(query, rows["embeddings"], metric)
    order = np.argsort(-scores, kind="stable")[:wanted].tolist()
    columns = ([rows[key][index] for index in order] for key in ("ids", "documents", "metadatas"))
    ids, documents, metadatas = columns
    return _results(ids, scores[order], documents, metadatas, search, scale)


def _results(
    ids: Sequence[str], scores: Any, documents: Any, metadatas: Any, search: Search, scale: RelevanceScale
) -> list[SearchResult]:
    results = [
        SearchResult(id, score, text or "", dict(metadata or {}), {"dense": score, "bm25": None})
        for id, score, text, metadata in zip(ids, scores.tolist(), documents, metadatas, strict=True)
    ]
    if search.score_threshold is not None:  # relevance falls with the score: the best come first in either
        relevances = scale.of_meaning(scores).tolist()
        results = [
            replace(result, scores={**(result.scores or {}), "relevance": relevance})
            for result, relevance in zip(results, relevances, strict=True)
            if relevance >= search.score_threshold
        ]
    return results[search.offset :]


def _stored(rows: Mapping[str, Any]) -> list[StoredDocument]:
    vectors = rows["embeddings"]
    return [
        StoredDocument(
            id,
            rows["documents"][index] or "",
            dict(rows["metadatas"][index] or {}),
            None if vectors is None else np.asarray(vectors[index], np.float32),
        )
        for index, id in enumerate(rows["ids"])
    ]


def _ids_passing(handle: Any, where: dict[str, Any] | bool) -> list[str]:
    if where is False:
        return []
    return list(handle.get(where=None if where is True else where, include=[])["ids"])


def _included(vectors: bool) -> list[str]:
    return ["metadatas", "documents", *(["embeddings"] if vectors else [])]


def _size_of(item: NewDocument) -> int:
    return 0 if item.vector is None else item.vector.size


def _dimension(handle: Any) -> int:
    return int(handle.metadata[DIMENSION])


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        offset = int(cursor.removeprefix("o"), 16)
    except ValueError:
        offset = -1
    if offset < 0 or f"o{offset:x}" != cursor:
        raise InvalidRequest(
            "'cursor' is none that this service gave out; leave it out to begin at the first page", param="cursor"
        )
    return offset
