"""The state that searches see, and how it follows the truth: by this process's commits, or by reading. (H2)"""

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
    frozen,
    nothing,
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


def place_of(piece: SegmentState) -> Place:
    """Which rows a segment has: what its vectors depend on."""
    return piece.low, piece.high, piece.part.size


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

    def __init__(self, truth: DocumentStore, analyzer: Analyzer, files: SegmentFiles | None) -> None:
        self._truth = truth
        self._analyzer = analyzer
        self._files = files
        self._options = truth.identity.options
        self._lock = threading.Lock()
        self._publishing: Commit | None = None
        self._seen = -1
        self._prepared: tuple[int, dict[Place, VectorIndex]] = (-1, {})
        self.state = nothing(truth.identity.generation)
        self.problems: deque[str] = deque(maxlen=_NOTED)

    def current(self) -> View:
        if self._truth.version() != self._seen and not self._only_ours_is_new():
            self.follow()
        return self.state.view

    def _only_ours_is_new(self) -> bool:
        """A commit of this process that nobody was told of yet, and that its writer is just taking in."""
        commit = self._publishing
        if commit is None:
            return False
        with self._truth.reading() as reading:
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
        # Should another generation of vectors have taken over meanwhile, the next look at the truth tells.
        state = self.state
        if commit.before != state.view.sequence:
            return False
        segments, tail = state.segments, list(state.tail)
        if commit.deleted:
            deleted = ascending(commit.deleted)
            segments = tuple(without(piece, deleted) for piece in segments)
            tail = [without(piece, deleted) for piece in tail]
        done, growing = self._grown(tail, commit.rows, terms)
        self.state = state_of(commit.sequence, state.view.generation, segments, done, growing)
        return True

    def _grown(
        self, tail: Sequence[SegmentState], rows: Sequence[Row], terms: Sequence[Sequence[str]]
    ) -> tuple[list[SegmentState], SegmentState | None]:
        done, growing = list(tail), None
        if done and done[-1].tail is not None:
            growing = done.pop()
        full, growing = appended(growing, rows, terms, self._options.metric)
        return done + full, growing

    def follow(self, made: SegmentState | None = None) -> None:
        """Takes in all that any process has committed, and ``made``: a piece that takes the place of those it covers,
        so that its files need not be read."""
        missing: set[str] = set()
        with self._lock:
            while True:
                version = self._truth.version()
                if version == self._seen and made is None:
                    return
                try:
                    with self._truth.reading() as reading:
                        self.state = self._caught_up(reading, made, frozenset(missing))
                except FileNotFoundError as exc:  # the manifest may have moved on: it is read again
                    missing.add(str(exc.filename))
                    continue
                self._seen = version
                return

    def freeze(self) -> None:
        """Ends the growing piece, so that it can be merged."""
        with self._lock:
            state = self.state
            if state.growing is not None:
                pieces = [*state.frozen, frozen(state.growing)]
                view = state.view
                self.state = state_of(view.sequence, view.generation, state.segments, pieces, None)

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
        tail = [after(without(piece, known.recent), covered) for piece in state.tail if piece.high > covered]
        if known.generation != state.view.generation:
            tail = [self._revectored(frozen(piece), reading) for piece in tail]
        done, growing = self._grown(tail, (), ())
        for rows in reading.rows(max(state.view.sequence, covered)):
            terms = [self._analyzer.terms(row.text) for row in rows]
            done, growing = self._grown([*done, *([growing] if growing is not None else [])], rows, terms)
        return state_of(reading.sequence, known.generation, segments, done, growing)

    def _revectored(self, piece: SegmentState, reading: Reading) -> SegmentState:
        matrix, present = reading.vectors(piece.part.numbers)
        vectors = VectorIndex.build(matrix, present, self._options.metric, self._options.target_recall, kind="flat")
        return replace(piece, part=replace(piece.part, vectors=vectors))

    def _segments(
        self, known: _Known, records: Sequence[SegmentRecord], made: SegmentState | None
    ) -> list[SegmentState]:
        if self._files is None:
            return self._segments_in_memory(known, made)
        held = {piece.record.name: piece for piece in known.state.segments if piece.record is not None}
        if made is not None and made.record is not None:
            held[made.record.name] = made
        dead: Numbers | None = None
        fresh = [record for record in records if record.name not in held]
        opened = dict(zip(fresh, self._files.open_all(fresh, known.generation, known.missing), strict=True))
        pieces = []
        for record in records:
            if record in opened:
                piece = self._opened(record, opened[record], known)
            else:
                piece = self._as_recorded(held[record.name], record, known)
            if record in opened or piece is made:
                dead = ascending(known.reading.deletions(0)) if dead is None else dead
                pieces.append(without(piece, dead))
            else:
                pieces.append(without(piece, known.recent))
        return pieces

    def _segments_in_memory(self, known: _Known, made: SegmentState | None) -> list[SegmentState]:
        pieces = [without(piece, known.recent) for piece in known.state.segments]
        if known.generation != known.state.view.generation:
            pieces = [self._with_prepared(piece, known.generation) for piece in pieces]
        if made is None:
            return pieces
        before = [piece for piece in pieces if piece.high < made.low]
        behind = [piece for piece in pieces if piece.low > made.high]
        return [*before, without(made, ascending(known.reading.deletions(0))), *behind]

    def _opened(self, record: SegmentRecord, opened: Opened, known: _Known) -> SegmentState:
        self._note(opened.problems)
        part = opened.part
        if part is not None and part.size == record.size == part.keywords.size == part.filters.size:
            return SegmentState(part, record.low, record.high, record=record)
        if part is not None:
            self._note([f"index file '{record.file}' does not hold the {record.size} rows that the manifest says"])
        part = rebuilt(record, known.reading, self._analyzer)
        if part.size == record.size and self._files is not None:
            part = replace(part, vectors=self._files.open_vectors(record, known.generation, [], known.missing))
        return SegmentState(part, record.low, record.high, record=record, damaged=True)

    def _as_recorded(self, piece: SegmentState, record: SegmentRecord, known: _Known) -> SegmentState:
        """A piece that is open already, with the vectors of the generation that counts now."""
        if piece.record is not None and piece.record == record and record.generation == known.generation:
            return piece
        piece = self._with_prepared(replace(piece, record=record), known.generation)
        if record.generation != known.generation:
            return piece
        problems: list[str] = []
        vectors = None
        if self._files is not None and piece.part.size == record.size:
            vectors = self._files.open_vectors(record, known.generation, problems, known.missing)
        self._note(problems)
        return replace(piece, part=replace(piece.part, vectors=vectors))

    def _with_prepared(self, piece: SegmentState, generation: int) -> SegmentState:
        prepared, vectors = self._prepared
        found = vectors.get(place_of(piece)) if prepared == generation else None
        return replace(piece, part=replace(piece.part, vectors=found))

    def _note(self, problems: Sequence[str]) -> None:
        for problem in problems:
            _log.warning("collection '%s': %s; it is made anew", self._truth.identity.name, problem)
            self.problems.append(problem)
