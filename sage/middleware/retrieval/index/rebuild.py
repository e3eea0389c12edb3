"""Segments made from other segments, and from the document store."""

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
from sage.middleware.retrieval.vectors.exact import Matrix
from sage.middleware.retrieval.vectors.index import VectorIndex

_SLICE = 4096  # documents whose vectors are read at once
_CHUNK = 16_384  # documents whose terms are held at once
_ON_DISK_FROM = 2**28  # bytes of vectors that are gathered in a file rather than in memory


class Abandoned(Exception):
    """The result of a job is not wanted any more: the index closes, or another generation of vectors serves."""


def merged_numbers(segments: Sequence[SegmentState]) -> Numbers:
    """The numbers of the live rows, ascending."""
    live = [s.data.numbers if s.data.live is None else s.data.numbers[s.data.live] for s in segments]
    return np.concatenate(live) if live else np.empty(0, np.int64)


def merged(segments: Sequence[SegmentState]) -> Segment:
    """One segment of the live rows, in order, without vectors."""
    keywords = KeywordIndex.merge([(segment.data.keywords.index(), segment.data.live) for segment in segments])
    filters = FilterIndex.merge([(segment.data.filters, segment.data.live) for segment in segments])
    return Segment(merged_numbers(segments), None, keywords, filters, None)


def vectors_of(
    store: DocumentStore, numbers: Numbers, generation: int, checkpoint: Callable[[], None] = lambda: None
) -> VectorIndex:
    """Builds the index of these rows' vectors of a generation. ``checkpoint`` is called now and then and may raise.

    Raises :class:`Abandoned` when the document store does not have that generation any more.
    """
    with store.reading() as reading:
        generations = reading.generations()
    if generation not in generations:
        raise Abandoned(f"generation {generation} was discarded")
    options = store.identity.options
    dimension = generations[generation].dimension or 1
    matrix = _empty_matrix(store.directory, len(numbers), dimension)
    present = np.zeros(len(numbers), np.bool_)
    for start in range(0, len(numbers), _SLICE):
        checkpoint()
        _read_slice(store, numbers, generation, start, matrix, present)
    checkpoint()
    return VectorIndex.build(matrix, present, options.metric, options.target_recall, mapped=options.vectors == "mapped")


def _read_slice(
    store: DocumentStore, numbers: Numbers, generation: int, start: int, matrix: Matrix, present: Mask
) -> None:
    """Fills in some rows, in a short transaction of its own, so that the database's log can be emptied in between."""
    end = start + _SLICE
    with store.reading() as reading:
        if generation not in reading.generations():
            raise Abandoned(f"generation {generation} was discarded")
        vectors, has_vector = reading.vectors(numbers[start:end], generation=generation)
    if has_vector.any():
        matrix[start:end] = vectors
        present[start:end] = has_vector


def _empty_matrix(directory: Path | None, rows: int, dimension: int) -> Matrix:
    if directory is None or rows * dimension * 4 < _ON_DISK_FROM:
        return np.zeros((rows, dimension), np.float32)
    with tempfile.TemporaryFile(dir=directory) as file:  # has no name, so it is removed with its last use
        return np.memmap(file, np.float32, "w+", shape=(rows, dimension))


def rebuilt(record: SegmentRecord, reading: Reading, analyzer: Analyzer) -> Segment:
    """The segment of a damaged file, from the document store, without vectors.

    Rows that were deleted since the file was written are in it without words, as long as their deletions are
    remembered. So ordinals are the same as in its file of vectors, which may be good.
    """
    deletions = ascending(reading.deletions(0))
    dead = deletions[(deletions >= record.low) & (deletions <= record.high)]
    numbers: list[Numbers] = []
    keywords: list[tuple[KeywordIndex, Mask | None]] = []
    filters: list[tuple[FilterIndex, Mask | None]] = []
    for chunk in _chunks(record, reading, analyzer, dead):
        numbers.append(np.array([number for number, _, _ in chunk], np.int64))
        keywords.append((KeywordIndex.build([terms for _, terms, _ in chunk]), None))
        filters.append((FilterIndex.build([metadata for _, _, metadata in chunk]), None))
    if len(keywords) == 1:
        return Segment(numbers[0], None, keywords[0][0], filters[0][0], None)
    return Segment(np.concatenate(numbers), None, KeywordIndex.merge(keywords), FilterIndex.merge(filters), None)


_Document = tuple[int, Sequence[str], bytes]  # number, terms, metadata


def _chunks(record: SegmentRecord, reading: Reading, analyzer: Analyzer, dead: Numbers) -> Iterator[list[_Document]]:
    """The documents in the order of their numbers, the deleted ones too; at least one chunk, which may be empty."""
    chunk: list[_Document] = []
    reached = record.low - 1
    for rows in reading.rows(record.low - 1, through=record.high, vectors=False):
        dead_between = dead[(dead > reached) & (dead < rows[-1].number)]
        reached = rows[-1].number
        chunk += [(row.number, analyzer.terms(row.text), row.metadata) for row in rows]
        chunk += [(int(number), (), b"{}") for number in dead_between]
        if len(chunk) >= _CHUNK:
            yield sorted(chunk, key=lambda document: document[0])
            chunk = []
    chunk += [(int(number), (), b"{}") for number in dead[dead > reached]]
    yield sorted(chunk, key=lambda document: document[0])
