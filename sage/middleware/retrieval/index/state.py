"""The segments of a view with what they came from, and the state they make up together: immutable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.index.memtable import MemTable
from sage.middleware.retrieval.index.view import Segment, View
from sage.middleware.retrieval.keywords.postings import Mask
from sage.middleware.retrieval.store.store import SegmentRecord
from sage.middleware.retrieval.types.documents import Row
from sage.middleware.settings.retrieval import Metric

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SegmentState:
    """A segment, and the rows it answers for: those with numbers in ``low…high`` are in it, or are dead."""

    data: Segment
    low: int
    high: int
    dead: int = 0
    """How many of its rows are."""
    record: SegmentRecord | None = None
    """Its line in the manifest; ``None``: it is in memory only."""
    damaged: bool = False
    """Its file is bad: it was made anew in memory, and has to be written."""
    memtable: MemTable | None = None
    """What it grows in; ``None``: it does not."""

    @property
    def living(self) -> int:
        return self.data.size - self.dead


@dataclass(frozen=True, slots=True)
class IndexState:
    """What is known at one sequence number: segments, then frozen segments in memory, then the growing one."""

    view: View
    segments: tuple[SegmentState, ...] = ()
    sealed: tuple[SegmentState, ...] = ()
    active: SegmentState | None = None

    @property
    def covered(self) -> int:
        """The last number that a segment answers for."""
        return self.segments[-1].high if self.segments else 0

    @property
    def pending(self) -> int:
        """Rows that are in no segment."""
        return sum(segment.data.size for segment in self.unmerged)

    @property
    def unmerged(self) -> tuple[SegmentState, ...]:
        return self.sealed if self.active is None else (*self.sealed, self.active)

    @property
    def all_segments(self) -> tuple[SegmentState, ...]:
        return (*self.segments, *self.unmerged)


def nothing(generation: int) -> IndexState:
    """The state of an empty collection."""
    return IndexState(View(0, generation, (), 0))


def state_of(
    sequence: int,
    generation: int,
    segments: Sequence[SegmentState],
    sealed: Sequence[SegmentState],
    active: SegmentState | None,
) -> IndexState:
    state = IndexState(View(sequence, generation, (), 0), tuple(segments), tuple(sealed), active)
    visible = tuple(segment.data for segment in state.all_segments if segment.data.size)
    documents = sum(segment.living for segment in state.all_segments)
    return replace(state, view=View(sequence, generation, visible, documents))


def without(segment: SegmentState, deleted: Numbers) -> SegmentState:
    """The segment without these rows; ``deleted`` ascending. Itself when it has none of them."""
    data = segment.data
    first, last = np.searchsorted(deleted, (segment.low, segment.high + 1))
    if first == last or not data.size:
        return segment
    wanted = deleted[first:last]
    places = np.searchsorted(data.numbers, wanted)
    places = places[data.numbers[np.minimum(places, data.size - 1)] == wanted]
    if data.live is not None:
        places = places[data.live[places]]
    if not len(places):
        return segment
    live = np.ones(data.size, np.bool_) if data.live is None else data.live.copy()
    live[places] = False
    return replace(segment, data=replace(data, live=live), dead=segment.dead + len(places))


def after(segment: SegmentState, covered: int) -> SegmentState:
    """The segment without what a segment answers for by now."""
    if segment.low > covered:
        return segment
    live: Mask = np.ones(segment.data.size, np.bool_) if segment.data.live is None else segment.data.live.copy()
    live[: np.searchsorted(segment.data.numbers, covered, side="right")] = False
    dead = int(len(live) - np.count_nonzero(live))
    return replace(segment, data=replace(segment.data, live=live), low=covered + 1, dead=dead)


def sealed(segment: SegmentState) -> SegmentState:
    """A growing segment as it is, to grow no more."""
    if segment.memtable is None:
        return segment
    return replace(segment, data=segment.memtable.compact(segment.data), memtable=None)


def appended(
    active: SegmentState | None, rows: Sequence[Row], terms: Sequence[Sequence[str]], metric: Metric
) -> tuple[list[SegmentState], SegmentState | None]:
    """The segments that became full, and the one that goes on growing, with the rest of ``rows``.

    Where an earlier append failed half-way, what was published is frozen as it is and another segment is begun.
    """
    full: list[SegmentState] = []
    if active is not None and (
        active.memtable is None or active.memtable.broken or active.memtable.size != active.data.size
    ):
        full.append(sealed(active))
        active = None
    at = 0
    while at < len(rows):
        memtable = active.memtable if active is not None and active.memtable is not None else MemTable(metric)
        until = at + memtable.room
        memtable.append(rows[at:until], terms[at:until])
        active = _grown(active, memtable)
        if not memtable.room:
            full.append(sealed(active))
            active = None
        at = until
    return full, active


def _grown(before: SegmentState | None, memtable: MemTable) -> SegmentState:
    data = memtable.contents(None if before is None else before.data.live)
    low, dead = (int(data.numbers[0]), 0) if before is None else (before.low, before.dead)
    return SegmentState(data, low, int(data.numbers[-1]), dead, memtable=memtable)


def ascending(numbers: Sequence[int] | Numbers) -> Numbers:
    return np.sort(np.asarray(numbers, np.int64))
