"""The index of a collection: the view that searches see and its segment files, kept up to date with the documents."""

from __future__ import annotations

import weakref
from collections import Counter
from contextlib import suppress

from sage.errors import Unavailable
from sage.middleware.retrieval.index.follower import IndexFollower
from sage.middleware.retrieval.index.maintenance import IndexMaintenance
from sage.middleware.retrieval.index.maintenance_thread import MaintenanceThread
from sage.middleware.retrieval.index.rebuild import Abandoned
from sage.middleware.retrieval.index.segments import SegmentFiles
from sage.middleware.retrieval.index.view import View
from sage.middleware.retrieval.store.store import Commit, DocumentStore
from sage.middleware.retrieval.text.analyzer import Analyzer

DIRECTORY = "segments"


class Index:
    """Safe to call from several threads."""

    def __init__(self, store: DocumentStore, analyzer: Analyzer) -> None:
        """Opens the segments that the manifest names. A file that is damaged, missing, cut or of another collection is
        rebuilt from the document store: keywords and filters before this returns, vectors in the background.
        Meanwhile searches read those vectors from the document store."""
        identity, files = store.identity, None
        if store.directory is not None:
            files = SegmentFiles(store.directory / DIRECTORY, identity.uuid, identity.options)
        self._follower = IndexFollower(store, analyzer, files)
        store.analyse_with(self._follower.analyse)
        self._maintenance = IndexMaintenance(store, self._follower, files)
        self._maintenance.remove_strays()
        self._follower.follow()
        self._thread = MaintenanceThread(self._maintenance, identity.name)
        self._stop_thread = weakref.finalize(
            self, self._thread.stop
        )  # runs also when the index is dropped without close()
        if self._maintenance.has_work(idle=True):
            self._thread.wake(urgent=False)

    def publish(self, commit: Commit) -> None:
        """Takes in a commit of this process. The writer's thread calls it before the write is acknowledged."""
        self._follower.publish(commit)
        self._thread.notice_write()

    def current(self) -> View:
        """The view of the newest state that any process has committed."""
        return self._follower.current()

    def optimize(self) -> None:
        """Merges everything into one segment, with the index kind for its size; returns when that is done.

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
                "the collection is not yet purged: it is being closed, or all its vectors were just replaced; purge it "
                "again",
                code="not_yet_purged",
            ) from None

    def rebuild_vectors(self) -> None:
        """To be called after a new generation of vectors has come into service; returns when every segment has them,
        in its files too."""
        with suppress(Abandoned):
            self._maintenance.repair_all()

    def prepare_vectors(self, generation: int, through: int) -> None:
        """Builds the vector indexes of a generation that does not serve yet, for documents up to the number
        ``through``, up to which it is filled. So searches stay fast when it comes into service. The indexes are in
        memory until :meth:`rebuild_vectors` writes them."""
        with suppress(Abandoned):
            self._maintenance.prepare(generation, through)

    def describe(self) -> dict[str, object]:
        """``{segments, bytes, indexed, pending, vector_kinds, rebuilding, error, problems}``.

        ``indexed`` and ``pending`` count documents in merged segments and those in memory only; ``vector_kinds`` the
        documents of each index kind. ``rebuilding`` says whether a file is damaged or vectors are missing; ``error``
        what the last job of maintenance failed with; ``problems`` what was wrong with files since the start, the
        newest last.
        """
        state = self._follower.state
        records = [segment.record for segment in state.segments if segment.record is not None]
        kinds: Counter[str] = Counter()
        for segment in state.all_segments:
            if segment.data.vectors is not None:
                kinds[segment.data.vectors.kind] += segment.live_rows
        return {
            "segments": len(state.segments),
            "bytes": sum(record.file_bytes + record.vector_bytes for record in records),
            "indexed": sum(segment.live_rows for segment in state.segments),
            "pending": sum(segment.live_rows for segment in state.unmerged),
            "vector_kinds": dict(kinds),
            "rebuilding": any(segment.damaged or segment.data.vectors is None for segment in state.segments),
            "error": self._thread.error,
            "problems": list(self._follower.problems),
        }

    def stop_work(self) -> None:
        """Ends maintenance, and whatever waits for its end, for a caller that is about to close the index."""
        self._stop_thread()

    def close(self) -> None:
        """Ends maintenance. What is in memory only is written if that is quick; if not, the next start reads it from
        the document store."""
        self._stop_thread()
        with suppress(Exception):
            self._maintenance.save_unmerged()
