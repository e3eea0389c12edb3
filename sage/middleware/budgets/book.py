"""What this process may spend, in memory: a call that finds enough here is admitted without waiting or a write."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from sage.middleware.budgets.account import BudgetAccount
from sage.middleware.budgets.periods import period_at
from sage.middleware.budgets.reservation import Reservation
from sage.middleware.budgets.spending import Spending
from sage.middleware.budgets.subjects import BudgetedSubjects, BudgetList, Spender

LEASE = 20.0
"""Seconds for which what is held may be given out without a word to the database. Others take it back after more."""
_MOST_KNOWN = 10_000
_Met = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Subjects and tags of a caller, and the models that may answer."""
Collected = list[tuple[BudgetAccount, Spending]]


class BudgetBook:
    """The budgets that calls of this process meet. Belongs to one event loop; ``clock`` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.subjects = BudgetedSubjects()
        """Those that have a budget."""
        self.on_load: Callable[[], object] | None = None
        """Called whenever the budgets have changed."""
        self._budgets: BudgetList | None = None
        self._accounts: dict[str, BudgetAccount] = {}
        self._retired: list[BudgetAccount] = []
        """Of windows that are over and of budgets that have changed; calls still run on them."""
        self._applying: dict[_Met, tuple[BudgetAccount, ...]] = {}
        self.on_edition: list[Callable[[], object]] = []
        """Called whenever calls may meet other accounts than before."""
        self._lease_until = -math.inf

    def load(self, budgets: BudgetList) -> None:
        """From now on these are the budgets, and no others."""
        others_have = budgets.subjects != self.subjects
        self._budgets, self.subjects = budgets, budgets.subjects
        for name, account in list(self._accounts.items()):
            # A user may have its budget from another one now; what is held of the one before is given back.
            if budgets.of(name) != account.budget or (others_have and account.budget.kind == "user"):
                self._retire(account)
        self._begin_edition()
        if self.on_load is not None:
            self.on_load()

    def accounts(self, caller: Spender, models: tuple[str, ...]) -> tuple[BudgetAccount, ...]:
        """The accounts that a call of ``caller`` meets which one of ``models`` answers; empty where no budget does."""
        key = caller.subjects, caller.tags, models
        known = self._applying.get(key)
        if known is None:
            names = self.subjects.of(caller, models)
            known = tuple(account for name in names if (account := self.account(name)) is not None)
            if len(self._applying) >= _MOST_KNOWN:
                self._applying.clear()
            self._applying[key] = known
        return known

    def account(self, name: str) -> BudgetAccount | None:
        """The account of the budget of that name in the present window; ``None`` means that there is none."""
        account, now = self._accounts.get(name), self.clock()
        if account is not None and now < account.ends:
            return account
        if account is not None:
            self._retire(account)
        budget = None if self._budgets is None else self._budgets.of(name)
        if budget is None:
            return None
        account = self._accounts[name] = BudgetAccount(budget, period_at(budget.window, now))
        return account

    def take(
        self, accounts: tuple[BudgetAccount, ...], money: int, tokens: int, has_soft: bool = True
    ) -> Reservation | None:
        """Reserves at once; ``None`` means that something has to be drawn first, and nothing is reserved. ``has_soft``:
        whether there may be a soft budget among ``accounts``."""
        now = self.clock()
        for account in accounts:
            need = tokens if account.counts_tokens else money
            if account.free < need or now >= account.valid_until:
                for taken in accounts[: accounts.index(account)]:
                    taken.settle(tokens if taken.counts_tokens else money, 0)
                return None
            account.free -= need
        return Reservation(accounts, money, tokens, has_soft)

    def heard(self, at: float) -> None:
        """The database has heard of this process at that time, which may give out what it holds for a while."""
        self._lease_until = at + LEASE
        for account in self._accounts.values():
            if account.budget.hard:
                account.valid_until = min(account.ends, self._lease_until)

    def lose_all(self) -> None:
        """What was held here is others' now."""
        for account in self._all():
            account.lose()

    @property
    def holds_something(self) -> bool:
        return any(account.held for account in self._all())

    def collect(self, *, everything: bool = False) -> Collected:
        """What is to be booked now: what was spent, and what nobody has needed for a second, or ``everything``."""
        collected: Collected = []
        for account in self._all():
            keep = not everything and account.valid_until != -math.inf and not account.grow_quiet()
            spending = account.collect(keep=keep)
            if spending is not None:
                collected.append((account, spending))
        return collected

    def forget_idle(self) -> None:
        """Lets go of accounts whose window is over, and of retired ones on which no call runs any more."""
        now = self.clock()
        for account in [each for each in self._accounts.values() if now >= each.ends]:
            self._retire(account)
        self._retired = [account for account in self._retired if not account.is_idle]

    def _retire(self, account: BudgetAccount) -> None:
        del self._accounts[account.budget.name_in_list]
        account.valid_until = -math.inf
        self._retired.append(account)
        self._begin_edition()

    def _begin_edition(self) -> None:
        self._applying.clear()
        for forget in self.on_edition:
            forget()

    def _all(self) -> Iterator[BudgetAccount]:
        yield from self._accounts.values()
        yield from self._retired
