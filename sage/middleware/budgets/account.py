"""What one process holds of a budget in one window, in memory."""

from __future__ import annotations

import asyncio
import math
from collections import deque

from sage.middleware.budgets.budget import Budget, Unit
from sage.middleware.budgets.periods import BudgetPeriod
from sage.middleware.budgets.spending import Counted, Spending, WindowKey

_UNBOUNDED = 1 << 62


class BudgetAccount:
    """A budget in one window. Belongs to one event loop; :class:`~sage.middleware.budgets.book.BudgetBook` keeps it.

    What the process holds of the window is ``free`` (for calls to come), ``outstanding`` (reserved by running calls)
    and ``spent`` (used, and not in the database yet), all in the budget's unit. ``free`` is negative where a call used
    more than it had reserved. Of a soft budget nothing is held, and ``free`` has no end.
    """

    __slots__ = (
        *(
            "_ahead",
            "_quiet",
            "_seen",
            "budget",
            "counts_tokens",
            "ends",
            "free",
            "given",
            "has_refused",
            "is_drawing",
            "is_soft",
            "key",
            "known",
        ),
        *("model", "spent", "valid_until", "waiting"),
    )

    def __init__(self, budget: Budget, period: BudgetPeriod) -> None:
        self.budget = budget
        self.key = WindowKey(budget.subject, str(budget.unit), period.name)
        self.ends = period.ends
        self.is_soft = not budget.hard
        self.counts_tokens = budget.unit is Unit.TOKENS
        self.model = budget.name if budget.kind == "model" else None
        """Calls that another model has answered use nothing of it; ``None`` means that all calls do."""
        self.valid_until = -math.inf
        """Until then ``free`` may be given out (Unix seconds)."""
        self.free = 0 if budget.hard else _UNBOUNDED
        self.given = self.free
        """All that is free, reserved by running calls, or spent and not in the database yet."""
        self.spent = 0
        self.known = Counted(0, 0)
        """The database's counts, as this process saw them last."""
        self.waiting: deque[tuple[int, asyncio.Future[bool]]] = deque()
        """Calls that wait for a draw, each with its need."""
        self.is_drawing = False
        self.has_refused = False
        """Whether a call was refused because too little of the amount is left, and nobody was told that yet."""
        self._ahead = _FIRST_AHEAD
        self._seen = (self.free, 0)
        self._quiet = 0

    @property
    def outstanding(self) -> int:
        """What is reserved by running calls."""
        return self.given - self.free - self.spent

    @property
    def held(self) -> int:
        """What the database says is held here."""
        return self.given if self.budget.hard else 0

    @property
    def settled(self) -> int:
        """What is spent, as far as this process knows."""
        return self.known.settled + self.spent

    @property
    def is_used_up(self) -> bool:
        """Whether all of the amount is spent."""
        return self.settled >= self.budget.amount

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is in any process's hands here."""
        return not (self.held or self.outstanding or self.spent or self.waiting or self.is_drawing)

    def take(self, need: int) -> None:
        """Reserves ``need`` of what is free."""
        self.free -= need

    def draw(self, granted: int) -> None:
        """The database has granted so much more."""
        self.free += granted
        self.given += granted

    def settle(self, need: int, used: int) -> None:
        """A call that had reserved ``need`` has used ``used``."""
        self.free += need - used
        self.spent += used

    def settle_for(self, model: str, held_money: int, held_tokens: int, money: int, tokens: int) -> None:
        """Calls that ``model`` has answered had reserved so much, and have used that much of one of both."""
        held, used = (held_tokens, tokens) if self.counts_tokens else (held_money, money)
        self.settle(held, used if self.model is None or self.model == model else 0)

    def lose(self) -> None:
        """Others took back what was held here, since nothing was heard of this process for too long."""
        if self.budget.hard:
            self.draw(-self.given)

    def grow_busy(self) -> int:
        """To be called with each draw: for how many calls to come it is to be; more each time, until it is quiet."""
        ahead, self._ahead = self._ahead, min(self._ahead * 4, MOST_AHEAD)
        return ahead

    def grow_quiet(self) -> bool:
        """To be called twice a second: whether nothing was given out of it for a second, or for ten where what is held
        here is a small part of what is left."""
        now = (self.free, self.outstanding)
        self._quiet = self._quiet + 1 if now == self._seen else 0
        self._seen = now
        if self._quiet >= _QUIET_ROUNDS:  # calls come in bursts: the next draw is not to begin small again at once
            self._ahead = max(self._ahead // 2, _FIRST_AHEAD)
        left = self.budget.amount - self.known.settled - self.known.reserved
        return self._quiet >= (_ROOMY_QUIET_ROUNDS if self.given * _SMALL_PART < left else _QUIET_ROUNDS)

    def collect(self, *, keep: bool) -> Spending | None:
        """What is to be booked now, and with ``keep`` nothing of what is free given back; ``None`` means nothing.

        It counts as booked from here on; :meth:`restore` undoes that.
        """
        spent = self.spent
        outstanding = self.outstanding
        if self.budget.hard:
            after = min(self.given, outstanding + (max(self.free, 0) if keep else 0))
            released = self.given - after
            self.free, self.given = after - outstanding, after
        else:
            released = 0
            self.free += spent
        refused, self.has_refused = self.has_refused, False
        if not (spent or released or refused):
            return None
        self.spent = 0
        return Spending(self.key, None if math.isinf(self.ends) else self.ends, spent, released, refused)

    def restore(self, spending: Spending) -> None:
        """``spending`` could not be booked."""
        self.has_refused |= spending.refused
        released = spending.released if self.budget.hard else 0
        self.spent += spending.spent
        self.free += released - spending.spent
        self.given += released


_QUIET_ROUNDS, _ROOMY_QUIET_ROUNDS = 2, 20
_SMALL_PART = 100
_FIRST_AHEAD, MOST_AHEAD = 64, 16384
"""For how many calls to come a draw is: at first, and at most."""
