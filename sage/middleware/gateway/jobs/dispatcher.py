"""Hands queued jobs to workers: a short window of messages at the broker, the best job first.

The jobs table is the queue. A message only wakes a worker, which claims the job by its id, so a lost message costs a
few seconds, and a doubled one nothing. No more messages are out than workers have room for: priorities hold on every
broker, and a broker that has lost everything has lost little.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sage.errors import MissingExtra, SageError, Unavailable
from sage.middleware.gateway.jobs.own_worker import OwnWorker
from sage.middleware.gateway.jobs.workers import Workers
from sage.middleware.queue.publisher import Publisher
from sage.middleware.queue.records import StoredJob
from sage.middleware.queue.states import RUNNING
from sage.middleware.queue.store import JobStore

_TICK = 1.0
"""Seconds between two looks at what has expired, and at jobs that another gateway on this directory has queued."""
_LOST_AFTER = 3.0
"""Seconds after which a message that no worker has answered is taken for lost; doubled each time, up to a minute."""
_LOST_AT_MOST = 60.0
_PURGE_EVERY = 60.0


@dataclass(frozen=True, slots=True)
class _Message:
    """A message that no worker has answered yet."""

    queue: str
    sent_at: float
    wait: float


class Dispatcher:
    """Publishes messages for queued jobs and puts back what workers have lost. Belongs to the event loop.

    Of the processes on a data directory one leads and does this.
    """

    def __init__(
        self,
        store: JobStore,
        publisher: Publisher,
        own_worker: OwnWorker | None,
        serves: Callable[[str, str], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.workers = Workers(monotonic)
        self.broker_error: SageError | None = None
        """Why the broker takes no messages; ``None`` means that it did when it was last asked."""
        self._store = store
        self._publisher = publisher
        self._own_worker = own_worker
        self._serves = serves
        self._monotonic = monotonic
        self._messages: dict[str, _Message] = {}
        self._running: dict[str, str] = {}
        """Jobs that run, as far as this process knows, with their queues."""
        self._crowded: Sequence[str] = ()
        """Queues in which jobs waited when that was last looked at."""
        self._changed = asyncio.Event()
        self._swept_at = self._purged_at = monotonic()
        self._may_be_queued = True
        """Whether there may be a queued job without a message."""

    def wake(self) -> None:
        """There may be something to publish, or room for it."""
        self._may_be_queued = True
        self._changed.set()

    def changed(self, job: StoredJob) -> None:
        """A job was claimed, has ended, or waits again."""
        if job.state == RUNNING:
            self._running[job.id] = job.queue
        else:
            self._running.pop(job.id, None)
        if job.is_waiting:
            if job.queue not in self._crowded:
                self._crowded = ()  # which have to be looked at anew
            self.wake()
        elif self._messages.pop(job.id, None) is not None:
            self._changed.set()

    def require_broker(self) -> None:
        """Raises :class:`Unavailable` when the broker was down just now."""
        if self.broker_error is not None:
            raise self.broker_error

    async def announce(self, job: StoredJob) -> None:
        """Publishes a new job at once if there is room, else in its turn. Raises :class:`Unavailable`."""
        if self._own_worker is not None:
            self._own_worker.ensure()
        if not self._store.is_leader or self._messages_of(job.queue) >= self.workers.room(job.queue):
            return self.wake()
        await self._publish([job.id], job.queue)

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            try:
                if self._leads_still() or await self._store.lead():
                    await self._tick()
            except (Unavailable, MissingExtra):  # it has been said why, when a message could not be sent
                await asyncio.sleep(_TICK)
            except Exception:
                logging.getLogger("sage").exception("jobs could not be handed out")
                await asyncio.sleep(_TICK)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._changed.wait()
            self._changed.clear()

    def _leads_still(self) -> bool:
        return self._store.is_leader and self._monotonic() - self._swept_at < _TICK

    async def _tick(self) -> None:
        now = self._monotonic()
        if now - self._swept_at >= _TICK:
            self._swept_at = now
            self._may_be_queued = True  # by another gateway
            await self._sweep()
        if self.broker_error is not None:
            await self.ask_broker()
        await self._resend_lost()
        if self._may_be_queued and (self._swept_at == now or self._has_room()):
            await self._fill()
        if now - self._purged_at >= _PURGE_EVERY:
            self._purged_at = now
            await self._store.purge()

    async def _sweep(self) -> None:
        """Puts back the jobs of workers that have gone silent, and ends those that have failed too often."""
        if await self._store.expire_leases():
            self.wake()

    def _has_room(self) -> bool:
        """Whether it is worth while to look for jobs: where many wait, half of the window is filled at a time."""
        full = [queue for queue in self._crowded if 2 * self._messages_of(queue) > self.workers.room(queue)]
        return not full or len(full) < len(self._crowded)

    async def _fill(self) -> None:
        """Publishes queued jobs as far as there is room."""
        self._may_be_queued = False
        self._crowded = await self._store.queues_with_work()
        for queue in self._crowded:
            room = self.workers.room(queue) - self._messages_of(queue)
            if room <= 0:
                self._may_be_queued = True
                continue
            ids = await self._store.next_queued(queue, room, self._messages.keys(), self._serves)
            if ids:
                if self._own_worker is not None:
                    self._own_worker.ensure()
                self._may_be_queued = self._may_be_queued or len(ids) == room
                await self._publish(ids, queue)

    async def _resend_lost(self) -> None:
        """Publishes again what no worker has answered in time: its message was lost, or its worker died with it."""
        now = self._monotonic()
        busy = Counter(self._running.values())
        overdue = [
            job_id
            for job_id, message in self._messages.items()
            # Where all workers are busy, a message may wait for one of them.
            if now - message.sent_at > message.wait and busy[message.queue] < self.workers.concurrency(message.queue)
        ]
        if not overdue:
            return
        queued = await self._store.still_queued(overdue)
        for job_id in overdue:
            message = self._messages.get(job_id)
            if message is None:  # a worker has answered it meanwhile
                continue
            if job_id in queued:
                await self._publish([job_id], message.queue, min(2 * message.wait, _LOST_AT_MOST))
            else:
                del self._messages[job_id]

    async def _publish(self, job_ids: Sequence[str], queue: str, wait: float = _LOST_AFTER) -> None:
        for job_id in job_ids:  # before they are sent: a worker may be quicker than the broker's answer
            self._messages[job_id] = _Message(queue, self._monotonic(), wait)
        try:
            await self._publisher.publish(job_ids, queue)
        except SageError as exc:
            if self.broker_error is None:
                logging.getLogger("sage").warning("jobs wait: %s", exc.message)
            self.broker_error = exc
            for job_id in job_ids:
                self._messages.pop(job_id, None)
            self.wake()
            raise
        self.broker_error = None

    async def ask_broker(self) -> None:
        """Raises :class:`Unavailable` within a second when the broker does not answer."""
        await self._publisher.depth()
        self.broker_error = None
        self.wake()

    def _messages_of(self, queue: str) -> int:
        return sum(message.queue == queue for message in self._messages.values())
