"""Everything about budgets, put together on a database: for the gateway, its routes, and the command line."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable

from sage.middleware.audit.event import THE_OPERATOR, Actor
from sage.middleware.budgets.account import BudgetAccount
from sage.middleware.budgets.book import BudgetBook
from sage.middleware.budgets.counters import BudgetCounters
from sage.middleware.budgets.draws import BudgetDraws
from sage.middleware.budgets.ended_calls import EndedCalls, SpentCall, add_up
from sage.middleware.budgets.notices import BudgetNotices
from sage.middleware.budgets.reader import BudgetReader
from sage.middleware.budgets.reservation import Reservation
from sage.middleware.budgets.store import BudgetStore
from sage.middleware.budgets.subjects import BudgetedSubjects
from sage.middleware.budgets.thresholds import BudgetEvents
from sage.middleware.budgets.upkeep import BudgetUpkeep
from sage.middleware.database.database import Database
from sage.middleware.settings.budgets import BudgetSettings, BudgetsSettings
from sage.middleware.settings.webhooks import WebhookSettings
from sage.thread_pool import ThreadPool


class Budgets:
    """The budgets of one installation, as one process keeps them; it closes ``database``.

    ``models`` gives the budgets that models have in their settings. ``clock`` gives Unix seconds.
    """

    def __init__(
        self,
        database: Database,
        settings: BudgetsSettings,
        webhooks: WebhookSettings,
        models: Callable[[], dict[str, BudgetSettings]],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.store = BudgetStore(database, clock)
        self.reader = BudgetReader(database, settings, models, clock)
        self._database = database
        self._thread = ThreadPool(1, "sage-budgets")
        self._counters = BudgetCounters(database)
        self.book = self._book = BudgetBook(clock)
        self.accounts = self._book.accounts
        """The accounts that a call meets."""
        self.take = self._book.take
        """Reserves of them at once; where that gives ``None``, :meth:`reserve` has to be awaited."""
        holder = secrets.token_hex(8)
        self._draws = BudgetDraws(self._book, self._counters, self._thread, holder)
        notices = None
        if settings.webhook is not None:
            notices = BudgetNotices(BudgetEvents(database), settings.webhook, webhooks, self._thread, clock)
        self.upkeep = BudgetUpkeep(
            *(self._book, self._draws, self._counters, self.store, settings, models, notices, holder), monotonic
        )
        self._loop: asyncio.AbstractEventLoop | None = None

    async def begin(self) -> None:
        """Reads the budgets; from now on calls can be admitted, on this event loop."""
        self._loop = asyncio.get_running_loop()
        await self.upkeep.refresh()
        self.upkeep.begin()

    async def end(self) -> None:
        """Books what was spent, gives back what is held, and closes the database."""
        await self.upkeep.end()
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Closes the database, where :meth:`begin` was never called."""
        self._thread.shutdown()
        self._database.close()

    @property
    def subjects(self) -> BudgetedSubjects:
        """Those that have a budget. It is empty, and false, where there are no budgets at all."""
        return self._book.subjects

    def on_short(self, settle_ended: Callable[[], Awaitable[object]]) -> None:
        """``settle_ended`` is awaited before a call is refused: it settles the calls that have ended."""
        self._draws.settle_ended = settle_ended

    def on_change(self, tell: Callable[[], object]) -> None:
        """``tell`` is called whenever :attr:`subjects` may have changed."""
        self._book.on_load = tell

    async def reserve(self, accounts: tuple[BudgetAccount, ...], money: int, tokens: int) -> Reservation:
        """Reserves with what the database grants. Raises :class:`sage.errors.RateLimited` (``budget_exceeded``)."""
        return await self._draws.reserve([account.budget.name_in_list for account in accounts], money, tokens)

    def on_settled(self, calls: Iterable[SpentCall]) -> None:
        """Settles calls that have ended; on any thread, but one at a time."""
        ended = add_up(calls)
        if ended and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_book, ended)

    async def give(
        self, subject: str, settings: BudgetSettings | None, tenant: str | None, by: Actor = THE_OPERATOR
    ) -> bool:
        """Gives ``subject`` that budget, or takes its own away; calls from here on go by it. Returns whether anything
        was given or taken."""
        is_changed = True
        if settings is None:
            is_changed = await asyncio.to_thread(self.store.remove, subject, tenant, by)
        else:
            await asyncio.to_thread(self.store.put, subject, settings, tenant, by)
        await self.refresh()
        return is_changed

    async def refresh(self) -> None:
        """Takes over the budgets as they are now."""
        await self.upkeep.refresh()


def _book(calls: list[EndedCalls]) -> None:
    for each in calls:
        each.book()
