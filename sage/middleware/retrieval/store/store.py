"""The documents of one collection, in a SQLite database. Only this must never be lost: indexes are made from it.

It works with WAL, ``synchronous=FULL`` and ``BEGIN IMMEDIATE``. Each process has one writer, with group commit. Every
added row and every deletion has a sequence number, which grows over all processes.
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
    make_file,
    require_database,
    set_up_file,
)
from sage.middleware.retrieval.store.errors import faults_of
from sage.middleware.retrieval.store.group_commit import GroupCommit
from sage.middleware.retrieval.store.purge import purge as purge_database
from sage.middleware.retrieval.store.reader import Reading
from sage.middleware.retrieval.store.records import Change, Commit, Identity, SegmentRecord, StaleVectors
from sage.middleware.retrieval.store.transaction import RowChanges, TransactionState, apply_change, load_rows
from sage.middleware.retrieval.types.documents import Row, Vector, Written
from sage.middleware.settings.retrieval import CollectionOptions
from sage.private_files import sync_directory

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
        self._reembedding = threading.Lock()

    @classmethod
    def create(
        cls,
        directory: Path | None,
        name: str,
        options: CollectionOptions,
        embedder: str | None,
        languages: frozenset[str] | None,
        dimension: int | None,
        *,
        automatic: bool = False,
    ) -> DocumentStore:
        """Makes a new one; in memory when ``directory`` is ``None``. ``automatic`` is that of its identity. Raises
        :class:`sage.errors.Conflict` when there is one already."""
        with faults_of(name):
            if directory is None:
                connection = connect(None)
                schema.create(connection, name, options, embedder, languages, dimension, automatic=automatic)
                return cls(None, name, InMemory(connection, name))
            make_file(directory, name)
            connection = connect(directory / DATABASE)
            try:
                set_up_file(connection)
                schema.create(connection, name, options, embedder, languages, dimension, automatic=automatic)
            finally:
                connection.close()
            sync_directory(directory)
            return cls(directory, name, InFiles(directory, name))

    @classmethod
    def open(cls, directory: Path) -> DocumentStore:
        """Brings an older schema up to date. Raises :class:`sage.errors.NotFound`, and :class:`sage.errors.SageError`
        for a newer schema or a damaged database."""
        require_database(directory, directory.name)
        inode = inode_of(directory)
        try:
            with faults_of(directory.name):
                connection = connect(directory / DATABASE)
                try:
                    schema.check(connection, directory.name)
                    (name,) = connection.execute("SELECT name FROM collection").fetchone()
                finally:
                    connection.close()
            return cls(directory, name, InFiles(directory, name))
        except (Unavailable, FileNotFoundError):
            if inode is not None and inode_of(directory) == inode:
                raise
            return cls.open(directory)  # another process has just deleted it, and perhaps made a new one

    @property
    def identity(self) -> Identity:
        """As of the last commit of any process."""
        version = self.version()
        cached = self._identity
        if cached is None or cached[0] != version:
            with self.reading() as reading:
                cached = version, reading.identity
            self._identity = cached
        return cached[1]

    @property
    def recent(self) -> Identity:
        """As it was last read. Spares a read of the database, for callers that check the generation later anyhow."""
        return self.identity if self._identity is None else self._identity[1]

    def write(self, change: Change, publish: Callable[[Commit], None]) -> Written:
        """Returns once the change is durable, in a commit that it may share with other threads' changes. Before it
        returns, ``publish`` has run on the writer's thread: once for each commit, in the order of commits.

        Raises :class:`sage.errors.InvalidRequest` for a vector of a wrong dimension (the first vector of a collection
        without one decides it), :class:`StaleVectors`, and :class:`sage.errors.Unavailable` when the disk is full or
        fails: nothing of the change is written then, and a later write may succeed.
        """
        weight = len(change.documents) + len(change.delete_ids) + len(change.delete_numbers)

        def work(
            connection: sqlite3.Connection, state: TransactionState
        ) -> tuple[TransactionState, RowChanges, Written]:
            return apply_change(connection, state, change)

        written = self._writer.run(work, publish, weight=max(1, weight))
        assert isinstance(written, Written)
        return written

    def analyse_with(self, analyse: Callable[[Commit], None]) -> None:
        """Has ``analyse`` called with each larger commit while the disk takes it, before ``publish``: with the same
        object, on another thread, and even if the commit fails."""
        self._writer.analyse = analyse

    def load(self, rows: Sequence[Row], *, sequence: int | None = None) -> None:
        """Adds rows with numbers of their own, higher than all others: for a collection that is being restored."""
        self._writer.run(lambda connection, state: load_rows(connection, state, rows, sequence))

    def version(self) -> int:
        """A number that changes with each commit of any process. Takes microseconds: it is read before each search."""
        with faults_of(self._name):
            return self._connections.version()

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Reads of one consistent state, while others may write."""
        with faults_of(self._name), self._connections.reading() as connection:
            yield Reading(connection)

    def replace_segments(
        self, removed: Sequence[str], added: Sequence[SegmentRecord], dropped: NDArray[np.int64]
    ) -> bool:
        """Changes the manifest in one transaction. ``dropped`` are deleted rows that no segment has any more, whose
        deletions need not be remembered. ``False`` means that nothing was changed: one of ``removed`` is not in the
        manifest, or one of ``added`` overlaps a segment that stays."""

        def work(connection: sqlite3.Connection, state: TransactionState) -> tuple[TransactionState, RowChanges, bool]:
            spans = {name: span for name, *span in connection.execute("SELECT name, low, high FROM segments")}
            if not spans.keys() >= set(removed):
                return state, RowChanges(), False
            staying = [span for name, span in spans.items() if name not in removed]
            if any(record.low <= high and low <= record.high for record in added for low, high in staying):
                return state, RowChanges(), False
            connection.executemany("DELETE FROM segments WHERE name = ?", [(name,) for name in removed])
            marks = ", ".join("?" * _SEGMENT_COLUMNS)
            connection.executemany(f"INSERT INTO segments VALUES ({marks})", [_columns(record) for record in added])  # noqa: S608
            connection.execute(
                "DELETE FROM deletions WHERE number IN (SELECT value FROM json_each(?))",
                (orjson.dumps(dropped.tolist()).decode(),),
            )
            return state, RowChanges(), True

        return bool(self._writer.run(work))

    @contextmanager
    def reembedding(self) -> Iterator[bool]:
        """The right to reembed the collection, until the end of the block. ``False`` means that another thread or
        process has it."""
        if not self._reembedding.acquire(blocking=False):
            yield False
            return
        try:
            with _locked(self.directory) as acquired:
                yield acquired
        finally:
            self._reembedding.release()

    def begin_generation(self, embedder: str, languages: frozenset[str] | None, dimension: int | None) -> int:
        """Adds a generation of vectors that does not serve yet, and returns its number."""
        return int(self._writer.run(generations.begin(embedder, languages, dimension)))

    def put_vectors(self, generation: int, vectors: Mapping[int, Vector], done: int) -> None:
        """Stores vectors of documents, by number, in a generation that does not serve. ``done`` is the number of
        documents that were looked at so far."""
        self._writer.run(generations.put(generation, vectors, done), weight=max(1, len(vectors)))

    def switch_generation(self, generation: int, spec: str, reached: int, most: int, last: generations.Last) -> bool:
        """Puts a generation into service: see :func:`sage.middleware.retrieval.store.generations.switch`."""
        return bool(self._writer.run(generations.switch(generation, spec, reached, most, last)))

    def discard_generation(self, generation: int) -> None:
        """Deletes a generation that does not serve with its vectors, in several transactions."""
        while self._writer.run(generations.clear(generation)):
            pass

    def purge(self, seconds: float) -> None:
        """Leaves no byte of what was deleted in the database and its log: see
        :func:`sage.middleware.retrieval.store.purge.purge`."""
        self._writer.run_between(lambda: purge_database(self._connections, self._name, seconds))

    def settle(self, key: str, value: object) -> Any:
        """The value under ``key``, beside the documents; if there is none, it becomes ``value``, a small JSON value."""
        with self.reading() as reading:
            if (settled := reading.state(key)) is not None:
                return settled

        def work(connection: sqlite3.Connection, state: TransactionState) -> tuple[TransactionState, RowChanges, Any]:
            connection.execute("INSERT OR IGNORE INTO states VALUES (?, ?)", (key, orjson.dumps(value).decode()))
            (stored,) = connection.execute("SELECT value FROM states WHERE key = ?", (key,)).fetchone()
            return state, RowChanges(), orjson.loads(stored)

        return self._writer.run(work)

    def close(self) -> None:
        """Returns when all waiting changes are written."""
        self._writer.close()
        with faults_of(self._name):
            self._connections.close()


def inode_of(directory: Path | None) -> int | None:
    """The inode of the database in a directory; ``None`` when there is none."""
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
    """Whether a lock among processes was free. It is held until the end of the block, or of the process."""
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
