"""The commands ``sage team``: they work on the data directory, with or without a server."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import ValidationError

from sage.middleware.cli.accounts.budgets import amount_text_of, budget_text, with_budgets
from sage.middleware.cli.accounts.member_budgets import (
    MemberSoft,
    MemberTokens,
    MemberUsd,
    MemberWindow,
    member_budget_of,
    storing,
)
from sage.middleware.cli.accounts.opening import (
    Concurrent,
    Config,
    Note,
    Rpm,
    Tpm,
    failed,
    limits_of,
    limits_text,
    open_accounts,
    print_details,
    tell,
)
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.output import AsJson, print_json, print_table

team_app = typer.Typer(no_args_is_help=True, help="Manage the teams (tenants) of this installation.")

TeamName = Annotated[str, typer.Argument(metavar="TEAM", help="The team's name.", show_default=False)]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="PATTERN",
        help="The models that the team's members and keys reach at most; '*' stands for any text. "
        "Give the option again for each further pattern.",
    ),
]
MemberRpm = Annotated[
    int | None, typer.Option("--member-rpm", metavar="N", min=0, help="As --rpm, of each member by itself.")
]
MemberTpm = Annotated[
    int | None, typer.Option("--member-tpm", metavar="N", min=0, help="As --tpm, of each member by itself.")
]
MemberConcurrent = Annotated[
    int | None,
    typer.Option("--member-concurrent", metavar="N", min=0, help="As --concurrent, of each member by itself."),
]
CaptureDays = Annotated[
    int | None,
    typer.Option(
        "--capture-days", metavar="DAYS", min=0, help="Keep prompts and answers for so many days; 0 keeps none."
    ),
]
Redact = Annotated[
    list[str] | None,
    typer.Option(
        "--redact",
        metavar="REGEX",
        help="What is left out of prompts and answers that are kept. "
        "Give the option again for each further expression.",
    ),
]


@team_app.command("add")
def team_add(
    name: TeamName,
    note: Note = None,
    model: Models = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrent: Concurrent = None,
    member_rpm: MemberRpm = None,
    member_tpm: MemberTpm = None,
    member_concurrent: MemberConcurrent = None,
    member_usd: MemberUsd = None,
    member_tokens: MemberTokens = None,
    member_window: MemberWindow = None,
    member_soft: MemberSoft = False,
    capture_days: CaptureDays = None,
    redact: Redact = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Create a team."""
    member_budget = member_budget_of(member_usd, member_tokens, member_window, member_soft)
    with open_accounts(config) as accounts, storing(config, accounts) as store:
        changes = _texts(note, model) | _capture(capture_days, redact)
        changes["limits"] = limits_of(rpm, tpm, concurrent)
        changes["member_limits"] = limits_of(member_rpm, member_tpm, member_concurrent)
        team = accounts.teams.add(name, None, store.given(member_budget), **changes)
    tell(_("team '{name}' created").format(name=team.name))
    _print_if(as_json, config, team)


@team_app.command("list")
def team_list(as_json: AsJson = False, config: Config = None) -> None:
    """List the teams."""
    with open_accounts(config) as accounts:
        teams = [{"id": team["name"], **team} for team in with_budgets(config, "tenant", accounts.teams.list())]
    if as_json:
        print_json({"teams": teams})
        return
    rows = [
        (
            team["name"],
            team["members"],
            team["keys"],
            ", ".join(team["models"]),
            limits_text(team["limits"]),
            budget_text(team["budget"]),
            limits_text(team["member_limits"]),
            amount_text_of(team["member_budget"]),
            team["note"],
        )
        for team in teams
    ]
    print_table(
        ("NAME", "MEMBERS", "KEYS", "MODELS", "LIMITS", "BUDGET", "OF EACH MEMBER", "BUDGET OF EACH", "NOTE"),
        rows,
        optional=("BUDGET", "BUDGET OF EACH"),
    )


@team_app.command("show")
def team_show(name: TeamName, as_json: AsJson = False, config: Config = None) -> None:
    """Show a team."""
    with open_accounts(config) as accounts:
        (team,) = with_budgets(config, "tenant", [accounts.teams.get(name)])
        team = {"id": team["name"], **team}
    if as_json:
        print_json(team)
    else:
        print_details(team)


@team_app.command("set")
def team_set(
    name: TeamName,
    note: Note = None,
    model: Models = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrent: Concurrent = None,
    member_rpm: MemberRpm = None,
    member_tpm: MemberTpm = None,
    member_concurrent: MemberConcurrent = None,
    member_usd: MemberUsd = None,
    member_tokens: MemberTokens = None,
    member_window: MemberWindow = None,
    member_soft: MemberSoft = False,
    capture_days: CaptureDays = None,
    redact: Redact = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Change a team. A running server knows it within a second."""
    member_budget = member_budget_of(member_usd, member_tokens, member_window, member_soft)
    with open_accounts(config) as accounts, storing(config, accounts) as store:
        now = accounts.teams.get(name)
        changes = _texts(note, model) | _capture(capture_days, redact)
        if (rpm, tpm, concurrent) != (None, None, None):
            changes["limits"] = limits_of(rpm, tpm, concurrent, now.limits)
        if (member_rpm, member_tpm, member_concurrent) != (None, None, None):
            changes["member_limits"] = limits_of(member_rpm, member_tpm, member_concurrent, now.member_limits)
        team = accounts.teams.change(name, **changes)
        store.change(team.name, member_budget)
    tell(_("team '{name}' is changed").format(name=team.name))
    _print_if(as_json, config, team)


@team_app.command("delete")
def team_delete(name: TeamName, as_json: AsJson = False, config: Config = None) -> None:
    """Delete a team that has no users and no keys. What it has stored stays, so its name stays taken."""
    with open_accounts(config) as accounts:
        team = accounts.teams.delete(name)
    tell(_("team '{name}' is deleted").format(name=team.name))
    _print_if(as_json, config, team)


@team_app.command("restore")
def team_restore(name: TeamName, as_json: AsJson = False, config: Config = None) -> None:
    """Bring a deleted team back, with what it has stored."""
    with open_accounts(config) as accounts:
        team = accounts.teams.change(name, deleted=False)
    tell(_("team '{name}' is back").format(name=team.name))
    _print_if(as_json, config, team)


def _texts(note: str | None, models: list[str] | None) -> dict[str, Any]:
    return {field: value for field, value in (("note", note), ("models", models)) if value is not None}


def _capture(days: int | None, redact: list[str] | None) -> dict[str, Any]:
    """What is to be kept; nothing where no option says so."""
    from sage.middleware.settings.capture import CaptureSettings

    if days is None and redact is not None:
        raise failed("--redact goes with --capture-days", status=2)
    if not days:
        return {} if days is None else {"capture": None}
    try:
        return {"capture": CaptureSettings(prompts=True, days=days, redact=tuple(redact or ()))}
    except ValidationError as exc:
        raise failed(f"--capture-days, --redact: {exc.errors()[0]['msg']}", status=2) from exc


def _print_if(as_json: bool, config: Config, team: Any) -> None:
    if as_json:
        (team,) = with_budgets(config, "tenant", [team])
        print_json({"id": team["name"], **team})
