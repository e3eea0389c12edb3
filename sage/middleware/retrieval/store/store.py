"""The documents of one collection: a SQLite database, and the only thing that must never be lost.

WAL, ``synchronous=FULL``, ``BEGIN IMMEDIATE``; one writer a process with group commit; a sequence number for each
operation. Everything else is derived from it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sage.errors import Unavailable
from sage.middleware.retrieval.store import generations, schema
from sage.middleware.retrieval.store.connections import FILE as DATABASE
from sage.middleware.retrieval.store.connections import (
    Connections,
    InFiles,
    InMemory,
    connect,
    exists,
    make_file,
    set_up_file,
    sync_directory,
)
from sage.middleware.retrieval.store.errors import faults_of
from sage.middleware.retrieval.store.group_commit import GroupCommit
from sage.middleware.retrieval.store.purge import purge as purge_database
from sage.middleware.retrieval.store.reader import Reading
from sage.middleware.retrieval.store.records import Change, Commit, Identity, SegmentRecord, StaleVectors
from sage.middleware.retrieval.store.transaction import RowChanges, TransactionState, apply_change, load_rows
from sage.middleware.retrieval.types.documents import Row, Vector, Written
from sage.middleware.settings.retrieval import CollectionOptions

_SEGMENT_COLUMNS = 12


class DocumentStore:
    """Safe to call from several threads; several processes may open the same directory."""

    directory: Path | None

    def __init__(self, directory: Path | None, name: str, connections: Connections) -> None:
        """Use :meth:`create` or :meth:`open`."""
        self.directory = directory
        self._connections = connections
        self._name = name
        self._writer = GroupCommit(connections, name)
        self._identity: tuple[int, Identity] | None = None
        self._alone = threading.Lock()

    @classmethod
    def create(
        cls,
        directory: Path | None,
        name: str,
        options: CollectionOptions,
        embedder: str | None,
        languages: frozenset[str] | None,
        dimension: int | None,
    ) -> DocumentStore:
        """``None``: in memory. Raises :class:`sage.errors.Conflict` when there is one already."""
        with faults_of(name):
            if directory is None:
                connection = connect(None)
                schema.create(connection, name, options, embedder, languages, dimension)
                return cls(None, name, InMemory(connection, name))
            make_file(directory, name)
            connection = connect(directory / DATABASE)
            try:
                set_up_file(connection)
                schema.create(connection, name, options, embedder, languages, dimension)
            finally:
                connection.close()
            sync_directory(directory)
            return cls(directory, name, InFiles(directory, name))

    @classmethod
    def open(cls, directory: Path) -> DocumentStore:
        """Migrates an older schema; raises :class:`sage.errors.NotFound`, or an error for a newer one or damage."""
        place = directory.name
        exists(directory, place)
        inode = inode_of(directory)
        try:
            with faults_of(place):
                connection = connect(directory / DATABASE)
                try:
                    schema.check(connection, place)
                    (name,) = connection.execute("SELECT name FROM collection").fetchone()
                finally:
                    connection.close()
            return cls(directory, name, InFiles(directory, name))
        except (Unavailable, FileNotFoundError):
            if inode is not None and inode_of(directory) == inode:
                raise
            return cls.open(directory)  # another process has just deleted it, and perhaps made another

    @property
    def identity(self) -> Identity:
        """As of the last commit of any process."""
        version = self.version()
        known = self._identity
        if known is None or known[0] != version:
            with self.reading() as reading:
                known = version, reading.identity
            self._identity = known
        return known[1]

    @property
    def recent(self) -> Identity:
        """As it was last read, without a look at the database: for what compares generations itself."""
        return self.identity if self._identity is None else self._identity[1]

    def write(self, change: Change, publish: Callable[[Commit], None]) -> Written:
        """Returns once durable; shares its commit with other threads' writes. ``publish`` has run before it returns,
        once a commit, in the order of commits, on the writer's thread.

        Raises :class:`sage.errors.InvalidRequest` for a vector of a wrong dimension (the first vector of a collection
        without one decides it), :class:`StaleVectors`, and :class:`sage.errors.Unavailable` when the disk is full or
        fails: nothing of it is written then, and a later write may succeed.
        """
        weight = len(change.documents) + len(change.delete_ids) + len(change.delete_numbers)

        def work(
            connection: sqlite3.Connection, state: TransactionState
        ) -> tuple[TransactionState, RowChanges, Written]:
            return apply_change(connection, state, change)

        written = self._writer.run(work, publish, weight=max(1, weight))
        assert isinstance(written, Written)
        return written

    def load(self, rows: Sequence[Row], *, sequence: int | None = None) -> None:
        """Puts rows with their numbers behind those that there are; for a collection that is being restored."""
        self._writer.run(lambda connection, state: load_rows(connection, state, rows, sequence))

    def version(self) -> int:
        """Changes whenever any process has committed; cheap (microseconds): asked before each search."""
        with faults_of(self._name):
            return self._connections.version()

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """One consistent state, also while others write."""
        with faults_of(self._name), self._connections.reading() as connection:
            yield Reading(connection)

    def replace_segments(self, gone: Sequence[str], new: Sequence[SegmentRecord], dropped: NDArray[np.int64]) -> bool:
        """Changes the manifest at once; ``dropped``: dead rows that no segment holds any more, whose deletions may be
        forgotten. ``False``, and nothing was changed: one of ``gone`` is not there any more, or one of ``new`` overlaps
        a segment that stays."""

        def work(connection: sqlite3.Connection, state: TransactionState) -> tuple[TransactionState, RowChanges, bool]:
            there = {name: span for name, *span in connection.execute("SELECT name, low, high FROM segments")}
            if not there.keys() >= set(gone):
                return state, RowChanges(), False
            stay = [span for name, span in there.items() if name not in gone]
            if any(record.low <= high and low <= record.high for record in new for low, high in stay):
                return state, RowChanges(), False
            connection.executemany("DELETE FROM segments WHERE name = ?", [(name,) for name in gone])
            marks = ", ".join("?" * _SEGMENT_COLUMNS)
            connection.executemany(f"INSERT INTO segments VALUES ({marks})", [_columns(record) for record in new])  # noqa: S608
            connection.execute(
                "DELETE FROM deletions WHERE number IN (SELECT value FROM json_each(?))",
                (orjson.dumps(dropped.tolist()).decode(),),
            )
            return state, RowChanges(), True

        return bool(self._writer.run(work))

    @contextmanager
    def reembedding(self) -> Iterator[bool]:
        """Whether nobody else, here or in another process, makes vectors anew until the end of the block."""
        if not self._alone.acquire(blocking=False):
            yield False
            return
        try:
            with _locked(self.directory) as alone:
                yield alone
        finally:
            self._alone.release()

    def begin_generation(self, embedder: str, languages: frozenset[str] | None, dimension: int | None) -> int:
        """The number of a new generation of vectors, which does not serve."""
        return int(self._writer.run(generations.begin(embedder, languages, dimension)))

    def put_vectors(self, generation: int, vectors: Mapping[int, Vector], done: int) -> None:
        """Gives a generation that does not serve vectors of documents, by number. ``done``: how many documents were
        looked at so far."""
        self._writer.run(generations.put(generation, vectors, done), weight=max(1, len(vectors)))

    def switch_generation(self, generation: int, spec: str, seen: int, most: int, last: generations.Last) -> bool:
        """Puts a generation into service: see :func:`sage.middleware.retrieval.store.generations.switch`."""
        return bool(self._writer.run(generations.switch(generation, spec, seen, most, last)))

    def discard_generation(self, generation: int) -> None:
        """Clears away the vectors of a generation that does not serve, in steps."""
        while self._writer.run(generations.clear(generation)):
            pass

    def purge(self, seconds: float) -> None:
        """No byte of what was deleted is left in the database and its log: see
        :func:`sage.middleware.retrieval.store.purge.purge`."""
        self._writer.run_between(lambda: purge_database(self._connections, self._name, seconds))

    def settle(self, key: str, value: object) -> Any:
        """What is kept under ``key`` beside the documents: ``value``, a small JSON value, unless there was one."""

        def work(connection: sqlite3.Connection, state: TransactionState) -> tuple[TransactionState, RowChanges, Any]:
            connection.execute("INSERT OR IGNORE INTO states VALUES (?, ?)", (key, orjson.dumps(value).decode()))
            (kept,) = connection.execute("SELECT value FROM states WHERE key = ?", (key,)).fetchone()
            return state, RowChanges(), orjson.loads(kept)

        return self._writer.run(work)

    def close(self) -> None:
        """Returns when everything that waited is written."""
        self._writer.close()
        with faults_of(self._name):
            self._connections.close()


def inode_of(directory: Path | None) -> int | None:
    """Of the database in it; ``None``: there is none."""
    try:
        return os.stat(directory / DATABASE).st_ino if directory is not None else None
    except FileNotFoundError:
        return None


def _columns(record: SegmentRecord) -> tuple[object, ...]:
    return (
        record.name,
        record.low,
        record.high,
        record.size,
        record.file,
        record.file_bytes,
        record.checksum,
        record.vector_file,
        record.vector_bytes,
        record.vector_checksum,
        record.vector_kind,
        record.generation,
    )


@contextmanager
def _locked(directory: Path | None) -> Iterator[bool]:
    """A lock among processes, which ends with the one that holds it."""
    if directory is None:
        yield True
        return
    descriptor = os.open(directory / "reembed.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


__all__ = [
    "Change",
    "Commit",
    "DocumentStore",
    "Identity",
    "Reading",
    "SegmentRecord",
    "StaleVectors",
    "Vector",
    "inode_of",
]
