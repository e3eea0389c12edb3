"""The settings of a budget: what a key, a user, a tenant, a model or a tag may spend."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sage.middleware.settings.providers import SettingsSection

BudgetWindow = Literal["day", "week", "month", "total"]


class BudgetSettings(SettingsSection):
    """An amount for each window of time: money or tokens, one of the two."""

    usd: Annotated[Decimal, Field(gt=0, max_digits=18, decimal_places=9)] | None = None
    """US dollars."""
    tokens: int | None = Field(None, ge=1)
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
