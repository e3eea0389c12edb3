"""The state of an index at one moment, and the pure steps from one state to the next.

A state has two kinds of segments, in the order of their document numbers: *merged* ones, which maintenance made (in
files, where the collection has a directory), and after them *unmerged* ones, which commits filled in memory. Only the
last unmerged segment may be *active*, which means that it still grows; the others are *sealed*. States and segments
are immutable: each step returns a new one that shares whatever stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.index.memtable import MemTable
from sage.middleware.retrieval.index.view import Segment, View
from sage.middleware.retrieval.store.store import Commit, SegmentRecord
from sage.middleware.retrieval.types.documents import Row
from sage.middleware.retrieval.vectors.index import VectorIndex
from sage.middleware.settings.retrieval import Metric

Numbers = NDArray[np.int64]
Terms = Sequence[Sequence[str]]
"""The terms of each of some rows."""
RowSpan = tuple[int, int, int]
"""``(low, high, size)``: says which rows a segment has, and so whether a vector index fits it."""


@dataclass(frozen=True, slots=True)
class SegmentState:
    """A segment, and the numbers that it answers for: a row from ``low`` to ``high`` is in it, or was deleted."""

    data: Segment
    low: int
    high: int
    dead: int = 0
    """How many of its rows were deleted since it was made."""
    record: SegmentRecord | None = None
    """Its line in the manifest; ``None`` means that it is in memory only."""
    damaged: bool = False
    """Its file is damaged. The segment was rebuilt in memory, and its file has to be written again."""
    memtable: MemTable | None = None
    """The table that it grows in; ``None`` means that it does not grow."""

    @property
    def live_rows(self) -> int:
        return self.data.size - self.dead

    @property
    def span(self) -> RowSpan:
        return self.low, self.high, self.data.size

    @property
    def extendable(self) -> bool:
        """Whether rows can be appended: its table is good, and holds nothing beyond this segment's rows."""
        table = self.memtable
        return table is not None and not table.broken and table.size == self.data.size

    def with_vectors(self, vectors: VectorIndex | None) -> SegmentState:
        return replace(self, data=replace(self.data, vectors=vectors))

    def without(self, deleted: Numbers) -> SegmentState:
        """The segment without these rows; ``deleted`` is ascending. Itself, when it has none of them."""
        data = self.data
        first, last = np.searchsorted(deleted, (self.low, self.high + 1))
        if first == last or not data.size:
            return self
        wanted = deleted[first:last]
        ordinals = np.searchsorted(data.numbers, wanted)
        ordinals = ordinals[data.numbers[np.minimum(ordinals, data.size - 1)] == wanted]
        if data.live is not None:
            ordinals = ordinals[data.live[ordinals]]
        if not len(ordinals):
            return self
        live = np.ones(data.size, np.bool_) if data.live is None else data.live.copy()
        live[ordinals] = False
        return replace(self, data=replace(data, live=live), dead=self.dead + len(ordinals))

    def after(self, covered: int) -> SegmentState:
        """The segment without the rows up to the number ``covered``, which a merged segment answers for by now."""
        if self.low > covered:
            return self
        data = self.data
        live = np.ones(data.size, np.bool_) if data.live is None else data.live.copy()
        live[: np.searchsorted(data.numbers, covered, side="right")] = False
        dead = int(len(live) - np.count_nonzero(live))
        return replace(self, data=replace(data, live=live), low=covered + 1, dead=dead)

    def sealed(self) -> SegmentState:
        """The segment as it is, to grow no more."""
        if self.memtable is None:
            return self
        return replace(self, data=self.memtable.compact(self.data), memtable=None)


@dataclass(frozen=True, slots=True)
class IndexState:
    """All segments at one sequence number of the database, and the view of them that searches get."""

    view: View
    segments: tuple[SegmentState, ...] = ()
    """The merged ones."""
    unmerged: tuple[SegmentState, ...] = ()

    @classmethod
    def empty(cls, generation: int) -> Self:
        """The state of a collection without documents."""
        return cls(View(0, generation, (), 0))

    @classmethod
    def of(
        cls, sequence: int, generation: int, segments: Sequence[SegmentState], unmerged: Sequence[SegmentState]
    ) -> Self:
        everything = (*segments, *unmerged)
        visible = tuple(segment.data for segment in everything if segment.data.size)
        documents = sum(segment.live_rows for segment in everything)
        return cls(View(sequence, generation, visible, documents), tuple(segments), tuple(unmerged))

    @property
    def covered(self) -> int:
        """The last number that a merged segment answers for."""
        return self.segments[-1].high if self.segments else 0

    @property
    def pending(self) -> int:
        """Rows in unmerged segments, the deleted ones too."""
        return sum(segment.data.size for segment in self.unmerged)

    @property
    def sealed(self) -> tuple[SegmentState, ...]:
        """The unmerged segments that do not grow."""
        return self.unmerged[:-1] if self._has_active else self.unmerged

    @property
    def _has_active(self) -> bool:
        return bool(self.unmerged) and self.unmerged[-1].memtable is not None

    @property
    def all_segments(self) -> tuple[SegmentState, ...]:
        return (*self.segments, *self.unmerged)

    def after_commit(self, commit: Commit, terms: Terms, metric: Metric) -> IndexState:
        """The state after a commit that follows it directly. ``terms`` are those of the commit's rows."""
        segments: Sequence[SegmentState] = self.segments
        unmerged: Sequence[SegmentState] = self.unmerged
        if commit.deleted:
            deleted = ascending(commit.deleted)
            segments = [segment.without(deleted) for segment in segments]
            unmerged = [segment.without(deleted) for segment in unmerged]
        unmerged = appended(unmerged, commit.rows, terms, metric)
        return self.of(commit.sequence, self.view.generation, segments, unmerged)

    def with_all_sealed(self) -> IndexState:
        """The same rows, with the active segment sealed, so that it can be merged."""
        if not self._has_active:
            return self
        unmerged = [segment.sealed() for segment in self.unmerged]
        return self.of(self.view.sequence, self.view.generation, self.segments, unmerged)


def appended(unmerged: Sequence[SegmentState], rows: Sequence[Row], terms: Terms, metric: Metric) -> list[SegmentState]:
    """``unmerged`` and these rows, which go into the active segment, and into new ones as each becomes full.

    Where an earlier append failed half-way, the active segment is sealed with the rows that it had before.
    """
    result = list(unmerged)
    if result and not result[-1].extendable:
        result[-1] = result[-1].sealed()
    start = 0
    while start < len(rows):
        active = result.pop() if result and result[-1].memtable is not None else None
        table = active.memtable if active is not None and active.memtable is not None else MemTable(metric)
        end = start + table.room
        table.append(rows[start:end], terms[start:end])
        active = _grown(active, table)
        result.append(active if table.room else active.sealed())
        start = end
    return result


def _grown(before: SegmentState | None, table: MemTable) -> SegmentState:
    data = table.contents(None if before is None else before.data.live)
    low, dead = (int(data.numbers[0]), 0) if before is None else (before.low, before.dead)
    return SegmentState(data, low, int(data.numbers[-1]), dead, memtable=table)


def ascending(numbers: Sequence[int] | Numbers) -> Numbers:
    return np.sort(np.asarray(numbers, np.int64))
