"""Calls that wait for more than this process holds: their needs are drawn together, from the database."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from sage.middleware.budgets.account import BudgetAccount
from sage.middleware.budgets.book import BudgetBook
from sage.middleware.budgets.counters import BudgetCounters, Drawn
from sage.middleware.budgets.reservation import Reservation
from sage.thread_pool import ThreadPool

Waiting = tuple[int, "asyncio.Future[bool]"]
"""What a call needs, and whether it has got it; ``False`` means that the account is none any more."""
T = TypeVar("T")


class BudgetDraws:
    """Draws for the calls of one process, one draw at a time for each account. Belongs to one event loop.

    ``holder`` is the name under which the process holds what it has drawn. The database is asked on ``thread``, one
    question after the other.
    """

    def __init__(self, book: BudgetBook, counters: BudgetCounters, thread: ThreadPool, holder: str) -> None:
        self.settle_ended: Callable[[], Awaitable[object]] | None = None
        """Settles the calls that have ended; awaited before a call is refused, for what those did not use."""
        self.under_way = 0
        """How many draws there are at this moment."""
        self._book = book
        self._counters = counters
        self._thread = thread
        self._holder = holder
        self._tasks: set[asyncio.Task[None]] = set()

    async def reserve(self, names: Sequence[str], money: int, tokens: int) -> Reservation:
        """Reserves of every budget of ``names``. Raises :class:`sage.errors.RateLimited` (``budget_exceeded``) when
        one of them has not enough; nothing is reserved then."""
        taken: list[BudgetAccount] = []
        try:
            for name in names:
                account = await self._obtain(name, money, tokens)
                if account is not None:
                    taken.append(account)
        except BaseException:
            Reservation(tuple(taken), money, tokens).cancel()
            raise
        return Reservation(tuple(taken), money, tokens)

    async def _obtain(self, name: str, money: int, tokens: int) -> BudgetAccount | None:
        """The account of which the need was taken; ``None`` means that there is no budget of that name any more."""
        while (account := self._book.account(name)) is not None:
            need = tokens if account.counts_tokens else money
            if not account.waiting and self._serve(account, need):
                return account
            waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            account.waiting.append((need, waiting))
            if not account.is_drawing:
                self._begin(account)
            try:
                if await waiting:
                    return account
            except asyncio.CancelledError:
                if waiting.done() and not waiting.cancelled() and waiting.exception() is None and waiting.result():
                    account.settle(need, 0)
                raise
        return None

    def _serve(self, account: BudgetAccount, need: int) -> bool:
        """Takes ``need`` of what is free, if that is enough."""
        if account.free < need or self._book.clock() >= account.valid_until:
            return False
        account.take(need)
        return True

    def _begin(self, account: BudgetAccount) -> None:
        account.is_drawing = True
        task = asyncio.get_running_loop().create_task(self._draw(account))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _draw(self, account: BudgetAccount) -> None:
        """Draws until nobody waits; an error goes to those who wait."""
        self.under_way += 1
        try:
            while account.waiting:
                waiting = list(account.waiting)
                await self._round(account, waiting)
                for _ in waiting:
                    account.waiting.popleft()
        except Exception as exc:
            for _, future in account.waiting:
                if not future.done():
                    future.set_exception(exc)
            account.waiting.clear()
        finally:
            account.is_drawing = False
            self.under_way -= 1

    async def _round(self, account: BudgetAccount, waiting: list[Waiting]) -> None:
        """Serves or refuses everyone in ``waiting``."""
        drawn = await self._ask(account, waiting)
        left = self._hand_out(account, waiting)
        if left and self.settle_ended is not None and account.outstanding:
            await self.settle_ended()
            left = self._hand_out(account, left)
            if left and account.free > 0:
                drawn = await self._ask(account, left)
                left = self._hand_out(account, left)
        is_present = self._book.account(account.budget.name_in_list) is account
        for need, future in left:
            if future.done():
                continue
            if is_present:
                future.set_exception(self._refusal(account, need, drawn))
            else:
                future.set_result(False)

    def _refusal(self, account: BudgetAccount, need: int, drawn: Drawn) -> Exception:
        left = account.budget.amount - drawn.before.settled - account.spent
        if left < need:
            account.has_refused = True
        return account.budget.exceeded(need, left, account.ends, self._book.clock())

    def _hand_out(self, account: BudgetAccount, waiting: list[Waiting]) -> list[Waiting]:
        """Serves who waits, first come first; returns those for whom it was not enough."""
        left = []
        for need, future in waiting:
            if future.done():
                continue
            if self._serve(account, need):
                future.set_result(True)
            else:
                left.append((need, future))
        return left

    async def _ask(self, account: BudgetAccount, waiting: list[Waiting]) -> Drawn:
        """Draws for those who wait, or reads the counts of a soft budget."""
        started, budget = self._book.clock(), account.budget
        if not budget.hard:
            account.known = await self.run(self._counters.counted, account.key)
            account.valid_until = account.ends
            return Drawn(0, account.known, None)
        ends = None if math.isinf(account.ends) else account.ends
        has = account.free if started < account.valid_until else min(account.free, 0)
        needs = [need for need, _ in waiting]
        drawn = await self.run(
            self._counters.draw, self._holder, account.key, ends, budget.amount, has, needs, account.grow_busy()
        )
        if drawn.was_alive is False:
            self._book.lose_all()
        account.known = drawn.before
        account.draw(drawn.granted)
        if drawn.was_alive is not None:
            self._book.heard(started)
        return drawn

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """The result of ``function``, called on the thread of the database."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def end(self) -> None:
        """Waits for the draws under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)
