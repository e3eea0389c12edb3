"""What the one process that leads does: it hands out jobs, puts back what workers lost, and forgets what is over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Select

from sage.errors import SageError
from sage.middleware.queue.jobs import leases
from sage.middleware.queue.jobs.core import JobStoreCore
from sage.middleware.queue.jobs.endings import Decide
from sage.middleware.queue.records import StoredJob

_log = logging.getLogger(__name__)

_ORPHAN_SECONDS = 3600.0
"""A job's directory is older than this when its row is missing for good."""


class JobUpkeep(JobStoreCore):
    """The queue's upkeep. Losing a race to another process does no harm: every change is one transaction."""

    @property
    def is_leader(self) -> bool:
        return self._leader.is_leader

    async def lead(self) -> bool:
        """Becomes the one process that hands out jobs, if there is none; returns whether this one is."""
        return await self._in_thread(self._leader.try_lead)

    async def queues_with_work(self) -> Sequence[str]:
        """The queues in which a job waits to be claimed."""
        return await self._in_thread(lambda: self._reader.queues_with_work(self._clock()))

    async def next_queued(
        self,
        queue: str,
        limit: int,
        without: Collection[str] = (),
        serves: Callable[[str, str], bool] = lambda user, tenant: True,
    ) -> Sequence[str]:
        """The ids of up to ``limit`` jobs to be claimed next: by priority, then the tenants in turn, then by age; only
        those of users and tenants that ``serves`` accepts."""
        ids = frozenset(without)
        return await self._in_thread(lambda: self._reader.next_queued(queue, limit, ids, self._clock(), serves))

    async def still_queued(self, ids: Collection[str]) -> set[str]:
        """Those of ``ids`` that nobody has claimed."""
        wanted = frozenset(ids)
        return await self._in_thread(lambda: self._reader.still_queued(wanted))

    async def release_worker(self, worker: str, *, in_order: bool = False) -> Sequence[StoredJob]:
        """Puts back what a worker had that is gone: its leases end now. That counts as no delivery when the worker has
        left ``in_order``."""
        if not in_order:
            return await self._lose(leases.OF_WORKER, expired=False, by=worker)
        found = await self._in_thread(lambda: self._reader.ids(leases.OF_WORKER, by=worker))
        now = self._clock()
        return await _all_that_can([self._end(job_id, leases.released(run, now)) for job_id, run in found])

    async def put_back(self, job_id: str, run: str) -> None:
        """Puts back a job that ``run`` is not to do, which counts as no delivery."""
        await self._end(job_id, leases.released(run, self._clock()))

    async def lose_run(self, job_id: str, worker: str) -> None:
        """Puts a job back whose process died, if ``worker`` still has it."""
        job = await self.find(job_id)
        if job is not None and job.run is not None and job.worker == worker:
            await self._end(job_id, leases.lost(job.run, self._clock(), expired=False), is_lost=True)

    async def release_workers(self, is_gone: Callable[[str], bool]) -> None:
        """Puts back what those workers had for which ``is_gone`` holds."""
        for (worker,) in await self._in_thread(lambda: self._reader.ids(leases.WORKERS)):
            if is_gone(worker):
                await self.release_worker(worker)

    async def expire_leases(self) -> Sequence[StoredJob]:
        """Puts back jobs whose lease has expired, and ends those over their time limit or deadline; returns them.

        To be called every second. Where nobody looked for as long as a lease, or nothing could be written, workers
        could not renew: then all of them get another lease.
        """
        now = self._clock()
        has_looked = self._last_look is not None and now - self._last_look <= self.lease_seconds
        self._last_look = now
        changed: list[StoredJob] = []
        if self._writer.take_failure() or not has_looked:
            await self._writer.run(lambda transaction: leases.renew_all(transaction, now + self.lease_seconds))
        else:
            changed += await self._lose(leases.EXPIRED_LEASES, expired=True, now=now)
        changed += await self._end_each(leases.OVER_TIME, leases.over_time, before=now - self.lease_seconds)
        changed += await self._end_each(leases.OVER_DEADLINE, leases.over_deadline, now=now)
        return changed

    async def purge(self) -> None:
        """Forgets jobs whose results have expired, and removes files that belong to no job."""
        while found := await self._in_thread(lambda: self._reader.expired(self._clock())):
            await asyncio.gather(*(self._forget(job) for job in found))
        old = await self._in_thread(lambda: self._files.job_ids(time.time() - _ORPHAN_SECONDS))
        for job_id in await self._in_thread(lambda: self._reader.unknown(old)):
            await self._in_thread(partial(self._files.remove, job_id))
        await self._in_thread(self._file_store.purge)

    async def _lose(self, statement: Select[Any], *, expired: bool, **bound: Any) -> list[StoredJob]:
        found = await self._in_thread(lambda: self._reader.ids(statement, **bound))
        now = self._clock()
        ends = [
            self._end(job_id, leases.lost(run, now, expired=expired), is_lost=True)
            for job_id, run in found
            if job_id not in self._endings.writing_outputs
        ]
        return await _all_that_can(ends)

    async def _end_each(self, statement: Select[Any], decide: Decide, **bound: Any) -> list[StoredJob]:
        found = await self._in_thread(lambda: self._reader.ids(statement, **bound))
        writing = self._endings.writing_outputs
        return await _all_that_can([self._end(job_id, decide) for (job_id,) in found if job_id not in writing])


async def _all_that_can(ends: Sequence[Coroutine[Any, Any, StoredJob]]) -> list[StoredJob]:
    """What all of them came to; those that failed are tried again with the next look."""
    outcomes = await asyncio.gather(*ends, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            log = _log.warning if isinstance(outcome, SageError) else _log.error
            log("the queue: a job could not be ended: %s", outcome)
    return [outcome for outcome in outcomes if isinstance(outcome, StoredJob)]
