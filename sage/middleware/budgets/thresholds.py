"""What is told of a budget: that a threshold is passed, and that calls are refused; each once in a window."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import Connection, delete, insert, select, update

from sage.middleware.budgets.budget import Budget
from sage.middleware.budgets.counters import Told
from sage.middleware.budgets.spending import Counted, Spending
from sage.middleware.budgets.tables import events
from sage.middleware.budgets.views import budget_view
from sage.middleware.database.database import Database
from sage.middleware.webhooks.message import WebhookMessage


class ThresholdObserver:
    """Writes what is to be told, in the transaction that books the spending: so once among all processes, and never
    lost. ``budgets`` are those of the spendings."""

    def __init__(self, thresholds: Sequence[int], budgets: Mapping[str, Budget], clock: Callable[[], float]) -> None:
        self._thresholds = thresholds
        self._budgets = budgets
        self._clock = clock

    def __call__(self, connection: Connection, spending: Spending, settled: int, told: Told) -> Told:
        budget = self._budgets[spending.key.subject]
        passed = [each for each in self._thresholds if each > told.threshold and settled * 100 >= each * budget.amount]
        for threshold in passed:
            self._add(connection, budget, settled, "budget.threshold", {"threshold": threshold})
        if spending.refused and not told.refused:
            self._add(connection, budget, settled, "budget.refused", {})
        return Told(max([told.threshold, *passed]), told.refused or spending.refused)

    def _add(self, connection: Connection, budget: Budget, settled: int, kind: str, more: dict[str, Any]) -> None:
        now = self._clock()
        view = budget_view(budget, Counted(settled, 0), now)
        told = {name: value for name, value in view.items() if name not in ("reserved", "source")}
        at = datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z")
        body = orjson.dumps({"type": kind, "timestamp": at, **more, **told})
        event_id = f"msg_budget_{secrets.token_hex(12)}"
        connection.execute(insert(events).values(id=event_id, body=body, attempts=0, next_at=now))


class BudgetEvents:
    """What is to be told and was not taken yet. Calls block."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, now: float, until: float, most: int = 16) -> list[WebhookMessage]:
        """Those that are due, oldest first; no other process gets them before ``until``."""
        with self._database.reading() as connection:
            if connection.execute(select(events.c.id).where(events.c.next_at <= now).limit(1)).scalar() is None:
                return []
        claimed = []
        with self._database.writing(alone=False) as connection:
            due = select(events).where(events.c.next_at <= now).order_by(events.c.next_at).limit(most)
            for row in connection.execute(due.with_for_update(skip_locked=True)).all():
                connection.execute(update(events).where(events.c.id == row.id).values(next_at=until))
                claimed.append(WebhookMessage(row.id, row.body, row.attempts))
        return claimed

    def put_off(self, message: WebhookMessage, until: float) -> None:
        """It was tried once more, and is due again at that time."""
        values = {"attempts": message.attempts + 1, "next_at": until}
        with self._database.writing(alone=False) as connection:
            connection.execute(update(events).where(events.c.id == message.id).values(values))

    def forget(self, message: WebhookMessage) -> None:
        """It was taken, or is given up."""
        with self._database.writing(alone=False) as connection:
            connection.execute(delete(events).where(events.c.id == message.id))
