"""Responses in the background: each is a job of the kind ``response``, whose worker asks the gateway with the rights of
who asked for it."""

from __future__ import annotations

import contextlib
from typing import Any

from sage.errors import SageError
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.jobs.opening import Queue
from sage.middleware.queue.records import NewJob
from sage.middleware.queue.states import CANCELLED, CANCELLING, UNFINISHED

KIND = "response"
_KEEPS_JOB = 3600.0
"""Seconds that a job is seen after its end; its response stays longer."""


class BackgroundResponses:
    """The jobs of responses, as :class:`~sage.middleware.gateway.responses.kept.KeptResponses` needs them."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def submit(self, principal: Principal, body: dict[str, Any]) -> str:
        """The id of the job that makes the response whose request ``body`` is, with its ``id``. Raises what
        :meth:`Jobs.submit` raises."""
        jobs = (await self._queue.open()).jobs
        new = NewJob(
            kind=KIND,
            tenant="",  # who asks is set by Jobs.submit
            user="",
            params={"body": body},
            time_limit=self._queue.settings.time_limit,
            result_ttl=_KEEPS_JOB,
        )
        job, _ = await jobs.submit(principal, new)
        return job.id

    async def cancel(self, tenant: str, job: str) -> None:
        """Cancels a job, unless it has ended."""
        with contextlib.suppress(SageError):
            await (await self._queue.open()).jobs.store.cancel(tenant, job)

    async def forget(self, tenant: str, job: str) -> None:
        """Cancels a job, and removes it once it has ended."""
        await self.cancel(tenant, job)
        with contextlib.suppress(SageError):
            await (await self._queue.open()).jobs.store.forget(tenant, job)

    async def failure(self, tenant: str, job: str) -> tuple[str, str] | None:
        """Why a job that should still make its response does not: ``cancelled`` or ``failed``, and a message; ``None``
        if it does, or has."""
        try:
            found = await (await self._queue.open()).jobs.store.get(tenant, job)
        except SageError:
            return "failed", "the job that made the response is gone"
        if found.state in UNFINISHED and found.state != CANCELLING:
            return None
        if found.state in (CANCELLED, CANCELLING):
            return "cancelled", ""
        return "failed", found.error_message or "the job ended without a response"
