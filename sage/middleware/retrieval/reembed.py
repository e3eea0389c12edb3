"""All vectors of a collection made anew by another embedder, while the old ones go on serving.

The new vectors are a *generation* of their own in the document store, filled batch by batch; what was reached is
durable, so an interrupted run goes on there. Writes meanwhile come with vectors of the old embedder and are embedded
here as well. Then the index is prepared, and one transaction embeds the last few documents and makes the new generation
the one that serves: from there on, a write with old vectors is refused and embedded again by its caller
(:class:`~sage.middleware.retrieval.store.store.StaleVectors`).
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
"""``(done, of all)``, in documents."""

_FIRST_BATCH, _LARGEST_BATCH = 16, 512  # documents
_BATCH_BYTES = 4 * 2**20
_BRISK, _SLOW = 0.5, 2.0
"""Seconds that a batch may take before the next one is not larger, or smaller: what it reached is durable, and seen."""
_FEW = 8
"""Documents that may always be embedded while nobody can write; more, where they take less than a second."""


def reembed(
    store: DocumentStore, index: Index, spec: str, embedder: Embedder, progress: Progress | None = None
) -> None:
    """Returns when the new vectors serve; then ``spec`` is what the collection's options say of its embedder.

    Goes on with an unfinished run of the same embedder, and discards one of another. Vectors that came with documents
    are replaced by the embedder's, and documents without text have none any more. Raises
    :class:`sage.errors.Conflict` while another run makes vectors for this collection, here or in another process, and
    what the embedder or ``progress`` raises: the run can be resumed then.
    """
    with store.reembedding() as alone:
        if not alone:
            raise Conflict(
                f"the vectors of collection '{store.identity.name}' are being made anew already; wait for its end",
                param="embedder",
                code="reembedding_runs",
            )
        run = _resumed(store, embedder, progress or _unseen)
        run.fill()
        index.prepare_vectors(run.generation, run.seen)
        run.fill()
        kept = settled_name(spec, embedder)
        while not store.switch_generation(run.generation, kept, run.seen, run.few, run.vectors_of):
            run.fill()
        index.rebuild_vectors()
        _discard_all_but(store, run.generation)
        run.tell(finished=True)


def _resumed(store: DocumentStore, embedder: Embedder, progress: Progress) -> _Run:
    """The unfinished run of this embedder, or a new one."""
    wanted = embedder.dimension
    with store.reading() as reading:
        serving, total = reading.identity.generation, reading.count()
        for number, generation in reading.generations().items():
            fits = wanted is None or generation.dimension in (None, wanted)
            if number > serving and generation.embedder == embedder.name and fits:
                left = len(reading.numbers_without_vectors(number, generation.reached, max(1, total)))
                return _Run(store, embedder, progress, number, generation.reached, total - left, total)
    _discard_all_but(store, serving)
    number = store.begin_generation(embedder.name, embedder.languages, wanted)
    return _Run(store, embedder, progress, number, 0, 0, total)


def _discard_all_but(store: DocumentStore, kept: int) -> None:
    with store.reading() as reading:
        found = list(reading.generations())
    for number in found:
        if number != kept:
            store.discard_generation(number)


def _unseen(done: int, total: int) -> None:
    """For a caller who does not look."""


@dataclass(slots=True)
class _Run:
    """One generation being filled, in the order of documents' numbers."""

    store: DocumentStore
    embedder: Embedder
    progress: Progress
    generation: int
    seen: int
    """The number up to which all documents were looked at."""
    done: int
    total: int
    batch: int = _FIRST_BATCH
    few: int = _FEW
    """As many documents as take about a second."""

    def fill(self) -> None:
        """Gives every document with text a vector, but for those that come in during the last batch."""
        self.tell()
        while self._fill_one():
            self.tell()
        self.tell()

    def tell(self, *, finished: bool = False) -> None:
        self.progress(self.total if finished else min(self.done, self.total), self.total)

    def _fill_one(self) -> bool:
        """Whether there were more documents than it took."""
        with self.store.reading() as reading:
            sequence, self.total = reading.sequence, reading.count()
            rows = next(reading.rows(self.seen, vectors=False), [])  # many more than a batch, or all that there are
        batch = _first_of(rows, self.batch)
        if batch:
            begun = time.monotonic()
            self.done += len(batch)
            self.store.put_vectors(self.generation, self.vectors_of(batch), self.done)
            self._pace(len(batch), time.monotonic() - begun)
        more = len(batch) < len(rows)
        self.seen = batch[-1].number if more else sequence
        return more

    def _pace(self, count: int, seconds: float) -> None:
        self.few = max(_FEW, min(int(count / max(seconds, 1e-3)), _LARGEST_BATCH))
        if seconds < _BRISK:
            self.batch = min(2 * self.batch, _LARGEST_BATCH)
        elif seconds > _SLOW:
            self.batch = max(self.batch // 2, _FIRST_BATCH)

    def vectors_of(self, rows: Sequence[Row]) -> Mapping[int, Vector]:
        """Their vectors by number; none for those without text."""
        given = [row for row in rows if row.text and not row.text.isspace()]
        if not given:
            return {}
        vectors = self.embedder.embed([row.text for row in given])
        return {row.number: vector for row, vector in zip(given, vectors, strict=True)}


def _first_of(rows: Sequence[Row], count: int) -> Sequence[Row]:
    """At most ``count``, and not many more bytes than a batch may hold."""
    size = 0
    for place, row in enumerate(rows[:count]):
        size += len(row.text)
        if size >= _BATCH_BYTES:
            return rows[: place + 1]
    return rows[:count]
