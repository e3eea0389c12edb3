"""The settings of budgets: what a key, a user, a tenant, a model or a tag may spend, and who hears of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.quantities import Text

BudgetWindow = Literal["day", "week", "month", "total"]


class BudgetSettings(SettingsSection):
    """An amount for each window of time: money or tokens, one of the two."""

    usd: Annotated[Decimal, Field(gt=0, max_digits=18, decimal_places=9)] | None = None
    """US dollars."""
    tokens: int | None = Field(None, ge=1, le=10**18)
    """Tokens of prompts and answers together."""
    window: BudgetWindow = "month"
    """The calendar's, in UTC; weeks begin on Monday. ``total`` never opens again."""
    hard: bool = True
    """Whether calls beyond it are refused; a soft budget only tells."""

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if (self.usd is None) == (self.tokens is None):
            raise ValueError("give either 'usd' or 'tokens'")
        return self


class DefaultBudgets(SettingsSection):
    """What every tenant, user or key has that has no budget of its own."""

    tenant: BudgetSettings | None = None
    user: BudgetSettings | None = None
    key: BudgetSettings | None = None

    def of(self, kind: str) -> BudgetSettings | None:
        """The budget of every subject of that kind; ``None`` means that they have none."""
        return {"tenant": self.tenant, "user": self.user, "key": self.key}.get(kind)

    @property
    def kinds(self) -> list[str]:
        """The kinds that have one."""
        return [kind for kind in ("tenant", "user", "key") if self.of(kind) is not None]


def _rising(thresholds: tuple[int, ...]) -> tuple[int, ...]:
    if list(thresholds) != sorted(set(thresholds)) or not all(1 <= each <= 100 for each in thresholds):
        raise ValueError("thresholds are percentages from 1 to 100, each higher than the one before")
    return thresholds


class BudgetsSettings(SettingsSection):
    """Budgets of the configuration, and how all of them are kept. A stored budget of the same subject goes first."""

    defaults: DefaultBudgets = Field(default_factory=DefaultBudgets)
    tenants: dict[str, BudgetSettings] = Field(default_factory=dict)
    users: dict[str, BudgetSettings] = Field(default_factory=dict)
    tags: dict[str, BudgetSettings] = Field(default_factory=dict)
    unpriced: Literal["refuse", "allow"] = "refuse"
    """What becomes of a call under a hard budget in dollars when nobody knows the price of its model; ``allow`` lets it
    pass, uncounted."""
    assumed_output: int = Field(4096, ge=1)
    """Tokens that are reserved for an answer to which the request sets no limit."""
    thresholds: Annotated[tuple[int, ...], AfterValidator(_rising)] = (50, 80, 100)
    """Percentages of a budget, each told once a window."""
    webhook: Text | None = None
    """Where they are told: a URL whose host ``queue.webhooks.hosts`` allows."""

    @property
    def has_any(self) -> bool:
        """Whether any budget stands here."""
        return bool(self.tenants or self.users or self.tags or self.defaults.kinds)
