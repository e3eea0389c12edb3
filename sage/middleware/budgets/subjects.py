"""Which budgets a call meets: those of its caller, its model and its tags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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


def members_of(tenant: str) -> str:
    """What the budget is stored under that each member of ``tenant`` has which has none of its own. It is no subject:
    what a member spends counts for its own."""
    return f"{_MEMBERS}{tenant}"


_MEMBERS = "member:"
_TENANT = "tenant:"


@dataclass(frozen=True, slots=True)
class BudgetedSubjects:
    """The subjects that have a budget: by name, and by kind where every such subject has one."""

    names: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.names or self.kinds)

    def of(self, caller: Spender, models: Iterable[str]) -> tuple[str, ...]:
        """The budgets that a call of ``caller`` for one of ``models`` meets, by their names in a :class:`BudgetList`,
        in the order in which locks are taken."""
        asked = {*caller.subjects, *(f"tag:{tag}" for tag in caller.tags), *(f"model:{model}" for model in models)}
        tenant = next((each[len(_TENANT) :] for each in caller.subjects if each.startswith(_TENANT)), "")
        return tuple(sorted(name for each in asked if (name := self.name_of(each, tenant)) is not None))

    def name_of(self, subject: str, tenant: str) -> str | None:
        """By which name a :class:`BudgetList` has the budget of ``subject``, which belongs to ``tenant``; ``None``
        means that there is none."""
        if subject in self.names:
            return subject
        kind = subject.partition(":")[0]
        if kind == "user" and members_of(tenant) in self.names:
            return f"{members_of(tenant)}/{subject}"
        return subject if kind in self.kinds else None


NOBODY = BudgetedSubjects()
"""There are no budgets."""


class BudgetList:
    """All budgets: stored ones, before those of the configuration, before what every member of a team has, before what
    every subject of a kind has."""

    def __init__(
        self, settings: BudgetsSettings, models: Mapping[str, BudgetSettings], stored: Iterable[Budget]
    ) -> None:
        self._settings = settings
        self._named = _configured(settings, models) | {budget.subject: budget for budget in stored}
        self.subjects = BudgetedSubjects(frozenset(self._named), frozenset(settings.defaults.kinds))

    def of(self, name: str) -> Budget | None:
        """The budget of that name, which is its subject's or of :meth:`BudgetedSubjects.name_of`; ``None`` means that
        there is none."""
        named = self._named.get(name)
        if named is not None:
            return named
        if name.startswith(_MEMBERS):
            members, _, user = name.partition("/")  # the name of a team has no slash
            given = self._named.get(members)
            return None if given is None else replace(given, subject=user, source="team", found_as=name)
        settings = self._settings.defaults.of(name.partition(":")[0])
        return None if settings is None else Budget.of(name, settings, source="default")

    def met(self, subject: str, tenant: str) -> Budget | None:
        """The budget that calls of ``subject``, which belongs to ``tenant``, meet; ``None`` means that it has none."""
        name = self.subjects.name_of(subject, tenant)
        return None if name is None else self.of(name)

    def named(self) -> list[Budget]:
        """Those that are of one subject."""
        return [budget for name, budget in self._named.items() if not name.startswith(_MEMBERS)]


def _configured(settings: BudgetsSettings, models: Mapping[str, BudgetSettings]) -> dict[str, Budget]:
    sections = (("tenant", settings.tenants), ("user", settings.users), ("tag", settings.tags), ("model", models))
    found = (Budget.of(f"{kind}:{name}", each, source="config") for kind, all in sections for name, each in all.items())
    return {budget.subject: budget for budget in found}
