"""Snapshots: one consistent state of a collection as a stream, and back. Gzip of JSON lines.

The first line says what the collection is and what to expect, one line a document follows in the order of their
numbers, and the last has their count and a checksum (xxh3-128) of all lines before it. Reading and writing need memory
for some megabytes of documents only. What is read is not trusted: no line and no sum may be larger than the first line
said, and everything is checked before the collection appears.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import secrets
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sage.errors import Conflict, InvalidRequest, Unavailable
from sage.middleware.retrieval.store.connections import sync_directory
from sage.middleware.retrieval.store.store import DocumentStore
from sage.middleware.retrieval.types.documents import Row, Vector, check_id
from sage.middleware.settings.retrieval import CollectionOptions

FORMAT = "sage-collection"
VERSION = 1
_HEADER_BYTES = 2**20
_LARGEST = 64 * 2**20  # bytes of one document
_BATCH_BYTES = 16 * 2**20
_BATCH = 1000  # documents to a transaction
_NUMBERS = 2**53


class Header(BaseModel):
    """The first line. ``bytes`` are those of ids, texts and metadata, ``largest`` the most that one document has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str = FORMAT
    version: int = VERSION
    name: str
    options: CollectionOptions
    embedder: str | None
    languages: frozenset[str] | None
    dimension: int | None = Field(ge=1, le=65536)
    sequence: int = Field(ge=0, lt=_NUMBERS)
    documents: int = Field(ge=0, lt=_NUMBERS)
    bytes: int = Field(ge=0)
    largest: int = Field(ge=0, le=_LARGEST)

    @property
    def longest_line(self) -> int:
        """Bytes: JSON writes a byte as six at most, base64 three as four."""
        return 6 * self.largest + 6 * (self.dimension or 0) + 1000


def write_snapshot(store: DocumentStore, stream: BinaryIO, begun: Callable[[], None] | None = None) -> None:
    """Writes one consistent state; writes go on meanwhile. The stream stays open. ``begun`` is called once that state
    is chosen."""
    with store.reading() as reading:
        identity = reading.identity
        total, largest = reading.text_bytes()
        header = Header(
            name=identity.name,
            options=identity.options,
            embedder=identity.embedder,
            languages=identity.languages,
            dimension=identity.dimension,
            sequence=reading.sequence,
            documents=reading.count(),
            bytes=total,
            largest=largest,
        )
        if begun is not None:
            begun()
        write_rows(stream, header, reading.rows(0))


def write_rows(stream: BinaryIO, header: Header, batches: Iterable[Sequence[Row]]) -> None:
    """Writes a snapshot of the rows that ``header`` announces, in the order of their numbers."""
    checksum = xxhash.xxh3_128()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1, mtime=0) as packed:

        def put(line: bytes) -> None:
            checksum.update(line)
            packed.write(line)

        put(header.model_dump_json().encode() + b"\n")
        for rows in batches:
            put(b"".join(map(_line, rows)))
        trailer = {"documents": header.documents, "checksum": checksum.hexdigest()}
        packed.write(orjson.dumps(trailer) + b"\n")


