"""The stored budgets: given, changed and taken away by people, and read by every process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from sqlalchemy import delete, insert, select, update

from sage.middleware.budgets.budget import Budget, Unit
from sage.middleware.budgets.tables import budgets, revision
from sage.middleware.database.database import Database
from sage.middleware.settings.budgets import BudgetSettings, BudgetWindow


class BudgetStore:
    """The stored budgets, one a subject. Calls block; other processes see a change within a second."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def put(self, subject: str, settings: BudgetSettings, tenant: str | None = None) -> Budget:
        """Gives ``subject`` that budget in place of any other; what was spent in the window stays counted.

        ``tenant`` is the one whose owners may see it.
        """
        budget = Budget.of(subject, settings, tenant=tenant)
        values = {
            "tenant": tenant,
            "unit": str(budget.unit),
            "amount": budget.amount,
            "window": budget.window,
            "hard": budget.hard,
            "updated_at": int(self._clock()),
        }
        with self._database.writing(alone=False) as connection:
            connection.execute(update(revision).values(value=revision.c.value + 1))  # first: others wait for it here
            changed = connection.execute(update(budgets).where(budgets.c.subject == subject).values(values))
            if changed.rowcount == 0:
                connection.execute(insert(budgets).values(subject=subject, **values))
        return budget

    def remove(self, subject: str) -> bool:
        """Takes the budget of ``subject`` away; returns whether there was one."""
        with self._database.writing(alone=False) as connection:
            connection.execute(update(revision).values(value=revision.c.value + 1))
            return connection.execute(delete(budgets).where(budgets.c.subject == subject)).rowcount > 0

    def get(self, subject: str) -> Budget | None:
        """The stored budget of ``subject``."""
        with self._database.reading() as connection:
            row = connection.execute(select(budgets).where(budgets.c.subject == subject)).one_or_none()
        return None if row is None else _budget(row)

    def read(self) -> tuple[int, list[Budget]]:
        """The revision, and all stored budgets at it."""
        with self._database.reading() as connection:
            number = connection.execute(select(revision.c.value)).scalar_one()
            rows = connection.execute(select(budgets).order_by(budgets.c.subject)).all()
        return number, [_budget(row) for row in rows]

    def revision(self) -> int:
        """A number that grows with every change."""
        with self._database.reading() as connection:
            return int(connection.execute(select(revision.c.value)).scalar_one())

    def list(self) -> list[Budget]:
        """All stored budgets by subject."""
        return self.read()[1]


def _budget(row: Any) -> Budget:
    return Budget(
        row.subject, Unit(row.unit), row.amount, cast(BudgetWindow, row.window), row.hard, row.tenant, source="api"
    )
