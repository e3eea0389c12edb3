"""Generations of vectors in the database: how one is begun, filled, put into service, and deleted."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import orjson

from sage.errors import Conflict, InvalidRequest
from sage.middleware.retrieval.store import vector_blocks
from sage.middleware.retrieval.store.group_commit import Work
from sage.middleware.retrieval.store.records import VectorGeneration
from sage.middleware.retrieval.store.schema import add_generation
from sage.middleware.retrieval.store.transaction import RowChanges, TransactionState
from sage.middleware.retrieval.types.documents import Row, Vector

Last = Callable[[Sequence[Row]], Mapping[int, Vector]]
"""Makes the vectors of documents, by number. Documents that get none are left out."""

_BLOCKS_PER_STEP = 2000

STATE = "reembedding"
"""The key of :meth:`Reading.state` for how far a reembedding is: ``{embedder, done, total}``; absent when none is under
way."""


def begin(embedder: str, languages: frozenset[str] | None, dimension: int | None) -> Work:
    """Adds a generation without vectors, which does not serve. The result is its number."""

    def work(connection: sqlite3.Connection, state: TransactionState) -> tuple[TransactionState, RowChanges, int]:
        number = max(state.generations) + 1
        block = vector_blocks.block_size(dimension) if dimension else 0
        generation = VectorGeneration(number, embedder, languages, dimension, block, 0)
        add_generation(connection, generation)
        _note_progress(connection, {"embedder": embedder, "done": 0, "total": state.documents})
        return state.with_generation(generation), RowChanges(), number

    return work


def put(number: int, vectors: Mapping[int, Vector], done: int) -> Work:
    """Stores vectors of documents, by number, except of documents that were deleted meanwhile. ``done`` is the number
    of documents that were looked at so far."""

    def work(connection: sqlite3.Connection, state: TransactionState) -> tuple[TransactionState, RowChanges, None]:
        state = _filled(connection, state, number, vectors)
        progress = {"embedder": state.generations[number].embedder, "done": done, "total": state.documents}
        _note_progress(connection, progress)
        return state, RowChanges(), None

    return work


def switch(number: int, spec: str, reached: int, most: int, last: Last) -> Work:
    """Puts a generation into service. Documents up to the number ``reached`` have their vectors; ``last`` makes those
    of the few after it, within the transaction. The result is ``False`` when there are more than ``most`` of these, and
    nothing was changed then. ``spec`` is the embedder that the collection's options name from now on."""

    def work(connection: sqlite3.Connection, state: TransactionState) -> tuple[TransactionState, RowChanges, bool]:
        rows = connection.execute(
            "SELECT number, id, text, metadata FROM documents WHERE number > ? ORDER BY number LIMIT ?",
            (reached, most + 1),
        ).fetchall()
        if len(rows) > most:
            return state, RowChanges(), False
        if rows:
            state = _filled(connection, state, number, last([Row(*columns) for columns in rows]))
        (options,) = connection.execute("SELECT options FROM collection").fetchone()
        connection.execute("UPDATE collection SET options = ?", (_with_embedder(options, spec),))
        _note_progress(connection, None)
        return replace(state, generation=_not_serving(state, number).number), RowChanges(), True

    return work


def clear(number: int) -> Work:
    """Deletes some of the vectors of a generation that does not serve. The result is ``False`` when it is deleted."""

    def work(connection: sqlite3.Connection, state: TransactionState) -> tuple[TransactionState, RowChanges, bool]:
        if number == state.generation:
            raise Conflict(f"generation {number} serves, and cannot be deleted")
        if number not in state.generations:
            return state, RowChanges(), False
        cursor = connection.execute(
            "DELETE FROM vectors WHERE key IN (SELECT key FROM vectors WHERE key BETWEEN ? AND ? LIMIT ?)",
            (*vector_blocks.keys_of(number), _BLOCKS_PER_STEP),
        )
        if cursor.rowcount:
            return state, RowChanges(), True
        connection.execute("DELETE FROM generations WHERE number = ?", (number,))
        if number > state.generation:
            _note_progress(connection, None)
        remaining = {other: generation for other, generation in state.generations.items() if other != number}
        return replace(state, generations=remaining), RowChanges(), False

    return work


def _note_progress(connection: sqlite3.Connection, progress: Mapping[str, object] | None) -> None:
    if progress is None:
        connection.execute("DELETE FROM states WHERE key = ?", (STATE,))
    else:
        connection.execute("REPLACE INTO states VALUES (?, ?)", (STATE, orjson.dumps(progress).decode()))


def _not_serving(state: TransactionState, number: int) -> VectorGeneration:
    if number not in state.generations or number == state.generation:
        raise Conflict("the vectors that were being made were discarded", code="reembedding_discarded")
    return state.generations[number]


def _filled(
    connection: sqlite3.Connection, state: TransactionState, number: int, vectors: Mapping[int, Vector]
) -> TransactionState:
    generation = _not_serving(state, number)
    if not vectors:
        return state
    dimension = generation.dimension or next(iter(vectors.values())).size
    for vector in vectors.values():
        if vector.shape != (dimension,):
            raise InvalidRequest(
                f"the embedder '{generation.embedder}' gave a vector of {vector.size} dimensions, and vectors of "
                f"{dimension} before",
                param="embedder",
                code="wrong_dimension",
            )
    live = {
        each
        for (each,) in connection.execute(
            "SELECT number FROM documents WHERE number IN (SELECT value FROM json_each(?))",
            (orjson.dumps(list(vectors)).decode(),),
        )
    }
    changed = replace(
        generation,
        dimension=dimension,
        block=vector_blocks.block_size(dimension),
        reached=max(generation.reached, *vectors),
    )
    add_generation(connection, changed)
    packed = {each: np.ascontiguousarray(vector, "<f4").tobytes() for each, vector in vectors.items() if each in live}
    vector_blocks.put(connection, changed, packed)
    return state.with_generation(changed)


def _with_embedder(options: str, spec: str) -> str:
    return orjson.dumps({**orjson.loads(options), "embedder": spec}).decode()
