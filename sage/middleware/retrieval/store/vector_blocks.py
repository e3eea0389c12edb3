"""How vectors lie in the database: several to a row, so that SQLite's pages are filled.

A vector of 384 dimensions alone in a row wastes 100 bytes of a page, 24 where six share a row. A row is a *block* of
the vectors of ``block`` neighbouring document numbers; a mask says which of them are there, and only those take room.
The key carries the generation in its upper bits, so that two generations stand side by side in one table.
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
_FEW = 512
_NONE = (0, b"")
_MOST = 16  # vectors to a block: one vector is read at the price of its block


@cache
def block_size(dimension: int) -> int:
    """The number of vectors to a row that wastes least, the smaller of those that are nearly equal."""
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
    """Of the block that holds the vector of the document ``number``."""
    return generation.number << _SHIFT | number // generation.block


def keys_of(generation: int) -> tuple[int, int]:
    """The lowest and the highest key that a generation can have."""
    return generation << _SHIFT, (generation + 1 << _SHIFT) - 1


def put(connection: sqlite3.Connection, generation: VectorGeneration, vectors: Mapping[int, bytes]) -> None:
    """Stores vectors (float32, little-endian) by document number, in place of what was there."""
    if not vectors:
        return
    blocks = _load(connection, generation, vectors)
    for number, vector in vectors.items():
        blocks[key(generation, number)][number % generation.block] = vector
    _store(connection, blocks)


def remove(connection: sqlite3.Connection, generation: VectorGeneration, numbers: Sequence[int]) -> None:
    """Forgets the vectors of documents; those without one are passed over."""
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
    found = connection.execute(
        "SELECT key, mask, vectors FROM vectors WHERE key IN (SELECT value FROM json_each(?))",
        (orjson.dumps(list(blocks)).decode(),),
    )
    width = (generation.dimension or 0) * 4
    for found_key, mask, blob in found:
        blocks[found_key] = {bit: blob[place * width : (place + 1) * width] for place, bit in enumerate(_bits(mask))}
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
    """``((n, dim) float32, (n,))``: the vectors of documents, and which of them have one; the others are zeros."""
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
    for held, vectors in _runs(connection, generation, ascending):
        low, high = np.searchsorted(ascending, (held[0], held[-1] + 1))
        asked = ascending[low:high]
        places = np.minimum(np.searchsorted(held, asked), len(held) - 1)
        there = held[places] == asked
        target = order[low:high][there]
        matrix[target] = vectors[places[there]]
        present[target] = True
    return matrix, present


def _pick(
    connection: sqlite3.Connection,
    generation: VectorGeneration,
    numbers: NDArray[np.int64],
    matrix: NDArray[np.float32],
    present: NDArray[np.bool_],
) -> None:
    """A few vectors, each cut out of its block: what a search scores again lies anywhere."""
    base, width = generation.number << _SHIFT, matrix.shape[1] * 4
    keys = (numbers // generation.block + base).tolist()
    found = {
        block: (mask, blob)
        for block, mask, blob in connection.execute(
            "SELECT key, mask, vectors FROM vectors WHERE key IN (SELECT value FROM json_each(?))",
            (orjson.dumps(sorted(set(keys))).decode(),),
        )
    }
    pieces, places = [], []
    for place, (block, bit) in enumerate(zip(keys, (numbers % generation.block).tolist(), strict=True)):
        mask, blob = found.get(block, _NONE)
        if mask >> bit & 1:
            start = (mask & ((1 << bit) - 1)).bit_count() * width
            pieces.append(blob[start : start + width])
            places.append(place)
    if pieces:
        matrix[places] = np.frombuffer(b"".join(pieces), "<f4").reshape(len(pieces), -1)
        present[places] = True


def _runs(
    connection: sqlite3.Connection, generation: VectorGeneration, ascending: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The blocks that hold these numbers, some hundred at a time: numbers ascending, and their vectors."""
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
        held = np.fromiter(
            ((block - base) * generation.block + bit for block, mask, _ in blocks for bit in _bits(mask)), np.int64
        )
        yield held, np.frombuffer(b"".join([blob for _, _, blob in blocks]), "<f4").reshape(len(held), -1)


def numbers_with(
    connection: sqlite3.Connection, generation: VectorGeneration, low: int, high: int
) -> NDArray[np.int64]:
    """The document numbers from ``low`` to ``high`` that have a vector, ascending."""
    if not generation.block:
        return np.empty(0, np.int64)
    base = generation.number << _SHIFT
    found = connection.execute(
        "SELECT key, mask FROM vectors WHERE key BETWEEN ? AND ? ORDER BY key",
        (key(generation, low), key(generation, high)),
    )
    held = np.fromiter(
        ((block - base) * generation.block + bit for block, mask in found for bit in _bits(mask)), np.int64
    )
    return held[(held >= low) & (held <= high)]
