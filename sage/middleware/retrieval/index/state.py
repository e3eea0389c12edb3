"""The parts of a view with what they came from, and the state they make up together: immutable. (H2)"""

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
    """A part, and the rows it answers for: those with numbers in ``low…high`` are in it, or are dead."""

    part: Segment
    low: int
    high: int
    dead: int = 0
    """How many of its rows are."""
    record: SegmentRecord | None = None
    """Its line in the manifest; ``None``: it is in memory only."""
    damaged: bool = False
    """Its file is bad: it was made anew in memory, and has to be written."""
    tail: MemTable | None = None
    """What it grows in; ``None``: it does not."""

    @property
    def living(self) -> int:
        return self.part.size - self.dead


@dataclass(frozen=True, slots=True)
class IndexState:
    """What is known at one sequence number: segments, then frozen parts in memory, then the growing one."""

    view: View
    segments: tuple[SegmentState, ...] = ()
    frozen: tuple[SegmentState, ...] = ()
    growing: SegmentState | None = None

    @property
    def covered(self) -> int:
        """The last number that a segment answers for."""
        return self.segments[-1].high if self.segments else 0

    @property
    def pending(self) -> int:
        """Rows that are in no segment."""
        return sum(piece.part.size for piece in self.tail)

    @property
    def tail(self) -> tuple[SegmentState, ...]:
        return self.frozen if self.growing is None else (*self.frozen, self.growing)

    @property
    def pieces(self) -> tuple[SegmentState, ...]:
        return (*self.segments, *self.tail)


def nothing(generation: int) -> IndexState:
    """The state of an empty collection."""
    return IndexState(View(0, generation, (), 0))


def state_of(
    sequence: int,
    generation: int,
    segments: Sequence[SegmentState],
    frozen: Sequence[SegmentState],
    growing: SegmentState | None,
) -> IndexState:
    state = IndexState(View(sequence, generation, (), 0), tuple(segments), tuple(frozen), growing)
    parts = tuple(piece.part for piece in state.pieces if piece.part.size)
    documents = sum(piece.living for piece in state.pieces)
    return replace(state, view=View(sequence, generation, parts, documents))


def without(piece: SegmentState, deleted: Numbers) -> SegmentState:
    """The piece without these rows; ``deleted`` ascending. Itself when it has none of them."""
    part = piece.part
    first, last = np.searchsorted(deleted, (piece.low, piece.high + 1))
    if first == last or not part.size:
        return piece
    wanted = deleted[first:last]
    places = np.searchsorted(part.numbers, wanted)
    places = places[part.numbers[np.minimum(places, part.size - 1)] == wanted]
    if part.live is not None:
        places = places[part.live[places]]
    if not len(places):
        return piece
    live = np.ones(part.size, np.bool_) if part.live is None else part.live.copy()
    live[places] = False
    return replace(piece, part=replace(part, live=live), dead=piece.dead + len(places))


def after(piece: SegmentState, covered: int) -> SegmentState:
    """The piece without what a segment answers for by now."""
    if piece.low > covered:
        return piece
    live: Mask = np.ones(piece.part.size, np.bool_) if piece.part.live is None else piece.part.live.copy()
    live[: np.searchsorted(piece.part.numbers, covered, side="right")] = False
    dead = int(len(live) - np.count_nonzero(live))
    return replace(piece, part=replace(piece.part, live=live), low=covered + 1, dead=dead)


def frozen(piece: SegmentState) -> SegmentState:
    """A growing piece as it is, to grow no more."""
    if piece.tail is None:
        return piece
    return replace(piece, part=piece.tail.compact(piece.part), tail=None)


def appended(
    growing: SegmentState | None, rows: Sequence[Row], terms: Sequence[Sequence[str]], metric: Metric
) -> tuple[list[SegmentState], SegmentState | None]:
    """The pieces that became full, and the one that goes on growing, with the rest of ``rows``.

    Where an earlier append failed half-way, what was published is frozen as it is and another piece is begun.
    """
    full: list[SegmentState] = []
    if growing is not None and (growing.tail is None or growing.tail.broken or growing.tail.size != growing.part.size):
        full.append(frozen(growing))
        growing = None
    at = 0
    while at < len(rows):
        tail = growing.tail if growing is not None and growing.tail is not None else MemTable(metric)
        until = at + tail.room
        tail.append(rows[at:until], terms[at:until])
        growing = _grown(growing, tail)
        if not tail.room:
            full.append(frozen(growing))
            growing = None
        at = until
    return full, growing


def _grown(before: SegmentState | None, tail: MemTable) -> SegmentState:
    part = tail.part(None if before is None else before.part.live)
    low, dead = (int(part.numbers[0]), 0) if before is None else (before.low, before.dead)
    return SegmentState(part, low, int(part.numbers[-1]), dead, tail=tail)


def ascending(numbers: Sequence[int] | Numbers) -> Numbers:
    return np.sort(np.asarray(numbers, np.int64))
