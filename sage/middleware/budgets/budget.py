"""A budget: whose it is, how much, for which window, and what is said when it is spent."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum

from sage.errors import InvalidRequest, RateLimited
from sage.middleware.settings.budgets import BudgetSettings, BudgetWindow

NANO = 10**9
"""Nano-dollars in a dollar. Money is whole nano-dollars everywhere."""
KINDS = ("key", "user", "tenant", "model", "tag")
"""What a budget can hang on. A subject is one of these, a colon and a name."""
LONGEST_NAME = 256
_NAME = re.compile(rf"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{1,{LONGEST_NAME}}}")


class Unit(StrEnum):
    """What a budget counts: nano-dollars, or tokens of prompts and answers together."""

    USD = "usd"
    TOKENS = "tokens"


def subject_of(kind: str, name: str) -> str:
    """The text that names a subject, such as ``tenant:acme``. Raises :class:`InvalidRequest` for what is none."""
    if kind not in KINDS:
        raise InvalidRequest(f"there are no budgets of a '{kind[:40]}'; a budget is of a {', '.join(KINDS)}")
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"the name of a {kind} has 1 to {LONGEST_NAME} characters without line ends and the like")
    return f"{kind}:{name}"


@dataclass(frozen=True, slots=True)
class Budget:
    """What ``subject`` may spend in each ``window``: ``amount`` nano-dollars or tokens.

    ``tenant`` is the tenant whose owners may see it; ``None`` means that only admins may. ``source`` is ``api`` for one
    that is stored, ``config`` for one of the configuration, ``team`` for one that each member of a team has,
    ``default`` for one that every such subject has.
    """

    subject: str
    unit: Unit
    amount: int
    window: BudgetWindow = "month"
    hard: bool = True
    tenant: str | None = None
    source: str = "api"
    found_as: str = ""
    """The name by which a list of budgets has it, where that is not its subject."""

    @classmethod
    def of(cls, subject: str, settings: BudgetSettings, *, tenant: str | None = None, source: str = "api") -> Budget:
        """The budget that ``settings`` give to ``subject``."""
        if settings.usd is not None:
            unit, amount = Unit.USD, int(settings.usd * NANO)
        else:
            assert settings.tokens is not None
            unit, amount = Unit.TOKENS, settings.tokens
        return cls(subject, unit, amount, settings.window, settings.hard, tenant, source)

    @property
    def name_in_list(self) -> str:
        """By which :class:`~sage.middleware.budgets.subjects.BudgetList` has it."""
        return self.found_as or self.subject

    @property
    def kind(self) -> str:
        return self.subject.partition(":")[0]

    @property
    def name(self) -> str:
        return self.subject.partition(":")[2]

    def number_of(self, amount: int) -> int | str:
        """An amount of its unit as a decimal number: dollars or tokens."""
        return f"{dollars(amount):f}" if self.unit is Unit.USD else amount

    def text_of(self, amount: int) -> str:
        """An amount of its unit for people: ``$12.5`` or ``4000 tokens``."""
        return f"${dollars(amount):f}" if self.unit is Unit.USD else f"{amount} tokens"

    def exceeded(self, need: int, left: int, ends: float, now: float) -> RateLimited:
        """The refusal of a call that may take ``need`` where ``left`` is not spent until ``ends``. Is that enough, then
        running calls hold it, and another try in a second may do."""
        per = "in all" if self.window == "total" else f"a {self.window}"
        what = f"the budget of the {self.kind} '{self.name}', {self.text_of(self.amount)} {per}, "
        if need <= left:
            message = f"{what}is held by running calls; try again when some have ended"
            return RateLimited(message, code="budget_exceeded", retry_after=1.0)
        what += f"has {self.text_of(max(left, 0))} left, and this call may take {self.text_of(need)}"
        if math.isinf(ends):
            message = f"{what}; it does not open again by itself: ask an administrator for more"
            return RateLimited(message, code="budget_exceeded", retry_after=_LONGEST_WAIT)
        opens = datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%d %H:%M UTC")
        message = f"{what}; it opens again on {opens}"
        return RateLimited(message, code="budget_exceeded", retry_after=max(ends - now, 1.0))


_LONGEST_WAIT = 86400.0
"""Seconds that ``Retry-After`` says where a budget never opens again by itself."""


def dollars(nano: int) -> Decimal:
    """The dollars in ``nano`` nano-dollars, without needless zeros."""
    return (Decimal(nano) / NANO).normalize()
