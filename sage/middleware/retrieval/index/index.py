"""What is derived from the document store, kept up with it: the view that searches see, and its segments on disk."""

from __future__ import annotations

import weakref
from collections import Counter
from contextlib import suppress

from sage.errors import Unavailable
from sage.middleware.retrieval.index.follower import IndexFollower
from sage.middleware.retrieval.index.maintenance import IndexMaintenance, MaintenanceThread
from sage.middleware.retrieval.index.rebuild import Abandoned
from sage.middleware.retrieval.index.segments import SegmentFiles
from sage.middleware.retrieval.index.view import View
from sage.middleware.retrieval.store.store import Commit, DocumentStore
from sage.middleware.retrieval.text.analyzer import Analyzer

DIRECTORY = "segments"


class Index:
    """Safe to call from several threads."""

    def __init__(self, store: DocumentStore, analyzer: Analyzer) -> None:
        """Opens what the manifest names; what is corrupt, missing, cut or not ours is rebuilt from the document store:
        keywords and filters before this returns, vectors in the background, while the document store is asked for
        them."""
        identity, files = store.identity, None
        if store.directory is not None:
            files = SegmentFiles(store.directory / DIRECTORY, identity.uuid, identity.options)
        self._follower = IndexFollower(store, analyzer, files)
        self._maintenance = IndexMaintenance(store, self._follower, files)
        self._maintenance.clean()
        self._follower.follow()
        self._thread = MaintenanceThread(self._maintenance, identity.name)
        self._ended = weakref.finalize(self, self._thread.stop)
        if self._maintenance.due(idle=True):
            self._thread.wake(urgent=False)

    def publish(self, commit: Commit) -> None:
        """Takes in a commit of this process; called by the writer's thread before the write is acknowledged."""
        self._follower.publish(commit)
        self._thread.notice()

    def current(self) -> View:
        """The newest state that any process has committed."""
        return self._follower.current()

    def optimize(self) -> None:
        """Merges everything into one segment on disk, with the index kind for its size; returns when done.

        Waits while another process is merging. Raises :class:`sage.errors.SageError` or :class:`OSError` when it
        cannot; nothing is lost then.
        """
        with suppress(Abandoned):
            self._maintenance.merge_all()

    def purge(self, seconds: float) -> None:
        """Leaves nothing of deleted documents in any file of the index, nor in what searches see. Raises
        :class:`sage.errors.Unavailable` when others work on it for longer than ``seconds``."""
        try:
            self._maintenance.purge(seconds)
        except Abandoned:
            raise Unavailable(
                "the collection is not yet purged: it is being closed, or its vectors were just made anew; purge it "
                "again",
                code="not_yet_purged",
            ) from None

    def rebuild_vectors(self) -> None:
        """After the vectors were made anew (the document store has a new generation): returns when every segment has
        them."""
        with suppress(Abandoned):
            self._maintenance.make_all_sound()

    def prepare_vectors(self, generation: int, through: int) -> None:
        """Makes the vector indexes of a generation that the document store is filled with for all documents up to the
        number ``through``, so that searches are as fast as before from the moment it takes over. In memory until
        :meth:`rebuild_vectors` writes them."""
        with suppress(Abandoned):
            self._maintenance.prepare(generation, through)

    def describe(self) -> dict[str, object]:
        """``{segments, bytes, indexed, pending, vector_kinds, rebuilding, error, problems}``.

        ``vector_kinds``: of each kind, how many documents; ``pending``: documents in memory only; ``rebuilding``: a
        file is being made anew; ``problems``: what was found wrong with files since the start, the newest last.
        """
        state = self._follower.state
        records = [segment.record for segment in state.segments if segment.record is not None]
        kinds: Counter[str] = Counter()
        for segment in state.all_segments:
            if segment.data.vectors is not None:
                kinds[segment.data.vectors.kind] += segment.living
        return {
            "segments": len(state.segments),
            "bytes": sum(record.file_bytes + record.vector_bytes for record in records),
            "indexed": sum(segment.living for segment in state.segments),
            "pending": sum(segment.living for segment in state.unmerged),
            "vector_kinds": dict(kinds),
            "rebuilding": any(segment.damaged or segment.data.vectors is None for segment in state.segments),
            "error": self._thread.error,
            "problems": list(self._follower.problems),
        }

    def stop_work(self) -> None:
        """Ends the background work, and what waits for work on the index, for who is about to close it."""
        self._ended()

    def close(self) -> None:
        """Ends the background work; what is not yet on disk is written if that is quick, or made anew from the document
        store at the next start."""
        self._ended()
        with suppress(Exception):
            self._maintenance.save_unmerged()
