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


class Mark(NamedTuple):
    """How far a log had come: ``length`` entries of its life number ``life``."""

    life: int
    length: int


class WriteLog:
    """The new memories of one tenant since a revision, its base. Safe to use from several threads.

    An entry is announced by :meth:`begin` before its write, and added after it; each write adds one row or more. So
    the entries up to a mark are all that has happened to the collection since the base, by any process, exactly when
    they are as many as the rows that the sequence, read after the mark was taken, has counted since. All other writes
    are not entered: then the numbers differ, and the log begins anew. An entry whose log began anew during its write
    may belong to either side of the beginning, so the log begins anew once more.
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

    def mark(self) -> Mark:
        """To be taken before the revision is read that it is compared with."""
        with self._lock:
            return Mark(self._life, len(self._entries))

    def settle(self, mark: Mark, current: CollectionRevision) -> None:
        """Something was derived from the collection at ``current``."""
        with self._lock:
            if not self._is_complete(mark, current):
                self._begin_anew(current)

    def since(
        self, revision: CollectionRevision, mark: Mark, current: CollectionRevision, *, ours: bool
    ) -> list[AddedMemory] | None:
        """All that happened to the collection between ``revision`` and ``current``; ``None`` means unknown. ``ours``
        tells whether this process itself has settled on ``revision``: the order of entries is that in which they were
        added here, and need not be the one in which others saw them."""
        if revision == current:
            return []
        with self._lock:
            if not self._is_complete(mark, current):
                return None
            base = self._base
            assert base is not None
            start = revision.sequence - base.sequence
            if revision.collection != base.collection or not 0 <= start <= mark.length or (start > 0 and not ours):
                return None
            return self._entries[start : mark.length]

    def _is_complete(self, mark: Mark, current: CollectionRevision) -> bool:
        """Whether the entries up to ``mark`` are all that happened between the base and ``current``."""
        base = self._base
        return (
            base is not None
            and mark.life == self._life
            and base.collection == current.collection
            and base.sequence + mark.length == current.sequence
        )

    def _begin_anew(self, base: CollectionRevision | None) -> None:
        self._base, self._entries = base, []
        self._life += 1
