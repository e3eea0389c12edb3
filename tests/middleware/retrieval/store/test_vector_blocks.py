"""Vectors in blocks: after any order of storing, replacing and removing they read as from a dictionary."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.retrieval.store import vector_blocks
from sage.middleware.retrieval.store.records import VectorGeneration


@pytest.fixture(scope="module")
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        made.execute("CREATE TABLE vectors (key INTEGER PRIMARY KEY, mask INTEGER NOT NULL, vectors BLOB NOT NULL)")
        yield made


numbers = st.lists(st.integers(1, 120), unique=True, max_size=50)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 1), numbers), max_size=8), st.sampled_from([1, 3, 384]), numbers
)
def test_blocks_have_what_was_stored(
    connection: sqlite3.Connection, steps: list[tuple[bool, int, list[int]]], dimension: int, numbers: list[int]
) -> None:
    connection.execute("DELETE FROM vectors")
    block = vector_blocks.block_size(dimension)
    generations = [VectorGeneration(n, None, None, dimension, block, 0) for n in (0, 5)]
    model: list[dict[int, np.ndarray]] = [{}, {}]
    for count, (adding, which, some) in enumerate(steps):
        if adding:
            made = {n: np.full(dimension, n + 1000 * count, "<f4") for n in some}
            vector_blocks.put(connection, generations[which], {n: v.tobytes() for n, v in made.items()})
            model[which] |= made
        else:
            vector_blocks.remove(connection, generations[which], some)
            model[which] = {n: v for n, v in model[which].items() if n not in some}
    for which, generation in enumerate(generations):
        matrix, present = vector_blocks.read(connection, generation, np.array(numbers, np.int64))
        assert present.tolist() == [n in model[which] for n in numbers]
        for row, n in zip(matrix, numbers, strict=True):
            assert row.tolist() == model[which].get(n, np.zeros(dimension)).tolist()
        stored = vector_blocks.numbers_with(connection, generation, 10, 77)
        assert stored.tolist() == sorted(n for n in model[which] if 10 <= n <= 77)
    empty = connection.execute("SELECT count(*) FROM vectors WHERE mask = 0").fetchone()
    assert empty == (0,)


@pytest.mark.parametrize("dimension", [1, 8, 384, 512, 768, 1024, 1536, 4096, 8192])
def test_pages_are_filled(dimension: int) -> None:
    """SQLite takes little more for a thousand vectors than their bytes."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        made.execute(f"PRAGMA page_size = {vector_blocks.PAGE}")
        made.execute("CREATE TABLE vectors (key INTEGER PRIMARY KEY, mask INTEGER NOT NULL, vectors BLOB NOT NULL)")
        generation = VectorGeneration(0, None, None, dimension, vector_blocks.block_size(dimension), 0)
        blob = np.ones(dimension, "<f4").tobytes()
        for start in range(1, 1001, 10):
            vector_blocks.put(made, generation, dict.fromkeys(range(start, start + 10), blob))
        ((pages,),) = made.execute("PRAGMA page_count").fetchall()
    assert pages * vector_blocks.PAGE < 1000 * (dimension * 4 * 1.12 + 4) + 5 * vector_blocks.PAGE
