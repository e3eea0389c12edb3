"""One shard of a collection: what is asked of it, and the one in this process.

A shard holds the documents whose ids hash to it, in the order of numbers that the sharded collection hands out. It
makes no vectors itself: they come with documents and queries.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sage.errors import Unavailable
from sage.middleware.retrieval.collection import Collection
from sage.middleware.retrieval.embedding.registry import ModelsByName
from sage.middleware.retrieval.query.shard_candidates import CandidateRequest, Candidates, Statistics
from sage.middleware.retrieval.store.store import inode_of
from sage.middleware.retrieval.types.documents import NewDocument, Row, StoredDocument, Written
from sage.middleware.retrieval.vector_store import store_at
from sage.middleware.settings.retrieval import CollectionOptions, RetrievalLimits
from sage.private_files import sync_directory
from sage.service.vdb.sharded.shard_copies import ShardCopies

_ANY_NUMBER = 2**31


class Shard(Protocol):
    """What a sharded collection asks of each shard; also a proxy of one elsewhere, such as a Ray actor's.

    Each call may block, comes from any thread, and raises errors of :mod:`sage.errors`; any other error counts as the
    shard's failure.
    """

    def collection_options(self) -> CollectionOptions:
        """What it was made with; all shards of a collection have the same."""

    def describe(self) -> dict[str, Any]:
        """As :meth:`sage.middleware.retrieval.collection.Collection.describe`."""

    def settle(self, key: str, value: object) -> Any:
        """What is kept under ``key`` with its documents: ``value``, a small JSON value, unless there was one."""

    def put(self, documents: Sequence[NewDocument], numbers: Sequence[int]) -> Written:
        """Upserts checked documents, all or nothing; returns once durable and found by searches."""

    def row(self, id: str) -> Row:
        """A document with its number and its vector. Raises :class:`sage.errors.NotFound`."""

    def replace(self, document: NewDocument, number: int, of: int) -> bool:
        """Puts a document in the place of the one with the number ``of``; ``False`` when that is not there any more."""

    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        """How many there were."""

    def get(self, id: str, *, vector: bool = False) -> StoredDocument:
        """Raises :class:`sage.errors.NotFound`."""

    def get_many(self, ids: Sequence[str], *, vectors: bool = False) -> list[StoredDocument]:
        """Those that exist."""

    def count(self, filter: Mapping[str, Any] | None = None) -> int: ...

    def revision(self) -> tuple[str, int]:
        """As :meth:`sage.middleware.retrieval.collection.Collection.revision`."""

    def numbers(self, filter: Mapping[str, Any] | None, after: int, limit: int) -> list[int]:
        """The first numbers over ``after`` of documents that pass the filter, ascending."""

    def statistics(self, terms: Sequence[str]) -> Statistics: ...

    def candidates(self, request: CandidateRequest) -> Candidates: ...

    def fetch(self, numbers: Sequence[int]) -> dict[int, Row]:
        """The documents of these numbers that still exist, without vectors."""

    def optimize(self) -> None:
        """Brings the index into its fastest shape; it happens by itself, too."""

    def purge(self, seconds: float) -> None:
        """Hard deletion of all that was deleted or replaced; raises :class:`sage.errors.Unavailable` when it cannot."""

    def begin_copy(self) -> str:
        """Chooses one state and begins to write a snapshot of it; the key for :meth:`read_copy`."""

    def read_copy(self, key: str) -> bytes | None:
        """The next bytes of the snapshot; ``None`` when more are still being written, empty at the end."""

    def end_copy(self, key: str) -> None:
        """Removes the snapshot; it may be unfinished."""


class LocalShard(Collection):
    """A shard in this process: in memory, or durable at ``path``. Safe to call from several threads."""

    def __init__(self, path: str | Path | None = None, *, create: bool = True, **options: Any) -> None:
        """``options`` are those of :class:`CollectionOptions`, for a new shard. Without ``create``, raises
        :class:`Unavailable` when there is none at ``path``."""
        directory = None if path is None else Path(path).expanduser().absolute()
        if not create and directory is not None and inode_of(directory) is None:
            raise Unavailable(
                f"the shard's files are not on this machine ({socket.gethostname()}: {directory}); start it on the one "
                "that has them, or bring them back",
                code="shard_missing",
            )
        models = ModelsByName(None, None)
        made_with = CollectionOptions.model_validate({**options, "embedder": "none"})
        name = "memory" if directory is None else directory.name
        limits = RetrievalLimits(max_documents=_ANY_NUMBER)
        super().__init__(name, partial(store_at, directory, name, made_with, models), models, limits)
        self.describe()  # what is wrong is raised now
        if create and directory is not None:
            sync_directory(directory.parent)  # else a crash might lose the shard with what it has acknowledged
        self._copies = ShardCopies(self, directory)

    def collection_options(self) -> CollectionOptions:
        return self.options

    def begin_copy(self) -> str:
        return self._copies.begin()

    def read_copy(self, key: str) -> bytes | None:
        return self._copies.read(key)

    def end_copy(self, key: str) -> None:
        self._copies.end(key)

    def close(self, reason: str | None = None) -> None:
        self._copies.close()
        super().close(reason)
