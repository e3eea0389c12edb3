"""Which budgets a call meets: those of its caller, its model and its tags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from sage.middleware.budgets.budget import Budget
from sage.middleware.settings.budgets import BudgetSettings, BudgetsSettings


class Spender(Protocol):
    """Who a call is made for."""

    @property
    def subjects(self) -> tuple[str, ...]:
        """Its key and the keys that made that one, its user and its tenant: ``key:<id>``, ``user:…``, ``tenant:…``."""
        ...

    @property
    def tags(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class BudgetedSubjects:
    """The subjects that have a budget: by name, and by kind where every such subject has one."""

    names: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.names or self.kinds)

    def of(self, caller: Spender, models: Iterable[str]) -> tuple[str, ...]:
        """Those that a call of ``caller`` for one of ``models`` meets, in the order in which locks are taken."""
        asked = {*caller.subjects, *(f"tag:{tag}" for tag in caller.tags), *(f"model:{model}" for model in models)}
        return tuple(sorted(each for each in asked if each in self.names or each.partition(":")[0] in self.kinds))


NOBODY = BudgetedSubjects()
"""There are no budgets."""


class BudgetList:
    """All budgets: stored ones, before those of the configuration, before what every subject of a kind has."""

    def __init__(
        self, settings: BudgetsSettings, models: Mapping[str, BudgetSettings], stored: Iterable[Budget]
    ) -> None:
        self._settings = settings
        self._named = _configured(settings, models) | {budget.subject: budget for budget in stored}
        self.subjects = BudgetedSubjects(frozenset(self._named), frozenset(settings.defaults.kinds))

    def of(self, subject: str) -> Budget | None:
        """The budget of ``subject``; ``None`` means that it has none."""
        named = self._named.get(subject)
        if named is not None:
            return named
        settings = self._settings.defaults.of(subject.partition(":")[0])
        return None if settings is None else Budget.of(subject, settings, source="default")

    def named(self) -> list[Budget]:
        """Those that are of one subject."""
        return list(self._named.values())


def _configured(settings: BudgetsSettings, models: Mapping[str, BudgetSettings]) -> dict[str, Budget]:
    sections = (("tenant", settings.tenants), ("user", settings.users), ("tag", settings.tags), ("model", models))
    found = (Budget.of(f"{kind}:{name}", each, source="config") for kind, all in sections for name, each in all.items())
    return {budget.subject: budget for budget in found}
