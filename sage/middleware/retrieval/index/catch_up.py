"""The next state of an index, read from the database: for commits of other processes, and for merged segments.

What is in memory already is used again: open segments that the manifest still names, and unmerged ones whose rows no
merged segment has. Only new segments are opened, and only new rows are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from sage.middleware.retrieval.index.rebuild import rebuilt
from sage.middleware.retrieval.index.segments import Opened, SegmentFiles
from sage.middleware.retrieval.index.state import IndexState, Numbers, RowSpan, SegmentState, appended, ascending
from sage.middleware.retrieval.store.store import Reading, SegmentRecord
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.vectors.index import VectorIndex
from sage.middleware.settings.retrieval import CollectionOptions


@dataclass(frozen=True, slots=True)
class PreparedVectors:
    """Vector indexes of a generation, which segments get as soon as that generation serves."""

    generation: int = -1
    indexes: Mapping[RowSpan, VectorIndex] = field(default_factory=dict)

    def of(self, segment: SegmentState, generation: int) -> VectorIndex | None:
        return self.indexes.get(segment.span) if generation == self.generation else None


class CatchUp:
    """One step, within one consistent reading of the database."""

    def __init__(
        self,
        before: IndexState,
        reading: Reading,
        files: SegmentFiles | None,
        analyzer: Analyzer,
        prepared: PreparedVectors,
        missing: frozenset[str],
        note: Callable[[str], None],
    ) -> None:
        """``missing`` names files that a manifest named and that were not there: they count as damaged. ``note`` is
        called with what is wrong with a file."""
        self._reading = reading
        self._files = files
        self._analyzer = analyzer
        self._prepared = prepared
        self._missing = missing
        self._note = note
        self._generation = reading.identity.generation
        self._records = reading.segments() if files is not None else []
        self._before = before if self._continues(before) else IndexState.empty(self._generation)
        self._recently_deleted = ascending(reading.deletions(self._before.view.sequence))

    def _continues(self, before: IndexState) -> bool:
        """Whether the database is the one that ``before`` was made from; if not, another one is in its place."""
        covered = self._records[-1].high if self._records else 0
        return self._reading.sequence >= before.view.sequence and (self._files is None or covered >= before.covered)

    @property
    def _options(self) -> CollectionOptions:
        return self._reading.identity.options

    @property
    def _is_new_generation(self) -> bool:
        return self._generation != self._before.view.generation

    @cached_property
    def _all_deleted(self) -> Numbers:
        return ascending(self._reading.deletions(0))

    def state(self, replacement: SegmentState | None) -> IndexState:
        """The state that the database is in. ``replacement`` is a segment that was just merged: it is used as it is,
        so that its files need not be opened, and stands for the segments whose rows it has.

        Raises :class:`FileNotFoundError` for a file that the manifest names, unless it is known to be missing.
        """
        if self._files is None:
            segments = self._merged_in_memory(replacement)
        else:
            segments = self._merged_in_files(self._files, replacement)
        covered = segments[-1].high if segments else 0
        unmerged = self._unmerged(covered)
        for rows in self._reading.rows(max(self._before.view.sequence, covered)):
            terms = [self._analyzer.terms(row.text) for row in rows]
            unmerged = appended(unmerged, rows, terms, self._options.metric)
        return IndexState.of(self._reading.sequence, self._generation, segments, unmerged)

    # --- segments that commits filled ---------------------------------------------------------------------------

    def _unmerged(self, covered: int) -> list[SegmentState]:
        """Those in memory, without the rows up to ``covered`` and without what was deleted."""
        unmerged = [
            segment.without(self._recently_deleted).after(covered)
            for segment in self._before.unmerged
            if segment.high > covered
        ]
        if self._is_new_generation:
            return [self._with_new_vectors(segment.sealed()) for segment in unmerged]
        return unmerged

    def _with_new_vectors(self, segment: SegmentState) -> SegmentState:
        matrix, present = self._reading.vectors(segment.data.numbers)
        options = self._options
        return segment.with_vectors(
            VectorIndex.build(matrix, present, options.metric, options.target_recall, kind="flat")
        )

    # --- merged segments, in a collection without files ---------------------------------------------------------

    def _merged_in_memory(self, replacement: SegmentState | None) -> list[SegmentState]:
        segments = [segment.without(self._recently_deleted) for segment in self._before.segments]
        if self._is_new_generation:
            segments = [self._with_prepared_vectors(segment) for segment in segments]
        if replacement is None:
            return segments
        before = [segment for segment in segments if segment.high < replacement.low]
        behind = [segment for segment in segments if segment.low > replacement.high]
        return [*before, replacement.without(self._all_deleted), *behind]

    # --- merged segments, in files ------------------------------------------------------------------------------

    def _merged_in_files(self, files: SegmentFiles, replacement: SegmentState | None) -> list[SegmentState]:
        """The segments that the manifest names: open ones as they are, new ones from their files."""
        reusable = {
            segment.record.name: (segment, self._recently_deleted)
            for segment in self._before.segments
            if segment.record is not None
        }
        if replacement is not None and replacement.record is not None:
            reusable[replacement.record.name] = replacement, self._all_deleted
        new = [record for record in self._records if record.name not in reusable]
        opened = dict(zip(new, files.open_all(new, self._generation, self._missing), strict=True))
        segments = []
        for record in self._records:
            if record in opened:
                segments.append(self._from_files(files, record, opened[record]).without(self._all_deleted))
            else:
                segment, deleted = reusable[record.name]
                segments.append(self._as_recorded(files, segment, record).without(deleted))
        return segments

    def _from_files(self, files: SegmentFiles, record: SegmentRecord, opened: Opened) -> SegmentState:
        """A segment whose files were just read; rebuilt from the document store where they are damaged."""
        self._note_all(opened.problems)
        data = opened.data
        if data is not None and data.size == record.size == data.keywords.size == data.filters.size:
            return SegmentState(data, record.low, record.high, record=record)
        if data is not None:
            self._note(f"index file '{record.file}' does not hold the {record.size} rows that the manifest says")
        data = rebuilt(record, self._reading, self._analyzer)
        if data.size == record.size:
            vectors = files.open_vectors(record, self._generation, [], self._missing)
            data = replace(data, vectors=vectors)
        return SegmentState(data, record.low, record.high, record=record, damaged=True)

    def _as_recorded(self, files: SegmentFiles, segment: SegmentState, record: SegmentRecord) -> SegmentState:
        """A segment that is open already, with the vectors of the generation that serves now."""
        if segment.record == record and record.generation == self._generation:
            return segment
        segment = replace(segment, record=record)
        if record.generation != self._generation:
            return self._with_prepared_vectors(segment)
        problems: list[str] = []
        vectors = None
        if segment.data.size == record.size:
            vectors = files.open_vectors(record, self._generation, problems, self._missing)
        self._note_all(problems)
        return segment.with_vectors(vectors)

    def _with_prepared_vectors(self, segment: SegmentState) -> SegmentState:
        return segment.with_vectors(self._prepared.of(segment, self._generation))

    def _note_all(self, problems: Sequence[str]) -> None:
        for problem in problems:
            self._note(problem)
