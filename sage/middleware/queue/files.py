"""The files of tenants: what users upload, and what jobs make. A row says what a file is, a blob holds its bytes.

The blob is on the disk before its row is, and a row goes before its blob: whatever happens in between leaves a blob
without a row, which :meth:`FileStore.recover` removes at the next start.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from sqlalchemy import Connection, delete, exists, func, insert, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from sage.errors import InvalidRequest, NotFound, PayloadTooLarge
from sage.middleware.database.database import Database
from sage.middleware.queue.blobs import BlobDirectory, BlobWriter
from sage.middleware.queue.models import files, jobs
from sage.middleware.queue.states import UNFINISHED

_ID = "file-"
_PURGED_AT_ONCE = 500  # rows, so that no transaction takes long


@dataclass(frozen=True, slots=True)
class FileLimits:
    """``max_file``: bytes of one file; ``max_files_total``: bytes of all files of one tenant."""

    max_file: int
    max_files_total: int


@dataclass(frozen=True, slots=True)
class NewFile:
    """What is known of a file before its bytes are. ``expires_after`` is in seconds from its creation, ``None`` means
    that it stays; ``job_id`` is the job that makes it, and with which it is forgotten."""

    tenant: str
    user: str
    filename: str
    purpose: str
    expires_after: int | None = None
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file. Times are in Unix seconds; ``blob`` is the name of its bytes on the disk."""

    id: str
    tenant: str
    user: str
    filename: str
    purpose: str
    size: int
    created_at: float
    expires_at: float | None
    blob: str
    job_id: str | None


@dataclass(frozen=True, slots=True)
class FilePage:
    """Some files, and whether there are more after the last of them."""

    files: list[StoredFile]
    has_more: bool


class FileUpload:
    """A file that is being written: as a context manager, so that one that is not finished leaves nothing behind."""

    def __init__(self, store: FileStore, blob: BlobWriter, check: Callable[[int], None] | None) -> None:
        self._store = store
        self._blob = blob
        self._check = check
        self._is_kept = False

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._blob.size

    @property
    def path(self) -> Path:
        """Where the bytes are by now, for readers, once they are flushed."""
        return self._blob.path

    def flush(self) -> None:
        """Makes the bytes so far visible at :attr:`path`."""
        self._blob.flush()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends ``data``. Raises :class:`PayloadTooLarge` where the file or the tenant's files become too large, and
        :class:`Unavailable` when the disk is full."""
        if self._check is not None:
            self._check(len(data))
        self._blob.write(data)

    def commit(self, file: NewFile) -> StoredFile:
        """Finishes the file: on the disk, then in the database."""
        stored = self.seal(file)
        self._store.add(stored)
        self._is_kept = True
        return stored

    def seal(self, file: NewFile) -> StoredFile:
        """Brings the bytes to the disk. The file exists once :meth:`FileStore.insert` has written its row in a
        transaction of the caller's, who then calls :meth:`keep`."""
        self._blob.seal()
        return self._store.describe(file, self._blob)

    def keep(self) -> None:
        """The row is committed: the bytes stay."""
        self._is_kept = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._blob.close(keep=self._is_kept)
        self._store.written(self)


