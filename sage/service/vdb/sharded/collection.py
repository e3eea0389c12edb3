"""A collection over several shards, which may be on several machines; its answers are those of one collection.

A document is in the shard that the hash of its id says. A search asks every shard twice: what it has of the words of
the query, and, with that added up, for its best candidates; then one order is made of these, and the texts of the page
are fetched. Equal scores go by the order in which documents came. What shards say is true of the moment when they are
asked: a search beside a write may see it on one shard and not yet on another.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import xxhash

from sage.errors import Conflict, InvalidRequest, Unavailable, Unsupported
from sage.middleware.retrieval.embedding.protocols import Embedder
from sage.middleware.retrieval.pagination import after_cursor, cursor_of
from sage.middleware.retrieval.query.shard_candidates import total_of
from sage.middleware.retrieval.query.shard_merge import MAX_SHARDS, place_of, row_of
from sage.middleware.retrieval.store.records import Identity
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.types.documents import NewDocument, StoredDocument, Written, check_documents
from sage.middleware.retrieval.types.search import Search, SearchAnswer
from sage.middleware.settings.retrieval import CollectionOptions, RetrievalLimits, Variant
from sage.service.vdb.sharded.scatter import Scatter
from sage.service.vdb.sharded.search import ShardedSearch, fetch
from sage.service.vdb.sharded.shard import Shard

_LAYOUT = "shard"
_DIMENSION = "shard-dimension"


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
        limits: RetrievalLimits | None = None,
        timeout: float = 60.0,
    ) -> None:
        """``shards`` always in the same order and number: what they hold says so, and others are refused
        (:class:`Conflict`). ``embedder`` makes the vectors of what comes without. ``timeout``: seconds that a shard has
        for an answer. Raises :class:`Unavailable` when a shard does not answer."""
        if not 1 <= len(shards) <= MAX_SHARDS:
            raise InvalidRequest(f"collection '{name}' needs 1 to {MAX_SHARDS} shards, not {len(shards)}")
        self.name = name
        self._limits = limits or RetrievalLimits()
        self._embedder = embedder
        self._scatter = Scatter(name, shards, timeout)
        try:
            self.options = self._common_options()
            self._uuid = self._check_layout()
            statistics = total_of([*self._scatter.all(lambda _, shard: shard.statistics(())).values()])
        except BaseException:
            self._scatter.close()
            raise
        self._dimension = self.options.dimension or statistics.dimension or (embedder.dimension if embedder else None)
        self._analyzer = Analyzer(self.options.analysis)
        self._lock = threading.Lock()
        self._sequence = statistics.sequence

    def shard_of(self, id: str) -> int:
        """The place of the shard that a document of this id is in."""
        return xxhash.xxh3_64_intdigest(id.encode()) % len(self._scatter)

    def describe(self) -> dict[str, Any]:
        """``{name, documents, shards, dimension, embedder, metric}``; ``shards``: documents of each."""
        found = self._scatter.all(lambda _, shard: shard.count())
        return {
            "name": self.name,
            "documents": sum(found.values()),
            "shards": [found[place] for place in sorted(found)],
            "dimension": self._dimension,
            "embedder": self._embedder.name if self._embedder else None,
            "metric": self.options.metric.value,
        }

    def add(self, documents: Sequence[Mapping[str, Any]]) -> Written:
        """Upserts ``{id?, text, metadata?, vector?}``; returns once durable and found by searches.

        All or nothing on each shard, not over all: raises :class:`PartlyWritten`, with the ids for another try, when
        some shards have written theirs and others failed, :class:`Unavailable` when all did, and
        :class:`InvalidRequest` before anything is written.
        """
        checked = self._embedded(check_documents(documents, self._limits))
        self._check_dimension(checked)
        first = self._reserve(2 * len(checked)) + len(checked)
        by_shard: dict[int, list[int]] = {}
        for place, document in enumerate(checked):
            by_shard.setdefault(self.shard_of(document.id), []).append(place)

        def put(shard_place: int, shard: Shard) -> Written:
            places = by_shard[shard_place]
            return shard.put([checked[place] for place in places], [first + place for place in places])

        written, failures = self._scatter.ask(put, by_shard)
        ids = [document.id for document in checked]
        if failures:
            self._refuse(failures, [*written], ids)
        found = written.values()
        return Written(ids, sum(each.inserted for each in found), sum(each.updated for each in found))

    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        """Deletes by id or by filter; returns how many there were of them. When a shard fails, others may have deleted
        theirs (:class:`Unavailable`): to delete again is safe."""
        if (ids is None) == (filter is None):
            raise InvalidRequest("give either 'ids' or 'filter'", param="ids")
        if ids is None:
            found = self._scatter.all(lambda _, shard: shard.delete(filter=filter))
        else:
            by_shard: dict[int, list[str]] = {}
            for id in dict.fromkeys(ids):
                by_shard.setdefault(self.shard_of(id), []).append(id)
            found = self._scatter.all(lambda place, shard: shard.delete(by_shard[place]), by_shard)
        deleted = sum(found.values())
        self._reserve(deleted)
        return deleted

    def get(self, id: str, *, vector: bool = False) -> StoredDocument:
        """Raises :class:`sage.errors.NotFound`."""
        place = self.shard_of(id)
        return self._scatter.all(lambda _, shard: shard.get(id, vector), [place])[place]

    def count(self, filter: Mapping[str, Any] | None = None) -> int:
        """How many documents there are, or pass the filter."""
        return sum(self._scatter.all(lambda _, shard: shard.count(filter)).values())

    def page(
        self, cursor: str | None = None, limit: int = 100, filter: Mapping[str, Any] | None = None
    ) -> tuple[list[StoredDocument], str | None]:
        """Documents in the order in which they came, and the cursor of the next page; ``None``: it was the last."""
        if not 1 <= limit <= 1000:
            raise InvalidRequest("'limit' must be 1 to 1000", param="limit")
        last, behind = place_of(after_cursor(cursor))

        def numbers(place: int, shard: Shard) -> list[int]:
            return shard.numbers(filter, behind if place <= last else behind - 1, limit + 1)

        found = self._scatter.all(numbers)
        rows = sorted(row_of(place, number) for place, held in found.items() for number in held)
        wanted, more = rows[:limit], len(rows) > limit
        fetched = fetch(self._scatter.all, wanted)
        documents = [fetched[row].stored() for row in wanted if row in fetched]
        return documents, cursor_of(wanted[-1]) if more else None

    def search(self, search: Search, *, partial: bool = False) -> SearchAnswer:
        """As :meth:`sage.middleware.retrieval.collection.Collection.search`, without reranking. Vectors are compared
        exactly with ``exact``, else as each shard's index finds them.

        Raises :class:`Unavailable` that names the shard when one does not answer. ``partial``: the others' answer is
        given instead, with a warning in it that says so.
        """
        if search.rerank is not None:
            raise Unsupported("a sharded collection does not rerank; rerank its results", param="rerank")
        run = ShardedSearch(self._scatter, self._identity(), self._analyzer, self._embedder, self._limits, partial)
        answer = run.answer(search)
        with self._lock:
            self._sequence = max(self._sequence, run.sequence)
        return answer

    def purge(self, seconds: float = 30.0) -> None:
        """Hard deletion on every shard: see :meth:`sage.middleware.retrieval.collection.Collection.purge`."""
        self._scatter.all(lambda _, shard: shard.purge(seconds))

    def close(self) -> None:
        self._scatter.close()

    def _common_options(self) -> CollectionOptions:
        found = self._scatter.all(lambda _, shard: shard.collection_options())
        for place, options in sorted(found.items()):
            if options != found[0]:
                raise Conflict(
                    f"collection '{self.name}': shard {place} was made with other options than shard 0 (metric "
                    f"{options.metric.value}, {found[0].metric.value}); shards of one collection have the same"
                )
        keywords = found[0].keywords
        if keywords.variant is Variant.OKAPI or keywords.engine != "arrays":
            raise Unsupported(
                f"collection '{self.name}': BM25 in the variant 'okapi' and the engine 'rank-bm25' need the words of "
                "all documents in one place; a sharded collection takes lucene, plus or l"
            )
        return found[0]

    def _check_layout(self) -> str:
        """The collection's own name for itself, which its shards keep with their places."""
        count, embedder = len(self._scatter), self._embedder.name if self._embedder else None
        expected = {"collection": secrets.token_hex(16), "shard": 0, "of": count, "embedder": embedder}
        first = self._scatter.all(lambda _, shard: shard.settle(_LAYOUT, expected), [0])[0]
        uuid = str(first["collection"])

        def settle(place: int, shard: Shard) -> Any:
            return shard.settle(_LAYOUT, {**expected, "collection": uuid, "shard": place})

        kept = {0: first, **self._scatter.all(settle, range(1, 1 if first["of"] != count else count))}
        for place, layout in kept.items():
            if layout != {**expected, "collection": uuid, "shard": place}:
                raise self._other_layout(place, layout, uuid)
        return uuid

    def _other_layout(self, place: int, layout: Mapping[str, Any], uuid: str) -> Conflict:
        count = len(self._scatter)
        if layout["of"] != count:
            what = f"was made as one of {layout['of']} shards, not of {count}; open it with {layout['of']}"
        elif layout["collection"] != uuid:
            what = "belongs to another collection; look which one stands in its place"
        elif layout["shard"] != place:
            what = f"was made as shard {layout['shard']}; bring them in their order"
        else:
            what = f"has vectors of the embedder {layout['embedder']!r}; open it with that one"
        return Conflict(
            f"collection '{self.name}': shard {place} {what}, or copy the documents into a new collection",
            code="other_shards",
        )

    def _identity(self) -> Identity:
        """The whole collection's, as one collection would have it."""
        embedder = self._embedder
        name, languages = (embedder.name, embedder.languages) if embedder is not None else (None, None)
        return Identity(self._uuid, self.name, self.options, name, languages, self._dimension, 0, 0.0)

    def _reserve(self, count: int) -> int:
        """The first of ``count`` numbers over all shards; each is used once, by this collection object."""
        with self._lock:
            first = self._sequence + 1
            self._sequence += count
            return first

    def _embedded(self, documents: Sequence[NewDocument]) -> list[NewDocument]:
        found = list(documents)
        places = [place for place, d in enumerate(found) if d.vector is None and d.text and not d.text.isspace()]
        if self._embedder is None or not places:
            return found
        made = self._embedder.embed([found[place].text for place in places])
        for place, vector in zip(places, made, strict=True):
            found[place] = replace(found[place], vector=np.asarray(vector, np.float32))
        return found

    def _check_dimension(self, documents: Sequence[NewDocument]) -> None:
        """The first vector of the collection decides it: shard 0 keeps what it is."""
        for place, document in enumerate(documents):
            if document.vector is None:
                continue
            if self._dimension is None:
                self._dimension = self._settled_dimension(document.vector.size)
            if document.vector.size != self._dimension:
                raise InvalidRequest(
                    f"documents[{place}]: 'vector' has {document.vector.size} dimensions, but the vectors of this "
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
            f"collection '{self.name}': {self._scatter.said(failures)}, while the documents of {len(written)} other "
            "shards are written; send the same documents with the same ids again, which is safe",
            ids,
        ) from refusal.__cause__
