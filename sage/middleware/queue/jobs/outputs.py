"""What the items of a job came to, in the order of its input: as files at the end, and as lines at any time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import orjson
from sqlalchemy import Connection, bindparam, func, select, update

from sage.middleware.database.database import Database
from sage.middleware.queue.files import FileStore, FileUpload, NewFile, StoredFile
from sage.middleware.queue.jobs.items import next_lines
from sage.middleware.queue.jobs.job_files import JobFiles
from sage.middleware.queue.jobs.lines import WORKER_LOST, WORKER_LOST_MESSAGE, missing_line
from sage.middleware.queue.models import files, job_items, jobs
from sage.middleware.queue.records import StoredJob
from sage.middleware.queue.states import ITEM_DONE, ITEM_FAILED

_ROWS_AT_ONCE = 500
_i = job_items.c
_ROWS = (
    select(_i.number, _i.state, _i.input_at, _i.input_size, _i.result_at, _i.result_size, _i.line_start)
    .where(_i.job == bindparam("of_job"), _i.number > bindparam("after"))
    .order_by(_i.number)
    .limit(_ROWS_AT_ONCE)
)
_ADOPT = (
    update(files)
    .where(
        files.c.id == bindparam("file"),
        files.c.tenant == bindparam("of_tenant"),
        files.c.deleted.is_(False),
        func.coalesce(files.c.job_id, bindparam("of_job")) == bindparam("of_job"),
    )
    .values(job_id=bindparam("of_job"))
)
_REST = select(jobs.c.input, jobs.c.next_index, jobs.c.next_offset).where(jobs.c.sequence == bindparam("of_job"))


class Missing(NamedTuple):
    """Why items have no result: the code and the message of their lines."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class OutputLine:
    """The user's ``line`` of an item. ``entry`` is the whole that its worker handed in, as JSON."""

    index: int
    ok: bool
    line: bytes
    entry: bytes


class ItemReader:
    """Reads the items of jobs, with what came of them. Its iterators block, and raise :class:`OSError`."""

    def __init__(self, database: Database, files: JobFiles) -> None:
        self._database = database
        self._files = files

    def lines(self, job: StoredJob, missing: Missing | None = None) -> Iterator[OutputLine]:
        """A line for each item that has a result, in the order of the input; with ``missing`` for the others too."""
        inline, index, offset = self._cursor(job)
        with ExitStack() as stack:
            source = stack.enter_context(closing(self._files.open_input(job.id, inline)))
            spool: BinaryIO | None = None
            for row in self._rows(job):
                if row.result_at is not None:
                    if spool is None:
                        spool = stack.enter_context(open(self._files.spool(job.id), "rb"))
                    yield _recorded(row, os.pread(spool.fileno(), row.result_size, row.result_at))
                elif (reason := _reason(row, missing)) is not None:
                    source.seek(row.input_at)
                    yield _missing(job, row.number, source.read(row.input_size), reason)
            if missing is not None:
                yield from _rest(job, source, index, offset, missing)

    def _rows(self, job: StoredJob) -> Iterator[Any]:
        after = -1
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(_ROWS, {"of_job": job.sequence, "after": after}).all()
            yield from rows
            if len(rows) < _ROWS_AT_ONCE:
                return
            after = rows[-1].number

    def _cursor(self, job: StoredJob) -> tuple[bytes | None, int, int]:
        with self._database.reading() as connection:
            inline, index, offset = connection.execute(_REST, {"of_job": job.sequence}).one()
        return inline, index, offset


def _reason(row: Any, missing: Missing | None) -> Missing | None:
    return Missing(WORKER_LOST, WORKER_LOST_MESSAGE) if row.state == ITEM_FAILED else missing


def _recorded(row: Any, entry: bytes) -> OutputLine:
    return OutputLine(row.number, row.state == ITEM_DONE, entry[row.line_start : -1], entry)


def _missing(job: StoredJob, index: int, body: bytes, reason: Missing) -> OutputLine:
    line = missing_line(job, index, body, reason.code, reason.message)
    return OutputLine(index, False, line, b'{"index":%d,"ok":false,"usage":null,"line":%s}' % (index, line))


def _rest(job: StoredJob, source: BinaryIO, index: int, offset: int, missing: Missing) -> Iterator[OutputLine]:
    """Lines for the items that nobody has leased."""
    is_all = job.total is not None and index >= job.total
    while not is_all:
        ranges, offset, is_all = next_lines(source, index, offset, _ROWS_AT_ONCE)
        for number, at, size in ranges:
            source.seek(at)
            yield _missing(job, number, source.read(size), missing)
        index += len(ranges)


def made_output(connection: Connection, job: StoredJob, result: bytes | None) -> dict[str, str]:
    """The column of the file that a job without items has stored itself and that its result names. From then on the
    file is the job's: it goes with it."""
    if job.has_items or result is None:
        return {}
    value = orjson.loads(result)
    file_id = value.get("output_file_id") if isinstance(value, dict) else None
    if not isinstance(file_id, str):
        return {}
    bound = {"file": file_id, "of_tenant": job.tenant, "of_job": job.id}
    return {"output_file_id": file_id} if connection.execute(_ADOPT, bound).rowcount else {}


class Outputs:
    """The files with the results of a job that ends, to be inserted in the transaction that ends it.

    To be closed; what is not kept by then is removed.
    """

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._stack = ExitStack()
        self._uploads: dict[str, FileUpload] = {}
        self._files: dict[str, StoredFile] = {}

    def write(self, job: StoredJob, lines: Iterator[OutputLine]) -> None:
        """Writes all of ``lines``, durably; failed ones to a file of their own if the job says so."""
        for line in lines:
            upload = self._upload("error" if job.errors_apart and not line.ok else "output")
            upload.write(line.line + b"\n")
        for name, upload in self._uploads.items():
            self._files[name] = upload.seal(_new_file(job, name))

    def _upload(self, name: str) -> FileUpload:
        if name not in self._uploads:
            self._uploads[name] = self._stack.enter_context(self._store.create_output())
        return self._uploads[name]

    def insert(self, connection: Connection) -> dict[str, str]:
        """Writes the rows of the files; returns the columns of the job."""
        for stored in self._files.values():
            self._store.insert(connection, stored)
        return {f"{name}_file_id": stored.id for name, stored in self._files.items()}

    def discard(self) -> None:
        """Leaves nothing of what was written."""
        self.close()
        self._uploads.clear()

    def keep(self) -> None:
        for upload in self._uploads.values():
            upload.keep()

    def close(self) -> None:
        self._stack.close()


def _new_file(job: StoredJob, name: str) -> NewFile:
    purpose = "batch_output" if job.kind == "batch" else "results"
    expires_after = job.details.get("output_expires_after")
    return NewFile(job.tenant, job.user, f"{job.id}_{name}.jsonl", purpose, expires_after, job.id)
