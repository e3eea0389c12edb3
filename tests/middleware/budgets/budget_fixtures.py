"""Budgets as tests use them: on a directory, with a clock that a test moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.middleware.budgets.account import BudgetAccount
from sage.middleware.budgets.budgets import Budgets
from sage.middleware.budgets.database import open_budgets_database
from sage.middleware.budgets.reservation import Reservation
from sage.middleware.settings.budgets import BudgetSettings, BudgetsSettings
from sage.middleware.settings.database import DatabaseUrl
from sage.middleware.settings.webhooks import WebhookSettings


class Clock:
    """Unix seconds that a test moves; a Wednesday noon in a January."""

    def __init__(self, now: float = 1_800_446_400.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Spender:
    """A caller, by the subjects that it spends for."""

    subjects: tuple[str, ...] = ("key:k1", "user:ann", "tenant:acme")
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """A call as the ledger hands it over."""

    reservation: Reservation | None
    cost: int | None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = "gpt"


ANN = Spender()


def make_budgets(
    directory: Path,
    clock: Callable[[], float] | None = None,
    *,
    url: DatabaseUrl | None = None,
    models: dict[str, BudgetSettings] | None = None,
    webhooks: WebhookSettings | None = None,
    **settings: Any,
) -> Budgets:
    """``settings`` are those of the section ``budgets``."""
    clock = clock or Clock()
    return Budgets(
        open_budgets_database(directory, url),
        BudgetsSettings.model_validate(settings),
        webhooks or WebhookSettings(),
        lambda: models or {},
        clock,
        clock,
    )


def budget(**fields: Any) -> BudgetSettings:
    return BudgetSettings.model_validate(fields)


async def reserve(
    budgets: Budgets, money: int = 0, tokens: int = 0, caller: Spender = ANN, models: tuple[str, ...] = ("gpt",)
) -> Reservation:
    """As the gateway does it: at once where that is possible, else with a draw."""
    accounts: tuple[BudgetAccount, ...] = budgets.accounts(caller, models)
    return budgets.take(accounts, money, tokens) or await budgets.reserve(accounts, money, tokens)


def view(budgets: Budgets, subject: str, tenant: str = "") -> dict[str, Any]:
    """What ``GET /budgets`` shows of a subject."""
    found = budgets.reader.list().met(subject, tenant)
    assert found is not None
    return budgets.reader.views([found])[0]
