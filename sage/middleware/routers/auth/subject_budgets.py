"""The budgets of keys, users and teams: set by the same body as their other fields, and shown beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends

from sage.middleware.auth.changes import actor_of
from sage.middleware.auth.principal import Principal
from sage.middleware.auth.teams.views import shown
from sage.middleware.budgets.budgets import Budgets
from sage.middleware.routers.budgets import TheBudgets
from sage.middleware.routers.http.deps import Caller
from sage.middleware.settings.budgets import BudgetSettings


class SubjectBudgets:
    """The budgets of the gateway, as ``by`` sees and sets them."""

    def __init__(self, budgets: Budgets, by: Principal | None = None) -> None:
        self._budgets = budgets
        self._by = actor_of(by)

    async def give(self, subject: str, settings: BudgetSettings | None, tenant: str) -> None:
        """Gives ``subject``, of that tenant, its budget, or takes it away; the audit is told."""
        await self._budgets.give(subject, settings, tenant, self._by)

    async def shown(self, kind: str, views: Sequence[Any]) -> list[dict[str, Any]]:
        """The fields of views of keys, users or teams, each with its ``budget``; ``None`` means that it has none."""
        subjects = [f"{kind}:{view.id if kind == 'key' else view.name}" for view in views]
        found = await asyncio.to_thread(self._budgets.reader.of, subjects)
        return [{**shown(view), "budget": found.get(subject)} for view, subject in zip(views, subjects, strict=True)]

    async def shown_one(self, kind: str, view: Any) -> dict[str, Any]:
        """As :meth:`shown`, of one."""
        return (await self.shown(kind, [view]))[0]


async def _subject_budgets(budgets: TheBudgets, caller: Caller) -> SubjectBudgets:
    return SubjectBudgets(budgets, caller)


TheSubjectBudgets = Annotated[SubjectBudgets, Depends(_subject_budgets)]
