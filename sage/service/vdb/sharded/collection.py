"""A collection over several shards, which may be on several machines; its answers are those of one collection.

A document is in the shard that the hash of its id says. A search asks every shard twice: what it has of the words of
the query, and, with that added up, for its best candidates; then one order is made of these, and the texts of the page
are fetched. Equal scores go by the order in which documents came. A shard answers with its state of that moment: a
search beside a write may see it on one shard and not yet on another.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, NoReturn, TypeVar

import xxhash

from sage.errors import Conflict, InvalidRequest, NotFound, Unavailable, Unsupported
from sage.middleware.retrieval.embedding.protocols import Embedder, Reranker
from sage.middleware.retrieval.pagination import after_cursor, cursor_of
from sage.middleware.retrieval.query.shard_candidates import total_of
from sage.middleware.retrieval.query.shard_merge import MAX_SHARDS, place_of, row_of
from sage.middleware.retrieval.store.records import Identity
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.types.documents import NewDocument, StoredDocument, Vector, Written, check_documents
from sage.middleware.retrieval.types.search import Search, SearchAnswer
from sage.middleware.retrieval.updates import Revision
from sage.middleware.settings.retrieval import CollectionOptions, RetrievalLimits, Variant
from sage.service.vdb.embedded import embedded
from sage.service.vdb.sharded.scatter import Scatter
from sage.service.vdb.sharded.search import ShardedSearch, fetch
from sage.service.vdb.sharded.shard import Shard
from sage.service.vdb.sharded.snapshots import write_sharded_snapshot

Answer = TypeVar("Answer")
_LAYOUT = "shard"
_DIMENSION = "shard-dimension"
_ATTEMPTS = 100
"""At an update: each further one follows another's write to the same document that came first."""
_LONG = 3600.0
"""Seconds for work on the files of a shard."""


