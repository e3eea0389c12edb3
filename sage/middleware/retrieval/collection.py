"""One collection: its document store, its index and its embedder in one object."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from sage.errors import InvalidRequest, NotFound, SageError, Unavailable
from sage.forks import forks
from sage.middleware.retrieval.automatic_embedder import AutomaticEmbedder, sample
from sage.middleware.retrieval.columns import Group, NumberOrder, groups, in_order
from sage.middleware.retrieval.embedding.builtin import AUTO, kind_for, name_of_maker
from sage.middleware.retrieval.embedding.protocols import Embedder, Models
from sage.middleware.retrieval.embedding.registry import embedder_mismatch
from sage.middleware.retrieval.filters.language import parse_filter
from sage.middleware.retrieval.index.index import Index
from sage.middleware.retrieval.pagination import after_cursor, cursor_of, first_page, numbers_passing, page_of
from sage.middleware.retrieval.query.answers import Answerer
from sage.middleware.retrieval.query.shard_candidates import CandidateRequest, Candidates, Statistics
from sage.middleware.retrieval.reembed import reembed
from sage.middleware.retrieval.snapshots import write_snapshot
from sage.middleware.retrieval.store.records import Superseded
from sage.middleware.retrieval.store.store import Change, DocumentStore, Identity, StaleVectors, inode_of
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.types.documents import NewDocument, Row, StoredDocument, Vector, Written, check_documents
from sage.middleware.retrieval.types.search import Search, SearchAnswer
from sage.middleware.retrieval.updates import Revision, revise
from sage.middleware.settings.retrieval import CollectionOptions, RetrievalLimits

Progress = Callable[[int, int], None]
"""``(done, of all)``, in documents."""
_ATTEMPTS = 5
"""How often a write embeds its texts: again only after a reembedding that ended in between."""


@dataclass(frozen=True, slots=True)
class _OpenFiles:
    """What a collection holds while it is open."""

    store: DocumentStore
    inode: int | None
    """Of its database, which another process may delete. ``None`` means that it is in memory."""
    index: Index
    answerer: Answerer
    automatic: AutomaticEmbedder
    forks: int
    """What the count of forks was when they were opened."""

    @property
    def are_inherited(self) -> bool:
        """Whether they are those of the process that this one was forked from, which goes on with them."""
        return self.forks != forks.count


class Collection:
    """Safe to call from several threads. Everything here blocks, so an event loop calls it on a thread.

    It opens its files at its first use, and again at the next one after :meth:`rest`.
    """

    def __init__(
        self, name: str, open_store: Callable[[], DocumentStore], models: Models, limits: RetrievalLimits
    ) -> None:
        self.name = name
        self._open_store = open_store
        self._models = models
        self._limits = limits
        self._state = threading.Condition()
        self._files: _OpenFiles | None = None
        self._users = 0
        self._refusal: str | None = None

    @property
    def identity(self) -> Identity:
        with self._open() as files:
            return files.store.identity

    @property
    def options(self) -> CollectionOptions:
        return self.identity.options

    def __repr__(self) -> str:
        return f"<Collection '{self.name}'>"

    def describe(self) -> dict[str, Any]:
        """``{name, documents, dimension, embedder, metric, bytes, created_at, options, index, reembedding}``; bytes on
        disk, time in Unix seconds."""
        with self._open() as files:
            return {**self._outline_of(files.store), "index": files.index.describe()}

    def outline(self) -> dict[str, Any]:
        """As :meth:`describe`, without ``index``: the index stays closed if it is."""
        with self._state:
            self._refuse_if_closed()
            files = self._files
            self._users += 1
        try:
            if files is not None:
                with self._deletion_named(files.store, files.inode):
                    return self._outline_of(files.store)
            with closing(self._open_store()) as store, self._deletion_named(store, inode_of(store.directory)):
                return self._outline_of(store)
        finally:
            self._leave()

    def _outline_of(self, store: DocumentStore) -> dict[str, Any]:
        with store.reading() as reading:
            identity, documents, reembedding = reading.identity, reading.count(), reading.state("reembedding")
        return {
            "name": self.name,
            "documents": documents,
            "dimension": identity.dimension,
            "embedder": identity.embedder,
            "languages": sorted(identity.languages) if identity.languages is not None else None,
            "metric": identity.options.metric.value,
            "bytes": _bytes_under(store.directory),
            "created_at": identity.created_at,
            "options": identity.options.model_dump(mode="json"),
            "reembedding": reembedding,
        }

    def add(self, documents: Sequence[Mapping[str, Any]]) -> Written:
        """Upserts ``{id?, text, metadata?, vector?}``, all or nothing. Returns once they are durable and searches find
        them.

        Raises :class:`InvalidRequest` that names the document at fault, and what the embedder raises.
        """
        checked = check_documents(documents, self._limits)
        with self._open() as files:
            warnings = files.automatic.suit([document.text for document in checked if document.needs_vector])
            for _ in range(_ATTEMPTS):
                identity = files.store.identity
                change = Change(self._with_vectors(checked, identity), generation=identity.generation)
                try:
                    written = files.store.write(change, files.index.publish)
                    return replace(written, warnings=warnings) if warnings else written
                except StaleVectors:
                    continue  # another embedder took over meanwhile
            raise Unavailable(
                f"collection '{self.name}' got new embedders several times during this write; try again later"
            )

    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        """Deletes by id or by filter; returns how many documents were deleted."""
        if (ids is None) == (filter is None):
            raise InvalidRequest("give either 'ids' or 'filter'", param="ids")
        with self._open() as files:
            if ids is not None:
                return files.store.write(Change(delete_ids=list(dict.fromkeys(ids))), files.index.publish).deleted
            condition = parse_filter(filter)
            if condition is None:
                raise InvalidRequest(
                    "an empty filter would delete every document; delete the collection instead", param="filter"
                )
            numbers = numbers_passing(files.index.current(), condition)
            return files.store.write(Change(delete_numbers=numbers.tolist()), files.index.publish).deleted

    def update(
        self, id: str, *, text: str | None = None, metadata: bytes | None = None, vector: Vector | None = None
    ) -> None:
        """Changes those parts of one document that are not ``None``; they have been checked. With a new text the
        embedder, if there is one, makes a new vector. Raises :class:`NotFound`."""
        with self._open() as files:
            revise(files.store, files.index.publish, id, Revision(text, metadata, vector), self._with_vectors)

    def get(self, id: str, *, vector: bool = False) -> StoredDocument:
        """Raises :class:`NotFound`."""
        with self._open() as files, files.store.reading() as reading:
            row = reading.by_id([id], vectors=vector).get(id)
        if row is None:
            raise self._no_document(id)
        return row.stored()

    def get_many(self, ids: Sequence[str], *, vectors: bool = False) -> list[StoredDocument]:
        """Those of these documents that exist, in the order of ``ids``, from one state."""
        with self._open() as files, files.store.reading() as reading:
            rows = reading.by_id(ids, vectors=vectors)
        return [rows[id].stored() for id in ids if id in rows]

    def groups(self, by: str, of: str, filter: Mapping[str, Any] | None = None) -> dict[str, Group]:
        """The documents by the text of the metadata ``by``: how many there are, and the lowest and highest number of
        their metadata ``of``. From the index: no document is read."""
        condition = parse_filter(filter)
        with self._open() as files:
            return groups(files.index.current(), condition, by, of)

    def page_by(self, order: NumberOrder, limit: int, filter: Mapping[str, Any] | None = None) -> list[StoredDocument]:
        """The first documents in an order by a number."""
        condition = parse_filter(filter)
        with self._open() as files:
            numbers = in_order(files.index.current(), condition, order, limit)
            with files.store.reading() as reading:
                rows = reading.fetch(numbers)
        return [rows[number].stored() for number in numbers if number in rows]

    def _no_document(self, id: str) -> NotFound:
        return NotFound(f"collection '{self.name}' has no document '{id}'", param="id", code="document_not_found")

    def page(
        self, cursor: str | None = None, limit: int = 100, filter: Mapping[str, Any] | None = None
    ) -> tuple[list[StoredDocument], str | None]:
        """Documents in the order in which they were added, and the cursor of the next page; ``None`` means that there
        is no next page.

        A page of large documents has fewer than ``limit``: about :data:`PAGE_BYTES` of them.
        """
        if not 1 <= limit <= 1000:
            raise InvalidRequest("'limit' must be 1 to 1000", param="limit")
        condition, after = parse_filter(filter), after_cursor(cursor)
        with self._open() as files:
            if condition is None:
                rows, last = first_page(files.store, after, limit)
            else:
                numbers = numbers_passing(files.index.current(), condition, after)[: limit + 1].tolist()
                rows, last = page_of(files.store, numbers, limit)
        return [row.stored() for row in rows], cursor_of(last) if last is not None else None

    def search(self, search: Search) -> SearchAnswer:
        """Raises :class:`InvalidRequest` that names the field at fault, and what an embedder or reranker raises."""
        return self.search_many([search])[0]

    def search_many(self, searches: Sequence[Search]) -> list[SearchAnswer]:
        """Answers all of them from one state of the collection. Their texts are embedded together."""
        with self._open() as files:
            return files.answerer.answer(searches, self._embedder_of)

    def put(self, documents: Sequence[NewDocument], numbers: Sequence[int] = ()) -> Written:
        """As :meth:`add`, for documents that have been checked and bring their vectors. ``numbers``, ascending, are
        given where this is a shard: their places in the order of the whole collection."""
        with self._open() as files:
            return files.store.write(Change(documents, numbers=numbers), files.index.publish)

    def row(self, id: str) -> Row:
        """A document with its number and its vector. Raises :class:`NotFound`."""
        with self._open() as files, files.store.reading() as reading:
            row = reading.by_id([id], vectors=True).get(id)
        if row is None:
            raise self._no_document(id)
        return row

    def replace(self, document: NewDocument, number: int, of: int) -> bool:
        """Puts a checked document in the place of the one with the number ``of``; ``False`` when that is not there any
        more, and nothing was changed."""
        with self._open() as files:
            try:
                files.store.write(Change([document], numbers=[number], based_on=(of,)), files.index.publish)
            except Superseded:
                return False
        return True

    def statistics(self, terms: Sequence[str]) -> Statistics:
        """What a search over several collections needs to know of this one: see
        :mod:`sage.middleware.retrieval.query.shard_candidates`."""
        with self._open() as files:
            return files.answerer.statistics(terms)

    def candidates(self, request: CandidateRequest) -> Candidates:
        """Its best documents for a search over several collections."""
        with self._open() as files:
            return files.answerer.candidates(request)

    def fetch(self, numbers: Sequence[int]) -> dict[int, Row]:
        """Documents by their numbers, without vectors; those that were deleted meanwhile are left out."""
        with self._open() as files:
            return files.answerer.fetch(numbers)

    def numbers(self, filter: Mapping[str, Any] | None = None, after: int = 0, limit: int = 1000) -> list[int]:
        """The first numbers over ``after`` of documents that pass the filter."""
        condition = parse_filter(filter)
        with self._open() as files:
            numbers: list[int] = numbers_passing(files.index.current(), condition, after)[:limit].tolist()
            return numbers

    def count(self, filter: Mapping[str, Any] | None = None) -> int:
        """How many documents there are in all, or that pass the filter."""
        condition = parse_filter(filter)
        with self._open() as files:
            view = files.index.current()
            return view.documents if condition is None else len(numbers_passing(view, condition))

    def revision(self) -> tuple[str, int]:
        """The id of the collection, and the number of rows that were ever added to it or deleted from it."""
        with self._open() as files:
            return files.store.identity.uuid, files.index.current().sequence

    def settle(self, key: str, value: object) -> Any:
        """Keeps ``value``, a small JSON value, under ``key`` with the collection, unless a value is kept there already;
        returns the one that is kept."""
        with self._open() as files:
            return files.store.settle(key, value)

    def reembed(self, embedder: str, progress: Progress | None = None) -> None:
        """Makes new vectors for all documents with another embedder; ``auto`` is the one for their language. Continues
        an interrupted run, and serves the old vectors until it is done."""
        with self._open() as files:
            kind = kind_for(sample(files.store)) if embedder == AUTO else None
            name = embedder if kind is None else kind.name
            model = self._models.embedder(name)
            if model is None:
                raise InvalidRequest(f"there is no embedder '{embedder}' here to make vectors with", param="embedder")
            reembed(files.store, files.index, name, model, progress)

    def snapshot(self, write: BinaryIO, begun: Callable[[], None] | None = None) -> None:
        """One consistent state as a stream, which :meth:`Collections.restore` reads. It stops when the
        collection is closed, as its reader may take any time. ``begun`` is called once the state is chosen."""
        with self._open() as files:
            write_snapshot(files.store, cast(BinaryIO, _CheckedStream(write, self._refuse_if_closed)), begun)

    def optimize(self) -> None:
        """Rebuilds the index into its fastest form; returns when that is done."""
        with self._open() as files:
            files.index.optimize()

    def purge(self, seconds: float = 30.0) -> None:
        """Hard deletion: no byte of any deleted or replaced document is left in a file of the collection.

        Rewrites the segments that hold some of them, and the database if something was deleted since the last purge.
        Waits for other work on the index, and for readers of an older state, ``seconds`` each at most; after that it
        raises :class:`Unavailable` (code ``not_yet_purged``), and must be called again.
        """
        with self._open() as files:
            files.index.purge(seconds)
            files.answerer.forget()
            files.store.purge(seconds)

    def stop_work(self) -> None:
        """Stops long work on the index, before the collection is closed."""
        files = self._files
        if files is not None:
            files.index.stop_work()

    @property
    def resting(self) -> bool:
        """Whether it has no files open."""
        return self._files is None

    def rest(self) -> bool:
        """Closes its files, unless it is in use: then it returns ``False``."""
        if self._files is not None and self._files.are_inherited:
            return False
        with self._state:
            if self._users:
                return False
            self._close()
            return True

    def close(self, reason: str | None = None) -> None:
        """Waits for running calls, and refuses further ones; ``reason`` is the message of their error."""
        self._refusal = reason or f"collection '{self.name}' is closed"
        if self._files is not None and self._files.are_inherited:
            return
        with self._state:
            self._state.wait_for(lambda: not self._users)
            self._close()

    def _close(self) -> None:
        files, self._files = self._files, None
        if files is not None:
            try:
                files.index.close()
            finally:
                files.store.close()

    @contextmanager
    def _open(self) -> Iterator[_OpenFiles]:
        with self._state:
            self._refuse_if_closed()
            files = self._files = self._files or self._open_files()
            self._users += 1
        try:
            with self._deletion_named(files.store, files.inode):
                yield files
        finally:
            self._leave()

    @contextmanager
    def _deletion_named(self, store: DocumentStore, inode: int | None) -> Iterator[None]:
        """When another process deleted the collection, errors of missing files become :class:`NotFound`."""
        try:
            yield
        except (SageError, OSError) as exc:
            is_callers = isinstance(exc, SageError) and exc.status < 500
            if is_callers or store.directory is None or (inode is not None and inode_of(store.directory) == inode):
                raise
            raise NotFound(
                f"collection '{self.name}' was deleted", param="collection", code="collection_not_found"
            ) from exc

    def _refuse_if_closed(self) -> None:
        if self._refusal is not None:
            raise NotFound(self._refusal, param="collection", code="collection_not_found")

    def _leave(self) -> None:
        with self._state:
            self._users -= 1
            self._state.notify_all()

    def _open_files(self) -> _OpenFiles:
        store = self._open_store()
        try:
            inode = inode_of(store.directory)
            with self._deletion_named(store, inode):
                analyzer = Analyzer(store.identity.options.analysis)
                index = Index(store, analyzer)
            answerer = Answerer(store, index, analyzer, self._models, self._limits)
            automatic = AutomaticEmbedder(store, index, self._models)
            return _OpenFiles(store, inode, index, answerer, automatic, forks.count)
        except BaseException:
            store.close()
            raise

    def _embedder_of(self, identity: Identity) -> Embedder | None:
        """The embedder that made the vectors; ``None`` means that vectors come with the documents."""
        if identity.embedder is None:
            return None
        embedder = self._models.embedder(name_of_maker(identity.embedder, identity.options.embedder))
        if embedder is None or embedder.name != identity.embedder:
            raise embedder_mismatch(self.name, identity.embedder, identity.options.embedder, embedder)
        return embedder

    def _with_vectors(self, documents: Sequence[NewDocument], identity: Identity) -> list[NewDocument]:
        """The same documents, with vectors for those that have text and no vector, if there is an embedder."""
        result = list(documents)
        missing = [index for index, document in enumerate(documents) if document.needs_vector]
        embedder = self._embedder_of(identity) if missing else None
        if embedder is None:
            return result
        vectors = embedder.embed([documents[i].text for i in missing])
        for i, vector in zip(missing, vectors, strict=True):
            result[i] = replace(result[i], vector=vector)
        return result


class _CheckedStream:
    """A stream that calls ``check`` before each write; an error there ends it."""

    def __init__(self, stream: BinaryIO, check: Callable[[], None]) -> None:
        self._stream = stream
        self._check = check

    def write(self, data: bytes) -> int:
        self._check()
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()


def _bytes_under(directory: Path | None) -> int:
    if directory is None:
        return 0
    total = 0
    for folder, _, names in os.walk(directory):  # not Path.rglob: another process may be deleting the collection
        for name in names:
            with suppress(FileNotFoundError):  # merged away meanwhile
                total += os.stat(os.path.join(folder, name)).st_size
    return total
