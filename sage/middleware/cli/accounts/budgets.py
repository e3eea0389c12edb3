"""The budgets of keys, users and teams, as the commands on accounts show them beside the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sage.middleware.cli.language.catalogue import _


def with_budgets(config: Path | None, kind: str, views: Sequence[Any]) -> list[dict[str, Any]]:
    """The fields of views of keys, users or teams (kind ``tenant``), with their budgets as
    :meth:`~sage.middleware.budgets.reader.BudgetReader.beside` tells.

    What calls of a running gateway hold counts as reserved. Raises :class:`sage.errors.ConfigError`.
    """
    from sage.middleware.auth.teams.views import shown
    from sage.middleware.budgets.database import open_budgets_database
    from sage.middleware.budgets.reader import BudgetReader
    from sage.middleware.settings.reading import CLIENT_SECTIONS, find_config, load_settings

    sections = CLIENT_SECTIONS | {"budgets", "queue"}  # a webhook of budgets is checked against the queue's
    settings = load_settings(find_config(config, os.environ), os.environ, sections=sections)
    with closing(open_budgets_database(settings.data_dir, settings.database)) as database:
        return BudgetReader(database, settings.budgets).beside(kind, [shown(view) for view in views])


def budget_text(budget: Mapping[str, Any] | None) -> str:
    """What is spent, of how much: ``$3.2 of $10, month``."""
    if budget is None:
        return ""
    unit = "usd" if budget.get("usd") is not None else "tokens"
    spent, amount = (amount_text(unit, budget[name]) for name in ("spent", unit))
    if budget["hard"]:
        return _("{spent} of {amount}, {window}").format(spent=spent, amount=amount, window=budget["window"])
    return _("{spent} of {amount}, {window}, soft").format(spent=spent, amount=amount, window=budget["window"])


def amount_text_of(budget: Mapping[str, Any] | None) -> str:
    """How much, and for what window: ``$10, month``."""
    if budget is None:
        return ""
    unit = "usd" if budget.get("usd") is not None else "tokens"
    amount = amount_text(unit, budget[unit])
    if budget["hard"]:
        return _("{amount}, {window}").format(amount=amount, window=budget["window"])
    return _("{amount}, {window}, soft").format(amount=amount, window=budget["window"])


def amount_text(unit: str, amount: float) -> str:
    """Dollars with at most six decimals and a sign, or tokens."""
    return f"${amount:.6f}".rstrip("0").rstrip(".") if unit == "usd" else f"{int(amount)}"
