"""The end of a job, told to its receiver, and tried again until it is taken.

What is due stands in the table of jobs, so a restart forgets none.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sage.addresses import AddressRefused, AllowedHosts
from sage.errors import InvalidRequest, NotFound, SageError
from sage.middleware.gateway.jobs.webhooks.body import webhook_message
from sage.middleware.queue.records import StoredJob
from sage.middleware.queue.store import JobStore
from sage.middleware.settings.webhooks import WebhookSettings
from sage.middleware.webhooks.retries import is_gone, pause_after

if TYPE_CHECKING:
    from sage.middleware.webhooks.poster import WebhookPoster

_SETTING = "queue.webhooks.hosts"
_AT_ONCE = 16
_AT_ONE_HOST = 4
_LOOKED_AT = 200
_LONGEST_REST = 60.0
"""Seconds that a host which failed is left alone, at most."""
_POLL = 1.0
_LEADING = 0.2
"""Seconds until it is looked again whether this gateway leads the queue."""
DUE, DELIVERED, FAILED = "due", "delivered", "failed"


def check_webhook(url: str, settings: WebhookSettings) -> None:
    """Raises :class:`InvalidRequest` for a receiver that the configuration does not allow."""
    if not settings.hosts:
        raise InvalidRequest(
            f"this gateway calls no webhooks; an administrator lists their hosts in {_SETTING}", param="webhook.url"
        )
    try:
        AllowedHosts(settings.hosts, _SETTING).check(url)
    except AddressRefused as exc:
        raise InvalidRequest(exc.message, param="webhook.url", code=exc.code) from None


class Webhooks:
    """Calls the webhooks that are due. Belongs to one event loop; ``view`` makes what receivers get of a job."""

    def __init__(
        self,
        store: JobStore,
        settings: WebhookSettings,
        view: Callable[[StoredJob], dict[str, Any]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._settings = settings
        self._view = view
        self._clock = clock
        self._hosts = AllowedHosts(settings.hosts, _SETTING)
        self._calls: dict[str, asyncio.Task[None]] = {}
        """By the id of the job."""
        self._at_host: Counter[str] = Counter()
        self._resting: dict[str, float] = {}
        """Hosts that failed, and until when they are left alone."""
        self._times: list[float] = []
        """A heap: when calls are due that are put off here. Others are found by looking now and then."""
        self._changed = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    @cached_property
    def _poster(self) -> WebhookPoster:
        from sage.middleware.webhooks.poster import WebhookPoster  # brings aiohttp

        return WebhookPoster(self._settings, self._hosts, self._clock)

    def begin(self) -> None:
        """Begins to call; without allowed hosts there is nothing to call."""
        if self._settings.hosts and self._settings.secret is not None:
            self._store.listen(self._note)
            self._running = asyncio.create_task(self._run())

    async def end(self) -> None:
        """Ends all calls; those that were not taken stay due."""
        tasks = [*self._calls.values(), *([] if self._running is None else [self._running])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _note(self, job: StoredJob) -> None:
        if job.webhook_state == DUE and job.webhook_attempts == 0:
            self._changed.set()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            while self._times and self._times[0] <= self._clock():
                heapq.heappop(self._times)
            try:
                if self._store.is_leader:
                    await self._start_due()
                else:
                    heapq.heappush(self._times, self._clock() + _LEADING)
            except SageError:
                pass  # the table cannot be read at this moment
            except Exception:
                logging.getLogger("sage").exception("webhooks could not be called")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._changed.wait()

    def _pause(self) -> float:
        return min(_POLL, max(0.0, self._times[0] - self._clock())) if self._times else _POLL

    async def _start_due(self) -> None:
        """Begins the calls that are due, a few at a time to each host, so that a slow one delays no other."""
        now = self._clock()
        self._resting = {host: until for host, until in self._resting.items() if until > now}
        due = await self._store.due_webhooks(_LOOKED_AT)
        for job in due:
            host = urlsplit(job.webhook_url or "").netloc
            if len(self._calls) >= _AT_ONCE:
                return
            if job.id in self._calls:
                continue
            until = self._resting.get(host, 0.0)
            if until <= now and self._at_host[host] >= _AT_ONE_HOST:
                until = now + 1.0
            if until <= now:
                self._at_host[host] += 1
                self._calls[job.id] = asyncio.create_task(self._call(job, host))
            elif len(due) == _LOOKED_AT:
                await self._write(job, DUE, job.webhook_attempts, until)  # out of the way of what is not seen
            else:
                heapq.heappush(self._times, until)

    async def _call(self, job: StoredJob, host: str) -> None:
        try:
            message = webhook_message(job, self._view(job))
            fault, retry_after = await self._poster.attempt(job.webhook_url or "", message)
            attempts = job.webhook_attempts + 1
            if fault is None:
                self._resting.pop(host, None)
                await self._write(job, DELIVERED, attempts, None)
            elif attempts >= self._settings.attempts or is_gone(fault):
                logging.getLogger("sage").warning("the webhook of job %s was given up: %s", job.id, fault)
                await self._write(job, FAILED, attempts, None)
            else:
                pause = pause_after(attempts, self._settings.retry_after, retry_after)
                self._resting[host] = self._clock() + min(pause, _LONGEST_REST)
                await self._write(job, DUE, attempts, self._clock() + pause)
        except SageError:
            self._resting[host] = self._clock() + _LONGEST_REST  # it stays due, as nothing can be written
        finally:
            self._at_host[host] -= 1
            del self._calls[job.id]
            self._changed.set()

    async def _write(self, job: StoredJob, state: str, attempts: int, next_at: float | None) -> None:
        with contextlib.suppress(NotFound):  # forgotten meanwhile
            await self._store.webhook_done(job, state, attempts, next_at)
        if next_at is not None:
            heapq.heappush(self._times, next_at)
