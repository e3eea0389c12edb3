"""The queue of a gateway, opened when it is first needed: a gateway without jobs makes no files for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from sage.errors import SageError, Unavailable
from sage.middleware.database.database import Database
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.gateway.jobs.batches.batches import Batches
from sage.middleware.gateway.jobs.deliveries import Deliveries
from sage.middleware.gateway.jobs.files import FileGateway
from sage.middleware.gateway.jobs.jobs import Jobs
from sage.middleware.gateway.jobs.lines import LineLimits
from sage.middleware.gateway.jobs.own_worker import OwnWorker, has_lost_gateway
from sage.middleware.gateway.jobs.rights import JobRights
from sage.middleware.gateway.jobs.webhooks.webhooks import Webhooks
from sage.middleware.queue.database import open_jobs_database
from sage.middleware.queue.files import FileLimits, FileStore
from sage.middleware.queue.publisher import Publisher
from sage.middleware.queue.signing import Signer
from sage.middleware.queue.store import JobStore
from sage.middleware.settings.settings import Settings


@dataclass(frozen=True, slots=True)
class OpenQueue:
    """What the routes of jobs work with."""

    jobs: Jobs
    deliveries: Deliveries
    files: FileGateway
    batches: Batches
    publisher: Publisher
    database: Database
    webhooks: Webhooks


class Queue:
    """The queue below ``data_dir/queue``. Belongs to one event loop."""

    def __init__(self, settings: Settings, rights: JobRights, own_worker: OwnWorker | None) -> None:
        self.settings = settings.queue
        self.directory = settings.data_dir / "queue"
        self._settings = settings
        self._rights = rights
        self._own_worker = own_worker
        self._opened: asyncio.Task[OpenQueue] | None = None
        self._is_closed = False
        self.followers: list[Callable[[Jobs], None]] = []
        """Are given the jobs before any is handed out."""
        self._threads = BoundedPool("files", 8, 256)

    @property
    def is_open(self) -> bool:
        """Whether it was needed already, and is ready."""
        return self._opened is not None and self._opened.done() and self._opened.exception() is None

    async def jobs(self) -> Jobs | None:
        """The jobs; ``None`` while the queue is not open, since nobody has needed it yet."""
        return (await self.open()).jobs if self.is_open and not self._is_closed else None

    def begin(self) -> None:
        """Opens it in the background where there is something to go on with: earlier jobs, or schedules."""
        shares_jobs = self._settings.database is not None  # which another gateway may leave behind
        if shares_jobs or (self.directory / "jobs.db").exists() or self.settings.schedules:
            self._open().add_done_callback(_report)

    async def open(self) -> OpenQueue:
        """The queue; opens it with the first call. Raises :class:`sage.errors.ConfigError` when its files cannot be
        used, and :class:`Unavailable` once the gateway ends."""
        if self._is_closed:
            raise Unavailable("the gateway is shutting down")
        return await asyncio.shield(self._open())

    def _open(self) -> asyncio.Task[OpenQueue]:
        if self._opened is None or (self._opened.done() and self._opened.exception() is not None):
            self._opened = asyncio.create_task(self._make())
        return self._opened

    async def _make(self) -> OpenQueue:
        database, files, signer = await asyncio.to_thread(self._open_files)
        store = JobStore(database, self.directory, files, result_ttl=self.settings.result_ttl)
        with contextlib.suppress(Unavailable):  # then their leases expire
            await store.release_workers(has_lost_gateway)
        await self._rights.prepare()
        publisher = Publisher(self.settings, self._settings.data_dir, signer)
        jobs = Jobs(store, publisher, self._rights, self._own_worker, self.settings.limits.max_unfinished)
        for follow in self.followers:
            follow(jobs)
        jobs.begin()
        if self.settings.schedules and self._own_worker is not None:
            self._own_worker.ensure()
        batches = Batches(jobs, files, LineLimits.of(self.settings.limits))
        batches.begin()
        callers_files = FileGateway(files, self._threads)
        webhooks = Webhooks(store, self.settings.webhooks, jobs.view)
        webhooks.begin()
        return OpenQueue(jobs, Deliveries(jobs, signer), callers_files, batches, publisher, database, webhooks)

    def _open_files(self) -> tuple[Database, FileStore, Signer]:
        database = open_jobs_database(self.directory, url=self._settings.database)
        limits = self.settings.limits
        files = FileStore(database, self.directory / "files", FileLimits(limits.max_file, limits.max_files_total))
        files.recover()
        files.purge()
        return database, files, Signer(self._settings.data_dir, self._settings.database)

    async def worker_gone(self, worker: str) -> None:
        """The gateway's own worker has ended: what it was doing goes back into the queue."""
        if not self._is_closed:
            await (await self.open()).jobs.worker_gone(worker)

    def end_watching(self) -> None:
        """Ends the streams of events of jobs: the gateway is shutting down, and jobs would keep it for hours."""
        if self.is_open:
            assert self._opened is not None
            self._opened.result().jobs.events.close()

    async def close(self) -> None:
        """Hands out no more jobs, ends the gateway's own worker, and closes the files. Jobs go on at the next start."""
        self._is_closed = True
        opened = self._opened
        if opened is None:
            return
        await asyncio.wait([opened])
        if opened.exception() is not None:
            return
        queue = opened.result()
        await queue.webhooks.end()
        await queue.batches.end()
        await queue.jobs.end()
        if self._own_worker is not None:
            await self._own_worker.close()
        await queue.publisher.close()
        await queue.jobs.store.close()
        await asyncio.to_thread(self._threads.close)
        await asyncio.to_thread(queue.database.close)


def _report(opened: asyncio.Task[OpenQueue]) -> None:
    error = None if opened.cancelled() else opened.exception()
    if error is not None:
        message = error.message if isinstance(error, SageError) else repr(error)
        logging.getLogger("sage").error("jobs cannot go on: %s", message)
