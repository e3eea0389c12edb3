"""The work behind a collection's index: few segments, whole files, vectors of the right generation."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from sage.errors import Unavailable
from sage.middleware.retrieval.index.follower import IndexFollower, place_of
from sage.middleware.retrieval.index.merge_policy import IDLE_FROM, SEGMENT_FROM, Extent, MergeLease, Run, plan
from sage.middleware.retrieval.index.rebuild import Abandoned, merged, merged_numbers, vectors_of
from sage.middleware.retrieval.index.segments import SegmentFiles
from sage.middleware.retrieval.index.state import IndexState, Numbers, SegmentState
from sage.middleware.retrieval.store.store import DocumentStore, SegmentRecord

_log = logging.getLogger(__name__)
_SLOW_FROM = 3  # times the rows of a new segment, in memory only
_LONGEST_DELAY = 0.1  # seconds, of one commit
_LEASE_SECONDS = 0.2  # between two looks at a lease that another process has


class IndexMaintenance:
    """One piece of work at a time in this process, and under the lease, in all."""

    def __init__(self, store: DocumentStore, follower: IndexFollower, files: SegmentFiles | None) -> None:
        self._store = store
        self._follower = follower
        self._files = files
        self._lease = MergeLease(None if files is None else files.directory / "lease")
        self._work = threading.Lock()
        self.closing = threading.Event()

    # --- what is to be done -------------------------------------------------------------------------------------

    def due(self, *, idle: bool) -> bool:
        state = self._follower.state
        return bool(_unsound(state)) or self._plan(state, idle) is not None

    @property
    def pending(self) -> int:
        """Rows in memory only."""
        return self._follower.state.pending

    def urgent(self) -> bool:
        """As :meth:`due`, for what does not wait until nobody writes; cheap."""
        return self._plan(self._follower.state, idle=False) is not None

    def _plan(self, state: IndexState, idle: bool) -> Run | None:
        return plan(_extents(state.segments), _extents(state.unmerged if idle else state.sealed), idle=idle)

    def step(self, *, idle: bool) -> bool | None:
        """Does the most urgent work. ``False``: there was none; ``None``: another process is at it."""
        with self._work, self._lease.taken() as mine:
            if not mine:
                return None
            self._follower.follow()
            for segment in _unsound(self._follower.state):
                self._make_sound(segment)
                return True
            run = self._plan(self._follower.state, idle)
            if run is None:
                return False
            if idle:
                self._follower.seal()
            self._merge(self._follower.state, run)
            return True

    def clean(self) -> None:
        """Removes what crashed work has left, unless another process is at work."""
        if self._files is None:
            return
        with self._work, self._lease.taken() as mine:
            if mine:
                with self._store.reading() as reading:
                    records = reading.segments()
                for name in self._files.remove_strays(records):
                    self._follower.problems.append(f"index file '{name}' is in no manifest; it was removed")

    @contextmanager
    def _at_work(self, seconds: float = math.inf) -> Iterator[None]:
        """Waits for the work of others, so long at most, and keeps them from beginning more."""
        until = time.monotonic() + seconds
        if not self._work.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            raise _others_at_work()
        try:
            while True:
                self._check_open()
                with self._lease.taken() as mine:
                    if mine:
                        self._follower.follow()
                        yield
                        return
                if time.monotonic() >= until:
                    raise _others_at_work()
                self.closing.wait(_LEASE_SECONDS)
        finally:
            self._work.release()

    def purge(self, seconds: float) -> None:
        """Makes every segment anew that holds dead rows, and only those; no other file of an index is left. Raises
        :class:`Unavailable` when others are at work for longer than ``seconds``."""
        with self._at_work(seconds):
            self._follower.seal()
            state = self._follower.state
            if any(segment.dead for segment in state.sealed):
                self._merge(state, (len(state.segments), len(state.segments) + len(state.sealed)))
            for high in [segment.high for segment in state.segments if segment.dead]:
                state = self._follower.state
                place = [segment.high for segment in state.segments].index(high)
                self._merge(state, (place, place + 1))
            if self._files is not None:
                with self._store.reading() as reading:
                    records = reading.segments()
                self._files.purge(records)

    def merge_all(self) -> None:
        """One segment, without dead rows, whose index is of the right kind."""
        with self._at_work():
            self._follower.seal()
            state = self._follower.state
            whole = len(state.segments) == 1 and not state.sealed and not state.segments[0].dead
            if state.all_segments and not (whole and not _unsound(state)):
                self._merge(state, (0, len(state.all_segments)))

    def make_all_sound(self) -> None:
        """Every segment has the vectors of the generation that counts, and a file that is whole."""
        with self._at_work():
            for segment in _unsound(self._follower.state):
                self._make_sound(segment)
            self._follower.prepare(-1, {})

    def prepare(self, generation: int, through: int) -> None:
        """Makes the vector indexes of a generation that is about to take over, for the segments whose numbers end with
        ``through`` at the latest: up to there it is filled."""
        with self._at_work():
            self._follower.seal()
            state = self._follower.state
            if state.sealed:
                self._merge(state, (len(state.segments), len(state.all_segments)))
            made = {
                place_of(segment): vectors_of(self._store, segment.data.numbers, generation, self._check_open)
                for segment in self._follower.state.segments
                if segment.high <= through
            }
            self._follower.prepare(generation, made)

    def save_unmerged(self) -> None:
        """What the next start need not read again; nothing, where it is little or another process is at work."""
        if self._files is None or self._follower.state.pending < IDLE_FROM:
            return
        with self._work, self._lease.taken() as mine:
            if mine:
                self._follower.follow()
                self._follower.seal()
                state = self._follower.state
                if state.sealed:
                    self._merge(state, (len(state.segments), len(state.all_segments)), lambda: None)

    # --- doing it -----------------------------------------------------------------------------------------------

    def _make_sound(self, segment: SegmentState) -> None:
        state = self._follower.state
        place = [held.high for held in state.segments].index(segment.high)
        if segment.damaged or segment.record is None or self._files is None:
            self._merge(state, (place, place + 1))
            return
        generation = state.view.generation
        vectors = segment.data.vectors
        if vectors is None:
            vectors = vectors_of(self._store, segment.data.numbers, generation, self._check_open)
        record = self._files.write_vectors(segment.record, vectors, generation)
        mapped = self._files.open_vectors(record, generation, [])
        data = replace(segment.data, vectors=vectors if mapped is None else mapped)
        self._replace([segment], replace(segment, record=record, data=data), segment.data.numbers)

    def _merge(self, state: IndexState, run: Run, checkpoint: Callable[[], None] | None = None) -> None:
        """Of these segments, one with the rows that live now."""
        first, last = run
        segments = state.all_segments[first:last]
        low = segments[0].low if first < len(state.segments) else state.covered + 1
        high = segments[-1].high
        generation = state.view.generation
        vectors = vectors_of(self._store, merged_numbers(segments), generation, checkpoint or self._check_open)
        data = replace(merged(segments), vectors=vectors)
        made = SegmentState(data, low, high)
        if self._files is not None:
            record = self._files.write(data, low, high, generation)
            opened = self._files.open(record, generation)
            if opened.data is None:
                self._files.remove([record])
                raise Unavailable(f"what was just written cannot be read: {'; '.join(opened.problems)}")
            made = SegmentState(opened.data, low, high, record=record)
        self._replace(segments, made, data.numbers)

    def _replace(self, segments: Sequence[SegmentState], made: SegmentState, numbers: Numbers) -> None:
        """Puts ``made``, with the rows ``numbers``, in the place of ``segments``."""
        gone = [segment.record for segment in segments if segment.record is not None]
        dropped = self._dropped(made, numbers)
        if self._files is None:
            self._follower.follow(made)
            self._store.replace_segments([], [], dropped)
            return
        assert made.record is not None
        kept: Sequence[SegmentRecord] = [made.record]
        # Should this raise, it is not known whether it was committed: the files stay; if nothing names them, they go
        # with the next start.
        if not self._store.replace_segments([record.name for record in gone], kept, dropped):
            self._files.remove(kept, gone)
            return
        self._follower.follow(made)
        self._files.remove(gone, kept)

    def _dropped(self, made: SegmentState, numbers: Numbers) -> Numbers:
        """Dead rows that no segment will hold: their deletions need not be known any longer."""
        with self._store.reading() as reading:
            dead = reading.deletions(0)
        within = dead[(dead >= made.low) & (dead <= made.high)]
        return np.setdiff1d(within, numbers)

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


class MaintenanceThread:
    """A thread that does the maintenance while there is any; errors are kept, and it tries again later and later."""

    IDLE_SECONDS = 2.0
    _LONGEST_PAUSE = 60.0

    def __init__(self, maintenance: IndexMaintenance, name: str) -> None:
        self._maintenance = maintenance
        self._name = name
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._urgent = False
        self._touched = time.monotonic()
        self.error: str | None = None

    def notice(self) -> None:
        """Something was written. Called after each commit: cheap."""
        self._touched = time.monotonic()
        self._slow_down()
        urgent = self._maintenance.urgent()
        if not urgent and (self._thread is not None or not self._maintenance.due(idle=True)):
            return
        self.wake(urgent=urgent)

    def _slow_down(self) -> None:
        """Writers that are faster than the merging wait a little, the longer the further ahead they are: what is in
        memory only has to be read again after a crash."""
        ahead = self._maintenance.pending / (_SLOW_FROM * SEGMENT_FROM) - 1
        if ahead > 0 and self._thread is not None and self.error is None:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, min(_LONGEST_DELAY, ahead * _LONGEST_DELAY))

    def wake(self, *, urgent: bool = True) -> None:
        with self._changed:
            if self._stopped:
                return
            self._urgent = self._urgent or urgent
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"index of {self._name}", daemon=True)
                self._thread.start()
            elif urgent:
                self._changed.notify()

    def stop(self) -> None:
        """Returns when the thread has ended."""
        with self._changed:
            self._stopped = True
            self._maintenance.closing.set()
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        failures = 0
        while self._next():
            try:
                done = self._maintenance.step(idle=self._is_idle())
                failures, self.error = 0, None
            except Abandoned:
                done = True
            except Exception as exc:
                failures += 1
                self.error = f"{type(exc).__name__}: {exc}"
                _log.warning("collection '%s': its index could not be kept up: %s", self._name, self.error)
                self._pause(min(self._LONGEST_PAUSE, 2.0 ** (failures - 1)))
                continue
            if done is None:
                self._pause(_LEASE_SECONDS)

    def _is_idle(self) -> bool:
        return time.monotonic() - self._touched >= self.IDLE_SECONDS

    def _next(self) -> bool:
        """Waits for work; ``False``: the thread ends, since it is told to or there is nothing left."""
        with self._changed:
            while not self._stopped:
                if self._urgent or self._maintenance.due(idle=self._is_idle()):
                    self._urgent = False
                    return True
                if not self._maintenance.due(idle=True):
                    self._thread = None
                    return False
                self._changed.wait(max(0.05, self._touched + self.IDLE_SECONDS - time.monotonic()))
            return False

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, seconds)
