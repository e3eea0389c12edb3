"""Files on their way into a store, and out of it. A job reads them.

A file is recorded as in progress before its job is submitted, under a ticket that the job's items carry:
:mod:`.outcomes` takes what comes of it.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from sage.errors import Conflict, InvalidRequest, NotFound
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.jobs.opening import Queue
from sage.middleware.gateway.vector_stores.access import StoreAccess
from sage.middleware.gateway.vector_stores.attributes import metadata_of
from sage.middleware.gateway.vector_stores.outcomes import Outcomes
from sage.middleware.gateway.vector_stores.requests import AUTO, AttachFile
from sage.middleware.ingest.document import OVERLAP, SIZE
from sage.middleware.queue.files import StoredFile
from sage.middleware.queue.records import NewJob, StoredJob
from sage.middleware.vector_stores.records import (
    CANCELLED,
    IN_PROGRESS,
    REMOVED,
    BatchRecord,
    FileRecord,
    StoreRecord,
)

KIND = "ingest"
PURPOSES = ("assistants", "user_data", "ingest")
"""Files that are uploaded for these may come into a store."""


class Attachments:
    """The files of the stores of one gateway. Belongs to its event loop."""

    def __init__(self, access: StoreAccess, queue: Queue, outcomes: Outcomes, most_files: int) -> None:
        self._outcomes = outcomes
        self._access = access
        self._queue = queue
        self._most_files = most_files

    async def check(self, principal: Principal, entries: Sequence[AttachFile]) -> dict[str, StoredFile]:
        """The uploaded files of ``entries`` by id.

        Raises :class:`NotFound`, :class:`InvalidRequest` for one that stands
        twice or was uploaded for something else, and what :meth:`Jobs.may_submit` raises."""
        if not entries:
            return {}
        queue = await self._queue.open()
        queue.jobs.may_submit(principal, KIND)
        store, tenant = queue.files.store, principal.tenant

        def find() -> dict[str, StoredFile]:
            found: dict[str, StoredFile] = {}
            for entry in entries:
                if entry.file_id in found:
                    raise InvalidRequest(f"the file '{entry.file_id}' stands twice in this request", param="file_ids")
                file = store.get(tenant, entry.file_id)
                if file.purpose not in PURPOSES:
                    raise InvalidRequest(
                        f"the file '{file.id}' was uploaded for '{file.purpose}'; a vector store takes files whose "
                        f"purpose is {' or '.join(PURPOSES)}",
                        param="file_id",
                        code="invalid_file_purpose",
                    )
                found[file.id] = file
            return found

        return await queue.files.run(principal, find)

    async def attach(
        self,
        principal: Principal,
        store: StoreRecord,
        entries: Sequence[AttachFile],
        found: dict[str, StoredFile],
        *,
        batch: BatchRecord | None = None,
    ) -> list[FileRecord]:
        """Puts files into a store, each in place of itself if it was there. They are in progress then, durably."""
        ticket, now = secrets.token_hex(16), self._access.clock()
        records = [_new_record(store, entry, found[entry.file_id], ticket, now) for entry in entries]
        key = store.key
        before = await self._access.run(
            lambda rows: rows.files.get_many(key, [record.file_id for record in records]), key.tenant
        )
        going_on = [each for each in before.values() if each.status == IN_PROGRESS]
        if going_on and (len(records) > 1 or not _is_same(going_on[0], records[0])):
            raise Conflict(
                f"the file '{going_on[0].file_id}' is being read for this vector store; wait until it is done",
                param="file_id",
                code="file_in_progress",
            )
        if going_on:
            return going_on
        new = len(records) - len(before)
        await self._access.run(lambda rows: rows.stores.require_room(key, new, self._most_files), key.tenant)
        await self._access.recorded(store)
        job = await self._recorded_and_submitted(principal, store, records, list(before.values()), batch)
        await self._access.run(lambda rows: rows.stores.change(key, last_active_at=now), key.tenant)
        return [replace(record, job_id=job.id) for record in records]

    async def _recorded_and_submitted(
        self,
        principal: Principal,
        store: StoreRecord,
        records: Sequence[FileRecord],
        before: Sequence[FileRecord],
        batch: BatchRecord | None,
    ) -> StoredJob:
        """The job that reads the files. When it is refused, everything is as it was ``before``."""
        tenant, ids = store.tenant, [record.file_id for record in records]
        await self._access.run(lambda rows: rows.files.put(records), tenant)
        if batch is not None:
            await self._access.run(lambda rows: rows.stores.add_batch(batch, ids), tenant)
        try:
            job = await self._submit(principal, store, records)
        except BaseException:
            await self._access.run(lambda rows: rows.files.take_back(records, before), tenant)
            if batch is not None:
                await self._access.run(lambda rows: rows.stores.forget_batch(batch.id), tenant)
            raise
        await self._access.run(lambda rows: rows.files.set_job(records[0].ticket, job.id), tenant)
        if batch is not None:
            await self._access.run(lambda rows: rows.stores.change_batch(batch.id, job_id=job.id), tenant)
        return job

    async def _submit(self, principal: Principal, store: StoreRecord, records: Sequence[FileRecord]) -> StoredJob:
        queue = await self._queue.open()
        sources = self._queue.settings.ingest
        params = {
            "collection": store.collection,
            "chunk_size": SIZE,
            "overlap": OVERLAP,
            "encoding": None,
            "format": None,
            "metadata": {},
            "again": False,
            "url_hosts": [],
            "max_file": sources.max_file,
            "prune": [],
        }
        lines = b"".join(orjson.dumps(_item(record)) + b"\n" for record in records)
        new = NewJob(
            kind=KIND,
            tenant="",  # who asks is set by Jobs.submit
            user="",
            params=params,
            input=lines,
            total=len(records),
            time_limit=self._queue.settings.time_limit,
            details={"vector_store": store.collection},
        )
        job, _ = await queue.jobs.submit(principal, new)
        return job

    async def detach(self, record: FileRecord) -> None:
        """Takes a file out of its store. It is hidden at once, and gone when its chunks are: if that is interrupted, or
        a job is still at the file, it is done later."""
        if not await self._outcomes.change(record, status=REMOVED, settled=False):  # its job was quicker
            now = await self._access.run(lambda rows: rows.files.get(record.key, record.file_id), record.tenant)
            if now is not None:
                await self.detach(now)
            return
        await self._outcomes.purge(record)
        if record.settled:
            await self._access.run(lambda rows: rows.files.remove(record), record.tenant)

    async def cancel_batch(self, batch: BatchRecord) -> None:
        """Ends the reading of a batch: files that are not done are cancelled."""
        key = batch.key
        await self._access.run(lambda rows: rows.stores.change_batch(batch.id, cancelled=True), key.tenant)
        if batch.job_id is not None:
            unsettled = await self._access.run(lambda rows: rows.files.unsettled(batch.job_id), key.tenant)
            for record in unsettled:
                if record.status == IN_PROGRESS:
                    await self._outcomes.change(record, status=CANCELLED)
            await self.cancel(key.tenant, [batch.job_id])

    async def stop(self, store: StoreRecord) -> None:
        """Ends the jobs that write into a store."""
        unsettled = await self._access.run(lambda rows: rows.files.unsettled(), store.tenant)
        jobs = {each.job_id for each in unsettled if each.key == store.key and each.job_id is not None}
        await self.cancel(store.tenant, sorted(jobs))

    async def cancel(self, tenant: str, jobs: Sequence[str]) -> None:
        """Cancels jobs; those that have ended, or are not there, are passed over."""
        for job_id in jobs:
            with contextlib.suppress(Conflict, NotFound):
                await (await self._queue.open()).jobs.store.cancel(tenant, job_id)


def _new_record(store: StoreRecord, entry: AttachFile, file: StoredFile, ticket: str, now: float) -> FileRecord:
    most, overlap = (entry.chunking_strategy or AUTO).sizes
    return FileRecord(
        store.tenant,
        store.collection,
        file.id,
        file.filename,
        IN_PROGRESS,
        dict(entry.attributes or {}),
        most,
        overlap,
        now,
        ticket,
    )


def _is_same(one: FileRecord, other: FileRecord) -> bool:
    names = ("attributes", "max_tokens", "overlap_tokens")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _item(record: FileRecord) -> dict[str, Any]:
    """The file as an item of an ingest job."""
    return {
        "source": record.file_id,
        "path": record.filename,
        "file_id": record.file_id,
        "named": True,
        "store": {
            "ticket": record.ticket,
            "chunk_size": _characters(record.max_tokens),
            "overlap": _characters(record.overlap_tokens),
            "metadata": metadata_of(record.file_id, record.attributes),
        },
    }


def _characters(tokens: int) -> int:
    return tokens * SIZE // 200
