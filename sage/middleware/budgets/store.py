"""The stored budgets: given, changed and taken away by people, and read by every process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

from sqlalchemy import Connection, delete, insert, select, update

from sage.errors import PermissionDenied
from sage.middleware.audit.event import THE_OPERATOR, Actor, AuditEvent
from sage.middleware.audit.log import AuditLog
from sage.middleware.audit.origin import caller_address
from sage.middleware.budgets.budget import Budget, Unit
from sage.middleware.budgets.tables import budgets, revision
from sage.middleware.database.database import Database
from sage.middleware.settings.budgets import BudgetSettings, BudgetWindow


class BudgetStore:
    """The stored budgets, one a subject. Calls block; other processes see a change within a second.

    With :attr:`audit`, which must be kept in the same database, every change is told there in its own transaction.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self.audit: AuditLog | None = None

    def put(
        self, subject: str, settings: BudgetSettings, tenant: str | None = None, by: Actor = THE_OPERATOR
    ) -> Budget:
        """Gives ``subject`` that budget in place of any other; what was spent in the window stays counted.

        ``tenant`` is the one whose owners may see it.
        """
        with self._changing() as connection:
            return self.put_in(connection, subject, settings, tenant, by)

    def put_in(
        self,
        connection: Connection,
        subject: str,
        settings: BudgetSettings,
        tenant: str | None = None,
        by: Actor = THE_OPERATOR,
        *,
        only_own: bool = False,
    ) -> Budget:
        """As :meth:`put`, within a transaction of the same database, that has told the audit nothing yet (all who take
        both locks take them in this order). ``only_own``: raises :class:`PermissionDenied` where somebody else than
        ``by`` has given the subject a budget."""
        _count_change(connection)
        budget = Budget.of(subject, settings, tenant=tenant)
        values = {
            "tenant": tenant,
            "unit": str(budget.unit),
            "amount": budget.amount,
            "window": budget.window,
            "hard": budget.hard,
            "updated_at": int(self._clock()),
            "given_by": by.name,
        }
        before = _stored(connection, subject)
        if only_own:
            _require_given_by(connection, before, by)
        if before is None:
            connection.execute(insert(budgets).values(subject=subject, **values))
        else:
            connection.execute(update(budgets).where(budgets.c.subject == subject).values(values))
        self._tell(connection, by, budget, before, budget)
        return budget

    def remove(self, subject: str, tenant: str | None = None, by: Actor = THE_OPERATOR) -> bool:
        """Takes the budget of ``subject`` away; returns whether there was one."""
        with self._changing() as connection:
            return self.remove_in(connection, subject, tenant, by)

    def remove_in(
        self,
        connection: Connection,
        subject: str,
        tenant: str | None = None,
        by: Actor = THE_OPERATOR,
        *,
        only_own: bool = False,
    ) -> bool:
        """As :meth:`remove`, in the way of :meth:`put_in`."""
        _count_change(connection)
        before = _stored(connection, subject)
        if before is None:
            return False
        if only_own:
            _require_given_by(connection, before, by)
        connection.execute(delete(budgets).where(budgets.c.subject == subject))
        self._tell(connection, by, replace(before, tenant=tenant), before, None)
        return True

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        if self.audit is not None:
            self.audit.open()  # makes its tables
        with self._database.writing(alone=False) as connection:
            yield connection

    def _tell(self, connection: Connection, by: Actor, of: Budget, before: Budget | None, after: Budget | None) -> None:
        if self.audit is None:
            return
        action, details = "budget.remove" if after is None else "budget.set", {"budget_before": _told(before)}
        if after is not None:
            details["budget"] = _told(after)
        target, address = f"budget:{of.subject}", caller_address.get()
        event = AuditEvent(action, target, by.name, by.credential, of.tenant or "", details, address)
        self.audit.append_in(connection, event)

    def get(self, subject: str) -> Budget | None:
        """The stored budget of ``subject``."""
        with self._database.reading() as connection:
            return _stored(connection, subject)

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


def _count_change(connection: Connection) -> None:
    connection.execute(update(revision).values(value=revision.c.value + 1))  # first: others wait for it here


def _stored(connection: Connection, subject: str) -> Budget | None:
    row = connection.execute(select(budgets).where(budgets.c.subject == subject)).one_or_none()
    return None if row is None else _budget(row)


def _require_given_by(connection: Connection, budget: Budget | None, by: Actor) -> None:
    if budget is None:
        return
    query = select(budgets.c.given_by).where(budgets.c.subject == budget.subject)
    if connection.execute(query).scalar_one() != by.name:
        raise PermissionDenied(
            f"an admin or owner has given '{budget.subject}' its budget, and only they change it or take it away",
            param="budget",
            code="missing_scope",
        )


def _told(budget: Budget | None) -> dict[str, Any] | None:
    """A budget as the audit tells it: dollars as a decimal number in a text, or tokens."""
    if budget is None:
        return None
    return {
        str(budget.unit): budget.number_of(budget.amount),
        "window": budget.window,
        "hard": budget.hard,
    }


def _budget(row: Any) -> Budget:
    return Budget(
        row.subject, Unit(row.unit), row.amount, cast(BudgetWindow, row.window), row.hard, row.tenant, source="api"
    )
