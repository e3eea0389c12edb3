"""The state that searches see, and how it follows the document store: by this process's commits, or by reading."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sage.middleware.retrieval.index.rebuild import rebuilt
from sage.middleware.retrieval.index.segments import Opened, SegmentFiles
from sage.middleware.retrieval.index.state import (
    IndexState,
    Numbers,
    SegmentState,
    after,
    appended,
    ascending,
    nothing,
    sealed,
    state_of,
    without,
)
from sage.middleware.retrieval.index.view import View
from sage.middleware.retrieval.store.store import Commit, DocumentStore, Reading, SegmentRecord
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.types.documents import Row
from sage.middleware.retrieval.vectors.index import VectorIndex

_log = logging.getLogger(__name__)
_NOTED = 1000  # problems with files that are remembered


Place = tuple[int, int, int]


def place_of(segment: SegmentState) -> Place:
    """Which rows a segment has: what its vectors depend on."""
    return segment.low, segment.high, segment.data.size


@dataclass(frozen=True, slots=True)
class _Known:
    """What a state is made from when it catches up."""

    state: IndexState
    reading: Reading
    recent: Numbers
    """Rows that died since."""
    missing: frozenset[str]
    """Files that were looked for in vain under a manifest that named them."""

    @property
    def generation(self) -> int:
        return self.reading.identity.generation


class IndexFollower:
    """Holds the state, and makes the next one; a state that was given out never changes."""

    def __init__(self, store: DocumentStore, analyzer: Analyzer, files: SegmentFiles | None) -> None:
        self._store = store
        self._analyzer = analyzer
        self._files = files
        self._options = store.identity.options
        self._lock = threading.Lock()
        self._publishing: Commit | None = None
        self._seen = -1
        self._prepared: tuple[int, dict[Place, VectorIndex]] = (-1, {})
        self.state = nothing(store.identity.generation)
        self.problems: deque[str] = deque(maxlen=_NOTED)

    def current(self) -> View:
        if self._store.version() != self._seen and not self._only_ours_is_new():
            self.follow()
        return self.state.view

    def _only_ours_is_new(self) -> bool:
        """A commit of this process that nobody was told of yet, and that its writer is just taking in."""
        commit = self._publishing
        if commit is None:
            return False
        with self._store.reading() as reading:
            sequence, generation = reading.sequence, reading.identity.generation
        view = self.state.view
        return sequence <= commit.sequence and commit.before <= view.sequence and generation == view.generation

    def publish(self, commit: Commit) -> None:
        self._publishing = commit
        try:
            if commit.before == self.state.view.sequence:
                terms = [self._analyzer.terms(row.text) for row in commit.rows]
                with self._lock:
                    if self._take(commit, terms):
                        return
            if commit.sequence > self.state.view.sequence:
                self.follow()
        finally:
            self._publishing = None

    def _take(self, commit: Commit, terms: Sequence[Sequence[str]]) -> bool:
        # Should another generation of vectors have taken over meanwhile, the next look at the document store tells.
        state = self.state
        if commit.before != state.view.sequence:
            return False
        segments, unmerged = state.segments, list(state.unmerged)
        if commit.deleted:
            deleted = ascending(commit.deleted)
            segments = tuple(without(segment, deleted) for segment in segments)
            unmerged = [without(segment, deleted) for segment in unmerged]
        done, active = self._grown(unmerged, commit.rows, terms)
        self.state = state_of(commit.sequence, state.view.generation, segments, done, active)
        return True

    def _grown(
        self, unmerged: Sequence[SegmentState], rows: Sequence[Row], terms: Sequence[Sequence[str]]
    ) -> tuple[list[SegmentState], SegmentState | None]:
        done, active = list(unmerged), None
        if done and done[-1].memtable is not None:
            active = done.pop()
        full, active = appended(active, rows, terms, self._options.metric)
        return done + full, active

    def follow(self, made: SegmentState | None = None) -> None:
        """Takes in all that any process has committed, and ``made``: a segment that takes the place of those it covers,
        so that its files need not be read."""
        missing: set[str] = set()
        with self._lock:
            while True:
                version = self._store.version()
                if version == self._seen and made is None:
                    return
                try:
                    with self._store.reading() as reading:
                        self.state = self._caught_up(reading, made, frozenset(missing))
                except FileNotFoundError as exc:  # the manifest may have moved on: it is read again
                    missing.add(str(exc.filename))
                    continue
                self._seen = version
                return

    def seal(self) -> None:
        """Ends the growing segment, so that it can be merged."""
        with self._lock:
            state = self.state
            if state.active is not None:
                segments = [*state.sealed, sealed(state.active)]
                view = state.view
                self.state = state_of(view.sequence, view.generation, state.segments, segments, None)

    def prepare(self, generation: int, vectors: Mapping[Place, VectorIndex]) -> None:
        """What segments get as soon as that generation is the one that counts."""
        with self._lock:
            self._prepared = (generation, dict(vectors))

    def _caught_up(self, reading: Reading, made: SegmentState | None, missing: frozenset[str]) -> IndexState:
        state = self.state
        records = reading.segments() if self._files is not None else []
        covered = records[-1].high if records else 0
        if reading.sequence < state.view.sequence or (self._files is not None and covered < state.covered):
            state = nothing(reading.identity.generation)  # not what we knew: another database is in its place
        known = _Known(state, reading, ascending(reading.deletions(state.view.sequence)), missing)
        segments = self._segments(known, records, made)
        covered = segments[-1].high if segments else 0
        unmerged = [
            after(without(segment, known.recent), covered) for segment in state.unmerged if segment.high > covered
        ]
        if known.generation != state.view.generation:
            unmerged = [self._revectored(sealed(segment), reading) for segment in unmerged]
        done, active = self._grown(unmerged, (), ())
        for rows in reading.rows(max(state.view.sequence, covered)):
            terms = [self._analyzer.terms(row.text) for row in rows]
            done, active = self._grown([*done, *([active] if active is not None else [])], rows, terms)
        return state_of(reading.sequence, known.generation, segments, done, active)

    def _revectored(self, segment: SegmentState, reading: Reading) -> SegmentState:
        matrix, present = reading.vectors(segment.data.numbers)
        vectors = VectorIndex.build(matrix, present, self._options.metric, self._options.target_recall, kind="flat")
        return replace(segment, data=replace(segment.data, vectors=vectors))

    def _segments(
        self, known: _Known, records: Sequence[SegmentRecord], made: SegmentState | None
    ) -> list[SegmentState]:
        if self._files is None:
            return self._segments_in_memory(known, made)
        held = {segment.record.name: segment for segment in known.state.segments if segment.record is not None}
        if made is not None and made.record is not None:
            held[made.record.name] = made
        dead: Numbers | None = None
        fresh = [record for record in records if record.name not in held]
        opened = dict(zip(fresh, self._files.open_all(fresh, known.generation, known.missing), strict=True))
        segments = []
        for record in records:
            if record in opened:
                segment = self._opened(record, opened[record], known)
            else:
                segment = self._as_recorded(held[record.name], record, known)
            if record in opened or segment is made:
                dead = ascending(known.reading.deletions(0)) if dead is None else dead
                segments.append(without(segment, dead))
            else:
                segments.append(without(segment, known.recent))
        return segments

    def _segments_in_memory(self, known: _Known, made: SegmentState | None) -> list[SegmentState]:
        segments = [without(segment, known.recent) for segment in known.state.segments]
        if known.generation != known.state.view.generation:
            segments = [self._with_prepared(segment, known.generation) for segment in segments]
        if made is None:
            return segments
        before = [segment for segment in segments if segment.high < made.low]
        behind = [segment for segment in segments if segment.low > made.high]
        return [*before, without(made, ascending(known.reading.deletions(0))), *behind]

    def _opened(self, record: SegmentRecord, opened: Opened, known: _Known) -> SegmentState:
        self._note(opened.problems)
        data = opened.data
        if data is not None and data.size == record.size == data.keywords.size == data.filters.size:
            return SegmentState(data, record.low, record.high, record=record)
        if data is not None:
            self._note([f"index file '{record.file}' does not hold the {record.size} rows that the manifest says"])
        data = rebuilt(record, known.reading, self._analyzer)
        if data.size == record.size and self._files is not None:
            data = replace(data, vectors=self._files.open_vectors(record, known.generation, [], known.missing))
        return SegmentState(data, record.low, record.high, record=record, damaged=True)

    def _as_recorded(self, segment: SegmentState, record: SegmentRecord, known: _Known) -> SegmentState:
        """A segment that is open already, with the vectors of the generation that counts now."""
        if segment.record is not None and segment.record == record and record.generation == known.generation:
            return segment
        segment = self._with_prepared(replace(segment, record=record), known.generation)
        if record.generation != known.generation:
            return segment
        problems: list[str] = []
        vectors = None
        if self._files is not None and segment.data.size == record.size:
            vectors = self._files.open_vectors(record, known.generation, problems, known.missing)
        self._note(problems)
        return replace(segment, data=replace(segment.data, vectors=vectors))

    def _with_prepared(self, segment: SegmentState, generation: int) -> SegmentState:
        prepared, vectors = self._prepared
        found = vectors.get(place_of(segment)) if prepared == generation else None
        return replace(segment, data=replace(segment.data, vectors=found))

    def _note(self, problems: Sequence[str]) -> None:
        for problem in problems:
            _log.warning("collection '%s': %s; it is made anew", self._store.identity.name, problem)
            self.problems.append(problem)