class PartlyWritten(Unavailable):
    """Some shards have written their documents and others not. ``ids`` are those of the request's documents in their
    order: to send the same documents with these ids again is safe, and finishes it."""

    default_code = "partly_written"

    def __init__(self, message: str, ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.ids = list(ids)


class ShardedCollection:
    """Safe to call from several threads; several may be open on the same shards. Everything here blocks.

    The shards stay their owner's: :meth:`close` lets go of them.
    """

    def __init__(
        self,
        name: str,
        shards: Sequence[Shard],
        *,
        embedder: Embedder | None = None,
        embedder_spec: str | None = None,
        reranker_of: Callable[[str], Reranker] | None = None,
        limits: RetrievalLimits | None = None,
        timeout: float = 60.0,
    ) -> None:
        """``shards`` always in the same order and number: they keep their layout, and another is refused
        (:class:`Conflict`). ``embedder`` makes the vectors of documents that come without; ``embedder_spec`` is its
        name in the collection's options. ``reranker_of`` finds rerankers by name; ``None`` means there are none.
        ``timeout``: seconds that a shard has for an answer. Raises :class:`Unavailable` when a shard does not answer.
        """
        if not 1 <= len(shards) <= MAX_SHARDS:
            raise InvalidRequest(f"collection '{name}' needs 1 to {MAX_SHARDS} shards, not {len(shards)}")
        self.name = name
        self._limits = limits or RetrievalLimits()
        self._embedder = embedder
        self._reranker_of = reranker_of
        self._scatter = Scatter(name, shards, timeout)
        try:
            common = self._common_options()
            self._uuid = self._check_layout()
            statistics = total_of([*self._scatter.all(lambda _, shard: shard.statistics(())).values()])
        except BaseException:
            self._scatter.close()
            raise
        self.options = common.model_copy(update={"embedder": embedder_spec or common.embedder})
        self._dimension = self.options.dimension or statistics.dimension or (embedder.dimension if embedder else None)
        self._analyzer = Analyzer(self.options.analysis)
        self._lock = threading.Lock()
        self._sequence = statistics.sequence
        self._writes = _Writes()

    def __repr__(self) -> str:
        return f"<ShardedCollection '{self.name}'>"

    def shard_of(self, id: str) -> int:
        """The index of the shard that a document of this id is in."""
        return xxhash.xxh3_64_intdigest(id.encode()) % len(self._scatter)

    @property
    def identity(self) -> Identity:
        """The identity of the whole collection, as one collection would have it."""
        embedder = self._embedder
        name, languages = (embedder.name, embedder.languages) if embedder is not None else (None, None)
        return Identity(self._uuid, self.name, self.options, name, languages, self._dimension, 0, 0.0)

    def describe(self) -> dict[str, Any]:
        """As :meth:`sage.middleware.retrieval.collection.Collection.describe`, with ``shards`` (how many) and
        ``shard_documents``; ``index`` is a list of the shards' own."""
        described = self._scatter.all(lambda _, shard: shard.describe())
        shards = [described[index] for index in sorted(described)]
        identity = self.identity
        return {
            "name": self.name,
            "documents": sum(shard["documents"] for shard in shards),
            "dimension": self._dimension,
            "embedder": identity.embedder,
            "languages": sorted(identity.languages) if identity.languages is not None else None,
            "metric": self.options.metric.value,
            "bytes": sum(shard["bytes"] for shard in shards),
            "created_at": min(shard["created_at"] for shard in shards),
            "options": self.options.model_dump(mode="json"),
            "reembedding": None,
            "shards": len(shards),
            "shard_documents": [shard["documents"] for shard in shards],
            "index": {"shards": [shard["index"] for shard in shards]},
        }

    def outline(self) -> dict[str, Any]:
        """As :meth:`describe`, without the index."""
        return {key: value for key, value in self.describe().items() if key != "index"}

    def add(self, documents: Sequence[Mapping[str, Any]]) -> Written:
        """Upserts ``{id?, text, metadata?, vector?}``; returns once durable and found by searches.

        All or nothing on each shard, not over all: raises :class:`PartlyWritten`, with the ids for another try, when
        some shards have written theirs and others failed, :class:`Unavailable` when all did, and
        :class:`InvalidRequest` before anything is written.
        """
        return self.put(embedded(check_documents(documents, self._limits), self._embedder))

    def put(self, documents: Sequence[NewDocument]) -> Written:
        """As :meth:`add`, of checked documents with the vectors that they have."""
        self._check_dimension(documents)
        first = self._reserve(2 * len(documents)) + len(documents)
        by_shard: dict[int, list[int]] = {}
        for position, document in enumerate(documents):
            by_shard.setdefault(self.shard_of(document.id), []).append(position)

        def put(index: int, shard: Shard) -> Written:
            positions = by_shard[index]
            return shard.put([documents[n] for n in positions], [first + n for n in positions])

        with self._writes.writing():
            written, failures = self._scatter.ask(put, by_shard)
        ids = [document.id for document in documents]
        if failures:
            self._refuse(failures, [*written], ids)
        parts = written.values()
        return Written(ids, sum(part.inserted for part in parts), sum(part.updated for part in parts))

    def update(
        self, id: str, *, text: str | None = None, metadata: bytes | None = None, vector: Vector | None = None
    ) -> None:
        """As :meth:`sage.middleware.retrieval.collection.Collection.update`."""
        revision = Revision(text, metadata, vector)
        for _ in range(_ATTEMPTS):
            row = self._at_home(id, lambda shard: shard.row(id))
            (document,) = embedded([revision.of(row, self.identity)], self._embedder)
            self._check_dimension([document])
            number = self._reserve(2) + 1
            replace = partial(_replace, document, number, row.number)
            with self._writes.writing():
                if self._at_home(id, replace):
                    return
        raise Unavailable(f"document '{id}' is being changed by others again and again; try again later")

    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        """Deletes by id or by filter; returns how many there were of them. When a shard fails, others may have deleted
        theirs (:class:`Unavailable`): to delete again is safe."""
        if (ids is None) == (filter is None):
            raise InvalidRequest("give either 'ids' or 'filter'", param="ids")
        if filter is not None and not filter:
            raise InvalidRequest(
                "an empty filter would delete every document; delete the collection instead", param="filter"
            )
        by_shard = self._ids_by_shard(ids or ())

        def delete(index: int, shard: Shard) -> int:
            return shard.delete(filter=filter) if ids is None else shard.delete(by_shard[index])

        with self._writes.writing():
            deleted = sum(self._scatter.all(delete, None if ids is None else by_shard).values())
        self._reserve(deleted)
        return deleted

    def get(self, id: str, *, vector: bool = False) -> StoredDocument:
        """Raises :class:`sage.errors.NotFound`."""
        return self._at_home(id, lambda shard: shard.get(id, vector=vector))

    def get_many(self, ids: Sequence[str], *, vectors: bool = False) -> list[StoredDocument]:
        """Those of these documents that exist, in the order of ``ids``, from one state of each shard."""
        by_shard = self._ids_by_shard(ids)
        parts = self._scatter.all(lambda index, shard: shard.get_many(by_shard[index], vectors=vectors), by_shard)
        found = {document.id: document for part in parts.values() for document in part}
        return [found[id] for id in ids if id in found]

    def _ids_by_shard(self, ids: Iterable[str]) -> dict[int, list[str]]:
        """Each id once, under the index of the shard that a document of this id is in."""
        by_shard: dict[int, list[str]] = {}
        for id in dict.fromkeys(ids):
            by_shard.setdefault(self.shard_of(id), []).append(id)
        return by_shard

    def _at_home(self, id: str, call: Callable[[Shard], Answer]) -> Answer:
        """The answer of the shard that a document of this id is in."""
        home = self.shard_of(id)
        try:
            return self._scatter.all(lambda _, shard: call(shard), [home])[home]
        except NotFound:
            raise NotFound(
                f"collection '{self.name}' has no document '{id}'", param="id", code="document_not_found"
            ) from None

    def count(self, filter: Mapping[str, Any] | None = None) -> int:
        """How many documents there are, or pass the filter."""
        return sum(self._scatter.all(lambda _, shard: shard.count(filter)).values())

    def revision(self) -> tuple[str, int]:
        """As :meth:`sage.middleware.retrieval.collection.Collection.revision`, of all shards together."""
        by_shard = self._scatter.all(lambda _, shard: shard.revision())
        ids = "/".join(by_shard[index][0] for index in sorted(by_shard))
        return ids, sum(sequence for _, sequence in by_shard.values())

    def page(
        self, cursor: str | None = None, limit: int = 100, filter: Mapping[str, Any] | None = None
    ) -> tuple[list[StoredDocument], str | None]:
        """Documents in the order in which they came, and the cursor of the next page (``None`` after the last)."""
        if not 1 <= limit <= 1000:
            raise InvalidRequest("'limit' must be 1 to 1000", param="limit")
        last, behind = place_of(after_cursor(cursor))

        def numbers(index: int, shard: Shard) -> list[int]:
            return shard.numbers(filter, behind if index <= last else behind - 1, limit + 1)

        by_shard = self._scatter.all(numbers)
        rows = sorted(row_of(index, number) for index, of_shard in by_shard.items() for number in of_shard)
        page, more = rows[:limit], len(rows) > limit
        fetched = fetch(self._scatter.all, page)
        documents = [fetched[row].stored() for row in page if row in fetched]
        return documents, cursor_of(page[-1]) if more else None

    def search(self, search: Search, *, partial: bool = False) -> SearchAnswer:
        """As :meth:`sage.middleware.retrieval.collection.Collection.search`. Vectors are compared exactly with
        ``exact``, else as each shard's index finds them.

        Raises :class:`Unavailable` that names the shard when one does not answer. With ``partial``, the answer of the
        others is given instead, with a warning in it.
        """
        if search.rerank is not None and self._reranker_of is None:
            raise Unsupported(
                "this collection does not rerank, since it knows no rerankers; rerank its results, or open it with "
                "'reranker_of'",
                param="rerank",
            )
        run = ShardedSearch(
            self._scatter,
            self.identity,
            self._analyzer,
            self._embedder,
            self._reranker_of,
            self._limits,
            partial,
        )
        answer = run.answer(search)
        with self._lock:
            self._sequence = max(self._sequence, run.sequence)
        return answer

    def search_many(self, searches: Sequence[Search]) -> list[SearchAnswer]:
        """One answer a search, each on the state of its moment."""
        return [self.search(search) for search in searches]

    def snapshot(self, write: BinaryIO) -> None:
        """One state of all shards as a stream, in the form of a collection's that is not sharded. Writes of this
        object wait until every shard has chosen its state; what other processes write meanwhile may be in it on one
        shard and not on another."""
        write_sharded_snapshot(self.identity, self._scatter, self._writes.none, write)

    def optimize(self) -> None:
        """Brings the index of every shard into its fastest shape."""
        self._scatter.all(lambda _, shard: shard.optimize(), timeout=_LONG)

    def purge(self, seconds: float = 30.0) -> None:
        """Hard deletion on every shard: see :meth:`sage.middleware.retrieval.collection.Collection.purge`."""
        self._scatter.all(lambda _, shard: shard.purge(seconds), timeout=_LONG)

    def close(self) -> None:
        self._scatter.close()

    def _common_options(self) -> CollectionOptions:
        by_shard = self._scatter.all(lambda _, shard: shard.collection_options())
        common = by_shard[0]
        for index, options in sorted(by_shard.items()):
            if options != common:
                raise Conflict(
                    f"collection '{self.name}': shard {index} was made with other options than shard 0 (metric "
                    f"{options.metric.value}, {common.metric.value}); shards of one collection have the same"
                )
        check_shardable(self.name, common)
        return common

    def _check_layout(self) -> str:
        """The collection's unique name, which its shards keep with their indexes."""
        count, embedder = len(self._scatter), self._embedder.name if self._embedder else None
        expected = {"collection": secrets.token_hex(16), "shard": 0, "of": count, "embedder": embedder}
        first = self._scatter.all(lambda _, shard: shard.settle(_LAYOUT, expected), [0])[0]
        uuid = str(first["collection"])

        def settle(index: int, shard: Shard) -> Any:
            return shard.settle(_LAYOUT, {**expected, "collection": uuid, "shard": index})

        layouts = {0: first, **self._scatter.all(settle, range(1, 1 if first["of"] != count else count))}
        for index, layout in layouts.items():
            if layout != {**expected, "collection": uuid, "shard": index}:
                raise self._other_layout(index, layout, uuid)
        return uuid

    def _other_layout(self, index: int, layout: Mapping[str, Any], uuid: str) -> Conflict:
        count = len(self._scatter)
        if layout["of"] != count:
            what = f"was made as one of {layout['of']} shards, not of {count}; open it with {layout['of']}"
        elif layout["collection"] != uuid:
            what = "belongs to another collection; look which one stands in its place"
        elif layout["shard"] != index:
            what = f"was made as shard {layout['shard']}; bring them in their order"
        else:
            what = f"has vectors of the embedder {layout['embedder']!r}; open it with that one"
        return Conflict(
            f"collection '{self.name}': shard {index} {what}, or copy the documents into a new collection",
            code="other_shards",
        )

    def _reserve(self, count: int) -> int:
        """The first of ``count`` numbers over all shards; each is used once, by this collection object."""
        with self._lock:
            first = self._sequence + 1
            self._sequence += count
            return first

    def _check_dimension(self, documents: Sequence[NewDocument]) -> None:
        """The first vector of the collection decides it: shard 0 keeps what it is."""
        for position, document in enumerate(documents):
            if document.vector is None:
                continue
            if self._dimension is None:
                self._dimension = self._settled_dimension(document.vector.size)
            if document.vector.size != self._dimension:
                raise InvalidRequest(
                    f"documents[{position}]: 'vector' has {document.vector.size} dimensions, but the vectors of this "
                    f"collection have {self._dimension}",
                    param="documents",
                    code="wrong_dimension",
                )

    def _settled_dimension(self, wanted: int) -> int:
        return int(self._scatter.all(lambda _, shard: shard.settle(_DIMENSION, wanted), [0])[0])

    def _refuse(self, failures: Mapping[int, Exception], written: Sequence[int], ids: Sequence[str]) -> NoReturn:
        refusal = self._scatter.refusal(failures)
        if not written:
            raise refusal
        raise PartlyWritten(
            f"collection '{self.name}': {self._scatter.explain(failures)}, while the documents of {len(written)} other "
            "shards are written; send the same documents with the same ids again, which is safe",
            ids,
        ) from refusal.__cause__


class _Writes:
    """Lets many write at once, or nobody."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._held_back = False

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._held_back)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def none(self) -> Iterator[None]:
        """While it lasts, no write runs or begins."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held_back)
            self._held_back = True
            self._changed.wait_for(lambda: not self._running)
        try:
            yield
        finally:
            with self._changed:
                self._held_back = False
                self._changed.notify_all()


def check_shardable(name: str, options: CollectionOptions) -> None:
    """Raises :class:`Unsupported` for keyword options that need all documents in one place."""
    if options.keywords.variant is Variant.OKAPI or options.keywords.engine != "arrays":
        raise Unsupported(
            f"collection '{name}': BM25 in the variant 'okapi' and the engine 'rank-bm25' need the words of all "
            "documents in one place; a sharded collection takes lucene, plus or l; or make it without shards "
            "('shards': 0)",
            param="keywords",
        )


def _replace(document: NewDocument, number: int, of: int, shard: Shard) -> bool:
    return shard.replace(document, number, of)
