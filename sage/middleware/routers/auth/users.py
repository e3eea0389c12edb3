"""Users over HTTP, for admins, and for owners those of their team."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from pydantic import BaseModel, Field, StrictBool, WithJsonSchema

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import ROLES, Scope
from sage.middleware.auth.teams.authority import governs_all
from sage.middleware.auth.teams.tenants import DEFAULT_TENANT
from sage.middleware.routers.auth.bodies import AccountsDep, LimitsAnswer, StrictBody, TenantName, UserName
from sage.middleware.routers.auth.subject_budgets import TheSubjectBudgets
from sage.middleware.routers.budgets import BudgetAnswer
from sage.middleware.routers.http.deps import Caller
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.settings.budgets import BudgetSettings
from sage.middleware.settings.limits import Limits

router = guarded_router("Accounts")


class NewUserBody(StrictBody):
    """A new user."""

    username: UserName
    password: str
    role: Annotated[str, WithJsonSchema({"enum": [*ROLES]})] = "user"
    tenant: TenantName | None = Field(None, description="Its team; left out, the caller's own, of an admin `default`.")
    limits: Limits | None = None
    budget: BudgetSettings | None = Field(None, description="Of all its keys and logins together.")


class UserChangeBody(StrictBody):
    """Changes to the user ``username``. Disabling it, or a new password, ends all its sessions. ``limits`` of ``null``
    give it those of its team's members or its role again, a ``budget`` of ``null`` that of the configuration or of its
    team's members."""

    username: UserName
    role: str | None = None
    tenant: str | None = None
    disabled: bool | None = None
    password: str | None = None
    end_sessions: StrictBool | None = Field(None, description="`true` ends all its logins; its keys stay.")
    limits: Limits | None = None
    budget: BudgetSettings | None = None


class UserAnswer(BaseModel):
    """A user; times are in Unix seconds."""

    name: str
    role: str
    tenant: str
    disabled: bool
    limits: LimitsAnswer
    budget: BudgetAnswer | None
    created_at: int
    last_login_at: int | None


class UserList(BaseModel):
    """Users by name."""

    users: list[UserAnswer]


@router.get("/auth/users", name="auth_users_list")
@requires(Scope.TENANT_ADMIN)
async def auth_users_list(accounts: AccountsDep, budgets: TheSubjectBudgets, caller: Caller) -> UserList:
    """All users; to owners those of their team, without its admins."""
    users = await asyncio.to_thread(accounts.users.list, caller)
    return UserList(users=[UserAnswer(**user) for user in await budgets.shown("user", users)])


@router.post("/auth/users", name="auth_users_create", status_code=201)
@requires(Scope.TENANT_ADMIN)
async def auth_users_create(
    body: NewUserBody, accounts: AccountsDep, budgets: TheSubjectBudgets, caller: Caller
) -> UserAnswer:
    """Makes a user. Owners make users of their own team, with no more rights than they have."""
    tenant = body.tenant or (DEFAULT_TENANT if governs_all(caller) else caller.tenant)
    add, run = accounts.users.add, accounts.passwords.run
    more: dict[str, Any] = {"limits": body.limits, "by": caller, "also": budgets.given(body.budget)}
    user = await run(add, body.username, body.password, body.role, tenant, **more)
    if body.budget is not None:
        await budgets.refresh()
    return UserAnswer(**await budgets.shown_one("user", user))


@router.patch("/auth/users", name="auth_users_change")
@requires(Scope.TENANT_ADMIN)
async def auth_users_change(
    body: UserChangeBody, accounts: AccountsDep, budgets: TheSubjectBudgets, caller: Caller
) -> UserAnswer:
    """Changes a user. To owners the users of other teams, and admins, do not exist."""
    has_budget = "budget" in body.model_fields_set
    changes: dict[str, Any] = {name: getattr(body, name) for name in body.model_fields_set - {"username", "budget"}}
    changes = {name: value for name, value in changes.items() if value is not None or name == "limits"}
    if not changes and not has_budget:
        raise InvalidRequest("nothing to change: give role, tenant, disabled, password, end_sessions, limits or budget")
    given = budgets.changed({"budget": body.budget} if has_budget else {})
    if "password" in changes:
        user = await accounts.passwords.run(accounts.users.change, body.username, caller, given, **changes)
    else:
        user = await asyncio.to_thread(accounts.users.change, body.username, caller, given, **changes)
    if has_budget:
        await budgets.refresh()
    return UserAnswer(**await budgets.shown_one("user", user))
