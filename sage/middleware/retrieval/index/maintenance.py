"""What keeps a collection's index small and sound: few segments, good files, vectors of the serving generation."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from sage.errors import Unavailable
from sage.middleware.retrieval.index.follower import IndexFollower
from sage.middleware.retrieval.index.merge_policy import IDLE_FROM, Extent, MergeLease, Run, plan
from sage.middleware.retrieval.index.rebuild import Abandoned, merged, merged_numbers, vectors_of
from sage.middleware.retrieval.index.segments import SegmentFiles
from sage.middleware.retrieval.index.state import IndexState, Numbers, SegmentState
from sage.middleware.retrieval.store.store import DocumentStore, SegmentRecord

LEASE_SECONDS = 0.2
"""Between two attempts to get a lease that another process holds."""


class IndexMaintenance:
    """Merges, repairs and purges segments, one job at a time.

    A lock keeps the threads of this process apart, and a lease the processes: whoever holds both is the only one that
    writes or removes files of the index. A job ends with a new manifest in the database, which the follower then
    takes in. Searches and writes go on meanwhile.
    """

    def __init__(self, store: DocumentStore, follower: IndexFollower, files: SegmentFiles | None) -> None:
        self._store = store
        self._follower = follower
        self._files = files
        self._lease = MergeLease(None if files is None else files.directory / "lease")
        self._work = threading.Lock()
        self.closing = threading.Event()
        """Set when the index closes: jobs that run raise :class:`Abandoned` soon."""

    # --- which work there is ------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Rows in memory only."""
        return self._follower.state.pending

    def has_work(self, *, idle: bool) -> bool:
        """``idle`` means that there is no writing just now, so that smaller merges are worth it, too."""
        state = self._follower.state
        return bool(_unsound(state)) or self._plan(state, idle) is not None

    def has_urgent_work(self) -> bool:
        """Whether there is a merge that does not wait until there is no writing. Cheap: asked after each commit."""
        return self._plan(self._follower.state, idle=False) is not None

    def _plan(self, state: IndexState, idle: bool) -> Run | None:
        return plan(_extents(state.segments), _extents(state.unmerged if idle else state.sealed), idle=idle)

    # --- jobs ---------------------------------------------------------------------------------------------------

    def step(self, *, idle: bool) -> bool | None:
        """Does the most urgent job. ``False`` means that there was none, ``None`` that another process is at work."""
        with self._work, self._lease.attempt() as acquired:
            if not acquired:
                return None
            self._follower.follow()
            for segment in _unsound(self._follower.state):
                self._repair(segment)
                return True
            run = self._plan(self._follower.state, idle)
            if run is None:
                return False
            if idle:
                self._follower.seal()
            self._merge(self._follower.state, run)
            return True

    def remove_strays(self) -> None:
        """Removes files that crashed jobs have left, unless another process is at work."""
        if self._files is None:
            return
        with self._work, self._lease.attempt() as acquired:
            if acquired:
                for name in self._files.remove_strays(self._manifest()):
                    self._follower.problems.append(f"index file '{name}' is in no manifest; it was removed")

    def merge_all(self) -> None:
        """Makes one segment of everything, without dead rows, with the index kind for its size."""
        with self._exclusive():
            self._follower.seal()
            state = self._follower.state
            is_done = len(state.segments) == 1 and not state.sealed and not state.segments[0].dead
            if state.all_segments and not (is_done and not _unsound(state)):
                self._merge(state, (0, len(state.all_segments)))

    def purge(self, seconds: float) -> None:
        """Rewrites every segment that has dead rows, and only those, and leaves no other file of the index.

        Raises :class:`Unavailable` when others are at work for longer than ``seconds``.
        """
        with self._exclusive(seconds):
            self._follower.seal()
            if any(segment.dead for segment in self._follower.state.sealed):
                self._merge_unmerged()
            for segment in self._follower.state.segments:
                if segment.dead:
                    self._rewrite(segment)
            if self._files is not None:
                self._files.purge(self._manifest())

    def repair_all(self) -> None:
        """Gives every segment a good file and the vectors of the serving generation."""
        with self._exclusive():
            for segment in _unsound(self._follower.state):
                self._repair(segment)
            self._follower.forget_prepared()

    def prepare(self, generation: int, through: int) -> None:
        """Builds the vector indexes of a generation that is about to serve, for the segments whose numbers end with
        ``through`` at the latest: up to there the generation is filled."""
        with self._exclusive():
            self._merge_unmerged()
            indexes = {
                segment.span: vectors_of(self._store, segment.data.numbers, generation, self._check_open)
                for segment in self._follower.state.segments
                if segment.high <= through
            }
            self._follower.prepare(generation, indexes)

    def save_unmerged(self) -> None:
        """Writes what is in memory into a segment, so that the next start need not read it from the database again.
        Does nothing where that is little, or another process is at work."""
        if self._files is None or self._follower.state.pending < IDLE_FROM:
            return
        with self._work, self._lease.attempt() as acquired:
            if acquired:
                self._follower.follow()
                self._merge_unmerged(checkpoint=lambda: None)

    @contextmanager
    def _exclusive(self, seconds: float = math.inf) -> Iterator[None]:
        """Waits, up to ``seconds``, until no other thread or process is at work, and keeps them from beginning. The
        state is up to date then."""
        until = time.monotonic() + seconds
        if not self._work.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            raise _others_at_work()
        try:
            while True:
                self._check_open()
                with self._lease.attempt() as acquired:
                    if acquired:
                        self._follower.follow()
                        yield
                        return
                if self._lease.is_read_only:
                    raise Unavailable(
                        "the index cannot be changed: its files cannot be written; see that the file system is mounted "
                        "for writing and that the directory belongs to this user",
                        retry_after=None,
                    )
                if time.monotonic() >= until:
                    raise _others_at_work()
                self.closing.wait(LEASE_SECONDS)
        finally:
            self._work.release()

    # --- how a segment is made and put into the manifest --------------------------------------------------------

    def _repair(self, segment: SegmentState) -> None:
        generation = self._follower.state.view.generation
        vectors = segment.data.vectors
        if segment.damaged and self._files is not None and vectors is not None and not segment.dead:
            self._replace([segment], self._written(self._files, segment, generation), segment.data.numbers)
            return
        if segment.damaged or segment.record is None or self._files is None:
            self._rewrite(segment)
            return
        if vectors is None:
            vectors = vectors_of(self._store, segment.data.numbers, generation, self._check_open)
        record = self._files.write_vectors(segment.record, vectors, generation)
        from_file = self._files.open_vectors(record, generation, [])
        repaired = replace(segment, record=record).with_vectors(vectors if from_file is None else from_file)
        self._replace([segment], repaired, segment.data.numbers)

    def _rewrite(self, segment: SegmentState) -> None:
        """Rewrites a merged segment without its dead rows."""
        state = self._follower.state
        position = [each.high for each in state.segments].index(segment.high)
        self._merge(state, (position, position + 1))

    def _merge_unmerged(self, checkpoint: Callable[[], None] | None = None) -> None:
        """Makes a merged segment of all that is in memory, if there is anything."""
        self._follower.seal()
        state = self._follower.state
        if state.sealed:
            self._merge(state, (len(state.segments), len(state.segments) + len(state.sealed)), checkpoint)

    def _merge(self, state: IndexState, run: Run, checkpoint: Callable[[], None] | None = None) -> None:
        """Makes one segment of the live rows of some. ``checkpoint`` is called now and then and may raise; by default
        it raises :class:`Abandoned` when the index closes."""
        first, end = run
        sources = state.all_segments[first:end]
        low = sources[0].low if first < len(state.segments) else state.covered + 1
        high = sources[-1].high
        generation = state.view.generation
        vectors = vectors_of(self._store, merged_numbers(sources), generation, checkpoint or self._check_open)
        segment = SegmentState(replace(merged(sources), vectors=vectors), low, high)
        numbers = segment.data.numbers
        if self._files is not None:
            segment = self._written(self._files, segment, generation)
        self._replace(sources, segment, numbers)

    def _written(self, files: SegmentFiles, segment: SegmentState, generation: int) -> SegmentState:
        """The same segment, read from the files that this writes."""
        record = files.write(segment.data, segment.low, segment.high, generation)
        opened = files.open(record, generation)
        if opened.data is None:
            files.remove([record])
            raise Unavailable(f"what was just written cannot be read: {'; '.join(opened.problems)}")
        return SegmentState(opened.data, segment.low, segment.high, record=record)

    def _replace(self, sources: Sequence[SegmentState], segment: SegmentState, numbers: Numbers) -> None:
        """Puts ``segment``, which has the rows ``numbers``, in the place of ``sources``: in the manifest, then in the
        state; then the files of ``sources`` go."""
        dropped = self._dropped(segment, numbers)
        if self._files is None:
            self._follower.follow(segment)
            self._store.replace_segments([], [], dropped)
            return
        assert segment.record is not None
        removed = [source.record for source in sources if source.record is not None]
        added: Sequence[SegmentRecord] = [segment.record]
        # If this raises, it may have been committed or not, so the files stay. If no manifest names them, the next
        # start removes them.
        if not self._store.replace_segments([record.name for record in removed], added, dropped):
            self._files.remove(added, keep=removed)
            return
        self._follower.follow(segment)
        self._files.remove(removed, keep=added)

    def _dropped(self, segment: SegmentState, numbers: Numbers) -> Numbers:
        """Deleted rows that no segment will have. Their deletions need not be remembered any longer."""
        with self._store.reading() as reading:
            deleted = reading.deletions(0)
        within = deleted[(deleted >= segment.low) & (deleted <= segment.high)]
        return np.setdiff1d(within, numbers)

    def _manifest(self) -> list[SegmentRecord]:
        with self._store.reading() as reading:
            return reading.segments()

    def _check_open(self) -> None:
        if self.closing.is_set():
            raise Abandoned("the index is closing")


def _others_at_work() -> Unavailable:
    return Unavailable(
        "the collection is not yet purged: its index is being worked on, here or by another process; purge it again "
        "when that is done",
        code="not_yet_purged",
    )


def _unsound(state: IndexState) -> list[SegmentState]:
    """The merged segments whose file is damaged, or whose vectors are missing or of another generation."""
    generation = state.view.generation
    return [
        segment
        for segment in state.segments
        if segment.damaged
        or segment.data.vectors is None
        or (segment.record is not None and segment.record.generation != generation)
    ]


def _extents(segments: Sequence[SegmentState]) -> list[Extent]:
    return [Extent(segment.data.size, segment.dead) for segment in segments]