def _line(row: Row) -> bytes:
    document: dict[str, Any] = {
        "number": row.number,
        "id": row.id,
        "text": row.text,
        "metadata": orjson.Fragment(row.metadata),
    }
    if row.vector is not None:
        document["vector"] = base64.b64encode(row.vector.astype("<f4").tobytes()).decode()
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def read_snapshot(stream: BinaryIO, directory: Path, name: str) -> DocumentStore:
    """A new collection in ``directory``, which must not be there; it appears when all of it is good and on the disk.

    Ids, texts, metadata, vectors and the order of documents are those of the snapshot. Raises :class:`InvalidRequest`
    for what is no whole snapshot, :class:`Conflict` when the directory is taken, :class:`Unavailable` when the disk
    has no room for it.
    """
    if directory.exists():
        raise Conflict(f"collection '{name}' exists already", param="name", code="collection_exists")
    scratch = directory.with_name(f".restoring-{secrets.token_hex(8)}")
    try:
        _restore(SnapshotReader(stream), scratch, name)
        try:
            scratch.rename(directory)
        except OSError as exc:
            if directory.exists():
                raise Conflict(f"collection '{name}' exists already", param="name", code="collection_exists") from exc
            raise Unavailable(f"collection '{name}' cannot be put in its place: {exc.strerror}") from exc
        sync_directory(directory.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return DocumentStore.open(directory)


def _restore(snapshot: SnapshotReader, scratch: Path, name: str) -> None:
    header = snapshot.header
    scratch.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_room(header, scratch.parent, name)
    store = DocumentStore.create(scratch, name, header.options, header.embedder, header.languages, header.dimension)
    try:
        for batch in snapshot.batches():
            store.load(batch)
        store.load([], sequence=header.sequence)
    except sqlite3.IntegrityError:
        raise _damaged("an id stands twice") from None
    finally:
        store.close()


def check_room(header: Header, directory: Path, name: str) -> None:
    """Raises :class:`Unavailable` when the disk of ``directory`` cannot hold what ``header`` announces."""
    needed = header.bytes + 4 * header.documents * (header.dimension or 0)
    if shutil.disk_usage(directory).free < needed:
        raise Unavailable(
            f"the disk has no room for collection '{name}': at least {needed} bytes are needed; free some space on it, "
            "then try again",
            code="disk_full",
        )


class SnapshotReader:
    """A snapshot as it is read: its header first, then its rows, once. Raises :class:`InvalidRequest` for what is no
    whole snapshot."""

    def __init__(self, stream: BinaryIO) -> None:
        self._lines = _SnapshotLines(stream)
        self.header = _header(self._lines.next(_HEADER_BYTES))

    def batches(self) -> Iterator[list[Row]]:
        """The rows in the order of their numbers; the checksum is compared behind the last batch."""
        yield from _batches(self._lines, self.header)
        _check_trailer(self._lines, self.header)


class _SnapshotLines:
    """The lines of a packed stream, each within a bound."""

    def __init__(self, stream: BinaryIO) -> None:
        self._packed = gzip.GzipFile(fileobj=stream, mode="rb")
        self._checksum = xxhash.xxh3_128()
        self._last = b""
        self._count = 0

    def next(self, limit: int) -> bytes:
        """The next line. Raises :class:`InvalidRequest` at the end, and for one of more than ``limit`` bytes."""
        self._checksum.update(self._last)
        with _packing():
            self._last = self._packed.readline(limit + 1)
        if len(self._last) > limit:
            raise _damaged(f"line {self._count + 1} is longer than {limit} bytes")
        if not self._last.endswith(b"\n"):
            raise _damaged("it ends too early")
        self._count += 1
        return self._last

    @property
    def checksum(self) -> str:
        """Of all lines before the last one."""
        return self._checksum.hexdigest()

    def check_end(self) -> None:
        with _packing():
            more = self._packed.read(1)
        if more:
            raise _damaged("there is more after its end")


@contextmanager
def _packing() -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
        raise _damaged(str(exc)) from None


def _damaged(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"this is no whole snapshot of a collection: {reason}; take a new one (sage collections snapshot), or copy it "
        "again",
        code="bad_snapshot",
    )


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise _damaged("a line is not a JSON object")
    return found


def _header(line: bytes) -> Header:
    found = _parsed(line)
    if found.get("format") != FORMAT:
        raise _damaged(f"its first line does not say that it is a '{FORMAT}'")
    version = found.get("version")
    if isinstance(version, int) and version > VERSION:
        raise InvalidRequest(
            f"this snapshot was written by a newer release (version {version}; this one knows up to {VERSION}); update "
            "SAGE Middleware",
            code="newer_snapshot",
        )
    try:
        header = Header.model_validate(found)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in error["loc"])
        raise _damaged(f"'{place}' in its first line: {error['msg']}") from None
    if header.version < 1 or header.documents > header.sequence:
        raise _damaged("its first line contradicts itself")
    return header


def _batches(lines: _SnapshotLines, header: Header) -> Iterator[list[Row]]:
    batch: list[Row] = []
    number = size = total = 0
    for _ in range(header.documents):
        row = _row(lines.next(header.longest_line), header, number)
        number = row.number
        weight = len(row.id.encode()) + len(row.text.encode()) + len(row.metadata)
        total += weight
        if weight > header.largest or total > header.bytes:
            raise _damaged("it holds more than its first line says")
        batch.append(row)
        size += weight + (row.vector.nbytes if row.vector is not None else 0)
        if len(batch) >= _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def _row(line: bytes, header: Header, before: int) -> Row:
    found = _parsed(line)
    number, text, metadata = found.get("number"), found.get("text"), found.get("metadata")
    if type(number) is not int or not before < number <= header.sequence:
        raise _damaged("its documents do not have ascending numbers, or not as many as its first line says")
    if not isinstance(text, str) or not isinstance(metadata, dict) or found.get("id") is None:
        raise _damaged(f"the document of number {number} has no id, text or metadata")
    try:
        id, packed = check_id(found["id"], f"number {number}"), orjson.dumps(metadata)
    except InvalidRequest as exc:
        raise _damaged(exc.message) from None
    except TypeError as exc:  # nested deeper than JSON is written here
        raise _damaged(f"the metadata of number {number}: {exc}") from None
    return Row(number, id, text, packed, _vector(found.get("vector"), header, number))


def _vector(given: Any, header: Header, number: int) -> Vector | None:
    if given is None:
        return None
    try:
        vector = np.frombuffer(base64.b64decode(given, validate=True), "<f4").astype(np.float32)
    except (TypeError, ValueError, binascii.Error):
        vector = np.empty(0, np.float32)
    if vector.size != header.dimension or not np.isfinite(vector).all():
        raise _damaged(f"the document of number {number} has a vector that is none of {header.dimension} dimensions")
    return vector


def _check_trailer(lines: _SnapshotLines, header: Header) -> None:
    found = _parsed(lines.next(_HEADER_BYTES))
    if found.get("documents") != header.documents or found.get("checksum") != lines.checksum:
        raise _damaged("its checksum is not that of its lines")
    lines.check_end()
