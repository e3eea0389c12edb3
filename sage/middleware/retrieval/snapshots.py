"""Snapshots: one consistent state of a collection as a stream of JSON lines, packed by gzip; and how it is restored.

The first line says what the collection is and how large. Then there is one line for each document, in the order of
their numbers. The last line has the number of documents and a checksum (xxh3-128) of all lines before it. Reading and
writing need memory for some megabytes of documents only. What is read is not trusted: documents have the limits of
every write, no line and no sum may be larger than the first line says, nothing may unpack into much more than it takes,
and everything is checked before the collection appears.
"""

from __future__ import annotations

import base64
import binascii
import io
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sage.errors import Conflict, InvalidRequest, Unavailable
from sage.middleware.retrieval.packed_lines import PackedLines, PackedWriter, bad_snapshot, may_unpack_into
from sage.middleware.retrieval.store.store import DocumentStore
from sage.middleware.retrieval.types.documents import MAX_ID, Row, Vector, check_id
from sage.middleware.settings.first_fault import first_fault
from sage.middleware.settings.retrieval import CollectionOptions, RetrievalLimits
from sage.private_files import sync_directory

FORMAT = "sage-collection"
VERSION = 1
_HEADER_BYTES = 2**20
_LARGEST = 64 * 2**20  # bytes of one document
_BATCH_BYTES = 16 * 2**20
_BATCH = 1000  # documents in one transaction
_NUMBERS = 2**53


class Header(BaseModel):
    """The first line. ``bytes`` is the sum over ids, texts and metadata; ``largest`` the most that one document has."""

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
    bytes: int = Field(ge=0, lt=_NUMBERS)
    largest: int = Field(ge=0, le=_LARGEST)

    @property
    def plain_bytes(self) -> int:
        """Of all ids, texts and metadata, and of a vector for each document."""
        return self.bytes + 4 * self.documents * (self.dimension or 0)

    @property
    def longest_line(self) -> int:
        """In bytes. JSON writes one byte as six at most, base64 three as four."""
        return 6 * self.largest + 6 * (self.dimension or 0) + 1000


def write_snapshot(store: DocumentStore, stream: BinaryIO, begun: Callable[[], None] | None = None) -> None:
    """Writes one consistent state, while the collection may change. The stream stays open. ``begun`` is called once
    that state is chosen."""
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
    with closing(PackedWriter(stream)) as packed:

        def put(lines: bytes) -> None:
            checksum.update(lines)
            packed.write(lines)

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


def read_snapshot(stream: BinaryIO, directory: Path, name: str, limits: RetrievalLimits | None = None) -> DocumentStore:
    """Restores a collection into a new ``directory``, which appears when all of the snapshot was good and is durable.

    Ids, texts, metadata, vectors and the order of documents are those of the snapshot. Documents have the ``limits`` of
    every write; ``None`` means the default ones. Raises :class:`InvalidRequest` for a stream that is not a complete
    snapshot, :class:`Conflict` when the directory exists, :class:`Unavailable` when the disk has no room for it.
    """
    if directory.exists():
        raise Conflict(f"collection '{name}' exists already", param="name", code="collection_exists")
    scratch = directory.with_name(f".restoring-{secrets.token_hex(8)}")
    try:
        _restore(SnapshotReader(stream, limits or RetrievalLimits()), scratch, name)
        try:
            scratch.rename(directory)
        except OSError as exc:
            if directory.exists():
                raise Conflict(f"collection '{name}' exists already", param="name", code="collection_exists") from exc
            raise Unavailable(f"collection '{name}' cannot be renamed into its place: {exc.strerror}") from exc
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
        raise bad_snapshot("an id is given twice") from None
    finally:
        store.close()


def check_room(header: Header, directory: Path, name: str) -> None:
    """Raises :class:`Unavailable` when the disk of ``directory`` cannot hold what ``header`` announces."""
    needed = header.plain_bytes
    if shutil.disk_usage(directory).free < needed:
        raise Unavailable(
            f"the disk has no room for collection '{name}': at least {needed} bytes are needed; free some space on it, "
            "then try again",
            code="disk_full",
        )


class SnapshotReader:
    """A snapshot as it is read: its header first, then its rows, once. Raises :class:`InvalidRequest` for what is no
    whole snapshot, and for documents beyond ``limits``; ``None`` means that the snapshot is our own."""

    def __init__(self, stream: BinaryIO, limits: RetrievalLimits | None) -> None:
        self._limits = limits
        self._lines = PackedLines(stream, is_trusted=limits is None)
        self.header = _header(self._lines.next(_HEADER_BYTES))
        if limits is not None:
            _check_limits(self.header, limits)
            _check_claims(self.header, _size(stream))

    def batches(self) -> Iterator[list[Row]]:
        """The rows in the order of their numbers; the checksum is compared behind the last batch."""
        yield from _batches(self._lines, self.header, self._limits)
        _check_trailer(self._lines, self.header)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(line)
    except orjson.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        raise bad_snapshot("a line is not a JSON object")
    return parsed


