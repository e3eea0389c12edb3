"""A collection's document store and index without the rooms above them, and a check of all that its view holds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import orjson

from sage.errors import NotFound
from sage.middleware.retrieval.index.index import DIRECTORY, Index
from sage.middleware.retrieval.index.view import Segment
from sage.middleware.retrieval.store.store import Change, DocumentStore
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.types.documents import NewDocument, Row
from sage.middleware.settings.retrieval import CollectionOptions

OPTIONS = CollectionOptions(embedder="none")
WORDS = [f"{first}{second}" for first in ("ba", "ko", "ri", "tu", "ve") for second in ("lm", "nt", "rk", "st", "x")]


class CountingAnalyzer(Analyzer):
    """Counts, and fails once where it is told to."""

    calls = 0
    fail_at: int | None = None

    def terms(self, text: str) -> list[str]:
        self.calls += 1
        if self.calls == self.fail_at:
            self.fail_at = None
            raise MemoryError("as told")
        return super().terms(text)


def documents(start: int, count: int, *, dimension: int = 8) -> list[NewDocument]:
    """Always the same ones: ``count`` with the ids from ``start`` on."""
    return [_document(number, dimension) for number in range(start, start + count)]


def _document(number: int, dimension: int) -> NewDocument:
    generator = random.Random(number)
    text = " ".join(generator.choices(WORDS, k=generator.randrange(1, 12)))
    vector = np.array([generator.gauss(0, 1) for _ in range(dimension)], np.float32)
    return NewDocument(str(number), text, orjson.dumps({"n": number % 7}), vector)


class Opened:
    """A document store and its index."""

    def __init__(self, directory: Path | None) -> None:
        try:
            if directory is None:
                raise NotFound("in memory")
            self.store = DocumentStore.open(directory)
        except NotFound:
            self.store = DocumentStore.create(directory, "c", OPTIONS, None, None, None)
        self.analyzer = CountingAnalyzer(OPTIONS.analysis)
        self.index = Index(self.store, self.analyzer)
        self._open = True

    @property
    def directory(self) -> Path:
        assert self.store.directory is not None
        return self.store.directory / DIRECTORY

    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir() if path.suffix in (".seg", ".vec", ".tmp"))

    def write(self, documents: Sequence[NewDocument]) -> None:
        self.store.write(Change(documents), self.index.publish)

    def delete(self, ids: Sequence[str]) -> None:
        self.store.write(Change(delete_ids=ids), self.index.publish)

    def rows(self) -> list[Row]:
        with self.store.reading() as reading:
            return [row for batch in reading.rows(0) for row in batch]

    def check(self) -> None:
        """The view holds what the document store holds, word by word and vector by vector."""
        view = self.index.current()
        rows = iter(self.rows())
        count = 0
        for segment in view.segments:
            places = np.arange(segment.size) if segment.live is None else np.flatnonzero(segment.live)
            segment_rows = [next(rows) for _ in places]
            count += len(segment_rows)
            _check_segment(segment, places, segment_rows, self.analyzer)
        assert next(rows, None) is None
        assert view.documents == count

    def close(self) -> None:
        if self._open:
            self._open = False
            self.index.close()
            self.store.close()

    def crash(self) -> None:
        """As if the process had ended: nothing more is written."""
        self._open = False
        self.index._stop_thread()
        self.store.close()


def _check_segment(segment: Segment, places: np.ndarray, rows: Sequence[Row], analyzer: Analyzer) -> None:
    assert segment.numbers[places].tolist() == [row.number for row in rows]
    assert segment.size == segment.keywords.size == segment.filters.size
    expected: dict[str, dict[int, int]] = {}
    for place, row in zip(places.tolist(), rows, strict=True):
        counted = Counter(analyzer.terms(row.text))
        assert segment.keywords.lengths[place] == counted.total()
        for term, count in counted.items():
            expected.setdefault(term, {})[place] = count
    alive = set(places.tolist())
    for term in {*expected, *analyzer.terms(" ".join(WORDS)), "nowhere"}:
        ordinals, frequencies = segment.keywords.postings(term)
        postings = {o: f for o, f in zip(ordinals.tolist(), frequencies.tolist(), strict=True) if o in alive}
        assert postings == expected.get(term, {})
    if segment.vectors is not None:
        _check_vectors(segment, places, rows)


def _check_vectors(segment: Segment, places: np.ndarray, rows: Sequence[Row]) -> None:
    assert segment.vectors is not None
    assert segment.vectors.size == segment.size
    vectors = [row.vector for row in rows if row.vector is not None]
    if not vectors:
        return
    query = np.random.default_rng(5).normal(size=len(vectors[0])).astype(np.float32)
    scores = segment.vectors.scores(query, places.astype(np.int64))
    for score, row in zip(scores.tolist(), rows, strict=True):
        if row.vector is None:
            assert np.isnan(score)
        else:
            cosine = row.vector @ query / (np.linalg.norm(row.vector) * np.linalg.norm(query))
            assert abs(score - cosine) < (1e-5 if segment.vectors.kind == "flat" else 0.05)


@contextmanager
def opened(directory: Path | None) -> Iterator[Opened]:
    collection = Opened(directory)
    try:
        yield collection
    finally:
        collection.close()
