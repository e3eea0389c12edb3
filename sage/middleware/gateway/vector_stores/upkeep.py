"""What vector stores need beside requests: expired ones go, and what was interrupted is brought to its end."""

from __future__ import annotations

import asyncio
import logging

from sage.errors import SageError
from sage.middleware.audit.event import OPERATOR, AuditEvent
from sage.middleware.audit.log import AuditLog
from sage.middleware.gateway.jobs.jobs import Jobs
from sage.middleware.gateway.vector_stores.attachments import KIND
from sage.middleware.gateway.vector_stores.outcomes import Outcomes
from sage.middleware.gateway.vector_stores.stores import VectorStores
from sage.middleware.queue.records import StoredJob
from sage.middleware.vector_stores.records import DAY, StoreRecord

_EVERY = 10.0
"""Seconds between two looks."""
_REMEMBERED = 30 * DAY
"""Seconds for which it is known that a store has expired."""
_log = logging.getLogger("sage")


class StoreUpkeep:
    """Keeps the stores of one gateway. Belongs to its event loop."""

    def __init__(self, stores: VectorStores, outcomes: Outcomes, audit: AuditLog, every: float = _EVERY) -> None:
        self._stores = stores
        self._outcomes = outcomes
        self._audit = audit
        self._every = every
        self._settling: set[asyncio.Task[None]] = set()

    def follow(self, jobs: Jobs) -> None:
        """Hears of what workers hand in, and of jobs that end. To be called before any does."""
        jobs.takers.append(self._outcomes.take)
        jobs.store.listen(self._changed)

    async def run(self) -> None:
        """Runs until it is cancelled."""
        access = self._stores.access
        while True:
            if access.is_used:
                await self._guarded()
            await asyncio.sleep(self._every)

    async def _guarded(self) -> None:
        try:
            await self._outcomes.settle_open()
            await self.expire()
        except SageError as error:
            _log.warning("vector stores cannot be kept now: %s", error.message)
        except Exception:
            _log.exception("vector stores cannot be kept now")

    async def expire(self) -> None:
        """Removes what has expired, and forgets what has long ago."""
        access = self._stores.access
        now = access.clock()
        for record in await access.run(lambda rows: rows.stores.with_expiry()):
            if record.expired_at is None and record.has_expired(now):
                await self._expire(record)
            elif record.expired_at is not None and now - record.expired_at > _REMEMBERED:
                await self._stores.forget(record.tenant, record.collection)

    async def _expire(self, record: StoreRecord) -> None:
        await self._stores.expire(record)
        details = {"expired": True, "days": record.expires_days}
        target = f"collection:{record.collection}"
        event = AuditEvent("collection.delete", target, OPERATOR, tenant=record.tenant, details=details)
        await asyncio.to_thread(self._audit.append, event)

    def _changed(self, job: StoredJob) -> None:
        if job.kind == KIND and job.finished_at is not None and "vector_store" in job.details:
            task = asyncio.create_task(self._settle(job))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def _settle(self, job: StoredJob) -> None:
        try:
            access = self._stores.access
            await self._outcomes.settle(job, await access.run(lambda rows: rows.files.unsettled(job.id)))
        except Exception:  # the next look settles it
            _log.warning("the files of job %s are settled later", job.id, exc_info=True)