def _header(line: bytes) -> Header:
    parsed = _parsed(line)
    if parsed.get("format") != FORMAT:
        raise bad_snapshot(f"its first line does not say that it is a '{FORMAT}'")
    version = parsed.get("version")
    if isinstance(version, int) and version > VERSION:
        raise InvalidRequest(
            f"this snapshot was written by a newer release (version {version}; this one reads up to {VERSION}); update "
            "SAGE Middleware",
            code="newer_snapshot",
        )
    try:
        header = Header.model_validate(parsed)
    except ValidationError as exc:
        _, place, message = first_fault(exc, Header.model_validate, parsed)
        raise bad_snapshot(f"'{'.'.join(map(str, place))}' in its first line: {message}") from None
    if header.version < 1 or header.documents > header.sequence:
        raise bad_snapshot("its first line contradicts itself")
    return header


def _check_limits(header: Header, limits: RetrievalLimits) -> None:
    """Raises :class:`InvalidRequest` when the first line announces documents that no write would take."""
    largest = limits.max_text + limits.max_metadata + MAX_ID
    if header.largest > largest:
        raise InvalidRequest(
            f"the snapshot has a document of {header.largest} bytes, more than {largest} (retrieval.limits.max_text, "
            "max_metadata)",
            code="over_limits",
        )
    if header.dimension is not None and header.dimension > limits.max_dimension:
        raise InvalidRequest(
            f"the snapshot has vectors of {header.dimension} dimensions, more than {limits.max_dimension} "
            "(retrieval.limits.max_dimension)",
            code="over_limits",
        )


def _size(stream: BinaryIO) -> int | None:
    """How many bytes are left of a stream; ``None`` means that it does not say."""
    try:
        place = stream.tell()
        end = stream.seek(0, io.SEEK_END)
        stream.seek(place)
    except (OSError, AttributeError):
        return None
    return end - place


def _check_claims(header: Header, size: int | None) -> None:
    """Raises :class:`InvalidRequest` when a snapshot of ``size`` bytes cannot hold what its first line says."""
    if size is not None and header.plain_bytes > may_unpack_into(size):
        raise bad_snapshot(f"its first line says that it holds {header.plain_bytes} bytes, and it has {size}")


def _batches(lines: PackedLines, header: Header, limits: RetrievalLimits | None) -> Iterator[list[Row]]:
    batch: list[Row] = []
    number = size = total = 0
    for _ in range(header.documents):
        row = _row(lines.next(header.longest_line), header, number)
        number, text_bytes = row.number, len(row.text.encode())
        if limits is not None:
            _check_row(row, text_bytes, limits)
        weight = len(row.id.encode()) + text_bytes + len(row.metadata)
        total += weight
        if weight > header.largest or total > header.bytes:
            raise bad_snapshot("it has more than its first line says")
        batch.append(row)
        size += weight + (row.vector.nbytes if row.vector is not None else 0)
        if len(batch) >= _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def _check_row(row: Row, text_bytes: int, limits: RetrievalLimits) -> None:
    for name, size, most in (
        ("text", text_bytes, limits.max_text),
        ("metadata", len(row.metadata), limits.max_metadata),
    ):
        if size > most:
            raise InvalidRequest(
                f"the document '{row.id}' of the snapshot has {name} of {size} bytes, more than {most} "
                f"(retrieval.limits.max_{name})",
                code="over_limits",
            )


def _row(line: bytes, header: Header, before: int) -> Row:
    parsed = _parsed(line)
    number, text, metadata = parsed.get("number"), parsed.get("text"), parsed.get("metadata")
    if type(number) is not int or not before < number <= header.sequence:
        raise bad_snapshot("its documents do not have ascending numbers, or not as many as its first line says")
    if not isinstance(text, str) or not isinstance(metadata, dict) or parsed.get("id") is None:
        raise bad_snapshot(f"the document of number {number} has no id, text or metadata")
    try:
        id, packed = check_id(parsed["id"], f"number {number}"), orjson.dumps(metadata)
    except InvalidRequest as exc:
        raise bad_snapshot(exc.message) from None
    except TypeError as exc:  # nested deeper than orjson writes
        raise bad_snapshot(f"the metadata of number {number}: {exc}") from None
    return Row(number, id, text, packed, _vector(parsed.get("vector"), header, number))


def _vector(encoded: Any, header: Header, number: int) -> Vector | None:
    if encoded is None:
        return None
    try:
        vector = np.frombuffer(base64.b64decode(encoded, validate=True), "<f4").astype(np.float32)
    except (TypeError, ValueError, binascii.Error):
        vector = np.empty(0, np.float32)
    if vector.size != header.dimension or not np.isfinite(vector).all():
        raise bad_snapshot(f"the document of number {number} has a vector that is not of {header.dimension} dimensions")
    return vector


def _check_trailer(lines: PackedLines, header: Header) -> None:
    trailer = _parsed(lines.next(_HEADER_BYTES))
    if trailer.get("documents") != header.documents or trailer.get("checksum") != lines.checksum:
        raise bad_snapshot("its checksum is not that of its lines")
    lines.check_end()
