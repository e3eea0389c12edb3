"""Generations of vectors in the database: begun, filled, put into service and cleared away, a transaction each."""

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
"""Makes the vectors of documents by their numbers; those that get none are left out."""

_BLOCKS_A_STEP = 2000


STATE = "reembedding"
"""Where :meth:`Reading.state` tells how far it is: ``{embedder, done, total}``; none when there is nothing to do."""


def begin(embedder: str, languages: frozenset[str] | None, dimension: int | None) -> Work:
    """A new generation without vectors, which does not serve; its number."""

    def work(connection: sqlite3.Connection, state: TransactionState) -> tuple[TransactionState, RowChanges, int]:
        number = max(state.generations) + 1
        block = vector_blocks.block_size(dimension) if dimension else 0
        begun = VectorGeneration(number, embedder, languages, dimension, block, 0)
        add_generation(connection, begun)
        _tell(connection, {"embedder": embedder, "done": 0, "total": state.documents})
        return state.with_generation(begun), RowChanges(), number

    return work


def put(number: int, vectors: Mapping[int, Vector], done: int) -> Work:
    """Vectors of documents, by document number; of those that were deleted meanwhile, nothing is kept. ``done``: how
    many were looked at so far."""

    def work(connection: sqlite3.Connection, state: TransactionState) -> tuple[TransactionState, RowChanges, None]:
        state = _filled(connection, state, number, vectors)
        told = {"embedder": state.generations[number].embedder, "done": done, "total": state.documents}
        _tell(connection, told)
        return state, RowChanges(), None

    return work


def switch(number: int, spec: str, seen: int, most: int, last: Last) -> Work:
    """Puts a generation into service, once every document has been looked at: those up to the number ``seen`` were, the
    few after it are given to ``last`` within the transaction. ``False``: there are more than ``most`` of them, and
    nothing was changed. ``spec``: what the options say of the embedder from now on."""

    def work(connection: sqlite3.Connection, state: TransactionState) -> tuple[TransactionState, RowChanges, bool]:
        found = connection.execute(
            "SELECT number, id, text, metadata FROM documents WHERE number > ? ORDER BY number LIMIT ?",
            (seen, most + 1),
        ).fetchall()
        if len(found) > most:
            return state, RowChanges(), False
        if found:
            state = _filled(connection, state, number, last([Row(*columns) for columns in found]))
        (options,) = connection.execute("SELECT options FROM collection").fetchone()
        connection.execute("UPDATE collection SET options = ?", (_with_embedder(options, spec),))
        _tell(connection, None)
        return replace(state, generation=_of(state, number).number), RowChanges(), True

    return work


def clear(number: int) -> Work:
    """Forgets some of the vectors of a generation that does not serve; ``False``: it is gone."""

    def work(connection: sqlite3.Connection, state: TransactionState) -> tuple[TransactionState, RowChanges, bool]:
        if number == state.generation:
            raise Conflict(f"generation {number} serves, and cannot be cleared away")
        if number not in state.generations:
            return state, RowChanges(), False
        cursor = connection.execute(
            "DELETE FROM vectors WHERE key IN (SELECT key FROM vectors WHERE key BETWEEN ? AND ? LIMIT ?)",
            (*vector_blocks.keys_of(number), _BLOCKS_A_STEP),
        )
        if cursor.rowcount:
            return state, RowChanges(), True
        connection.execute("DELETE FROM generations WHERE number = ?", (number,))
        if number > state.generation:
            _tell(connection, None)
        left = {held: generation for held, generation in state.generations.items() if held != number}
        return replace(state, generations=left), RowChanges(), False

    return work


def _tell(connection: sqlite3.Connection, progress: Mapping[str, object] | None) -> None:
    if progress is None:
        connection.execute("DELETE FROM states WHERE key = ?", (STATE,))
    else:
        connection.execute("REPLACE INTO states VALUES (?, ?)", (STATE, orjson.dumps(progress).decode()))


def _of(state: TransactionState, number: int) -> VectorGeneration:
    if number not in state.generations or number == state.generation:
        raise Conflict("the vectors that were being made were discarded meanwhile", code="reembedding_discarded")
    return state.generations[number]


def _filled(
    connection: sqlite3.Connection, state: TransactionState, number: int, vectors: Mapping[int, Vector]
) -> TransactionState:
    generation = _of(state, number)
    if not vectors:
        return state
    dimension = generation.dimension or next(iter(vectors.values())).size
    for vector in vectors.values():
        if vector.shape != (dimension,):
            raise InvalidRequest(
                f"the embedder '{generation.embedder}' gave vectors of {vector.size} dimensions, and of {dimension} "
                "before",
                param="embedder",
                code="wrong_dimension",
            )
    live = {
        held
        for (held,) in connection.execute(
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
    found = {held: np.ascontiguousarray(vector, "<f4").tobytes() for held, vector in vectors.items() if held in live}
    vector_blocks.put(connection, changed, found)
    return state.with_generation(changed)


def _with_embedder(options: str, spec: str) -> str:
    return orjson.dumps({**orjson.loads(options), "embedder": spec}).decode()
