"""What one call has reserved, until it is settled."""

from __future__ import annotations

from urllib.parse import quote

from sage.middleware.budgets.account import BudgetAccount

_SAFE = ":/@+. "


class Reservation:
    """Reserves ``money`` nano-dollars or ``tokens``, by the budget's unit, of each of ``accounts``."""

    __slots__ = ("accounts", "has_soft", "is_settled", "money", "tokens")

    def __init__(self, accounts: tuple[BudgetAccount, ...], money: int, tokens: int, has_soft: bool = True) -> None:
        """``has_soft``: whether there may be a soft budget among them."""
        self.accounts = accounts
        self.has_soft = has_soft
        self.money = money
        self.tokens = tokens
        self.is_settled = False

    def settle(self, money: int | None, tokens: int, model: str) -> None:
        """Books what the call has used, once; ``model`` is the one that answered. ``money`` is ``None`` where nobody
        knows the price: then it is what was reserved."""
        if self.is_settled:
            return
        self.is_settled = True
        money = self.money if money is None else money
        for account in self.accounts:
            account.settle_for(model, self.money, self.tokens, money, tokens)

    def add(self, other: Reservation) -> None:
        """Takes over what ``other`` has reserved, which is of the same size."""
        self.accounts += other.accounts

    def cancel(self) -> None:
        """Gives everything back: the call was not made."""
        self.settle(0, 0, "")

    def notes(self) -> list[str]:
        """What ``x-sage-budget`` says: the soft budgets that are used up."""
        return [_note(each) for each in self.accounts if each.is_soft and each.is_used_up]


def _note(account: BudgetAccount) -> str:
    budget = account.budget
    spent, amount = budget.number_of(account.settled), budget.number_of(budget.amount)
    return f"{quote(budget.subject, safe=_SAFE)}; spent={spent}; {budget.unit}={amount}; window={budget.window}"
