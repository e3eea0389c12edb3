"""The dense leg of a search: the nearest vectors over all segments of a view, by exact scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from sage.middleware.retrieval.index.view import Segment
from sage.middleware.retrieval.keywords.postings import Mask
from sage.middleware.retrieval.store.store import DocumentStore, Reading
from sage.middleware.retrieval.vectors.exact import Matrix, Ordinals, Scores, best, exact_scores
from sage.middleware.retrieval.vectors.flat import float32_safe
from sage.middleware.retrieval.vectors.index import VectorIndex
from sage.middleware.retrieval.vectors.scan import DEPTHS, pool_of
from sage.middleware.settings.retrieval import Metric

Scored = tuple[Ordinals, Scores]

_Asked = tuple[int, VectorIndex, Mask | None]  # a segment's number, its index, and what is allowed of it
_NO_ROWS: Ordinals = np.empty(0, np.int64)
_NOTHING: Scored = (_NO_ROWS, np.empty(0))
_SLICE_NUMBERS = 2**21  # of float32 that an exact search has in memory at a time: 8 MiB


class DenseLeg:
    """Candidates come from each segment's index, their scores from the vectors as they were given: from memory where a
    segment keeps them, else from the document store. So a document's score depends neither on the kind of an index nor
    on how segments are cut.

    A document that has left the document store since the view was made keeps the score of its codes: it is on its way
    out.
    """

    def __init__(
        self, segments: Sequence[Segment], store: DocumentStore, metric: Metric, generation: int | None = None
    ) -> None:
        """``generation``: of the vectors in ``segments``; the document store may serve newer ones by now.
        ``None`` means those that it serves."""
        self._segments, self._store, self._metric, self._generation = segments, store, metric, generation
        self._starts = np.array([0, *accumulate(segment.size for segment in segments)], np.int64)

    def top(
        self, vector: Matrix, k: int, allowed: Sequence[Mask | None], exact: bool = False, *, paged: bool = True
    ) -> tuple[Ordinals, Scores, int]:
        """``(rows, scores, total)``: the ``k`` nearest of the live documents that ``allowed`` lets through (a mask a
        segment; ``None``: all), best first, ties in the order of rows; and how many of them have a vector in all.

        ``exact``: every vector is compared, those that no segment keeps in memory in slices from the document store. Of
        a longer ``k`` the beginning is that of a shorter one, so that pages have neither gaps nor repeats: what only
        the wider look for more finds comes after them, even in the rare case that it is nearer. Not ``paged`` spares
        the narrower searches, where the caller sees to that himself or always takes the same ``k``.
        """
        rows, scores, total, _ = self.top_and(_NO_ROWS, vector, k, allowed, exact, paged=paged)
        return rows, scores, total

    def top_and(
        self,
        others: Ordinals,
        vector: Matrix,
        k: int,
        allowed: Sequence[Mask | None],
        exact: bool = False,
        *,
        paged: bool = False,
    ) -> tuple[Ordinals, Scores, int, Scores]:
        """As :meth:`top`, and as :meth:`scores` of ``others``: vectors that the document store has to be asked for are
        read at once."""
        masks = [_both(segment.live, mask) for segment, mask in zip(self._segments, allowed, strict=True)]
        indexes: list[_Asked] = []
        compared, total = _NOTHING, 0
        for number, (segment, mask) in enumerate(zip(self._segments, masks, strict=True)):
            if segment.vectors is not None and (segment.vectors.exact or not (exact or not float32_safe(vector))):
                indexes.append((number, segment.vectors, mask))
                total += segment.vectors.count(mask)
            else:
                found, count = self._compare(number, vector, k, mask)
                compared, total = _joined([compared, found]), total + count
        rows, scores = _NOTHING
        asked = np.empty(0)
        for depth in self._depths(k, indexes) if paged else [k]:
            (more_rows, more_scores), asked = self._search_indexes(vector, depth, indexes, compared, others)
            new = ~np.isin(more_rows, rows)
            rows, scores = np.concatenate([rows, more_rows[new]]), np.concatenate([scores, more_scores[new]])
        return rows[:k], scores[:k], total, asked

    def scores(self, vector: Matrix, rows: Ordinals) -> Scores:
        """``(n,)``: the score of each row, NaN where there is no vector; the same numbers as :meth:`top` gives."""
        found = np.full(len(rows), np.nan)
        asked: list[tuple[int, Ordinals]] = []  # of segments that keep no vectors: places in ``rows``
        for number, places in self._by_segment(rows):
            index, ordinals = self._segments[number].vectors, rows[places] - self._starts[number]
            kept = None if index is None else index.raw_vectors(ordinals)
            if kept is None:
                asked.append((number, places))
                continue
            there = kept[1]
            found[places[there]] = exact_scores(vector, kept[0][there], self._metric)
        if asked:
            self._ask(vector, rows, asked, found)
        return found

    def _ask(self, vector: Matrix, rows: Ordinals, asked: list[tuple[int, Ordinals]], found: Scores) -> None:
        """Fills in the scores of vectors that only the document store has."""
        with self._store.reading() as reading:
            for number, places in asked:
                segment, ordinals = self._segments[number], rows[places] - self._starts[number]
                vectors, there = self._read(reading, segment.numbers[ordinals])
                if vectors.shape[1] != len(vector):  # all were embedded anew since
                    there = np.zeros(len(places), np.bool_)
                found[places[there]] = exact_scores(vector, vectors[there], self._metric)
                if segment.vectors is not None and not there.all():
                    found[places[~there]] = segment.vectors.scores(vector, ordinals[~there])

    def _depths(self, k: int, indexes: Sequence[_Asked]) -> list[int]:
        """How many to look for, one after the other."""
        if not any(index.staged for _, index, _ in indexes):
            return [k]
        depths = [depth for depth in DEPTHS if depth < k]
        if k <= DEPTHS[-1]:
            return [*depths, k]
        while depths[-1] < k:
            depths.append(4 * depths[-1])
        return depths

    def _search_indexes(
        self, vector: Matrix, k: int, indexes: Sequence[_Asked], compared: Scored, others: Ordinals
    ) -> tuple[Scored, Scores]:
        """The ``k`` nearest by exact score of what the indexes find and what was compared already; and the scores of
        ``others``."""
        near = _NOTHING
        for number, index, mask in indexes:
            ordinals, scores = index.candidates(vector, k, mask)
            near = _joined([near, (ordinals + self._starts[number], scores.astype(np.float64))])
        rows = near[0][best(near[1], pool_of(k))]
        asked, back = np.unique(np.concatenate([rows, others]), return_inverse=True)
        exact = self.scores(vector, asked)[back]
        return _nearest(_joined([compared, (rows, exact[: len(rows)])]), k), exact[len(rows) :]

    def _compare(self, number: int, vector: Matrix, k: int, mask: Mask | None) -> tuple[Scored, int]:
        """The ``k`` nearest of one segment by what the document store says, and how many have a vector."""
        segment, found, count = self._segments[number], _NOTHING, 0
        ordinals = np.arange(segment.size) if mask is None else np.flatnonzero(mask)
        with self._store.reading() as reading:
            for some, vectors in self._slices(reading, segment, ordinals, len(vector)):
                count += len(some)
                scored = some + self._starts[number], exact_scores(vector, vectors, self._metric)
                found = _nearest(_joined([found, scored]), k)
        return found, count

    def _slices(
        self, reading: Reading, segment: Segment, ordinals: Ordinals, width: int
    ) -> Iterator[tuple[Ordinals, Matrix]]:
        step = max(1, _SLICE_NUMBERS // width)
        for start in range(0, len(ordinals), step):
            some = ordinals[start : start + step]
            vectors, there = self._read(reading, segment.numbers[some])
            if vectors.shape[1] == width:
                yield some[there], vectors[there]

    def _read(self, reading: Reading, numbers: Ordinals) -> tuple[Matrix, Mask]:
        if self._generation is None:
            return reading.vectors(numbers)
        if self._generation in reading.generations():
            return reading.vectors(numbers, generation=self._generation)
        return np.empty((len(numbers), 0), np.float32), np.zeros(len(numbers), np.bool_)

    def _by_segment(self, rows: Ordinals) -> Iterator[tuple[int, Ordinals]]:
        """Of each segment that has some: its number, and where in ``rows`` its own stand."""
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owners):
            yield int(number), np.flatnonzero(owners == number)


def _joined(found: Sequence[Scored]) -> Scored:
    return np.concatenate([rows for rows, _ in found]), np.concatenate([scores for _, scores in found])


def _nearest(found: Scored, k: int) -> Scored:
    """The ``k`` best, best first, ties in the order of rows."""
    order = np.lexsort((found[0], -found[1]))[:k]
    return found[0][order], found[1][order]


def _both(live: Mask | None, allowed: Mask | None) -> Mask | None:
    if live is None or allowed is None:
        return allowed if live is None else live
    return live & allowed
