"""How vectors are stored in the database: several in a row, so that they fill SQLite's pages.

A vector of 384 dimensions alone in a row wastes 100 bytes of a page; it is 24 where six share a row. A row is a *block*
for the vectors of ``block`` neighbouring document numbers. A mask says which of them it has, and only those take room.
The upper bits of the key are the generation, so that one table can have several generations.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache

import numpy as np
import orjson
from numpy.typing import NDArray

from sage.middleware.retrieval.store.records import VectorGeneration

PAGE = 8192
_SHIFT = 40
_FEW = 512  # vectors that are picked out of their blocks one by one
_NONE = (0, b"")
_MOST = 16  # vectors in a block: to read one costs as much as to read its block


@cache
def block_size(dimension: int) -> int:
    """The number of vectors in a row that wastes least; of nearly equal ones, the smallest."""
    costs = {count: _page_bytes(count * dimension * 4) / count for count in range(1, _MOST + 1)}
    best = min(costs.values())
    return next(count for count, cost in costs.items() if cost <= best * 1.01)


def _page_bytes(blob: int) -> float:
    """Bytes of pages that one row with such a blob takes (https://www.sqlite.org/fileformat2.html#b_tree_pages)."""
    payload, usable = blob + 10, PAGE
    local, overflow = payload, 0
    if payload > usable - 35:
        least = (usable - 12) * 32 // 255 - 23
        local = least + (payload - least) % (usable - 4)
        local = local if local <= usable - 35 else least
        overflow = -(-(payload - local) // (usable - 4))
    cell = local + 10 + (4 if overflow else 0)
    return usable / ((usable - 8) // cell) + overflow * usable


def key(generation: VectorGeneration, number: int) -> int:
    """The key of the block for the vector of the document ``number``."""
    return generation.number << _SHIFT | number // generation.block


def keys_of(generation: int) -> tuple[int, int]:
    """The lowest and the highest key that a generation can have."""
    return generation << _SHIFT, (generation + 1 << _SHIFT) - 1


def put(connection: sqlite3.Connection, generation: VectorGeneration, vectors: Mapping[int, bytes]) -> None:
    """Stores vectors (float32, little-endian) by document number, in place of those that exist."""
    if not vectors:
        return
    blocks = _load(connection, generation, vectors)
    for number, vector in vectors.items():
        blocks[key(generation, number)][number % generation.block] = vector
    _store(connection, blocks)


def remove(connection: sqlite3.Connection, generation: VectorGeneration, numbers: Sequence[int]) -> None:
    """Deletes the vectors of documents; those without one are skipped."""
    if not numbers or not generation.block:
        return
    blocks = _load(connection, generation, numbers)
    for number in numbers:
        blocks[key(generation, number)].pop(number % generation.block, None)
    _store(connection, blocks)


def _load(
    connection: sqlite3.Connection, generation: VectorGeneration, numbers: Iterable[int]
) -> dict[int, dict[int, bytes]]:
    blocks: dict[int, dict[int, bytes]] = {key(generation, number): {} for number in numbers}
    rows = connection.execute(
        "SELECT key, mask, vectors FROM vectors WHERE key IN (SELECT value FROM json_each(?))",
        (orjson.dumps(list(blocks)).decode(),),
    )
    width = (generation.dimension or 0) * 4
    for block_key, mask, blob in rows:
        blocks[block_key] = {
            bit: blob[position * width : (position + 1) * width] for position, bit in enumerate(_bits(mask))
        }
    return blocks


def _store(connection: sqlite3.Connection, blocks: Mapping[int, Mapping[int, bytes]]) -> None:
    full, empty = [], []
    for block_key, members in blocks.items():
        if members:
            bits = sorted(members)
            full.append((block_key, sum(1 << bit for bit in bits), b"".join([members[bit] for bit in bits])))
        else:
            empty.append((block_key,))
    if full:
        connection.executemany("REPLACE INTO vectors (key, mask, vectors) VALUES (?, ?, ?)", full)
    if empty:
        connection.executemany("DELETE FROM vectors WHERE key = ?", empty)


@cache
def _bits(mask: int) -> tuple[int, ...]:
    return tuple(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


def read(
    connection: sqlite3.Connection, generation: VectorGeneration, numbers: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """``((n, dim) float32, (n,))``: vectors of documents, and which of them have one; the rows of the others are
    zeros."""
    dimension = generation.dimension or 0
    matrix = np.zeros((len(numbers), dimension), np.float32)
    present = np.zeros(len(numbers), np.bool_)
    if not len(numbers) or not generation.block:
        return matrix, present
    if len(numbers) <= _FEW:
        _pick(connection, generation, numbers, matrix, present)
        return matrix, present
    order = np.argsort(numbers, kind="stable")
    ascending = numbers[order]
    for stored, vectors in _runs(connection, generation, ascending):
        low, high = np.searchsorted(ascending, (stored[0], stored[-1] + 1))
        wanted = ascending[low:high]
        positions = np.minimum(np.searchsorted(stored, wanted), len(stored) - 1)
        has_vector = stored[positions] == wanted
        target = order[low:high][has_vector]
        matrix[target] = vectors[positions[has_vector]]
        present[target] = True
    return matrix, present


def _pick(
    connection: sqlite3.Connection,
    generation: VectorGeneration,
    numbers: NDArray[np.int64],
    matrix: NDArray[np.float32],
    present: NDArray[np.bool_],
) -> None:
    """Reads a few vectors, each cut out of its block: the candidates of a search are in blocks anywhere."""
    base, width = generation.number << _SHIFT, matrix.shape[1] * 4
    keys = (numbers // generation.block + base).tolist()
    blocks = {
        block: (mask, blob)
        for block, mask, blob in connection.execute(
            "SELECT key, mask, vectors FROM vectors WHERE key IN (SELECT value FROM json_each(?))",
            (orjson.dumps(sorted(set(keys))).decode(),),
        )
    }
    vectors, positions = [], []
    for position, (block, bit) in enumerate(zip(keys, (numbers % generation.block).tolist(), strict=True)):
        mask, blob = blocks.get(block, _NONE)
        if mask >> bit & 1:
            start = (mask & ((1 << bit) - 1)).bit_count() * width
            vectors.append(blob[start : start + width])
            positions.append(position)
    if vectors:
        matrix[positions] = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1)
        present[positions] = True


def _runs(
    connection: sqlite3.Connection, generation: VectorGeneration, ascending: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The blocks of these numbers, some hundred at a time: ascending numbers that have a vector, and the vectors."""
    base = generation.number << _SHIFT
    keys = np.unique(ascending // generation.block) + base
    first, last = int(keys[0]), int(keys[-1])
    if last - first < 2 * len(keys):
        cursor = connection.execute(
            "SELECT key, mask, vectors FROM vectors WHERE key BETWEEN ? AND ? ORDER BY key", (first, last)
        )
    else:
        cursor = connection.execute(
            "SELECT key, mask, vectors FROM vectors WHERE key IN (SELECT value FROM json_each(?)) ORDER BY key",
            (orjson.dumps(keys.tolist()).decode(),),
        )
    while blocks := cursor.fetchmany(256):
        stored = np.fromiter(
            ((block - base) * generation.block + bit for block, mask, _ in blocks for bit in _bits(mask)), np.int64
        )
        yield stored, np.frombuffer(b"".join([blob for _, _, blob in blocks]), "<f4").reshape(len(stored), -1)


def numbers_with(
    connection: sqlite3.Connection, generation: VectorGeneration, low: int, high: int
) -> NDArray[np.int64]:
    """The document numbers from ``low`` to ``high`` that have a vector, ascending."""
    if not generation.block:
        return np.empty(0, np.int64)
    base = generation.number << _SHIFT
    rows = connection.execute(
        "SELECT key, mask FROM vectors WHERE key BETWEEN ? AND ? ORDER BY key",
        (key(generation, low), key(generation, high)),
    )
    stored = np.fromiter(
        ((block - base) * generation.block + bit for block, mask in rows for bit in _bits(mask)), np.int64
    )
    return stored[(stored >= low) & (stored <= high)]
