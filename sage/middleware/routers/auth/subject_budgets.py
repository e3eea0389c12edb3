"""The budgets of keys, users and teams: set by the same body as their other fields, and shown beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Depends
from sqlalchemy import Connection

from sage.middleware.auth.changes import Also, actor_of
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.auth.teams.views import shown
from sage.middleware.budgets.budgets import Budgets
from sage.middleware.budgets.subjects import members_of
from sage.middleware.routers.budgets import TheBudgets
from sage.middleware.routers.http.deps import Caller
from sage.middleware.settings.budgets import BudgetSettings


class SubjectBudgets:
    """The budgets of the gateway, as ``by`` sees and sets them."""

    def __init__(self, budgets: Budgets, by: Principal | None = None) -> None:
        self._budgets = budgets
        self._by = actor_of(by)
        self._only_own = by is not None and by.scopes.isdisjoint({Scope.ADMIN, Scope.TENANT_ADMIN})
        """Users change those budgets of their keys that they have given themselves."""

    def given(self, settings: BudgetSettings | None, to_members: BudgetSettings | None = None) -> Also | None:
        """Gives a user, key or team its budget in the transaction that makes it, and the members of a team theirs, so
        that none of them stands without. :meth:`refresh` is to follow."""
        fields = {"budget": settings, "member_budget": to_members}
        return self.changed({name: value for name, value in fields.items() if value is not None})

    def changed(self, fields: Mapping[str, BudgetSettings | None]) -> Also | None:
        """As :meth:`given`, of one that is there: what ``fields`` holds, ``budget`` and ``member_budget``, is set, and
        with ``None`` taken away, in the transaction that changes the rest."""
        if not fields:
            return None

        def change(connection: Connection, subject: str, tenant: str) -> None:
            for name, settings in fields.items():
                of = subject if name == "budget" else members_of(tenant)
                if settings is None:
                    self._budgets.store.remove_in(connection, of, tenant, self._by, only_own=self._only_own)
                else:
                    self._budgets.store.put_in(connection, of, settings, tenant, self._by, only_own=self._only_own)

        return change

    async def refresh(self) -> None:
        """Calls from here on go by what was given."""
        await self._budgets.refresh()

    async def shown(self, kind: str, views: Sequence[Any]) -> list[dict[str, Any]]:
        """The fields of views of keys, users or teams, with their budgets as :meth:`BudgetReader.beside` tells."""
        return await asyncio.to_thread(self._budgets.reader.beside, kind, [shown(view) for view in views])

    async def shown_one(self, kind: str, view: Any) -> dict[str, Any]:
        """As :meth:`shown`, of one."""
        return (await self.shown(kind, [view]))[0]


async def _subject_budgets(budgets: TheBudgets, caller: Caller) -> SubjectBudgets:
    return SubjectBudgets(budgets, caller)


TheSubjectBudgets = Annotated[SubjectBudgets, Depends(_subject_budgets)]
