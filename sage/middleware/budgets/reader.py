"""Budgets with what has become of them, read from the database: for listings of the gateway and of the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sage.middleware.budgets.budget import Budget
from sage.middleware.budgets.counters import BudgetCounters
from sage.middleware.budgets.periods import period_at
from sage.middleware.budgets.spending import Counted, WindowKey
from sage.middleware.budgets.store import BudgetStore
from sage.middleware.budgets.subjects import BudgetList, members_of
from sage.middleware.budgets.views import amount_view, budget_view
from sage.middleware.database.database import Database
from sage.middleware.settings.budgets import BudgetSettings, BudgetsSettings

_NOTHING = Counted(0, 0)


class BudgetReader:
    """The budgets of one installation as they are now. Its calls block.

    ``models`` gives the budgets that models have in their settings. ``clock`` gives Unix seconds.
    """

    def __init__(
        self,
        database: Database,
        settings: BudgetsSettings,
        models: Callable[[], dict[str, BudgetSettings]] = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = BudgetStore(database, clock)
        self._counters = BudgetCounters(database)
        self._settings = settings
        self._models = models
        self._clock = clock

    def views(self, budgets: Sequence[Budget]) -> list[dict[str, Any]]:
        """The budgets with what is spent and reserved in the present window."""
        now = self._clock()
        keys = [WindowKey(each.subject, str(each.unit), period_at(each.window, now).name) for each in budgets]
        counts = self._counters.counts(keys)
        return [budget_view(budget, counts.get(key, _NOTHING), now) for budget, key in zip(budgets, keys, strict=True)]

    def beside(self, kind: str, shown: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Keys, users or teams (kind ``tenant``) as they are shown, each with its ``budget``, a team also with its
        ``member_budget``; ``None`` means that it has none."""
        known = self.list()
        subjects = [f"{kind}:{each['id' if kind == 'key' else 'name']}" for each in shown]
        tenants = [each["name" if kind == "tenant" else "tenant"] for each in shown]
        budgets = [known.met(subject, tenant) for subject, tenant in zip(subjects, tenants, strict=True)]
        views = {view["subject"]: view for view in self.views([each for each in budgets if each is not None])}
        rows = [{**each, "budget": views.get(subject)} for each, subject in zip(shown, subjects, strict=True)]
        if kind == "tenant":
            for row in rows:
                members = known.of(members_of(row["name"]))
                row["member_budget"] = None if members is None else amount_view(members)
        return rows

    def list(self) -> BudgetList:
        """All budgets, as they are stored now."""
        return BudgetList(self._settings, self._models(), self._store.list())
