"""The dense leg of a search: the nearest vectors in all segments of a view, by exact scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate

import numpy as np

from sage.middleware.retrieval.index.view import Segment
from sage.middleware.retrieval.keywords.postings import Mask, few_rows
from sage.middleware.retrieval.query.estimates import Estimates
from sage.middleware.retrieval.store.store import DocumentStore, Reading
from sage.middleware.retrieval.vectors.exact import Matrix, Ordinals, Scores, best, exact_scores
from sage.middleware.retrieval.vectors.flat import float32_safe
from sage.middleware.retrieval.vectors.index import VectorIndex
from sage.middleware.retrieval.vectors.scan import DEPTHS, pool_of
from sage.middleware.settings.retrieval import Metric

Scored = tuple[Ordinals, Scores]

_SegmentIndex = tuple[int, VectorIndex, Mask | None]
"""A segment's number, its index, and which of its documents may be returned; ``None`` means all."""
_NO_ROWS: Ordinals = np.empty(0, np.int64)
_NONE: Scored = (_NO_ROWS, np.empty(0))
_SLICE_NUMBERS = 2**21  # float32 numbers that an exact search holds in memory at a time: 8 MiB


class DenseLeg:
    """Candidates come from each segment's index, their scores from the vectors as they were given: from memory where a
    segment keeps them, else from the document store. So a document's score depends neither on the kind of an index nor
    on how segments are cut.

    A document that has left the document store since the view was made keeps the score of its codes: it is about
    to disappear.
    """

    def __init__(
        self, segments: Sequence[Segment], store: DocumentStore, metric: Metric, generation: int | None = None
    ) -> None:
        """``generation``: of the vectors in ``segments``; the document store may serve newer ones by now.
        ``None`` means the vectors that it serves."""
        self._segments, self._store, self._metric, self._generation = segments, store, metric, generation
        self._starts = np.array([0, *accumulate(segment.size for segment in segments)], np.int64)

    def top(
        self, vector: Matrix, k: int, allowed: Sequence[Mask | None], exact: bool = False, *, paged: bool = True
    ) -> tuple[Ordinals, Scores, int]:
        """``(rows, scores, total)``: the ``k`` nearest of the documents that ``allowed`` lets through (a mask a
        segment, of live ones only; ``None``: all live ones), best first, ties in the order of rows; and how many of
        them have a vector in all.

        ``exact``: every vector is compared; those that no segment keeps in memory are read in slices from the document
        store. The first results of a larger ``k`` are those of a smaller one, so that pages have neither gaps nor
        repeats: what only the wider search finds comes after the others, even in the rare case that it is nearer.
        Without ``paged`` the narrower searches are left out, for a caller that needs no pages or always takes the same
        ``k``.
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
        """:meth:`top`, and then the :meth:`scores` of ``others``. Vectors that are not in memory are read from the
        document store together."""
        masks = [segment.live if mask is None else mask for segment, mask in zip(self._segments, allowed, strict=True)]
        if (few := few_rows(masks)) is not None and vector.any():
            return self._top_of(few, others, vector, k)
        indexes: list[_SegmentIndex] = []
        compared, total = _NONE, 0
        for number, (segment, mask) in enumerate(zip(self._segments, masks, strict=True)):
            if segment.vectors is not None and (segment.vectors.exact or not (exact or not float32_safe(vector))):
                indexes.append((number, segment.vectors, mask))
                total += segment.vectors.count(mask)
            else:
                nearest, count = self._compare(number, vector, k, mask)
                compared, total = _joined([compared, nearest]), total + count
        rows, scores = _NONE
        other_scores = np.empty(0)
        for depth in self._depths(k, indexes) if paged else [k]:
            (more_rows, more_scores), other_scores = self._search_indexes(vector, depth, indexes, compared, others)
            new = ~np.isin(more_rows, rows)
            rows, scores = np.concatenate([rows, more_rows[new]]), np.concatenate([scores, more_scores[new]])
        return rows[:k], scores[:k], total, other_scores

    def _top_of(self, rows: Ordinals, others: Ordinals, vector: Matrix, k: int) -> tuple[Ordinals, Scores, int, Scores]:
        """As :meth:`top_and`, where only ``rows``, which ascend, may be returned."""
        needed, inverse = np.unique(np.concatenate([rows, others]), return_inverse=True)
        exact = self.scores(vector, needed)[inverse]
        scores, other_scores = exact[: len(rows)], exact[len(rows) :]
        present = np.flatnonzero(~np.isnan(scores))
        return *_best((rows[present], scores[present]), k), len(present), other_scores

    def estimates(self, others: Ordinals, vector: Matrix, k: int, allowed: Sequence[Mask | None]) -> Estimates | None:
        """The candidates that :meth:`top_and` would read the vectors of, and ``others``, by what is in memory. ``None``
        means that there are no bounds: for this metric or vector, or for the codes of a segment."""
        if self._metric is Metric.EUCLIDEAN or not vector.any() or not float32_safe(vector):
            return None
        indexes: list[_SegmentIndex] = []
        for number, (segment, mask) in enumerate(zip(self._segments, allowed, strict=True)):
            if segment.vectors is None or not segment.vectors.has_errors:
                return None
            indexes.append((number, segment.vectors, segment.live if mask is None else mask))
        near = self._candidates(vector, k, indexes)
        rows = np.union1d(near, others)
        scores, errors = np.full(len(rows), np.nan), np.zeros(len(rows))
        for number, indices in self._rows_by_segment(rows):
            index, ordinals = indexes[number][1], rows[indices] - self._starts[number]
            raw = index.raw_vectors(ordinals)
            if raw is None:
                scores[indices] = index.scores(vector, ordinals)
                errors[indices] = index.errors(vector, ordinals)
            else:
                scores[indices[raw[1]]] = exact_scores(vector, raw[0][raw[1]], self._metric)
        is_near = np.zeros(len(rows), np.bool_)
        is_near[np.searchsorted(rows, near)] = True
        total = sum(index.count(mask) for _, index, mask in indexes)
        return Estimates(rows, scores, errors, is_near, total, partial(self.scores, vector))

    def few(self, vector: Matrix, most: int, allowed: Sequence[Mask | None]) -> tuple[Ordinals, Scores] | None:
        """``(rows, scores)`` of all documents that may be returned, NaN where there is no vector, if they are ``most``
        or fewer; else, and for a query of zeros, ``None``."""
        masks = [segment.live if mask is None else mask for segment, mask in zip(self._segments, allowed, strict=True)]
        rows = few_rows(masks)
        if rows is None or len(rows) > most or not vector.any():
            return None
        return rows, self.scores(vector, rows)

    def _candidates(self, vector: Matrix, k: int, indexes: Sequence[_SegmentIndex]) -> Ordinals:
        """The best of all indexes by their codes, so many that the ``k`` nearest by exact score are among them."""
        candidates = _NONE
        for number, index, mask in indexes:
            ordinals, scores = index.candidates(vector, k, mask)
            candidates = _joined([candidates, (ordinals + self._starts[number], scores.astype(np.float64))])
        return candidates[0][best(candidates[1], pool_of(k))]

    def scores(self, vector: Matrix, rows: Ordinals) -> Scores:
        """``(n,)``: the score of each row, NaN where there is no vector; the same numbers as :meth:`top` gives."""
        scores = np.full(len(rows), np.nan)
        not_in_memory: list[tuple[int, Ordinals]] = []  # by segment: indices into ``rows``
        for number, indices in self._rows_by_segment(rows):
            index, ordinals = self._segments[number].vectors, rows[indices] - self._starts[number]
            in_memory = None if index is None else index.raw_vectors(ordinals)
            if in_memory is None:
                not_in_memory.append((number, indices))
                continue
            present = in_memory[1]
            scores[indices[present]] = exact_scores(vector, in_memory[0][present], self._metric)
        if not_in_memory:
            self._fill_from_store(vector, rows, not_in_memory, scores)
        return scores

    def _fill_from_store(
        self, vector: Matrix, rows: Ordinals, not_in_memory: list[tuple[int, Ordinals]], scores: Scores
    ) -> None:
        """Fills in the scores of vectors that only the document store has."""
        with self._store.reading() as reading:
            for number, indices in not_in_memory:
                segment, ordinals = self._segments[number], rows[indices] - self._starts[number]
                vectors, present = self._read(reading, segment.numbers[ordinals])
                if vectors.shape[1] != len(vector):  # another embedder made new vectors meanwhile
                    present = np.zeros(len(indices), np.bool_)
                scores[indices[present]] = exact_scores(vector, vectors[present], self._metric)
                if segment.vectors is not None and not present.all():
                    scores[indices[~present]] = segment.vectors.scores(vector, ordinals[~present])

    def _depths(self, k: int, indexes: Sequence[_SegmentIndex]) -> list[int]:
        """How many to search for, one after the other."""
        if not any(index.staged for _, index, _ in indexes):
            return [k]
        depths = [depth for depth in DEPTHS if depth < k]
        if k <= DEPTHS[-1]:
            return [*depths, k]
        while depths[-1] < k:
            depths.append(4 * depths[-1])
        return depths

    def _search_indexes(
        self, vector: Matrix, k: int, indexes: Sequence[_SegmentIndex], compared: Scored, others: Ordinals
    ) -> tuple[Scored, Scores]:
        """The ``k`` nearest by exact score of what the indexes find and what was compared already; and the scores of
        ``others``."""
        rows = self._candidates(vector, k, indexes)
        needed, inverse = np.unique(np.concatenate([rows, others]), return_inverse=True)
        exact = self.scores(vector, needed)[inverse]
        return _best(_joined([compared, (rows, exact[: len(rows)])]), k), exact[len(rows) :]

    def _compare(self, number: int, vector: Matrix, k: int, mask: Mask | None) -> tuple[Scored, int]:
        """The ``k`` nearest of one segment by the vectors in the document store, and how many documents have one."""
        segment, nearest, count = self._segments[number], _NONE, 0
        ordinals = np.arange(segment.size) if mask is None else np.flatnonzero(mask)
        with self._store.reading() as reading:
            for slice_ordinals, vectors in self._slices(reading, segment, ordinals, len(vector)):
                count += len(slice_ordinals)
                scored = slice_ordinals + self._starts[number], exact_scores(vector, vectors, self._metric)
                nearest = _best(_joined([nearest, scored]), k)
        return nearest, count

    def _slices(
        self, reading: Reading, segment: Segment, ordinals: Ordinals, width: int
    ) -> Iterator[tuple[Ordinals, Matrix]]:
        step = max(1, _SLICE_NUMBERS // width)
        for start in range(0, len(ordinals), step):
            slice_ordinals = ordinals[start : start + step]
            vectors, present = self._read(reading, segment.numbers[slice_ordinals])
            if vectors.shape[1] == width:
                yield slice_ordinals[present], vectors[present]

    def _read(self, reading: Reading, numbers: Ordinals) -> tuple[Matrix, Mask]:
        if self._generation is None:
            return reading.vectors(numbers)
        if self._generation in reading.generations():
            return reading.vectors(numbers, generation=self._generation)
        return np.empty((len(numbers), 0), np.float32), np.zeros(len(numbers), np.bool_)

    def _rows_by_segment(self, rows: Ordinals) -> Iterator[tuple[int, Ordinals]]:
        """For each segment with rows: its number, and the indices of its rows in ``rows``."""
        if len(self._segments) == 1:
            yield 0, np.arange(len(rows))
            return
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owners):
            yield int(number), np.flatnonzero(owners == number)


def _joined(lists: Sequence[Scored]) -> Scored:
    return np.concatenate([rows for rows, _ in lists]), np.concatenate([scores for _, scores in lists])


def _best(scored: Scored, k: int) -> Scored:
    """The ``k`` best, best first, ties in the order of rows."""
    order = np.lexsort((scored[0], -scored[1]))[:k]
    return scored[0][order], scored[1][order]