class FileStore:
    """The files in ``database`` and ``directory``, of all tenants. Its methods block, and are safe on any thread.

    A tenant sees only its own: for others a file does not exist.
    """

    def __init__(self, database: Database, directory: Path, limits: FileLimits) -> None:
        self.limits = limits
        self._database = database
        self._blobs = BlobDirectory(directory)
        self._lock = threading.Lock()
        self._uploads: dict[FileUpload, str] = {}
        """Uploads that are being written, with their tenants."""

    def recover(self) -> int:
        """At the start: removes blobs that nobody writes and that have no row; returns how many."""
        with self._database.reading() as connection:
            names = frozenset(connection.scalars(select(files.c.blob)))
        return self._blobs.remove_ownerless(lambda name: name in names or self._has_row(name))

    def _has_row(self, blob: str) -> bool:
        with self._database.reading() as connection:
            return connection.scalar(select(exists().where(files.c.blob == blob))) is True

    def create(self, tenant: str) -> FileUpload:
        """A new file of ``tenant``, within its limits. Raises :class:`PayloadTooLarge` when they are reached."""
        stored = self.used(tenant)
        blob = self._blobs.create()

        def check(more: int) -> None:
            self._check_size(blob.size + more)
            self._check_quota(stored + self._being_written(tenant) + more)

        upload = FileUpload(self, blob, check)
        with self._lock:
            self._uploads[upload] = tenant
        return upload

    def create_output(self) -> FileUpload:
        """A new file that a job makes: it counts, but is never refused, since its work is done and paid for."""
        return FileUpload(self, self._blobs.create(), None)

    def describe(self, file: NewFile, blob: BlobWriter) -> StoredFile:
        """The finished file that has ``blob``'s bytes."""
        now = time.time()
        expires_at = None if file.expires_after is None else now + file.expires_after
        return StoredFile(
            id=_ID + secrets.token_hex(12),
            tenant=file.tenant,
            user=file.user,
            filename=file.filename,
            purpose=file.purpose,
            size=blob.size,
            created_at=now,
            expires_at=expires_at,
            blob=blob.name,
            job_id=file.job_id,
        )

    def add(self, stored: StoredFile) -> None:
        """Writes the row of a sealed file. Raises :class:`PayloadTooLarge` when other files came before it."""
        with self._database.writing() as connection:
            if stored.job_id is None:
                self._check_quota(_used(connection, stored.tenant) + stored.size)
            self.insert(connection, stored)

    def insert(self, connection: Connection, stored: StoredFile) -> None:
        """Writes the row of a sealed file in a transaction of the caller's."""
        connection.execute(insert(files).values(**asdict(stored), deleted=False))

    def written(self, upload: FileUpload) -> None:
        """``upload`` is over; :meth:`used` counts what stays of it."""
        with self._lock:
            self._uploads.pop(upload, None)

    def get(self, tenant: str, file_id: str) -> StoredFile:
        """The file of ``tenant``. Raises :class:`NotFound`."""
        with self._database.reading() as connection:
            return _get(connection, tenant, file_id)[1]

    def open(self, tenant: str, file_id: str) -> tuple[StoredFile, BinaryIO]:
        """The file with its bytes, which stay whole for the reader when it is deleted. Raises :class:`NotFound`."""
        stored = self.get(tenant, file_id)
        return stored, self.open_blob(stored)

    def open_input(self, tenant: str, file_id: str) -> BinaryIO:
        """The bytes of the input of an unfinished job of ``tenant``, though the file may be deleted or expired.

        Raises :class:`NotFound` when it was gone before the job was made.
        """
        with self._database.reading() as connection:
            blob = connection.scalar(select(files.c.blob).where(files.c.id == file_id, files.c.tenant == tenant))
        if blob is None:
            raise _not_found(file_id)
        return self._open(blob, file_id)

    def open_blob(self, stored: StoredFile) -> BinaryIO:
        """Its bytes. Raises :class:`NotFound` when they are gone."""
        return self._open(stored.blob, stored.id)

    def _open(self, blob: str, file_id: str) -> BinaryIO:
        try:
            return self._blobs.open(blob)
        except FileNotFoundError:
            raise _not_found(file_id) from None

    def page(
        self,
        tenant: str,
        *,
        limit: int,
        purpose: str | None = None,
        after: str | None = None,
        oldest_first: bool = False,
    ) -> FilePage:
        """``limit`` files of ``tenant``, in the order of their creation, those after the file ``after``.

        Raises :class:`InvalidRequest` when there is no such file.
        """
        order = files.c.sequence.asc() if oldest_first else files.c.sequence.desc()
        with self._database.reading() as connection:
            query = select(*_COLUMNS).where(files.c.tenant == tenant, _is_visible()).order_by(order).limit(limit + 1)
            if purpose is not None:
                query = query.where(files.c.purpose == purpose)
            if after is not None:
                sequence = _cursor(connection, tenant, after)
                query = query.where(files.c.sequence > sequence if oldest_first else files.c.sequence < sequence)
            found = [_stored(row) for row in connection.execute(query)]
        return FilePage(found[:limit], len(found) > limit)

    def delete(self, tenant: str, file_id: str) -> None:
        """Deletes the file; its bytes stay on the disk while an unfinished job reads them. Raises :class:`NotFound`."""
        with self._database.writing() as connection:
            sequence, stored = _get(connection, tenant, file_id)
            this = files.c.sequence == sequence
            is_removed = connection.execute(delete(files).where(this, ~_is_read())).rowcount == 1
            if not is_removed:
                connection.execute(update(files).where(this).values(deleted=True))
        if is_removed:
            self._blobs.remove(stored.blob)

    def purge(self) -> int:
        """Removes files that are deleted or expired and that no unfinished job reads; returns how many."""
        removed = 0
        while blobs := self._purge_rows():
            for blob in blobs:
                self._blobs.remove(blob)
            removed += len(blobs)
        return removed

    def used(self, tenant: str) -> int:
        """Bytes of all files of ``tenant`` on the disk."""
        with self._database.reading() as connection:
            return _used(connection, tenant)

    def _purge_rows(self) -> list[str]:
        with self._database.writing() as connection:
            gone = select(files.c.sequence).where(~_is_visible(), ~_is_read()).limit(_PURGED_AT_ONCE)
            removed = delete(files).where(files.c.sequence.in_(gone)).returning(files.c.blob)
            return list(connection.scalars(removed))

    def _being_written(self, tenant: str) -> int:
        with self._lock:
            return sum(upload.size for upload, owner in self._uploads.items() if owner == tenant)

    def _check_size(self, size: int) -> None:
        if size > self.limits.max_file:
            raise file_too_large(self.limits.max_file)

    def _check_quota(self, size: int) -> None:
        if size > self.limits.max_files_total:
            raise PayloadTooLarge(
                f"the files of your tenant would have more than {self.limits.max_files_total} bytes "
                "(queue.limits.max_files_total); delete some (DELETE /v1/files/{id})",
                code="storage_quota_exceeded",
            )


