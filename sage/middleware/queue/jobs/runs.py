"""What workers do: they claim jobs, lease their items, hand in results, and end runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson

from sage.errors import NotFound
from sage.middleware.queue.jobs import items, leases
from sage.middleware.queue.jobs.core import JobStoreCore
from sage.middleware.queue.jobs.rows import job_id_of, load, run_ended
from sage.middleware.queue.jobs.writer import Transaction
from sage.middleware.queue.records import Claim, ItemLease, JobEnd, ResultLine, StoredJob
from sage.middleware.queue.states import ENDED


class JobRuns(JobStoreCore):
    """Runs of jobs. For one that has ended, all but :meth:`claim` raise :class:`Conflict` (``run_ended``)."""

    async def claim(self, job_id: str, worker: str) -> Claim:
        """Gives a queued job to ``worker``, under a lease. Raises :class:`Conflict` (``not_claimable``)."""
        now = self._clock()
        until = now + self.lease_seconds
        job, stored, line = await self._writer.run(
            lambda transaction: leases.claim(transaction, job_id, worker, now, until)
        )
        if stored is None:
            stored = await self._in_thread(lambda: self._files.read_params(job_id))
        self._tell(job)
        assert job.run is not None
        return Claim(job.run, job, orjson.loads(stored), line)

    async def renew(
        self, run: str, *, done: int | None = None, failed: int | None = None, total: int | None = None
    ) -> StoredJob:
        """Renews the lease of a run, and tells of the progress of a job of one. Its worker has to stop when the state
        of the answer is ``cancelling``."""
        until = self._clock() + self.lease_seconds
        progress = None
        if done is not None or failed is not None or total is not None:
            progress = {"to_done": done or 0, "to_failed": failed or 0, "to_total": total}
        return await self._write(lambda transaction: leases.renew(transaction, run, until, progress))

    async def lease_items(self, run: str, count: int, in_hand: Collection[int] | None = None) -> ItemLease:
        """Up to ``count`` items for the run, 32 at most. ``in_hand``: the items that its worker holds; others that it
        has leased come again, since the answer with them was lost. ``None`` means that it did not say."""

        def work(transaction: Transaction) -> ItemLease:
            return items.lease(transaction, self._files, _job_of_run(transaction, run), count, in_hand)

        return await self._writer.run(work)

    async def item(self, run: str, index: int) -> bytes:
        """The input of an item that the run's job has leased. Raises :class:`NotFound`."""

        def work(transaction: Transaction) -> bytes | None:
            return items.read_item(transaction, self._files, _job_of_run(transaction, run), index)

        found = await self._writer.run(work)
        if found is None:
            raise NotFound(f"the job has no item {index}", param="index", code="item_not_found")
        return found

    async def record(self, run: str, lines: Sequence[ResultLine]) -> StoredJob:
        """Takes results of items, each item's first one. A run that has ended may still hand them in while its job is
        unfinished. The worker has to stop when the state of the answer is ``cancelling``."""
        until = self._clock() + self.lease_seconds

        def work(transaction: Transaction) -> StoredJob:
            job = load(transaction, job_id_of(run))
            if job.state in ENDED:
                raise run_ended(run)
            return items.record(transaction, self._files, job, lines, until if job.run == run else None)

        return await self._write(work)

    async def finish(self, run: str, ending: JobEnd, lines: Sequence[ResultLine] = ()) -> StoredJob:
        """Ends a run, and takes its last results before. Its output files are made by then."""
        result = None if ending.result is None else orjson.dumps(ending.result)

        def record(transaction: Transaction, job: StoredJob) -> tuple[StoredJob, Mapping[str, Any]]:
            if job.run != run:
                raise run_ended(run)
            only = None if ending.retry else items.columns_of_only(transaction, job, lines)
            if only is None:
                return items.record(transaction, self._files, job, lines, None), {}
            return replace(job, done=only["done"], failed=only["failed"], has_line=True), only

        decide = leases.finished(run, ending, result, self._clock())
        return await self._end(job_id_of(run), decide, record=record if lines else None)

    async def release(self, run: str) -> StoredJob:
        """Puts a job back whose worker leaves: that counts as no delivery."""
        return await self._end(job_id_of(run), leases.released(run, self._clock()))


def _job_of_run(transaction: Transaction, run: str) -> StoredJob:
    """The job that the run has. Raises :class:`Conflict` (``run_ended``)."""
    with suppress(NotFound):
        job = load(transaction, job_id_of(run))
        if job.run == run:
            return job
    raise run_ended(run)
