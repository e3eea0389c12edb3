"""Jobs for their users: submitting, seeing, cancelling, and the life of the queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

from sage.errors import PermissionDenied, SageError
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.job_metrics import JobMetrics, QueueStatus
from sage.middleware.gateway.jobs.dispatcher import Dispatcher
from sage.middleware.gateway.jobs.events import JobEvents, View
from sage.middleware.gateway.jobs.own_worker import OwnWorker
from sage.middleware.gateway.jobs.progress import ProgressMeter
from sage.middleware.gateway.jobs.rights import WORK, JobRights
from sage.middleware.gateway.jobs.views import job_view
from sage.middleware.queue.publisher import Publisher
from sage.middleware.queue.records import NewJob, ResultLine, StoredJob
from sage.middleware.queue.states import RUNNING
from sage.middleware.queue.store import JobStore
from sage.middleware.queue.tenant_quota import TenantQuota


class Jobs:
    """The jobs of one gateway. Belongs to its event loop."""

    def __init__(
        self,
        store: JobStore,
        publisher: Publisher,
        rights: JobRights,
        own_worker: OwnWorker | None,
        most_unfinished: int,
    ) -> None:
        """``most_unfinished``: how many jobs of one tenant may wait and run."""
        self.store = store
        self.rights = rights
        self.dispatcher = Dispatcher(store, publisher, own_worker, rights.serves)
        self.events = JobEvents()
        self.progress = ProgressMeter()
        self.metrics = JobMetrics()
        self.takers: list[Callable[[Sequence[ResultLine]], Awaitable[None]]] = []
        """Are told what workers hand in, before it is stored: what one of them raises makes the worker do it again."""
        self._quota = TenantQuota(most_unfinished, store.count_unfinished)
        self._dispatching: asyncio.Task[None] | None = None
        store.listen(self._changed)

    def begin(self) -> None:
        """Begins to hand out jobs."""
        self._dispatching = asyncio.create_task(self.dispatcher.run())

    async def end(self) -> None:
        """Hands out no more jobs."""
        if self._dispatching is not None:
            self._dispatching.cancel()
            await asyncio.wait([self._dispatching])

    def _changed(self, job: StoredJob) -> None:
        if job.finished_at is not None:
            self.progress.end(job.id)
        elif job.state == RUNNING:
            self.progress.note(job.id, job.done + job.failed)
        self.metrics.changed(job)
        self.dispatcher.changed(job)
        self.events.changed(job.id)

    def may_submit(self, principal: Principal, kind: str) -> None:
        """Raises :class:`PermissionDenied` when the caller may not have such jobs done."""
        principal.require(Scope.TASKS)
        principal.require(WORK[kind])
        if principal.in_job:
            raise PermissionDenied("a running job cannot submit jobs", code="no_jobs_in_jobs")

    async def submit(self, principal: Principal, new: NewJob) -> tuple[StoredJob, bool]:
        """Accepts a job of the caller; returns it, and whether it is new.

        It is durable when this returns. Raises :class:`sage.errors.Unavailable` when the broker does not take its
        message; then there is no such job. Raises :class:`RateLimited` (``too_many_jobs``), and what
        :meth:`may_submit` and :meth:`JobStore.add` raise.
        """
        self.may_submit(principal, new.kind)
        asker = principal.asker
        new = replace(new, tenant=asker.tenant, user=asker.user, key_id=asker.key)
        self.dispatcher.require_broker()
        if new.held:  # its message is sent later, when nobody can be told any more
            await self.dispatcher.ask_broker()
        await self._quota.admit(asker.tenant)
        is_new = False
        try:
            job, is_new = await self.store.add(new)
        finally:
            self._quota.settle(asker.tenant, is_added=is_new)
        if is_new and not job.held:
            try:
                await self.dispatcher.announce(job)
            except SageError:
                await self.store.withdraw(job.id)
                raise
        if is_new:
            self.metrics.submitted(job.kind)
        return job, is_new

    async def take(self, lines: Sequence[ResultLine]) -> None:
        """Tells the takers what a worker hands in."""
        for taker in self.takers:
            await taker(lines)

    async def worker_gone(self, worker: str, *, in_order: bool = False) -> None:
        """A worker has ended, ``in_order`` or not: what it was doing goes to others at once."""
        self.dispatcher.workers.left(worker)
        await self.store.release_worker(worker, in_order=in_order)
        self.dispatcher.wake()

    async def run_lost(self, job_id: str, worker: str) -> None:
        """The process in which ``worker`` did a job has died."""
        await self.store.lose_run(job_id, worker)
        self.dispatcher.wake()

    async def status(self) -> QueueStatus:
        """How the queue stands."""
        alive, error = self.dispatcher.workers.alive(), self.dispatcher.broker_error
        return QueueStatus(
            await self.store.depth(),
            len(alive),
            sum(worker.concurrency for worker in alive),
            None if error is None else error.message,
        )

    def view(self, job: StoredJob) -> View:
        """The job as its users see it."""
        return job_view(job, self.progress.rate(job.id))

    async def follow(self, tenant: str, job_id: str) -> AsyncIterator[View | None]:
        """The view of a job, now and whenever it has changed, until it has ended (:meth:`JobEvents.follow`)."""

        async def read() -> View:
            return self.view(await self.store.get(tenant, job_id))

        async for view in self.events.follow(job_id, read):
            yield view