_COLUMNS = (
    files.c.id,
    files.c.tenant,
    files.c.user,
    files.c.filename,
    files.c.purpose,
    files.c.size,
    files.c.created_at,
    files.c.expires_at,
    files.c.blob,
    files.c.job_id,
)


def file_too_large(limit: int) -> PayloadTooLarge:
    """The error for a file of more than ``limit`` bytes."""
    return PayloadTooLarge(f"the file is larger than {limit} bytes (queue.limits.max_file)")


def _is_visible() -> ColumnElement[bool]:
    return ~files.c.deleted & or_(files.c.expires_at.is_(None), files.c.expires_at > time.time())


def _is_read() -> ColumnElement[bool]:
    """Whether an unfinished job has the file as its input."""
    return exists().where(jobs.c.input_file_id == files.c.id, jobs.c.state.in_(UNFINISHED))


def _get(connection: Connection, tenant: str, file_id: str) -> tuple[int, StoredFile]:
    """The row's number, and the file."""
    query = select(files.c.sequence, *_COLUMNS).where(files.c.id == file_id, files.c.tenant == tenant, _is_visible())
    row = connection.execute(query).one_or_none()
    if row is None:
        raise _not_found(file_id)
    return row[0], _stored(row[1:])


def _stored(row: Sequence[Any]) -> StoredFile:
    return StoredFile(*row)


def _cursor(connection: Connection, tenant: str, file_id: str) -> int:
    """The number of the row after which a page begins; also that of a file which has just been deleted."""
    query = select(files.c.sequence).where(files.c.id == file_id, files.c.tenant == tenant)
    sequence = connection.execute(query).scalar_one_or_none()
    if sequence is None:
        raise InvalidRequest(f"'after' names no file of yours: '{file_id[:64]}'", param="after")
    return int(sequence)


def _used(connection: Connection, tenant: str) -> int:
    query = select(func.coalesce(func.sum(files.c.size), 0)).where(files.c.tenant == tenant)
    return int(connection.execute(query).scalar_one())


def _not_found(file_id: str) -> NotFound:
    return NotFound(f"there is no file '{file_id[:64]}' (GET /v1/files lists yours)", param="file_id")
