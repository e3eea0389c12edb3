"""A snapshot of all shards: theirs, merged in the order in which documents came."""

from __future__ import annotations

import heapq
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, cast

from sage.middleware.retrieval.snapshots import Header, SnapshotReader, write_rows
from sage.middleware.retrieval.store.records import Identity
from sage.middleware.retrieval.types.documents import Row
from sage.service.vdb.sharded.scatter import Scatter


def write_sharded_snapshot(
    identity: Identity, scatter: Scatter, no_writes: Callable[[], AbstractContextManager[None]], stream: BinaryIO
) -> None:
    """Writes one state of the shards to ``stream``, as a collection without shards would. Under ``no_writes`` every
    shard chooses its state. Documents get new numbers: those of shards may be equal."""
    with no_writes():
        keys, failures = scatter.ask(lambda _, shard: shard.begin_copy())
    try:
        if failures:
            raise scatter.refusal(failures)
        readers = [
            SnapshotReader(cast(BinaryIO, io.BufferedReader(_ShardCopy(scatter, index, keys[index]), 2**20)), None)
            for index in sorted(keys)
        ]
        merged = heapq.merge(*(_rows(reader, index) for index, reader in enumerate(readers)), key=lambda row: row[:2])
        rows = (Row(n, row.id, row.text, row.metadata, row.vector) for n, (_, _, row) in enumerate(merged, 1))
        write_rows(stream, _header(identity, [reader.header for reader in readers]), ([row] for row in rows))
    finally:
        _end(scatter, keys)


def _rows(reader: SnapshotReader, index: int) -> Iterator[tuple[int, int, Row]]:
    for batch in reader.batches():
        for row in batch:
            yield row.number, index, row


def _header(identity: Identity, headers: list[Header]) -> Header:
    documents = sum(header.documents for header in headers)
    return Header(
        name=identity.name,
        options=identity.options,
        embedder=identity.embedder,
        languages=identity.languages,
        dimension=next((header.dimension for header in headers if header.dimension is not None), identity.dimension),
        sequence=documents,
        documents=documents,
        bytes=sum(header.bytes for header in headers),
        largest=max(header.largest for header in headers),
    )


def _end(scatter: Scatter, keys: Mapping[int, str]) -> None:
    scatter.ask(lambda index, shard: shard.end_copy(keys[index]), keys)


class _ShardCopy(io.RawIOBase):
    """The snapshot of one shard as a file."""

    def __init__(self, scatter: Scatter, index: int, key: str) -> None:
        super().__init__()
        self._scatter = scatter
        self._index = index
        self._key = key
        self._part = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._part:
            self._part = self._next()
        size = min(len(buffer), len(self._part))
        buffer[:size] = self._part[:size]
        self._part = self._part[size:]
        return size

    def _next(self) -> bytes:
        part: bytes | None = None
        while part is None:
            part = self._scatter.all(lambda _, shard: shard.read_copy(self._key), [self._index])[self._index]
        return part
