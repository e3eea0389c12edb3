"""One shard of a collection: what is asked of it, and the one in this process.

A shard holds the documents whose ids hash to it, in the order of numbers that the sharded collection hands out. It
makes no vectors itself: they come with documents and queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sage.middleware.retrieval.query.shard_candidates import CandidateRequest, Candidates, Statistics
from sage.middleware.retrieval.types.documents import NewDocument, Row, StoredDocument, Written
from sage.middleware.retrieval.vector_store import VectorStore
from sage.middleware.settings.retrieval import CollectionOptions


class Shard(Protocol):
    """What a sharded collection asks of each shard; also a proxy of one elsewhere, such as a Ray actor's.

    Each call may block, comes from any thread, and raises errors of :mod:`sage.errors`; what else it raises counts as
    the shard's failure.
    """

    def collection_options(self) -> CollectionOptions:
        """What it was made with; all shards of a collection have the same."""

    def settle(self, key: str, value: object) -> Any:
        """What is kept under ``key`` with its documents: ``value``, a small JSON value, unless there was one."""

    def put(self, documents: Sequence[NewDocument], numbers: Sequence[int]) -> Written:
        """Upserts checked documents, all or nothing; returns once durable and found by searches."""

    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        """How many there were."""

    def get(self, id: str, vector: bool = False) -> StoredDocument:
        """Raises :class:`sage.errors.NotFound`."""

    def count(self, filter: Mapping[str, Any] | None = None) -> int: ...

    def numbers(self, filter: Mapping[str, Any] | None, after: int, limit: int) -> list[int]:
        """The first numbers over ``after`` of documents that pass the filter, ascending."""

    def statistics(self, terms: Sequence[str]) -> Statistics: ...

    def candidates(self, ask: CandidateRequest) -> Candidates: ...

    def fetch(self, numbers: Sequence[int]) -> dict[int, Row]:
        """Those that live, without vectors."""

    def purge(self, seconds: float) -> None:
        """Hard deletion of all that was deleted or replaced; raises :class:`sage.errors.Unavailable` when it cannot."""


class LocalShard:
    """A shard in this process: in memory, or durable at ``path``. Safe to call from several threads."""

    def __init__(self, path: str | Path | None = None, **options: Any) -> None:
        """``options`` are those of :class:`CollectionOptions`, for a new shard."""
        self._store = VectorStore(path, embedder=None, **options)
        self._collection = self._store.collection

    def collection_options(self) -> CollectionOptions:
        return self._collection.options

    def settle(self, key: str, value: object) -> Any:
        return self._collection.settle(key, value)

    def put(self, documents: Sequence[NewDocument], numbers: Sequence[int]) -> Written:
        return self._collection.put(documents, numbers)

    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        return self._collection.delete(ids, filter)

    def get(self, id: str, vector: bool = False) -> StoredDocument:
        return self._collection.get(id, vector=vector)

    def count(self, filter: Mapping[str, Any] | None = None) -> int:
        return self._collection.count(filter)

    def numbers(self, filter: Mapping[str, Any] | None, after: int, limit: int) -> list[int]:
        return self._collection.numbers(filter, after, limit)

    def statistics(self, terms: Sequence[str]) -> Statistics:
        return self._collection.statistics(terms)

    def candidates(self, ask: CandidateRequest) -> Candidates:
        return self._collection.candidates(ask)

    def fetch(self, numbers: Sequence[int]) -> dict[int, Row]:
        return self._collection.fetch(numbers)

    def purge(self, seconds: float) -> None:
        self._collection.purge(seconds)

    def optimize(self) -> None:
        """Brings the index into its fastest shape; it happens by itself, too."""
        self._collection.optimize()

    def close(self) -> None:
        self._store.close()
