"""What this process has stored since a revision of the collection, so that what was derived then can be brought up."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import NamedTuple

from sage.service.memory_orchestrator.records import MemoryRecord

_MAX_ENTRIES = 1000


class CollectionRevision(NamedTuple):
    """A state of a collection: ``sequence`` counts the rows that were ever added to or removed from the one that
    ``collection`` identifies, by any process."""

    collection: str
    sequence: int


@dataclass(frozen=True, slots=True)
class AddedMemory:
    """A memory that was added in a write of its own, which touched nothing else."""

    owner: tuple[str, str, str]
    session: str
    id: str
    type: str
    created: float
    expires: float
    derived: bool

    @classmethod
    def of(cls, record: MemoryRecord) -> AddedMemory:
        return cls(
            record.scope.key(), record.session, record.id, record.type, record.created, record.expires,
            bool(record.sources),
        )  # fmt: skip


class WriteLog:
    """The new memories of one tenant, complete or empty. Safe to use from several threads.

    Each entry added one row or more, so the entries since a revision are all that has happened since, by any process,
    exactly when they are as many as the rows that the sequence has counted. All other writes are not entered: then
    the numbers differ, and the log begins anew. An entry is announced before its write, by :meth:`begin`: when the log
    began anew in between, it cannot tell on which side of the beginning the write was, and begins anew again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._base: CollectionRevision | None = None
        self._entries: list[AddedMemory] = []
        self._life = 0
        """Changes whenever the log begins anew."""

    def begin(self) -> int:
        """To be called before a write, and its result to be given to :meth:`add`."""
        return self._life

    def add(self, life: int, entry: AddedMemory) -> None:
        """After the write."""
        with self._lock:
            if life != self._life or len(self._entries) >= _MAX_ENTRIES:
                self._begin_anew(None)
            elif self._base is not None:
                self._entries.append(entry)

    def settle(self, current: CollectionRevision) -> None:
        """From now on the log begins at ``current`` at the latest."""
        with self._lock:
            if not self._reaches(current):
                self._begin_anew(current)

    def since(
        self, revision: CollectionRevision, current: CollectionRevision, *, ours: bool
    ) -> list[AddedMemory] | None:
        """All that happened to the collection between ``revision`` and ``current``; ``None`` means unknown. ``ours``
        tells whether this process itself has settled on ``revision``: the order of entries is that in which they were
        reported here, and need not be the one in which others saw them."""
        with self._lock:
            if not self._reaches(current):
                self._begin_anew(current)
            if revision == current:
                return []
            base = self._base
            if base is None or revision.collection != base.collection:
                return None
            start = revision.sequence - base.sequence
            if not 0 <= start <= len(self._entries) or (start > 0 and not ours):
                return None
            return self._entries[start:]

    def _reaches(self, current: CollectionRevision) -> bool:
        base = self._base
        return (
            base is not None
            and base.collection == current.collection
            and base.sequence + len(self._entries) == current.sequence
        )

    def _begin_anew(self, base: CollectionRevision | None) -> None:
        self._base, self._entries = base, []
        self._life += 1
