"""Teams over HTTP: all of them for admins, their own for owners. A team's id is its name, which is the tenant's."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from pydantic import BaseModel, Field, StrictBool, WithJsonSchema

from sage.errors import InvalidRequest
from sage.middleware.auth.grants import MAX_NOTE
from sage.middleware.auth.principal import Scope
from sage.middleware.auth.teams.authority import governs_all
from sage.middleware.auth.teams.teams import Team, require_owners_part
from sage.middleware.routers.auth.bodies import (
    PATTERNS,
    AccountsDep,
    LimitsAnswer,
    StrictBody,
    TenantName,
    or_null,
)
from sage.middleware.routers.auth.subject_budgets import SubjectBudgets, TheSubjectBudgets
from sage.middleware.routers.budgets import BudgetAnswer
from sage.middleware.routers.http.deps import Caller
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.settings.budgets import BudgetSettings
from sage.middleware.settings.capture import CaptureSettings
from sage.middleware.settings.limits import Limits

router = guarded_router("Accounts")

_NULLABLE = {"limits", "member_limits", "capture"}
_BUDGETS = {"budget", "member_budget"}


class TeamChangeBody(StrictBody):
    """Changes to a team; what is left out stays. ``null`` takes limits, budgets, or the capture, away.

    Owners change ``note``, ``member_limits``, ``member_budget`` and ``capture``, admins all.
    """

    note: str | None = Field(None, json_schema_extra={"maxLength": MAX_NOTE})
    models: Annotated[
        list[str] | None,
        WithJsonSchema(or_null(PATTERNS)),
        Field(description="Patterns of the models that its members and keys reach at most."),
    ] = None
    limits: Limits | None = Field(None, description="Of all its members and keys together.")
    budget: BudgetSettings | None = Field(None, description="Of all its members and keys together.")
    member_limits: Limits | None = Field(None, description="Of each member that has no limits of its own.")
    member_budget: BudgetSettings | None = Field(None, description="Of each member that has no budget of its own.")
    capture: CaptureSettings | None = Field(None, description="Whether prompts and answers are kept, and how long.")
    deleted: StrictBool | None = Field(None, description="`false` brings a deleted team back.")


class NewTeamBody(StrictBody):
    """A new team."""

    name: TenantName
    note: str = Field("", json_schema_extra={"maxLength": MAX_NOTE})
    models: Annotated[list[str], WithJsonSchema(PATTERNS)] = Field(default_factory=lambda: ["*"])
    limits: Limits | None = None
    budget: BudgetSettings | None = None
    member_limits: Limits | None = None
    member_budget: BudgetSettings | None = None
    capture: CaptureSettings | None = None


class MemberBudgetAnswer(BaseModel):
    """What each member of a team may spend that has no budget of its own, in `usd` or in `tokens`."""

    usd: float | None = None
    tokens: int | None = None
    window: str
    hard: bool


class TeamAnswer(BaseModel):
    """A team; ``id`` is its name. ``members`` and ``keys`` count its users, and its keys that are not revoked."""

    id: str
    name: str
    note: str
    models: list[str]
    limits: LimitsAnswer
    budget: BudgetAnswer | None
    member_limits: LimitsAnswer
    member_budget: MemberBudgetAnswer | None
    capture: CaptureSettings | None
    members: int
    keys: int
    deleted: bool
    created_at: int


class TeamList(BaseModel):
    """Teams by name."""

    teams: list[TeamAnswer]


@router.get("/auth/teams", name="auth_teams_list")
@requires(Scope.TENANT_ADMIN)
async def auth_teams_list(accounts: AccountsDep, budgets: TheSubjectBudgets, caller: Caller) -> TeamList:
    """All teams; to an owner its own."""
    teams = await asyncio.to_thread(accounts.teams.list, caller)
    return TeamList(teams=[TeamAnswer(id=team["name"], **team) for team in await budgets.shown("tenant", teams)])


@router.post("/auth/teams", name="auth_teams_create", status_code=201)
@requires(Scope.ADMIN)
async def auth_teams_create(
    body: NewTeamBody, accounts: AccountsDep, budgets: TheSubjectBudgets, caller: Caller
) -> TeamAnswer:
    """Makes a team."""
    fields: dict[str, Any] = {name: getattr(body, name) for name in body.model_fields_set - {"name", *_BUDGETS}}
    given = budgets.given(body.budget, body.member_budget)
    team = await asyncio.to_thread(accounts.teams.add, body.name, caller, given, **fields)
    if given is not None:
        await budgets.refresh()
    return await _answer(budgets, team)


@router.get("/auth/teams/{id}", name="auth_teams_show")
@requires(Scope.TENANT_ADMIN)
async def auth_teams_show(id: str, accounts: AccountsDep, budgets: TheSubjectBudgets, caller: Caller) -> TeamAnswer:
    """One team."""
    return await _answer(budgets, await asyncio.to_thread(accounts.teams.get, id, caller))


@router.patch("/auth/teams/{id}", name="auth_teams_change")
@requires(Scope.TENANT_ADMIN)
async def auth_teams_change(
    id: str, body: TeamChangeBody, accounts: AccountsDep, budgets: TheSubjectBudgets, caller: Caller
) -> TeamAnswer:
    """Changes a team; what that takes away is gone within a second."""
    given = body.model_fields_set & _BUDGETS
    changes: dict[str, Any] = {name: getattr(body, name) for name in body.model_fields_set - given}
    changes = {name: value for name, value in changes.items() if value is not None or name in _NULLABLE}
    if not changes and not given:
        raise InvalidRequest(
            "nothing to change: give note, models, limits, budget, member_limits, member_budget, capture or deleted"
        )
    if "budget" in given and not governs_all(caller):
        await asyncio.to_thread(accounts.teams.get, id, caller)
        require_owners_part(body.model_fields_set)
    also = budgets.changed({name: getattr(body, name) for name in sorted(given)})
    team = await asyncio.to_thread(accounts.teams.change, id, caller, also, **changes)
    if given:
        await budgets.refresh()
    return await _answer(budgets, team)


@router.delete("/auth/teams/{id}", name="auth_teams_delete")
@requires(Scope.ADMIN)
async def auth_teams_delete(id: str, accounts: AccountsDep, budgets: TheSubjectBudgets, caller: Caller) -> TeamAnswer:
    """Deletes a team that has no members and no keys. What it has stored stays, so its name stays taken."""
    return await _answer(budgets, await asyncio.to_thread(accounts.teams.delete, id, caller))


async def _answer(budgets: SubjectBudgets, team: Team) -> TeamAnswer:
    return TeamAnswer(id=team.name, **await budgets.shown_one("tenant", team))
