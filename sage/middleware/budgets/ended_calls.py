"""Calls that have ended, added up before they are booked: many calls meet the same few budgets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from sage.middleware.budgets.account import BudgetAccount
from sage.middleware.budgets.reservation import Reservation


class SpentCall(Protocol):
    """What the ledger knows of a call that has ended."""

    @property
    def reservation(self) -> Any: ...
    @property
    def cost(self) -> int | None:
        """Nano-dollars; ``None`` means that nobody knows the price."""
        ...

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def model(self) -> str:
        """The public name of the model that answered."""
        ...


class EndedCalls:
    """Calls on the same accounts that the same model has answered, together."""

    __slots__ = ("accounts", "held_money", "held_tokens", "model", "money", "tokens")

    def __init__(self, accounts: tuple[BudgetAccount, ...], model: str) -> None:
        self.accounts = accounts
        self.model = model
        self.held_money = self.held_tokens = 0
        """What they had reserved."""
        self.money = self.tokens = 0
        """What they have used."""

    def book(self) -> None:
        """Settles them. Belongs to the event loop of the accounts."""
        for account in self.accounts:
            account.settle_for(self.model, self.held_money, self.held_tokens, self.money, self.tokens)


def add_up(calls: Iterable[SpentCall]) -> list[EndedCalls]:
    """What ``calls`` have used that had reserved something; none counts twice. On any thread, but one at a time."""
    sums: dict[tuple[int, str], EndedCalls] = {}
    for call in calls:
        reservation: Reservation | None = call.reservation
        if reservation is None or reservation.is_settled:
            continue
        reservation.is_settled = True
        accounts, model = reservation.accounts, call.model
        key = id(accounts), model
        ended = sums.get(key)
        if ended is None:
            ended = sums[key] = EndedCalls(accounts, model)
        ended.held_money += reservation.money
        ended.held_tokens += reservation.tokens
        cost = call.cost
        ended.money += reservation.money if cost is None else cost
        ended.tokens += call.prompt_tokens + call.completion_tokens
    return list(sums.values())
