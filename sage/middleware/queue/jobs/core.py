"""What all parts of the store of jobs share: its files, its one writer, and who hears of changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sage.middleware.database.database import Database
from sage.middleware.queue.files import FileStore
from sage.middleware.queue.jobs import retention
from sage.middleware.queue.jobs.endings import Decide, Endings, Record
from sage.middleware.queue.jobs.job_files import JobFiles
from sage.middleware.queue.jobs.outputs import ItemReader
from sage.middleware.queue.jobs.reading import JobReader
from sage.middleware.queue.jobs.writer import JobWriter, Work
from sage.middleware.queue.leader import Leader
from sage.middleware.queue.records import StoredJob
from sage.thread_pool import ThreadPool

T = TypeVar("T")

LEASE_SECONDS = 6.0
_WEEK = 7 * 24 * 3600.0


class JobStoreCore:
    """The parts of :class:`sage.middleware.queue.store.JobStore`, and what its methods are made of."""

    def __init__(
        self,
        database: Database,
        directory: Path,
        file_store: FileStore,
        *,
        clock: Callable[[], float] = time.time,
        lease_seconds: float = LEASE_SECONDS,
        result_ttl: float = _WEEK,
    ) -> None:
        self.lease_seconds = lease_seconds
        self._clock = clock
        self._files = JobFiles(directory / "jobs")
        self._file_store = file_store
        self._writer = JobWriter(database)
        self._reader = JobReader(database)
        self._items = ItemReader(database, self._files)
        self._endings = Endings(database, self._writer, self._files, file_store, clock, result_ttl)
        self._leader = database.seat("leader") or Leader(directory / "leader.lock")
        self._pool = ThreadPool(4, "jobs reader")
        self._listeners: list[Callable[[StoredJob], None]] = []
        self._last_look: float | None = None

    def listen(self, listener: Callable[[StoredJob], None]) -> None:
        """Calls ``listener`` with every job that changes through this store, on the loop of who changed it."""
        self._listeners.append(listener)

    async def close(self) -> None:
        """Returns when everything is written; the database stays open."""
        await self._endings.settle()
        await asyncio.to_thread(self._writer.close)
        self._pool.shutdown(wait=False)
        self._leader.resign()

    async def find(self, job_id: str) -> StoredJob | None:
        """The job of whatever tenant; ``None`` means that there is none."""
        return await self._in_thread(lambda: self._reader.find(job_id))

    async def _write(self, work: Work[StoredJob]) -> StoredJob:
        job = await self._writer.run(work)
        self._tell(job)
        return job

    async def _end(
        self, job_id: str, decide: Decide, *, is_lost: bool = False, record: Record | None = None
    ) -> StoredJob:
        job = await self._endings.end(job_id, decide, is_lost=is_lost, record=record)
        self._tell(job)
        return job

    async def _forget(self, job: StoredJob) -> None:
        if job.has_items:
            await self._endings.remove_items(job)
        await self._writer.run(lambda transaction: retention.forget(transaction, job))
        await self._in_thread(lambda: self._files.remove(job.id))

    def _tell(self, job: StoredJob) -> None:
        for listener in self._listeners:
            listener(job)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._pool.submit(work))
