"""From a commit to what searches see: the owner of the index's state.

How a document comes into a search:

1. ``DocumentStore.write`` hands it to the writer's thread, which commits it to the database
   (:mod:`sage.middleware.retrieval.store.group_commit`). While the disk takes the commit, the texts of its rows are
   analysed.
2. Before the caller gets an answer, that thread calls :meth:`IndexFollower.publish` with the rows of the commit. They
   are appended to the active segment in memory
   (:mod:`~sage.middleware.retrieval.index.memtable`). The result is a new state with a new view
   (:mod:`~sage.middleware.retrieval.index.state`, :mod:`~sage.middleware.retrieval.index.view`).
3. A search calls :meth:`IndexFollower.current` and works on that view. If anything else was committed meanwhile,
   mostly by another process, :meth:`IndexFollower.follow` reads it from the database first
   (:mod:`~sage.middleware.retrieval.index.catch_up`).
4. When there are enough rows in memory, maintenance merges them into a segment, writes its files, and calls
   :meth:`IndexFollower.follow` with it (:mod:`~sage.middleware.retrieval.index.maintenance`).

Who may do what: the writer's thread publishes; searches, on any thread, read the state and follow; maintenance seals,
prepares and follows. States never change; a new one takes the place of the old one, always under the lock. Reading the
state needs no lock.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping

from sage.middleware.retrieval.index.catch_up import CatchUp, PreparedVectors
from sage.middleware.retrieval.index.segments import SegmentFiles
from sage.middleware.retrieval.index.state import IndexState, RowSpan, SegmentState, Terms
from sage.middleware.retrieval.index.view import View
from sage.middleware.retrieval.store.store import Commit, DocumentStore
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.vectors.index import VectorIndex

_log = logging.getLogger(__name__)
_REMEMBERED = 1000  # problems with files


class IndexFollower:
    """Holds the state, and replaces it as the database changes. Safe to call from several threads."""

    state: IndexState
    """Replaced under the lock, read without it."""
    problems: deque[str]
    """What was wrong with files of the index, the newest last."""

    def __init__(self, store: DocumentStore, analyzer: Analyzer, files: SegmentFiles | None) -> None:
        """``files`` is ``None`` for a collection in memory. The state is empty until the first :meth:`follow`."""
        self._store = store
        self._analyzer = analyzer
        self._files = files
        self._metric = store.identity.options.metric
        self.state = IndexState.empty(store.identity.generation)
        self.problems = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()
        self._followed_version = -1
        """The version of the database that was last followed. Written under the lock."""
        self._prepared = PreparedVectors()
        """Read and written under the lock."""
        self._publishing: Commit | None = None
        """The commit that the writer's thread is publishing. Only that thread writes it."""
        self._analysed: tuple[Commit, Terms] | None = None
        """The commit that is on its way to the disk, and the terms of its rows. Only the writer uses it."""

    def current(self) -> View:
        """The view of the newest state that any process has committed and acknowledged."""
        if self._store.version() != self._followed_version and not self._only_misses_publishing():
            self.follow()
        return self.state.view

    def _only_misses_publishing(self) -> bool:
        """Whether all that the state may lack is a commit that this process is publishing. Its caller has no answer
        yet, so a search need neither wait for it nor read it from the database."""
        commit = self._publishing
        if commit is None:
            return False
        with self._store.reading() as reading:
            sequence, generation = reading.sequence, reading.identity.generation
        view = self.state.view
        return sequence <= commit.sequence and commit.before <= view.sequence and generation == view.generation

    def analyse(self, commit: Commit) -> None:
        """Analyses the texts of the commit that will be published next; changes nothing that searches see. The writer
        calls it while the disk takes the commit."""
        if self._is_next(commit):
            self._analysed = commit, self._terms_of(commit)

    def _terms_of(self, commit: Commit) -> Terms:
        analysed = self._analysed
        if analysed is not None and analysed[0] is commit:
            return analysed[1]
        return [self._analyzer.terms(row.text) for row in commit.rows]

    def publish(self, commit: Commit) -> None:
        """Takes in a commit of this process. Called by the writer's thread, once a commit, in their order."""
        self._publishing = commit
        try:
            if self._is_next(commit):
                terms = self._terms_of(commit)  # slow, and needs no lock
                if self._append(commit, terms):
                    return
            if commit.sequence > self.state.view.sequence:
                self.follow()
        finally:
            self._publishing = self._analysed = None

    def _is_next(self, commit: Commit) -> bool:
        """Whether the commit follows the state directly: other processes commit in between, too."""
        return commit.before == self.state.view.sequence

    def _append(self, commit: Commit, terms: Terms) -> bool:
        """``False`` means that another thread's :meth:`follow` has taken the commit in meanwhile."""
        with self._lock:
            if not self._is_next(commit):
                return False
            # A new generation of vectors may serve since this commit: then the next search follows, and replaces them.
            self.state = self.state.after_commit(commit, terms, self._metric)
            return True

    def follow(self, replacement: SegmentState | None = None) -> None:
        """Takes in all that any process has committed. ``replacement`` is a segment that was just merged, and stands
        for those whose rows it has: its files are not read then."""
        missing: set[str] = set()
        with self._lock:
            while True:
                version = self._store.version()
                if version == self._followed_version and replacement is None:
                    return
                try:
                    self.state = self._caught_up(replacement, frozenset(missing))
                except FileNotFoundError as exc:
                    # Another process may have merged the segment and removed the file: the manifest is read again. A
                    # file that is still named then is damaged.
                    missing.add(str(exc.filename))
                    continue
                self._followed_version = version
                return

    def _caught_up(self, replacement: SegmentState | None, missing: frozenset[str]) -> IndexState:
        with self._store.reading() as reading:
            step = CatchUp(
                self.state, reading, self._files, self._analyzer, self._prepared, missing, self._note_problem
            )
            return step.state(replacement)

    def seal(self) -> None:
        """Seals the active segment, so that it can be merged."""
        with self._lock:
            self.state = self.state.with_all_sealed()

    def prepare(self, generation: int, indexes: Mapping[RowSpan, VectorIndex]) -> None:
        """Keeps vector indexes of a generation, by the rows of segments. These get them when that generation serves."""
        with self._lock:
            self._prepared = PreparedVectors(generation, dict(indexes))

    def forget_prepared(self) -> None:
        """Frees the vector indexes that :meth:`prepare` got."""
        with self._lock:
            self._prepared = PreparedVectors()

    def _note_problem(self, problem: str) -> None:
        _log.warning("collection '%s': %s; it is rebuilt", self._store.identity.name, problem)
        self.problems.append(problem)
