"""One collection: its document store, its index, its embedder, behind one door."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from sage.errors import InvalidRequest, NotFound, SageError, Unavailable
from sage.middleware.retrieval.embedding.protocols import Embedder, Models
from sage.middleware.retrieval.filters.language import parse_filter
from sage.middleware.retrieval.index.index import Index
from sage.middleware.retrieval.pagination import after_cursor, cursor_of, first_page, numbers_passing, page_of
from sage.middleware.retrieval.query.answers import Answerer
from sage.middleware.retrieval.query.shard_candidates import CandidateRequest, Candidates, Statistics
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
"""At embedding for a write: each further one follows a reembedding that ended in between."""


@dataclass(frozen=True, slots=True)
class _OpenFiles:
    """What a collection holds while it is open."""

    store: DocumentStore
    inode: int | None
    """Of its database, which another process may delete."""
    index: Index
    answerer: Answerer


class Collection:
    """Safe to call from several threads. Everything here blocks: an event loop calls it on a thread.

    It opens its files when it is first used, and again after :meth:`rest`.
    """

    def __init__(
        self, name: str, open_store: Callable[[], DocumentStore], models: Models, limits: RetrievalLimits
    ) -> None:
        self.name = name
        self._open_store = open_store
        self._models = models
        self._limits = limits
        self._state = threading.Condition()
        self._held: _OpenFiles | None = None
        self._users = 0
        self._gone: str | None = None

    @property
    def identity(self) -> Identity:
        with self._open() as held:
            return held.store.identity

    @property
    def options(self) -> CollectionOptions:
        return self.identity.options

    def describe(self) -> dict[str, Any]:
        """``{name, documents, dimension, embedder, metric, bytes, created_at, options, index, reembedding}``; bytes on
        disk, time in Unix seconds."""
        with self._open() as held:
            return {**self._outlined(held.store), "index": held.index.describe()}

    def outline(self) -> dict[str, Any]:
        """As :meth:`describe`, but for the index, which stays closed if it is."""
        with self._state:
            self._refuse_if_gone()
            held = self._held
            self._users += 1
        try:
            if held is not None:
                with self._deletion_told(held.store, held.inode):
                    return self._outlined(held.store)
            with closing(self._open_store()) as store, self._deletion_told(store, inode_of(store.directory)):
                return self._outlined(store)
        finally:
            self._leave()

    def _outlined(self, store: DocumentStore) -> dict[str, Any]:
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
        """Upserts ``{id?, text, metadata?, vector?}``, all or nothing; returns once durable and found by searches.

        Raises :class:`InvalidRequest` that names the document at fault, and what the embedder raises.
        """
        checked = check_documents(documents, self._limits)
        with self._open() as held:
            for _ in range(_ATTEMPTS):
                identity = held.store.identity
                change = Change(self._embedded(checked, identity), generation=identity.generation)
                try:
                    return held.store.write(change, held.index.publish)
                except StaleVectors:
                    continue  # another embedder took over meanwhile
            raise Unavailable(f"collection '{self.name}' is being embedded anew again and again; try again later")

    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        """Deletes by id or by filter; returns how many there were of them."""
        if (ids is None) == (filter is None):
            raise InvalidRequest("give either 'ids' or 'filter'", param="ids")
        with self._open() as held:
            if ids is not None:
                return held.store.write(Change(delete_ids=list(dict.fromkeys(ids))), held.index.publish).deleted
            condition = parse_filter(filter)
            if condition is None:
                raise InvalidRequest(
                    "an empty filter would delete every document; delete the collection instead", param="filter"
                )
            numbers = numbers_passing(held.index.current(), condition)
            return held.store.write(Change(delete_numbers=numbers.tolist()), held.index.publish).deleted

    def update(
        self, id: str, *, text: str | None = None, metadata: bytes | None = None, vector: Vector | None = None
    ) -> None:
        """Changes what is given, checked, of one document; its vector is made anew with its text where there is an
        embedder. Raises :class:`NotFound`."""
        with self._open() as held:
            revise(held.store, held.index.publish, id, Revision(text, metadata, vector), self._embedded)

    def get(self, id: str, *, vector: bool = False) -> StoredDocument:
        """Raises :class:`NotFound`."""
        with self._open() as held, held.store.reading() as reading:
            row = reading.by_id([id], vectors=vector).get(id)
        if row is None:
            raise self._no_document(id)
        return row.stored()

    def _no_document(self, id: str) -> NotFound:
        return NotFound(f"collection '{self.name}' has no document '{id}'", param="id", code="document_not_found")

    def page(
        self, cursor: str | None = None, limit: int = 100, filter: Mapping[str, Any] | None = None
    ) -> tuple[list[StoredDocument], str | None]:
        """Documents in the order in which they came, and the cursor of the next page; ``None``: it was the last.

        A page of large documents has fewer than ``limit``: about :data:`PAGE_BYTES` of them.
        """
        if not 1 <= limit <= 1000:
            raise InvalidRequest("'limit' must be 1 to 1000", param="limit")
        condition, after = parse_filter(filter), after_cursor(cursor)
        with self._open() as held:
            if condition is None:
                rows, last = first_page(held.store, after, limit)
            else:
                numbers = numbers_passing(held.index.current(), condition, after)[: limit + 1].tolist()
                rows, last = page_of(held.store, numbers, limit)
        return [row.stored() for row in rows], cursor_of(last) if last is not None else None

    def search(self, search: Search) -> SearchAnswer:
        """Raises :class:`InvalidRequest` that names the field at fault, and what an embedder or reranker raises."""
        return self.search_many([search])[0]

    def search_many(self, searches: Sequence[Search]) -> list[SearchAnswer]:
        """All on one state of the collection; their texts are embedded together."""
        with self._open() as held:
            return held.answerer.answer(searches, self._embedder_of)

    def put(self, documents: Sequence[NewDocument], numbers: Sequence[int] = ()) -> Written:
        """As :meth:`add`, of documents that were checked, with the vectors that they have. ``numbers``: their places in
        the order of a collection of which this is a shard, ascending."""
        with self._open() as held:
            return held.store.write(Change(documents, numbers=numbers), held.index.publish)

    def row(self, id: str) -> Row:
        """A document with its number and its vector. Raises :class:`NotFound`."""
        with self._open() as held, held.store.reading() as reading:
            row = reading.by_id([id], vectors=True).get(id)
        if row is None:
            raise self._no_document(id)
        return row

    def replace(self, document: NewDocument, number: int, of: int) -> bool:
        """Puts a checked document in the place of the one with the number ``of``; ``False`` when that is not there any
        more, and nothing was changed."""
        with self._open() as held:
            try:
                held.store.write(Change([document], numbers=[number], based_on=(of,)), held.index.publish)
            except Superseded:
                return False
        return True

    def statistics(self, terms: Sequence[str]) -> Statistics:
        """What a search over several collections needs to know of this one: see
        :mod:`sage.middleware.retrieval.query.shard_candidates`."""
        with self._open() as held:
            return held.answerer.statistics(terms)

    def candidates(self, request: CandidateRequest) -> Candidates:
        """Its best documents for a search over several collections."""
        with self._open() as held:
            return held.answerer.candidates(request)

    def fetch(self, numbers: Sequence[int]) -> dict[int, Row]:
        """Documents by their numbers, without vectors; those that are gone by now are left out."""
        with self._open() as held:
            return held.answerer.fetch(numbers)

    def numbers(self, filter: Mapping[str, Any] | None = None, after: int = 0, limit: int = 1000) -> list[int]:
        """The first numbers over ``after`` of documents that pass the filter."""
        condition = parse_filter(filter)
        with self._open() as held:
            found: list[int] = numbers_passing(held.index.current(), condition, after)[:limit].tolist()
            return found

    def count(self, filter: Mapping[str, Any] | None = None) -> int:
        """How many documents there are, or pass the filter."""
        condition = parse_filter(filter)
        with self._open() as held:
            view = held.index.current()
            return view.documents if condition is None else len(numbers_passing(view, condition))

    def settle(self, key: str, value: object) -> Any:
        """What is kept under ``key`` with the collection: ``value``, a small JSON value, unless there was one."""
        with self._open() as held:
            return held.store.settle(key, value)

    def reembed(self, embedder: str, progress: Progress | None = None) -> None:
        """Makes all vectors anew with another embedder; goes on where an interrupted one stopped, and serves the old
        vectors until it is done."""
        from sage.middleware.retrieval.reembed import reembed

        found = self._models.embedder(embedder)
        if found is None:
            raise InvalidRequest(f"there is no embedder '{embedder}' here to make vectors with", param="embedder")
        with self._open() as held:
            reembed(held.store, held.index, embedder, found, progress)

    def snapshot(self, write: BinaryIO, begun: Callable[[], None] | None = None) -> None:
        """One consistent state as a stream, which :meth:`Collections.restore` reads. Breaks off when the collection is
        closed: its reader may take any time. ``begun`` is called once the state is chosen."""
        with self._open() as held:
            write_snapshot(held.store, cast(BinaryIO, _Checked(write, self._refuse_if_gone)), begun)

    def optimize(self) -> None:
        """Brings the index into its fastest shape and returns when that is done."""
        with self._open() as held:
            held.index.optimize()

    def purge(self, seconds: float = 30.0) -> None:
        """Hard deletion: no byte of any deleted or replaced document is left in a file of the collection.

        Rewrites the segments that hold some of them, and the database unless nothing was deleted since it last was.
        Waits for others that work on the index, and for those that read an older state, ``seconds`` each at most; then
        it raises :class:`Unavailable` (code ``not_yet_purged``), and is to be called again.
        """
        with self._open() as held:
            held.index.purge(seconds)
            held.answerer.forget()
            held.store.purge(seconds)

    def stop_work(self) -> None:
        """Ends work on the index that may take long, for who is about to close the collection."""
        held = self._held
        if held is not None:
            held.index.stop_work()

    @property
    def resting(self) -> bool:
        """It holds no files."""
        return self._held is None

    def rest(self) -> bool:
        """Lets go of its files unless it is in use; ``False``: it is."""
        with self._state:
            if self._users:
                return False
            self._close()
            return True

    def close(self, reason: str | None = None) -> None:
        """Waits for calls that run, and refuses further ones; ``reason`` is what they are told."""
        with self._state:
            self._gone = reason or f"collection '{self.name}' is closed"
            self._state.wait_for(lambda: not self._users)
            self._close()

    def _close(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            try:
                held.index.close()
            finally:
                held.store.close()

    @contextmanager
    def _open(self) -> Iterator[_OpenFiles]:
        with self._state:
            self._refuse_if_gone()
            held = self._held = self._held or self._opened()
            self._users += 1
        try:
            with self._deletion_told(held.store, held.inode):
                yield held
        finally:
            self._leave()

    @contextmanager
    def _deletion_told(self, store: DocumentStore, inode: int | None) -> Iterator[None]:
        """What is no fault of a disk, but another process that deleted the collection, is said to be that."""
        try:
            yield
        except (SageError, OSError) as exc:
            ours = isinstance(exc, SageError) and exc.status < 500
            if ours or store.directory is None or (inode is not None and inode_of(store.directory) == inode):
                raise
            raise NotFound(
                f"collection '{self.name}' was deleted", param="collection", code="collection_not_found"
            ) from exc

    def _refuse_if_gone(self) -> None:
        if self._gone is not None:
            raise NotFound(self._gone, param="collection", code="collection_not_found")

    def _leave(self) -> None:
        with self._state:
            self._users -= 1
            self._state.notify_all()

    def _opened(self) -> _OpenFiles:
        store = self._open_store()
        try:
            inode = inode_of(store.directory)
            with self._deletion_told(store, inode):
                analyzer = Analyzer(store.identity.options.analysis)
                index = Index(store, analyzer)
            return _OpenFiles(store, inode, index, Answerer(store, index, analyzer, self._models, self._limits))
        except BaseException:
            store.close()
            raise

    def _embedder_of(self, identity: Identity) -> Embedder | None:
        """The embedder that made the vectors; ``None``: they come with the documents, if at all."""
        if identity.embedder is None:
            return None
        found = self._models.embedder(identity.options.embedder)
        if found is None or found.name != identity.embedder:
            raise InvalidRequest(
                f"the vectors of collection '{self.name}' were made by '{identity.embedder}', which '"
                f"{identity.options.embedder}' is not here ({found.name if found else 'no embedder'}); bring it back, "
                f"or make them anew: sage collections reembed {self.name} EMBEDDER",
                param="collection",
                code="embedder_mismatch",
            )
        return found

    def _embedded(self, documents: Sequence[NewDocument], identity: Identity) -> list[NewDocument]:
        """The same documents with vectors, where there is an embedder to make them."""
        places = [place for place, d in enumerate(documents) if d.vector is None and d.text and not d.text.isspace()]
        embedder = self._embedder_of(identity) if places else None
        if embedder is None:
            return list(documents)
        made: NDArray[np.float32] = embedder.embed([documents[place].text for place in places])
        found = list(documents)
        for place, vector in zip(places, made, strict=True):
            document = found[place]
            found[place] = NewDocument(document.id, document.text, document.metadata, vector)
        return found


class _Checked:
    """A stream that asks before each write."""

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
    for place, _, names in os.walk(directory):  # not Path.rglob: another process may be deleting the collection
        for name in names:
            with suppress(FileNotFoundError):  # merged away meanwhile
                total += os.stat(os.path.join(place, name)).st_size
    return total
