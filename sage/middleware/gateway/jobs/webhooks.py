"""The end of a job, told to its receiver: signed, to allowed addresses only, tried again until it is taken.

Signed as Standard Webhooks (github.com/standard-webhooks/standard-webhooks): every attempt has the same ``webhook-id``,
by which a receiver knows what it has taken already. What is due stands in the table of jobs, so a restart forgets none.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import heapq
import hmac
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
from yarl import URL

from sage.addresses import AddressRefused, AllowedHosts
from sage.errors import InvalidRequest, NotFound, SageError
from sage.middleware.queue.records import StoredJob
from sage.middleware.queue.store import JobStore
from sage.middleware.settings.webhooks import WebhookSettings, webhook_key
from sage.pinned_resolver import pinned_session

_SETTING = "queue.webhooks.hosts"
_AT_ONCE = 16
_AT_ONE_HOST = 4
_LOOKED_AT = 200
_LONGEST_PAUSE = 6 * 3600.0
_LONGEST_REST = 60.0
"""Seconds that a host which failed is left alone, at most."""
_POLL = 1.0
_LEADING = 0.2
"""Seconds until it is looked again whether this gateway leads the queue."""
_GONE = 410
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


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``."""
    signed = hmac.digest(key, b"%b.%d.%b" % (message_id.encode(), timestamp, body), "sha256")
    return "v1," + base64.b64encode(signed).decode()


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
        self._key = webhook_key(settings.secret) if settings.secret is not None else b""
        self._calls: dict[str, asyncio.Task[None]] = {}
        """By the id of the job."""
        self._at_host: Counter[str] = Counter()
        self._resting: dict[str, float] = {}
        """Hosts that failed, and until when they are left alone."""
        self._times: list[float] = []
        """A heap: when calls are due that are put off here. Others are found by looking now and then."""
        self._changed = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

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
            fault, asked_pause = await self._attempt(job)
            attempts = job.webhook_attempts + 1
            if fault is None:
                self._resting.pop(host, None)
                await self._write(job, DELIVERED, attempts, None)
            elif attempts >= self._settings.attempts or fault.endswith(str(_GONE)):
                logging.getLogger("sage").warning("the webhook of job %s was given up: %s", job.id, fault)
                await self._write(job, FAILED, attempts, None)
            else:
                pause = min(self._settings.retry_after * 3 ** (attempts - 1), _LONGEST_PAUSE)
                pause = max(pause * random.uniform(1.0, 1.1), asked_pause)  # noqa: S311 (spreads calls)
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

    async def _attempt(self, job: StoredJob) -> tuple[str | None, float]:
        """What went wrong, ``None`` for nothing, and the pause that the receiver asks for."""
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await self._post(job)
        except AddressRefused as exc:
            return exc.message, 0.0
        except TimeoutError:
            return f"no answer within {self._settings.timeout:g} s", 0.0
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            return f"it cannot be reached ({type(exc).__name__})", 0.0

    async def _post(self, job: StoredJob) -> tuple[str | None, float]:
        destination = await self._hosts.resolve(job.webhook_url or "")
        body = webhook_body(self._view(job))
        async with (
            pinned_session(destination) as session,
            session.post(
                URL(destination.url.url), data=body, headers=self._headers(job, body), allow_redirects=False
            ) as answer,
        ):
            if 200 <= answer.status < 300:
                return None, 0.0
            return f"it answered {answer.status}", _asked_pause(answer.headers.get("Retry-After", ""))

    def _headers(self, job: StoredJob, body: bytes) -> dict[str, str]:
        message_id, timestamp = f"msg_{job.id}_{job.retries}", int(self._clock())
        return {
            "Content-Type": "application/json",
            "User-Agent": "sage-webhooks",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self._key, message_id, timestamp, body),
        }


def webhook_body(view: dict[str, Any]) -> bytes:
    """A job's view without its results, with the names that Standard Webhooks has for what happened and when."""
    told = {name: value for name, value in view.items() if name not in ("result", "webhook")}
    ended = datetime.fromtimestamp(view["finished_at"] or 0, UTC).isoformat().replace("+00:00", "Z")
    return orjson.dumps({"type": f"job.{view['state']}", "timestamp": ended, **told})


def _asked_pause(text: str) -> float:
    return min(float(text), _LONGEST_PAUSE) if text.isdecimal() and len(text) < 8 else 0.0
