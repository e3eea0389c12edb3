"""Changes of a collection within one transaction: what they do to its rows and to its counters."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import orjson

from sage.errors import InvalidRequest
from sage.middleware.retrieval.store import vector_blocks
from sage.middleware.retrieval.store.records import Change, Commit, StaleVectors, Superseded, VectorGeneration
from sage.middleware.retrieval.store.schema import add_generation, generations
from sage.middleware.retrieval.types.documents import NewDocument, Row, Written

LAST_DELETION = "buried"
"""The key for the sequence number of the last deletion, as databases have it."""


@dataclass(frozen=True, slots=True)
class TransactionState:
    """The counters of a collection, as they are within a transaction."""

    sequence: int
    documents: int
    generation: int
    """The number of the one that serves."""
    generations: Mapping[int, VectorGeneration]

    @property
    def serving(self) -> VectorGeneration:
        return self.generations[self.generation]

    def with_generation(self, generation: VectorGeneration) -> TransactionState:
        return replace(self, generations={**self.generations, generation.number: generation})


@dataclass(slots=True)
class RowChanges:
    """Which rows changes added and deleted, for the index."""

    added: dict[int, Row] = field(default_factory=dict)
    deleted: list[int] = field(default_factory=list)

    def add(self, later: RowChanges) -> None:
        """Adds the rows of a later change of the same transaction."""
        for number in later.deleted:
            self.added.pop(number, None)
        self.added |= later.added
        self.deleted += later.deleted


def load_state(connection: sqlite3.Connection) -> TransactionState:
    sequence, documents, generation = connection.execute(
        "SELECT sequence, documents, generation FROM collection"
    ).fetchone()
    return TransactionState(sequence, documents, generation, generations(connection))


def save_state(connection: sqlite3.Connection, state: TransactionState, writer: str) -> None:
    """``writer`` names this commit, so that it can be recognised later."""
    connection.execute(
        "UPDATE collection SET sequence = ?, documents = ?, generation = ?, writer = ?",
        (state.sequence, state.documents, state.generation, writer),
    )


def was_committed(connection: sqlite3.Connection, writer: str, before: int, commit: Commit | None) -> bool:
    """Whether the commit named ``writer`` is in the database. Others may have followed it: then its rows tell."""
    sequence, last = connection.execute("SELECT sequence, writer FROM collection").fetchone()
    if last == writer:
        return True
    if sequence <= before or commit is None:
        return False
    for row in commit.rows:
        stored = connection.execute("SELECT id, text FROM documents WHERE number = ?", (row.number,)).fetchone()
        if stored is not None:
            return bool(stored == (row.id, row.text))
    deletions = connection.execute(
        "SELECT number FROM deletions WHERE sequence > ? AND sequence <= ?", (before, commit.sequence)
    ).fetchall()
    return bool(commit.deleted) and [number for (number,) in deletions] == commit.deleted


def apply_change(
    connection: sqlite3.Connection, state: TransactionState, change: Change
) -> tuple[TransactionState, RowChanges, Written]:
    """Deletes first, then adds, so that the documents of one change have numbers without a gap (or the numbers that the
    change gives them)."""
    if change.generation is not None and change.generation != state.generation:
        raise StaleVectors
    if len(_live(connection, change.based_on)) < len(change.based_on):
        raise Superseded
    state = _with_dimension(connection, state, change.documents)
    ids = [document.id for document in change.documents]
    if len(set(ids)) < len(ids):
        raise InvalidRequest("an id is given twice among the documents of one request", param="documents")
    deleted = {*numbers_of(connection, change.delete_ids).values(), *_live(connection, change.delete_numbers)}
    replaced = set(numbers_of(connection, ids).values()) - deleted
    removed = sorted(deleted) + sorted(replaced)
    _tombstone(connection, state, removed)
    first = state.sequence + len(removed) + 1
    numbers = _numbered(change, first)
    rows = {
        number: Row(number, document.id, document.text, document.metadata, document.vector)
        for number, document in zip(numbers, change.documents, strict=True)
    }
    _insert(connection, state, rows)
    last = numbers[-1] if numbers else first - 1
    state = replace(state, sequence=last, documents=state.documents - len(removed) + len(rows))
    return state, RowChanges(rows, removed), Written(ids, len(ids) - len(replaced), len(replaced), len(deleted))


def _numbered(change: Change, first: int) -> Sequence[int]:
    """The numbers for a change's documents; ``first`` is the lowest free one."""
    if not change.numbers:
        return range(first, first + len(change.documents))
    offset = max(0, first - change.numbers[0])
    return [number + offset for number in change.numbers]


