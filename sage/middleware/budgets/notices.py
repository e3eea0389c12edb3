"""Tells the configured receiver what has become of budgets, until it has taken it.

Every process does, and each event is told by one of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from sage.addresses import AllowedHosts
from sage.errors import SageError
from sage.middleware.budgets.thresholds import BudgetEvents
from sage.middleware.settings.webhooks import WebhookSettings
from sage.middleware.webhooks.message import WebhookMessage
from sage.middleware.webhooks.retries import is_gone, pause_after
from sage.thread_pool import ThreadPool

if TYPE_CHECKING:
    from sage.middleware.webhooks.poster import WebhookPoster

_EVERY = 1.0
_MARGIN = 10.0
"""Seconds beyond a receiver's time that an event stays with the process that has claimed it."""


class BudgetNotices:
    """Posts to ``url``. Belongs to one event loop; the database is asked on ``thread``."""

    def __init__(
        self, events: BudgetEvents, url: str, settings: WebhookSettings, thread: ThreadPool, clock: Callable[[], float]
    ) -> None:
        self._events = events
        self._url = url
        self._settings = settings
        self._thread = thread
        self._clock = clock
        self._poster: WebhookPoster | None = None

    async def run(self) -> None:
        """Posts what is due once a second, until it is cancelled."""
        while True:
            await asyncio.sleep(_EVERY)
            try:
                await self.post_due()
            except SageError:
                pass  # the database cannot be used at this moment
            except Exception:
                logging.getLogger("sage").exception("webhooks of budgets could not be called")

    async def post_due(self) -> None:
        """Posts what is due."""
        run = asyncio.get_running_loop().run_in_executor
        now = self._clock()
        until = now + self._settings.timeout + _MARGIN
        due = await run(self._thread, self._events.claim, now, until)
        if due:
            await asyncio.gather(*map(self._post, due))

    async def _post(self, message: WebhookMessage) -> None:
        run = asyncio.get_running_loop().run_in_executor
        fault, retry_after = await self._the_poster().attempt(self._url, message)
        attempts = message.attempts + 1
        if fault is not None and attempts < self._settings.attempts and not is_gone(fault):
            pause = pause_after(attempts, self._settings.retry_after, retry_after)
            await run(self._thread, self._events.put_off, message, self._clock() + pause)
            return
        if fault is not None:
            logging.getLogger("sage").warning("the webhook of budgets was given up: %s", fault)
        await run(self._thread, self._events.forget, message)

    def _the_poster(self) -> WebhookPoster:
        if self._poster is None:
            from sage.middleware.webhooks.poster import WebhookPoster  # brings aiohttp

            hosts = AllowedHosts(self._settings.hosts, "queue.webhooks.hosts")
            self._poster = WebhookPoster(self._settings, hosts, self._clock)
        return self._poster
