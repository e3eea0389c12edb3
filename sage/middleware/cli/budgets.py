"""``sage budget …``: what keys, users, tenants, models and tags may spend, at a running gateway (``SAGE_URL``)."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from sage.middleware.cli.accounts.budgets import amount_text
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.output import AsJson, plain, print_json, print_table
from sage.middleware.client.connection import connect

budget_app = typer.Typer(
    help="See and change what keys, users, tenants, models and tags may spend.", no_args_is_help=True
)


class BudgetKind(StrEnum):
    """What a budget can hang on."""

    KEY = "key"
    USER = "user"
    TENANT = "tenant"
    MODEL = "model"
    TAG = "tag"


class Window(StrEnum):
    """The calendar's windows, in UTC."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


Kind = Annotated[
    BudgetKind, typer.Argument(metavar="KIND", help="Key, user, tenant, model or tag.", show_default=False)
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name; a key's id.", show_default=False)]


@budget_app.command("list")
def list_budgets(as_json: AsJson = False) -> None:
    """List the budgets that you may see, with what is spent of them."""
    answer = connect().get("/budgets")
    if as_json:
        print_json(answer)
        return
    if not answer["budgets"]:
        typer.echo(_("no budgets"))
        return
    head = ("SUBJECT", "AMOUNT", "WINDOW", "SPENT", "RESERVED", "LEFT", "OPENS", "HARD")
    print_table(head, map(_row, answer["budgets"]))


def _row(budget: dict[str, Any]) -> tuple[object, ...]:
    unit = "usd" if budget.get("usd") is not None else "tokens"
    amounts = (amount_text(unit, budget[name]) for name in ("spent", "reserved", "left"))
    spent, reserved, left = amounts
    hard = _("yes") if budget["hard"] else _("no")
    amount = amount_text(unit, budget[unit])
    return budget["subject"], amount, budget["window"], spent, reserved, left, _opens(budget["opens_at"]), hard


def _opens(seconds: int | None) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


@budget_app.command("show")
def show_budget(kind: Kind, name: Name, as_json: AsJson = False) -> None:
    """Show one budget, with what is spent of it."""
    subject = f"{kind.value}:{name}"
    found = next((each for each in connect().get("/budgets")["budgets"] if each["subject"] == subject), None)
    if found is None:
        message = _("sage: there is no budget of the {kind} '{name}' that you may see").format(
            kind=kind.value, name=plain(name)
        )
        typer.echo(message, err=True)
        raise typer.Exit(1)
    if as_json:
        print_json(found)
        return
    for field, value in found.items():
        if value is not None:
            typer.echo(f"{field}: {plain(_opens(value) if field == 'opens_at' else value)}")


@budget_app.command("set")
def set_budget(
    kind: Kind,
    name: Name,
    usd: Annotated[str | None, typer.Option(metavar="AMOUNT", help="US dollars, such as 12.50.")] = None,
    tokens: Annotated[
        int | None, typer.Option(metavar="COUNT", help="Tokens of prompts and answers together.", min=1)
    ] = None,
    window: Annotated[
        Window, typer.Option(help="For which time it is, in UTC; 'total' never opens again.")
    ] = Window.MONTH,
    soft: Annotated[bool, typer.Option("--soft", help="Refuse nothing; only tell when it is used up.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a key, user, tenant, model or tag its budget, in place of the one that it has."""
    if (usd is None) == (tokens is None):
        typer.echo(_("sage: give either --usd or --tokens"), err=True)
        raise typer.Exit(2)
    body: dict[str, Any] = {"window": window.value, "hard": not soft}
    body |= {"usd": usd} if usd is not None else {"tokens": tokens}
    budget = connect().put(_path(kind, name), body)
    if as_json:
        print_json(budget)
        return
    typer.echo(_("the budget of the {kind} '{name}' is set").format(kind=kind.value, name=plain(name)), err=True)


@budget_app.command("delete")
def delete_budget(kind: Kind, name: Name, as_json: AsJson = False) -> None:
    """Take a budget away; one of the configuration holds again then."""
    connect().delete(_path(kind, name))
    if as_json:
        print_json({"deleted": True})
        return
    typer.echo(_("the budget of the {kind} '{name}' is deleted").format(kind=kind.value, name=plain(name)), err=True)


def _path(kind: BudgetKind, name: str) -> str:
    return f"/budgets/{kind.value}/{name}"
