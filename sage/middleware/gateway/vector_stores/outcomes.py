"""What became of the files of stores: results of workers, ends of jobs, and what has to be cleared away.

What a worker hands in is recorded before the worker is told that it was taken: after any interruption the item is done
again, and its result comes again. A job that ends without results of all its files leaves them to
:meth:`Outcomes.settle`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import orjson

from sage.errors import NotFound, SageError
from sage.middleware.gateway.jobs.opening import Queue
from sage.middleware.gateway.vector_stores.access import StoreAccess, of_tenant
from sage.middleware.gateway.vector_stores.attributes import FILE_ID
from sage.middleware.queue.records import ResultLine, StoredJob
from sage.middleware.queue.states import CANCELLED as JOB_CANCELLED
from sage.middleware.queue.states import ENDED
from sage.middleware.vector_stores.records import CANCELLED, COMPLETED, FAILED, IN_PROGRESS, REMOVED, FileRecord

_MARK = b'"ticket":'
_UNSUPPORTED = frozenset({"unsupported_file"})
_INVALID = frozenset({"unreadable", "not_found"})
_LONGEST_ERROR = 1000
_ATTACHING = 120.0
"""Seconds that a request takes to submit its job at most; later it has been interrupted."""


class Outcomes:
    """What became of the files of one gateway's stores. Belongs to its event loop."""

    def __init__(self, access: StoreAccess, queue: Queue) -> None:
        self._access = access
        self._queue = queue

    async def take(self, lines: Sequence[ResultLine]) -> None:
        """What a worker hands in; lines of other jobs are passed over. May be called again with the same lines."""
        for line in lines:
            if _MARK not in line.line:
                continue
            told = orjson.loads(line.line)
            if isinstance(told, dict) and isinstance(told.get("ticket"), str):
                await self._take(str(told["ticket"]), str(told.get("source")), told)

    async def _take(self, ticket: str, file_id: str, told: dict[str, Any]) -> None:
        record = await self._access.run(lambda rows: rows.files.by_ticket(ticket, file_id))
        if record is None:  # it has been replaced, or its store is no more
            return
        if record.status in (CANCELLED, REMOVED):
            await self._finish(record, record.status)
        elif told.get("outcome") in ("added", "changed", "unchanged"):
            size = await self._measure(record)
            done = {"status": COMPLETED, "usage_bytes": size, "error_code": None, "error_message": None}
            if not await self.change(record, **done, settled=True):  # it was cancelled or removed meanwhile
                await self._take(ticket, file_id, told)
        elif told.get("outcome") == "empty":
            await self._finish(record, FAILED, "invalid_file", "the file has no text")
        else:
            error = told.get("error") or {}
            code, message = str(error.get("code")), str(error.get("message"))[:_LONGEST_ERROR]
            await self._finish(record, FAILED, _error_code(code), f"the file {message}")

    async def settle(self, job: StoredJob | None, records: Sequence[FileRecord]) -> None:
        """Ends what the job, which has ended, left open; ``None`` means that there is no such job any more."""
        for record in records:
            if record.status == IN_PROGRESS and job is not None and job.state == JOB_CANCELLED:
                await self._finish(record, CANCELLED)
            elif record.status == IN_PROGRESS:
                why = None if job is None else job.error_message
                message = f"the file was not read: {why or 'its job has ended'}; attach it again"
                await self._finish(record, FAILED, "server_error", message)
            else:
                await self._finish(record, record.status, record.error_code, record.error_message)

    async def settle_open(self) -> None:
        """Settles whatever jobs that have ended left open, as after a restart."""
        by_job: dict[str | None, list[FileRecord]] = {}
        for record in await self._access.run(lambda rows: rows.files.unsettled()):
            by_job.setdefault(record.job_id, []).append(record)
        if not by_job:
            return
        store = (await self._queue.open()).jobs.store
        for job_id, records in by_job.items():
            job = None if job_id is None else await store.find(job_id)
            if job is None or job.state in ENDED:
                await self.settle(job, [each for each in records if self._is_left(each)])

    def _is_left(self, record: FileRecord) -> bool:
        """Whether a file without a job is not just being attached."""
        return record.job_id is not None or self._access.clock() - record.created_at > _ATTACHING

    async def _finish(
        self, record: FileRecord, status: str, code: str | None = None, message: str | None = None
    ) -> None:
        """The end of a file that has not come into its store: nothing of it stays there."""
        await self.purge(record)
        if status == REMOVED:
            await self._access.run(lambda rows: rows.files.remove(record), record.tenant)
        else:
            await self.change(record, status=status, error_code=code, error_message=message, settled=True)

    async def change(self, record: FileRecord, **values: Any) -> bool:
        """Changes a record (:meth:`FileRows.change`)."""
        return await self._access.run(lambda rows: rows.files.change(record, **values), record.tenant)

    async def purge(self, record: FileRecord) -> None:
        """Removes the chunks of a file."""
        with contextlib.suppress(NotFound):  # the collection is gone, too
            await self._access.collections.delete_documents(
                of_tenant(record.tenant), record.collection, None, {FILE_ID: record.file_id}
            )

    async def _measure(self, record: FileRecord) -> int:
        """Bytes of the texts of a file's chunks."""
        size, cursor = 0, None
        try:
            while True:
                page, cursor = await self._access.collections.page(
                    of_tenant(record.tenant), record.collection, cursor, 1000, {FILE_ID: record.file_id}
                )
                size += sum(len(document.text.encode()) for document in page)
                if cursor is None:
                    return size
        except SageError as exc:
            if exc.status != 404:
                raise
            return size


def _error_code(code: str) -> str:
    """OpenAI's code for one of the ingest's."""
    if code in _UNSUPPORTED:
        return "unsupported_file"
    return "invalid_file" if code in _INVALID else "server_error"
