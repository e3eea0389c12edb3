"""What each member of a team may spend, as options of ``sage team add`` and ``sage team set``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from sage.middleware.cli.accounts.opening import failed, read_settings
from sage.middleware.cli.budgets import Window

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from sage.middleware.auth.accounts import Accounts
    from sage.middleware.auth.changes import Also
    from sage.middleware.budgets.store import BudgetStore
    from sage.middleware.settings.budgets import BudgetSettings

MemberUsd = Annotated[
    str | None,
    typer.Option(
        "--member-usd",
        metavar="AMOUNT",
        help="The budget of each member that has none of its own, in US dollars; 0 takes it away.",
    ),
]
MemberTokens = Annotated[
    int | None, typer.Option("--member-tokens", metavar="COUNT", min=0, help="As --member-usd, in tokens.")
]
MemberWindow = Annotated[
    Window | None,
    typer.Option("--member-window", help="For which time that budget is; a month, if nothing else is said."),
]
MemberSoft = Annotated[bool, typer.Option("--member-soft", help="That budget refuses nothing; it only tells.")]

MemberBudget = tuple["BudgetSettings | None"]
"""The budget that each member is to have from now on; of ``None``, that it has none."""


def member_budget_of(usd: str | None, tokens: int | None, window: Window | None, soft: bool) -> MemberBudget | None:
    """What the options say; ``None`` means that they say nothing. Ends the command where they make no sense."""
    from sage.middleware.settings.budgets import BudgetSettings

    if usd is None and tokens is None:
        if window is not None or soft:
            raise failed("--member-window and --member-soft go with --member-usd or --member-tokens", status=2)
        return None
    if usd is not None and tokens is not None:
        raise failed("give either --member-usd or --member-tokens", status=2)
    try:
        amount = Decimal(usd) if usd is not None else tokens
        if not amount:
            return (None,)
        fields: dict[str, Any] = {"usd" if usd is not None else "tokens": amount, "hard": not soft}
        return (BudgetSettings(**fields, window=(window or Window.MONTH).value),)
    except (InvalidOperation, ValidationError) as exc:
        raise failed("--member-usd, --member-tokens: no amount that a budget can have", status=2) from exc


class MemberBudgets:
    """Gives the members of teams their budgets, in ``store``."""

    def __init__(self, store: BudgetStore) -> None:
        self._store = store

    def given(self, budget: MemberBudget | None) -> Also | None:
        """Gives it in the transaction that makes the team."""
        settings = None if budget is None else budget[0]
        if settings is None:
            return None

        def give(connection: Connection, _: str, tenant: str) -> None:
            from sage.middleware.budgets.subjects import members_of

            self._store.put_in(connection, members_of(tenant), settings, tenant)

        return give

    def change(self, tenant: str, budget: MemberBudget | None) -> None:
        """Gives it to the members of a team that is there, or takes theirs away."""
        from sage.middleware.budgets.subjects import members_of

        if budget is None:
            return
        if budget[0] is None:
            self._store.remove(members_of(tenant), tenant)
        else:
            self._store.put(members_of(tenant), budget[0], tenant)


@contextmanager
def storing(config: Path | None, accounts: Accounts) -> Iterator[MemberBudgets]:
    """The budgets beside ``accounts``; the audit is told of what is given."""
    from sage.middleware.budgets.database import open_budgets_database
    from sage.middleware.budgets.store import BudgetStore

    settings = read_settings(config)
    with closing(open_budgets_database(settings.data_dir, settings.database)) as database:
        store = BudgetStore(database)
        store.audit = accounts.audit
        yield MemberBudgets(store)
