"""Chunks as documents of a collection, and the spool that keeps them until they are sent."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

import orjson

from sage.middleware.ingest.document import OWN_FIELDS, FileKind
from sage.middleware.ingest.files import FileEntry
from sage.middleware.ingest.reading import RECIPE, Order

T = TypeVar("T")
_IN_MEMORY = 16 * 2**20
_LONGEST_ID = 512  # bytes; the gateway's limit


@dataclass(frozen=True, slots=True)
class Recipe:
    """How files are read and what is added to them: the same recipe on the same bytes makes the same documents."""

    size: int
    overlap: int
    encoding: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def order(self, entry: FileEntry, offset: int = 0, line: int = 0) -> Order:
        return Order(str(entry.path), entry.kind, self.encoding, self.size, self.overlap, offset, line)

    def text(self, kind: FileKind) -> str:
        """The part of the recipe that the digest of a file of that kind includes."""
        parts: list[Any] = [RECIPE, kind, dict(self.metadata)]
        if kind is not FileKind.JSONL:
            parts += [self.size, self.overlap, self.encoding]
        return orjson.dumps(parts, option=orjson.OPT_SORT_KEYS).decode()


def chunk_id(source: str, position: int) -> str:
    """``SOURCE#POSITION``, the same in every run; of a source that is too long its digest."""
    key = f"{source}#{position}"
    if len(key.encode()) <= _LONGEST_ID:
        return key
    return f"{hashlib.blake2b(source.encode(), digest_size=16).hexdigest()}#{position}"


def document_of(
    record: Mapping[str, Any], position: int, entry: FileEntry, head: Mapping[str, Any], recipe: Recipe
) -> dict[str, Any]:
    """A chunk as a document. Metadata of the file yields to ``--metadata``, and both to our own fields."""
    declared = {key: value for key, value in head["metadata"].items() if key not in OWN_FIELDS}
    own: dict[str, Any] = {"source": entry.source, "path": entry.relative, "chunk": position}
    if head["title"]:
        own["title"] = head["title"]
    own |= {key: record[key] for key in ("page", "heading") if key in record}
    return {
        "id": chunk_id(entry.source, position),
        "text": record["text"],
        "metadata": {**declared, **recipe.metadata, **own},
    }


def marked(document: Mapping[str, Any], digest: str, chunks: int) -> dict[str, Any]:
    """The first chunk with the file's digest and number of chunks; an empty ``digest`` means incomplete."""
    return {**document, "metadata": {**document["metadata"], "chunks": chunks, "digest": digest}}


class Spool:
    """The documents of one file, on disk when there are many: a file that fails halfway sends nothing."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        self.count = 0
        self.bytes = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, document: Mapping[str, Any]) -> None:
        line = orjson.dumps(document) + b"\n"
        self._file.write(line)
        self.count += 1
        self.bytes += len(line)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        for line in self._file:
            yield orjson.loads(line)


def batches(
    items: Iterable[T], size_of: Callable[[T], int], max_size: int, max_count: int | None = None
) -> Iterator[list[T]]:
    """The items in order, in batches of ``max_count`` items and ``max_size`` in sum at most; a larger item is alone."""
    batch: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if batch and (len(batch) == max_count or total + size > max_size):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch


def request_bytes(document: Mapping[str, Any]) -> int:
    """About how many bytes a document adds to a request."""
    return len(document["text"].encode()) + 500 + 12 * len(document.get("vector") or ())
