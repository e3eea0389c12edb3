"""Reads of one state of a collection's database."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sage.middleware.retrieval.store import vector_blocks
from sage.middleware.retrieval.store.records import Identity, SegmentRecord, VectorGeneration
from sage.middleware.retrieval.store.schema import AUTOMATIC, FIRST_GENERATION, generations
from sage.middleware.retrieval.store.transaction import json_of_ids
from sage.middleware.retrieval.types.documents import Row
from sage.middleware.settings.retrieval import CollectionOptions

_BATCH = 1000  # rows
_BATCH_BYTES = 16 * 2**20  # of text and metadata


class Reading:
    """Reads of one state of the database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._generations: dict[int, VectorGeneration] | None = None

    @cached_property
    def _collection(self) -> tuple[Any, ...]:
        """Read at its first use: a transaction's state is that of its first read."""
        columns = self._connection.execute(
            "SELECT uuid, name, options, created_at, generation, sequence, documents FROM collection"
        ).fetchone()
        assert isinstance(columns, tuple)
        return columns

    @property
    def sequence(self) -> int:
        """The sequence number of the last operation."""
        return int(self._collection[5])

    @cached_property
    def identity(self) -> Identity:
        uuid, name, options, created_at, generation, _, _ = self._collection
        serving = self.generations()[generation]
        return Identity(
            uuid,
            name,
            _options(options),
            serving.embedder,
            serving.languages,
            serving.dimension,
            generation,
            created_at,
            generation == FIRST_GENERATION and self.state(AUTOMATIC) is not None,
        )

    def segments(self) -> list[SegmentRecord]:
        """The manifest, in the order of document numbers."""
        rows = self._connection.execute(
            "SELECT name, low, high, size, file, file_bytes, checksum, vector_file, vector_bytes, vector_checksum, "
            "vector_kind, generation FROM segments ORDER BY low"
        )
        return [SegmentRecord(*columns) for columns in rows]

    def rows(self, after: int, *, through: int | None = None, vectors: bool = True) -> Iterator[list[Row]]:
        """Live rows with ``after < number <= through``, in order, in batches of about a thousand."""
        cursor = self._connection.execute(
            "SELECT number, id, text, metadata FROM documents WHERE number > ? AND number <= ? ORDER BY number",
            (after, self.sequence if through is None else through),
        )
        batch: list[tuple[int, str, str, bytes]] = []
        size = 0
        while some := cursor.fetchmany(100):
            batch += some
            size += sum(len(text) + len(metadata) for _, _, text, metadata in some)
            if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                yield self._with_vectors(batch) if vectors else [Row(*columns) for columns in batch]
                batch, size = [], 0
        if batch:
            yield self._with_vectors(batch) if vectors else [Row(*columns) for columns in batch]

    def _with_vectors(self, rows: Sequence[tuple[int, str, str, bytes]]) -> list[Row]:
        matrix, present = self.vectors(np.array([columns[0] for columns in rows], np.int64))
        return [
            Row(*columns, matrix[index] if has_vector else None)
            for index, (columns, has_vector) in enumerate(zip(rows, present.tolist(), strict=True))
        ]

    def deletions(self, after: int) -> NDArray[np.int64]:
        """Numbers of the deleted rows whose deletion has a sequence number over ``after`` and is still remembered."""
        rows = self._connection.execute("SELECT number FROM deletions WHERE sequence > ? ORDER BY sequence", (after,))
        return np.fromiter((number for (number,) in rows), np.int64)

    def fetch(self, numbers: Sequence[int]) -> dict[int, Row]:
        """The live rows of these numbers, without vectors."""
        rows = self._connection.execute(
            "SELECT number, id, text, metadata FROM documents WHERE number IN (SELECT value FROM json_each(?))",
            (orjson.dumps([int(number) for number in numbers]).decode(),),
        )
        return {columns[0]: Row(*columns) for columns in rows}

    def by_id(self, ids: Sequence[str], *, vectors: bool = False) -> dict[str, Row]:
        """The live rows of these ids."""
        columns_of_rows = self._connection.execute(
            "SELECT number, id, text, metadata FROM documents WHERE id IN (SELECT value FROM json_each(?))",
            (json_of_ids(ids),),
        ).fetchall()
        rows = self._with_vectors(columns_of_rows) if vectors else [Row(*columns) for columns in columns_of_rows]
        return {row.id: row for row in rows}

    def vectors(
        self, numbers: NDArray[np.int64], *, generation: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """``((n, dim), (n,))``: vectors of documents, and which documents are live and have one; the rows of the others
        are zeros. ``generation`` is by default the one that serves.
        """
        number = self.identity.generation if generation is None else generation
        return vector_blocks.read(self._connection, self.generations()[number], np.asarray(numbers, np.int64))

    def count(self) -> int:
        """How many documents are live. Takes constant time."""
        return int(self._collection[6])

    def text_bytes(self) -> tuple[int, int]:
        """Bytes of ids, texts and metadata: of all live documents, and the most that one has. Reads them all."""
        total, largest = self._connection.execute(
            "SELECT coalesce(sum(size), 0), coalesce(max(size), 0) FROM (SELECT length(CAST(id AS BLOB)) + "
            "length(CAST(text AS BLOB)) + length(CAST(metadata AS BLOB)) AS size FROM documents)"
        ).fetchone()
        return total, largest

    def state(self, key: str) -> Any:
        """The small JSON value under a key beside the documents, for example how far a reembedding is; ``None`` when
        there is none."""
        row = self._connection.execute("SELECT value FROM states WHERE key = ?", (key,)).fetchone()
        return None if row is None else orjson.loads(row[0])

    def generations(self) -> dict[int, VectorGeneration]:
        """By number: the one that serves, and any that a reembedding is filling, or that is being deleted."""
        if self._generations is None:
            self._generations = generations(self._connection)
        return self._generations

    def numbers_without_vectors(self, generation: int, after: int = 0, limit: int = 1000) -> NDArray[np.int64]:
        """The first live documents after the number ``after`` that have no vector of that generation, ascending."""
        of_generation = self.generations()[generation]
        missing: list[NDArray[np.int64]] = []
        while limit > 0:
            rows = self._connection.execute(
                "SELECT number FROM documents WHERE number > ? ORDER BY number LIMIT ?", (after, _BATCH)
            ).fetchall()
            if not rows:
                break
            numbers = np.array(rows, np.int64).ravel()
            present = vector_blocks.numbers_with(self._connection, of_generation, int(numbers[0]), int(numbers[-1]))
            missing.append(np.setdiff1d(numbers, present, assume_unique=True)[:limit])
            limit -= len(missing[-1])
            after = int(numbers[-1])
        return np.concatenate(missing) if missing else np.empty(0, np.int64)


@functools.lru_cache(maxsize=256)
def _options(text: str) -> CollectionOptions:
    """Cached: every search reads them."""
    return CollectionOptions.model_validate_json(text)


__all__ = ["Reading", "VectorGeneration"]
