"""Parts made from other segments, and from the document store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from sage.middleware.retrieval.filters.index import FilterIndex
from sage.middleware.retrieval.index.state import Numbers, SegmentState, ascending
from sage.middleware.retrieval.index.view import Segment
from sage.middleware.retrieval.keywords.postings import KeywordIndex, Mask
from sage.middleware.retrieval.store.store import DocumentStore, Reading, SegmentRecord
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.vectors.index import Matrix, VectorIndex

_SLICE = 4096  # documents whose vectors are read at once
_CHUNK = 16_384  # documents whose terms are held at once
_ON_DISK_FROM = 2**28  # bytes of vectors that are gathered in a file rather than in memory


class Abandoned(Exception):
    """What was being made is not wanted any more: the index closes, or other vectors took over."""


def merged_numbers(segments: Sequence[SegmentState]) -> Numbers:
    """Of the rows that live."""
    found = [p.data.numbers if p.data.live is None else p.data.numbers[p.data.live] for p in segments]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def merged(segments: Sequence[SegmentState]) -> Segment:
    """One segment of the rows that live, in order, without vectors."""
    keywords = KeywordIndex.merge([(segment.data.keywords.index(), segment.data.live) for segment in segments])
    filters = FilterIndex.merge([(segment.data.filters, segment.data.live) for segment in segments])
    return Segment(merged_numbers(segments), None, keywords, filters, None)


def vectors_of(
    store: DocumentStore, numbers: Numbers, generation: int, checkpoint: Callable[[], None] = lambda: None
) -> VectorIndex:
    """The index of these rows' vectors of a generation, which the document store holds. ``checkpoint`` is called now
    and then and may raise. Raises :class:`Abandoned` when the document store does not have that generation any more."""
    with store.reading() as reading:
        generations = reading.generations()
    if generation not in generations:
        raise Abandoned(f"generation {generation} is gone")
    options = store.identity.options
    dimension = generations[generation].dimension or 1
    matrix, present = _room(store.directory, len(numbers), dimension), np.zeros(len(numbers), np.bool_)
    for start in range(0, len(numbers), _SLICE):
        checkpoint()
        _read_slice(store, numbers, generation, start, matrix, present)
    checkpoint()
    return VectorIndex.build(matrix, present, options.metric, options.target_recall)


def _read_slice(
    store: DocumentStore, numbers: Numbers, generation: int, start: int, matrix: Matrix, present: Mask
) -> None:
    """A short transaction each, so that the log of the database can be brought in meanwhile."""
    end = start + _SLICE
    with store.reading() as reading:
        if generation not in reading.generations():
            raise Abandoned(f"generation {generation} is gone")
        found, there = reading.vectors(numbers[start:end], generation=generation)
    if there.any():
        matrix[start:end] = found
        present[start:end] = there


def _room(directory: Path | None, rows: int, dimension: int) -> Matrix:
    if directory is None or rows * dimension * 4 < _ON_DISK_FROM:
        return np.zeros((rows, dimension), np.float32)
    with tempfile.TemporaryFile(dir=directory) as file:  # without a name: it goes with its last use
        return np.memmap(file, np.float32, "w+", shape=(rows, dimension))


def rebuilt(record: SegmentRecord, reading: Reading, analyzer: Analyzer) -> Segment:
    """The rows of a segment whose file is bad, without vectors.

    Those that died since it was made and whose deletions are not forgotten are there as rows without words, so that
    the ordinals are those of its file of vectors.
    """
    deletions = ascending(reading.deletions(0))
    dead = deletions[(deletions >= record.low) & (deletions <= record.high)]
    numbers: list[Numbers] = []
    made: list[tuple[KeywordIndex, Mask | None]] = []
    filters: list[tuple[FilterIndex, Mask | None]] = []
    for chunk in _chunks(record, reading, analyzer, dead):
        numbers.append(np.array([number for number, _, _ in chunk], np.int64))
        made.append((KeywordIndex.build([terms for _, terms, _ in chunk]), None))
        filters.append((FilterIndex.build([metadata for _, _, metadata in chunk]), None))
    if len(made) == 1:
        return Segment(numbers[0], None, made[0][0], filters[0][0], None)
    return Segment(np.concatenate(numbers), None, KeywordIndex.merge(made), FilterIndex.merge(filters), None)


_Document = tuple[int, Sequence[str], bytes]


def _chunks(record: SegmentRecord, reading: Reading, analyzer: Analyzer, dead: Numbers) -> Iterator[list[_Document]]:
    """At least one, in the order of numbers."""
    chunk: list[_Document] = []
    reached = record.low - 1
    for rows in reading.rows(record.low - 1, through=record.high, vectors=False):
        buried = dead[(dead > reached) & (dead < rows[-1].number)]
        reached = rows[-1].number
        chunk += [(row.number, analyzer.terms(row.text), row.metadata) for row in rows]
        chunk += [(int(number), (), b"{}") for number in buried]
        if len(chunk) >= _CHUNK:
            yield sorted(chunk, key=lambda document: document[0])
            chunk = []
    chunk += [(int(number), (), b"{}") for number in dead[dead > reached]]
    yield sorted(chunk, key=lambda document: document[0])