def load_rows(
    connection: sqlite3.Connection, state: TransactionState, rows: Sequence[Row], sequence: int | None
) -> tuple[TransactionState, RowChanges, None]:
    """Adds rows as they are, with numbers higher than all others, and raises the sequence number to ``sequence``."""
    numbered = {row.number: row for row in rows}
    _insert(connection, state, numbered)
    last = max(state.sequence, sequence or 0, *numbered)
    return replace(state, sequence=last, documents=state.documents + len(numbered)), RowChanges(numbered), None


def _with_dimension(
    connection: sqlite3.Connection, state: TransactionState, documents: Sequence[NewDocument]
) -> TransactionState:
    """Checks the vectors of documents. The first vector of a collection decides its dimension."""
    dimension = state.serving.dimension
    for index, document in enumerate(documents):
        if document.vector is None:
            continue
        if dimension is None:
            dimension = document.vector.size
        if document.vector.shape != (dimension,):
            raise InvalidRequest(
                f"documents[{index}]: 'vector' has {document.vector.size} dimensions, but the vectors of this "
                f"collection have {dimension}",
                param="documents",
                code="wrong_dimension",
            )
    if dimension is None or dimension == state.serving.dimension:
        return state
    generation = replace(state.serving, dimension=dimension, block=vector_blocks.block_size(dimension))
    add_generation(connection, generation)
    return state.with_generation(generation)


def _insert(connection: sqlite3.Connection, state: TransactionState, rows: Mapping[int, Row]) -> None:
    if not rows:
        return
    connection.executemany(
        "INSERT INTO documents (number, id, text, metadata) VALUES (?, ?, ?, ?)",
        [(number, row.id, row.text, row.metadata) for number, row in rows.items()],
    )
    vectors = {
        number: np.ascontiguousarray(row.vector, "<f4").tobytes()
        for number, row in rows.items()
        if row.vector is not None
    }
    vector_blocks.put(connection, state.serving, vectors)


def _tombstone(connection: sqlite3.Connection, state: TransactionState, numbers: Sequence[int]) -> None:
    """Deletes rows and their vectors, and notes each deletion under a sequence number of its own."""
    if not numbers:
        return
    connection.executemany(
        "INSERT INTO deletions (sequence, number) VALUES (?, ?)", list(enumerate(numbers, state.sequence + 1))
    )
    connection.executemany("DELETE FROM documents WHERE number = ?", [(number,) for number in numbers])
    for generation in state.generations.values():
        vector_blocks.remove(connection, generation, numbers)
    connection.execute("REPLACE INTO states VALUES (?, ?)", (LAST_DELETION, str(state.sequence + len(numbers))))


def numbers_of(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, int]:
    """The numbers of the live documents with these ids."""
    return dict(
        connection.execute(
            "SELECT id, number FROM documents WHERE id IN (SELECT value FROM json_each(?))", (json_of_ids(ids),)
        ).fetchall()
        if ids
        else ()
    )


def json_of_ids(ids: Sequence[str]) -> str:
    """For ``json_each``. SQLite would end a text at a zero byte. No stored id has one, so such ids are left out."""
    return orjson.dumps([id for id in ids if "\x00" not in id]).decode()


def _live(connection: sqlite3.Connection, numbers: Sequence[int]) -> list[int]:
    """Those of the rows that are live."""
    if not len(numbers):
        return []
    rows = connection.execute(
        "SELECT number FROM documents WHERE number IN (SELECT value FROM json_each(?))",
        (orjson.dumps([int(number) for number in numbers]).decode(),),
    )
    return [number for (number,) in rows]
