"""One transaction's view of a collection: where its counters stand, and how a change moves them."""

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
"""Where the database tells the sequence number of the last deletion."""


@dataclass(frozen=True, slots=True)
class TransactionState:
    """The counters of a collection within a transaction."""

    sequence: int
    documents: int
    generation: int
    """The one that serves."""
    generations: Mapping[int, VectorGeneration]

    @property
    def serving(self) -> VectorGeneration:
        return self.generations[self.generation]

    def with_generation(self, changed: VectorGeneration) -> TransactionState:
        return replace(self, generations={**self.generations, changed.number: changed})


@dataclass(slots=True)
class RowChanges:
    """What changes did to the rows, for the index."""

    added: dict[int, Row] = field(default_factory=dict)
    deleted: list[int] = field(default_factory=list)

    def take(self, later: RowChanges) -> None:
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
    """``writer`` names this commit among all, so that it can be recognised."""
    connection.execute(
        "UPDATE collection SET sequence = ?, documents = ?, generation = ?, writer = ?",
        (state.sequence, state.documents, state.generation, writer),
    )


def was_committed(connection: sqlite3.Connection, writer: str, before: int, commit: Commit | None) -> bool:
    """Whether the commit named ``writer`` is in the database, though others may have followed it since."""
    sequence, last = connection.execute("SELECT sequence, writer FROM collection").fetchone()
    if last == writer:
        return True
    if sequence <= before or commit is None:
        return False
    for row in commit.rows:
        found = connection.execute("SELECT id, text FROM documents WHERE number = ?", (row.number,)).fetchone()
        if found is not None:
            return bool(found == (row.id, row.text))
    deletions = connection.execute(
        "SELECT number FROM deletions WHERE sequence > ? AND sequence <= ?", (before, commit.sequence)
    ).fetchall()
    return bool(commit.deleted) and [number for (number,) in deletions] == commit.deleted


def apply_change(
    connection: sqlite3.Connection, state: TransactionState, change: Change
) -> tuple[TransactionState, RowChanges, Written]:
    """Deletes first, then adds, so that the documents of one change have numbers without a gap (or those it gives)."""
    if change.generation is not None and change.generation != state.generation:
        raise StaleVectors
    if len(_existing(connection, change.of)) < len(change.of):
        raise Superseded
    state = _with_dimension(connection, state, change.documents)
    ids = [document.id for document in change.documents]
    if len(set(ids)) < len(ids):
        raise InvalidRequest("an id stands twice among the documents of one request", param="documents")
    doomed = {*numbers_of(connection, change.delete_ids).values(), *_existing(connection, change.delete_numbers)}
    replaced = set(numbers_of(connection, ids).values()) - doomed
    dead = sorted(doomed) + sorted(replaced)
    _tombstone(connection, state, dead)
    first = state.sequence + len(dead) + 1
    numbers = _numbered(change, first)
    rows = {
        number: Row(number, document.id, document.text, document.metadata, document.vector)
        for number, document in zip(numbers, change.documents, strict=True)
    }
    _insert(connection, state, rows)
    last = numbers[-1] if numbers else first - 1
    state = replace(state, sequence=last, documents=state.documents - len(dead) + len(rows))
    return state, RowChanges(rows, dead), Written(ids, len(ids) - len(replaced), len(replaced), len(doomed))


def _numbered(change: Change, first: int) -> Sequence[int]:
    """The numbers of a change's documents, of which ``first`` is the lowest that is free."""
    if not change.numbers:
        return range(first, first + len(change.documents))
    further = max(0, first - change.numbers[0])
    return [number + further for number in change.numbers]


def load_rows(
    connection: sqlite3.Connection, state: TransactionState, rows: Sequence[Row], sequence: int | None
) -> tuple[TransactionState, RowChanges, None]:
    """Rows as they are, with numbers beyond all that there are; then the collection stands at ``sequence``."""
    numbered = {row.number: row for row in rows}
    _insert(connection, state, numbered)
    reached = max(state.sequence, sequence or 0, *numbered)
    return replace(state, sequence=reached, documents=state.documents + len(numbered)), RowChanges(numbered), None


def _with_dimension(
    connection: sqlite3.Connection, state: TransactionState, documents: Sequence[NewDocument]
) -> TransactionState:
    """The first vector of a collection decides it."""
    wanted = state.serving.dimension
    for place, document in enumerate(documents):
        if document.vector is None:
            continue
        if wanted is None:
            wanted = document.vector.size
        if document.vector.shape != (wanted,):
            raise InvalidRequest(
                f"documents[{place}]: 'vector' has {document.vector.size} dimensions, but the vectors of this "
                f"collection have {wanted}",
                param="documents",
                code="wrong_dimension",
            )
    if wanted is None or wanted == state.serving.dimension:
        return state
    decided = replace(state.serving, dimension=wanted, block=vector_blocks.block_size(wanted))
    add_generation(connection, decided)
    return state.with_generation(decided)


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


def _tombstone(connection: sqlite3.Connection, state: TransactionState, dead: Sequence[int]) -> None:
    if not dead:
        return
    connection.executemany(
        "INSERT INTO deletions (sequence, number) VALUES (?, ?)", list(enumerate(dead, state.sequence + 1))
    )
    connection.executemany("DELETE FROM documents WHERE number = ?", [(number,) for number in dead])
    for generation in state.generations.values():
        vector_blocks.remove(connection, generation, dead)
    connection.execute("REPLACE INTO states VALUES (?, ?)", (LAST_DELETION, str(state.sequence + len(dead))))


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
    """For ``json_each``. No id holds a zero byte, at which SQLite would end the text: such are left out."""
    return orjson.dumps([id for id in ids if "\x00" not in id]).decode()


def _existing(connection: sqlite3.Connection, numbers: Sequence[int]) -> list[int]:
    if not len(numbers):
        return []
    found = connection.execute(
        "SELECT number FROM documents WHERE number IN (SELECT value FROM json_each(?))",
        (orjson.dumps([int(number) for number in numbers]).decode(),),
    )
    return [number for (number,) in found]
