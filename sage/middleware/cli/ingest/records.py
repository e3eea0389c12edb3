"""Chunks as documents of a collection, and where they wait until they are sent."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import orjson

from sage.middleware.cli.ingest.document import OWN_FIELDS, FileKind
from sage.middleware.cli.ingest.files import FileEntry
from sage.middleware.cli.ingest.reading import RECIPE, Order

_IN_MEMORY = 16 * 2**20
_LONGEST_ID = 512  # bytes, of the gateway


@dataclass(frozen=True, slots=True)
class Recipe:
    """How files are read and what is added to them: the same recipe on the same bytes makes the same documents."""

    size: int
    overlap: int
    encoding: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def order(self, found: FileEntry, offset: int = 0, line: int = 0) -> Order:
        return Order(str(found.path), found.kind, self.encoding, self.size, self.overlap, offset, line)

    def text(self, kind: FileKind) -> str:
        """What goes into the digest of a file of that kind."""
        whole: list[Any] = [RECIPE, kind, dict(self.metadata)]
        if kind is not FileKind.JSONL:
            whole += [self.size, self.overlap, self.encoding]
        return orjson.dumps(whole, option=orjson.OPT_SORT_KEYS).decode()


def chunk_id(source: str, place: int) -> str:
    """``SOURCE#PLACE``: the same for the same place in the same file, every time."""
    plain = f"{source}#{place}"
    if len(plain.encode()) <= _LONGEST_ID:
        return plain
    return f"{hashlib.blake2b(source.encode(), digest_size=16).hexdigest()}#{place}"


def document_of(
    record: Mapping[str, Any], place: int, found: FileEntry, head: Mapping[str, Any], recipe: Recipe
) -> dict[str, Any]:
    """A chunk with its metadata: what the file says of itself, ``--metadata`` over it, our own over both."""
    given = {key: value for key, value in head["metadata"].items() if key not in OWN_FIELDS}
    own: dict[str, Any] = {"source": found.source, "path": found.relative, "chunk": place}
    if head["title"]:
        own["title"] = head["title"]
    own |= {key: record[key] for key in ("page", "heading") if key in record}
    return {
        "id": chunk_id(found.source, place),
        "text": record["text"],
        "metadata": {**given, **recipe.metadata, **own},
    }


def marked(document: Mapping[str, Any], digest: str, chunks: int) -> dict[str, Any]:
    """The first chunk, saying of which bytes the chunks are; ``digest`` empty: they are not all there yet."""
    return {**document, "metadata": {**document["metadata"], "chunks": chunks, "digest": digest}}


class Spool:
    """The documents of one file, on disk when they are many: nothing is sent of a file that fails in its middle."""

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
    documents: Iterator[dict[str, Any]] | Sequence[dict[str, Any]], most: int, most_bytes: int
) -> Iterator[list[dict[str, Any]]]:
    """In order, each of at most ``most`` documents and about ``most_bytes``."""
    batch: list[dict[str, Any]] = []
    size = 0
    for document in documents:
        length = len(document["text"].encode()) + 500 + 12 * len(document.get("vector") or ())
        if batch and (len(batch) >= most or size + length > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += length
    if batch:
        yield batch
