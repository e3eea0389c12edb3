"""What has to be done for budgets twice a second: book what was spent, give back what nobody needs, hear of changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial

from sage.errors import SageError
from sage.middleware.budgets.book import BudgetBook
from sage.middleware.budgets.counters import BudgetCounters
from sage.middleware.budgets.draws import BudgetDraws
from sage.middleware.budgets.notices import BudgetNotices
from sage.middleware.budgets.store import BudgetStore
from sage.middleware.budgets.subjects import BudgetList
from sage.middleware.budgets.thresholds import ThresholdObserver
from sage.middleware.settings.budgets import BudgetSettings, BudgetsSettings

EVERY = 0.5
"""Seconds between two rounds."""
_BEAT_ROUNDS = 10
_LOOK_ROUNDS = 2
_DEAD_AFTER = 30.0
"""Seconds without a beat after which what a process holds is given back; more than
:data:`~sage.middleware.budgets.book.LEASE`."""
_PURGE_ROUNDS = 7200
_KEPT = 40 * 86400.0
"""Seconds for which windows are kept that are over."""


class BudgetUpkeep:
    """Keeps a book in step with the database. Belongs to one event loop.

    ``models`` gives the budgets that models have in their settings. Without ``notices`` nobody is told of thresholds.
    """

    def __init__(
        self,
        book: BudgetBook,
        draws: BudgetDraws,
        counters: BudgetCounters,
        store: BudgetStore,
        settings: BudgetsSettings,
        models: Callable[[], dict[str, BudgetSettings]],
        notices: BudgetNotices | None,
        holder: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._book = book
        self._draws = draws
        self._counters = counters
        self._store = store
        self._settings = settings
        self._models = models
        self._notices = notices
        self._holder = holder
        self._monotonic = monotonic
        self._known: object = None
        """What the book was last made of."""
        self._is_ending = asyncio.Event()
        self._posting: asyncio.Task[None] | None = None
        self._beats: dict[str, tuple[int, float]] = {}
        """Of other processes: the beat that was seen last, and when it was seen first."""
        self._rounds = 0
        self._running: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._running = asyncio.create_task(self._run())
        if self._notices is not None:
            self._posting = asyncio.create_task(self._notices.run())

    async def end(self) -> None:
        """Books everything and gives back all that is held; calls that still run are booked no more."""
        if self._posting is not None:
            self._posting.cancel()
            await asyncio.wait([self._posting])
        if self._running is not None:
            self._is_ending.set()  # not cancelled: a booking that was begun is done, and nobody would know of it
            await asyncio.wait([self._running])
        await self._draws.end()
        try:
            await self.settle(everything=True)
        except SageError as exc:
            logging.getLogger("sage").error("budgets: what was spent last cannot be booked: %s", exc.message)

    async def _run(self) -> None:
        while not self._is_ending.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._is_ending.wait()
                    return
            try:
                await self.round()
            except SageError:
                pass  # the database cannot be used at this moment
            except Exception:
                logging.getLogger("sage").exception("the upkeep of budgets failed")

    async def round(self) -> None:
        """One round: booking, and now and then a look at what others did."""
        self._rounds += 1
        await self.settle()
        if self._rounds % _LOOK_ROUNDS == 0:
            await self.refresh()
            await self._reclaim()
        if self._rounds % _PURGE_ROUNDS == 0:
            await self._draws.run(self._counters.purge, self._book.clock() - _KEPT)

    async def refresh(self) -> None:
        """Takes over the budgets as they are now, if one has changed."""
        models, revision = self._models(), await self._draws.run(self._store.revision)
        if self._known != (revision, models):
            revision, stored = await self._draws.run(self._store.read)
            self._book.load(BudgetList(self._settings, models, stored))
            self._known = revision, models

    async def settle(self, *, everything: bool = False) -> None:
        """Books what was spent and gives back what is idle. Raises :class:`sage.errors.Unavailable`, and nothing is
        lost."""
        book, started = self._book, self._book.clock()
        collected = book.collect(everything=everything)
        lives = not everything and (book.holds_something or self._draws.under_way > 0)
        if not collected and not (lives and self._rounds % _BEAT_ROUNDS == 0):
            return
        spendings = [spending for _, spending in collected]
        budgets = {account.budget.subject: account.budget for account, _ in collected}
        observer = None
        if self._notices is not None:
            observer = ThresholdObserver(self._settings.thresholds, budgets, book.clock)
        try:
            booking = partial(self._counters.settle, self._holder, spendings, lives=lives, observer=observer)
            settled = await self._draws.run(booking)
        except Exception:
            for account, spending in collected:
                account.restore(spending)
            raise
        if not settled.was_alive:
            book.lose_all()
        elif lives:
            book.heard(started)
        for account, spending in collected:
            account.known = settled.counts[spending.key]
        book.forget_idle()

    async def _reclaim(self) -> None:
        """Gives back what processes held that have been silent for too long.

        Silence is measured with this process's own clock, since those of two machines may differ.
        """
        now = self._monotonic()
        beats = await self._draws.run(self._counters.beats)
        beats.pop(self._holder, None)
        self._beats = {
            holder: seen if (seen := self._beats.get(holder)) is not None and seen[0] == beat else (beat, now)
            for holder, beat in beats.items()
        }
        for holder, (beat, since) in list(self._beats.items()):
            if now - since >= _DEAD_AFTER:
                await self._draws.run(self._counters.reclaim, holder, beat)
                del self._beats[holder]
