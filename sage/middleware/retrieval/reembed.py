"""Reembedding: another embedder makes all vectors of a collection, while searches go on with the old ones.

The new vectors are a *generation* of their own in the document store, which is filled batch by batch. Each batch is
durable, so that an interrupted run can be resumed. Documents that are written meanwhile have vectors of the old
embedder, and the run embeds them as well. Then the index is prepared, and one transaction embeds the last few documents
and puts the new generation into service. From then on a write with old vectors is refused, and its caller embeds it
again (:class:`~sage.middleware.retrieval.store.store.StaleVectors`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sage.errors import Conflict
from sage.middleware.retrieval.embedding.builtin import settled_name
from sage.middleware.retrieval.embedding.protocols import Embedder
from sage.middleware.retrieval.index.index import Index
from sage.middleware.retrieval.store.store import DocumentStore
from sage.middleware.retrieval.types.documents import Row, Vector

Progress = Callable[[int, int], None]
"""``(done, total)``, in documents."""

_FIRST_BATCH, _LARGEST_BATCH = 16, 512  # documents
_BATCH_BYTES = 4 * 2**20
_BRISK, _SLOW = 0.5, 2.0
"""Seconds. After a batch that took less than the first, the next one is larger; after more than the second, smaller. So
progress is reported, and durable, often enough."""
_FEW = 8
"""Documents that may always be embedded while writes wait; more are allowed where they take less than a second."""


def reembed(
    store: DocumentStore, index: Index, spec: str, embedder: Embedder, progress: Progress | None = None
) -> None:
    """Returns when the new vectors serve. From then on the collection's options name the embedder ``spec``.

    Resumes an unfinished run of the same embedder, and discards one of another. Vectors that came with documents are
    replaced by the embedder's; documents without text lose theirs. Raises :class:`sage.errors.Conflict` while another
    run works on this collection, here or in another process, and whatever the embedder or ``progress`` raises: then
    the run can be resumed.
    """
    with store.reembedding() as acquired:
        if not acquired:
            raise Conflict(
                f"the vectors of collection '{store.identity.name}' are being made already; wait until that is done",
                param="embedder",
                code="reembedding_runs",
            )
        run = _resumed(store, embedder, progress or _ignore)
        run.fill()
        index.prepare_vectors(run.generation, run.reached)
        run.fill()
        name = settled_name(spec, embedder)
        while not store.switch_generation(run.generation, name, run.reached, run.few, run.vectors_of):
            run.fill()
        index.rebuild_vectors()
        _discard_all_but(store, run.generation)
        run.report(finished=True)


def _resumed(store: DocumentStore, embedder: Embedder, progress: Progress) -> _Run:
    """The unfinished run of this embedder, or a new one."""
    dimension = embedder.dimension
    with store.reading() as reading:
        serving, total = reading.identity.generation, reading.count()
        for number, generation in reading.generations().items():
            fits = dimension is None or generation.dimension in (None, dimension)
            if number > serving and generation.embedder == embedder.name and fits:
                remaining = len(reading.numbers_without_vectors(number, generation.reached, max(1, total)))
                return _Run(store, embedder, progress, number, generation.reached, total - remaining, total)
    _discard_all_but(store, serving)
    number = store.begin_generation(embedder.name, embedder.languages, dimension)
    return _Run(store, embedder, progress, number, 0, 0, total)


def _discard_all_but(store: DocumentStore, serving: int) -> None:
    with store.reading() as reading:
        numbers = list(reading.generations())
    for number in numbers:
        if number != serving:
            store.discard_generation(number)


def _ignore(done: int, total: int) -> None:
    """The progress of a run that nobody watches."""


@dataclass(slots=True)
class _Run:
    """Fills one generation, in the order of the documents' numbers."""

    store: DocumentStore
    embedder: Embedder
    progress: Progress
    generation: int
    reached: int
    """The number up to which all documents are embedded."""
    done: int
    total: int
    batch: int = _FIRST_BATCH
    few: int = _FEW
    """About as many documents as take a second."""

    def fill(self) -> None:
        """Embeds every document with text, except those that are written during the last batch."""
        self.report()
        while self._fill_one():
            self.report()
        self.report()

    def report(self, *, finished: bool = False) -> None:
        self.progress(self.total if finished else min(self.done, self.total), self.total)

    def _fill_one(self) -> bool:
        """Embeds one batch. Returns whether there are more documents."""
        with self.store.reading() as reading:
            sequence, self.total = reading.sequence, reading.count()
            rows = next(reading.rows(self.reached, vectors=False), [])  # many more than a batch, or all
        batch = _first_of(rows, self.batch)
        if batch:
            start = time.monotonic()
            self.done += len(batch)
            self.store.put_vectors(self.generation, self.vectors_of(batch), self.done)
            self._pace(len(batch), time.monotonic() - start)
        more = len(batch) < len(rows)
        self.reached = batch[-1].number if more else sequence
        return more

    def _pace(self, count: int, seconds: float) -> None:
        self.few = max(_FEW, min(int(count / max(seconds, 1e-3)), _LARGEST_BATCH))
        if seconds < _BRISK:
            self.batch = min(2 * self.batch, _LARGEST_BATCH)
        elif seconds > _SLOW:
            self.batch = max(self.batch // 2, _FIRST_BATCH)

    def vectors_of(self, rows: Sequence[Row]) -> Mapping[int, Vector]:
        """The vectors of documents by number. Those without text have none."""
        with_text = [row for row in rows if row.text and not row.text.isspace()]
        if not with_text:
            return {}
        vectors = self.embedder.embed([row.text for row in with_text])
        return {row.number: vector for row, vector in zip(with_text, vectors, strict=True)}


def _first_of(rows: Sequence[Row], count: int) -> Sequence[Row]:
    """At most ``count`` rows, and about as many bytes as a batch may have at most."""
    size = 0
    for position, row in enumerate(rows[:count]):
        size += len(row.text)
        if size >= _BATCH_BYTES:
            return rows[: position + 1]
    return rows[:count]
