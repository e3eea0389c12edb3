"""Jobs that the configuration starts again and again: a moment of a schedule makes one, however often it is told."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from sage.errors import InvalidRequest, NotFound, RateLimited, SageError, Unavailable
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.jobs.opening import Queue
from sage.middleware.gateway.jobs.submission import JobRequest, Submission
from sage.middleware.queue.records import StoredJob
from sage.middleware.queue.schedule_runs import ScheduleRuns
from sage.middleware.settings.effective.masking import masked
from sage.middleware.settings.queue import JobSchedule

_EARLY = 5
"""Seconds by which the clock of a worker may be ahead."""


class Schedules:
    """The schedules of the configuration. Their moments are found by the workers' Celery beat."""

    def __init__(self, queue: Queue, submission: Submission) -> None:
        self._queue = queue
        self._submission = submission

    async def view(self) -> dict[str, dict[str, Any]]:
        """Each schedule by its name: its rule, and in ``last`` the newest moment that was done."""
        return {name: await self._view(name, schedule) for name, schedule in self._queue.settings.schedules.items()}

    async def listed(self, principal: Principal) -> list[dict[str, Any]]:
        """The schedules that ``principal`` sees, by name: admins all, others those that run in their name."""
        newest = await asyncio.to_thread((await self._runs()).newest)
        now = time.time()
        return [
            {
                "name": name,
                "task": schedule.task,
                "cron": schedule.cron,
                "every": schedule.every,
                "timezone": schedule.timezone,
                "user": schedule.user,
                "tenant": schedule.tenant,
                "params": masked(("params",), schedule.params)[0],
                "last": newest[name][0] if name in newest and newest[name][1] is not None else None,
                "last_job": newest.get(name, (0, None))[1],
                "next": schedule.next_due(now),
            }
            for name, schedule in sorted(self._queue.settings.schedules.items())
            if _is_seen(schedule, principal)
        ]

    async def run_now(self, principal: Principal, name: str) -> StoredJob:
        """Submits the job of a schedule at once, as its user; its moments stay as they are.

        Raises :class:`NotFound` for one that ``principal`` does not see, and what a submission raises.
        """
        schedule = self._queue.settings.schedules.get(name)
        if schedule is None or not _is_seen(schedule, principal):
            raise NotFound(f"there is no schedule '{name[:80]}' in queue.schedules", code="schedule_not_found")
        queue = await self._queue.open()
        rights = await queue.jobs.rights.of_user(schedule.user, schedule.tenant, schedule.task)
        job, _ = await self._submission.submit(rights, JobRequest(schedule.task, dict(schedule.params)))
        return job

    async def fire(self, name: str, due: int) -> StoredJob | None:
        """Submits the job of a moment, as its user; ``None`` means that this moment, or a later one, was done already.

        A job that its user may not submit, or that is wrong, is skipped for this moment, and the log says why. Raises
        :class:`NotFound`, :class:`InvalidRequest` for a moment that is none, :class:`Unavailable` and
        :class:`RateLimited`, after which it may be told again.
        """
        schedule = self._queue.settings.schedules.get(name)
        if schedule is None:
            raise NotFound(f"there is no schedule '{name[:80]}' in queue.schedules", code="schedule_not_found")
        if due > time.time() + _EARLY or schedule.latest_due(due) != due:
            raise InvalidRequest(f"{due} is no moment of the schedule '{name}'", param="due")
        runs = await self._runs()
        if await self._last(runs, name, schedule) >= due:
            return None
        job = None
        try:
            job = await self._submit(name, schedule, due)
        except (Unavailable, RateLimited):
            raise
        except SageError as exc:
            logging.getLogger("sage").error("queue.schedules.%s makes no job: %s", name, exc.message)
        await asyncio.to_thread(runs.done, name, due, None if job is None else job.id)
        return job

    async def _submit(self, name: str, schedule: JobSchedule, due: int) -> StoredJob:
        queue = await self._queue.open()
        principal = await queue.jobs.rights.of_user(schedule.user, schedule.tenant, schedule.task)
        request = JobRequest(schedule.task, dict(schedule.params), idempotency_key=f"schedule {name} {due}")
        job, _ = await self._submission.submit(principal, request)
        return job

    async def _view(self, name: str, schedule: JobSchedule) -> dict[str, Any]:
        last = await self._last(await self._runs(), name, schedule)
        return {"cron": schedule.cron, "every": schedule.every, "timezone": schedule.timezone, "last": last}

    async def _last(self, runs: ScheduleRuns, name: str, schedule: JobSchedule) -> int:
        first = schedule.latest_due(time.time()) or 0
        return await asyncio.to_thread(runs.last, name, first)

    async def _runs(self) -> ScheduleRuns:
        return ScheduleRuns((await self._queue.open()).database)


def _is_seen(schedule: JobSchedule, principal: Principal) -> bool:
    if Scope.ADMIN in principal.scopes:
        return True
    return schedule.user == principal.user and schedule.tenant in (None, principal.tenant)
