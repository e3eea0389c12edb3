"""``/budgets``: what the caller may spend, and for admins and owners what others may."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from fastapi import Depends, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from sage.errors import NotFound, PermissionDenied, Unavailable
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.changes import actor_of
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.budgets.budget import Budget, subject_of
from sage.middleware.budgets.budgets import Budgets
from sage.middleware.budgets.reader import BudgetReader
from sage.middleware.gateway.collections.requests import parse
from sage.middleware.routers.http.asgi import read_json
from sage.middleware.routers.http.deps import Caller
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.routers.http.key_names import KeyNames, TheKeyNames
from sage.middleware.routers.http.openapi_bodies import json_body
from sage.middleware.routers.items import Deleted, reply
from sage.middleware.settings.budgets import BudgetSettings

router = guarded_router("Usage")


class BudgetAnswer(BaseModel):
    """A budget in its present window, in `usd` or in `tokens`. `reserved` is what running calls may take, and what
    gateways hold for calls to come; `left` is neither spent nor reserved. `opens_at` is when the next window begins
    (Unix seconds; null: never). `source` is `api`, `config`, `team` for one that each member of its team has, or
    `default` for one that all of this kind have."""

    subject: str
    kind: str
    name: str
    usd: float | None = None
    tokens: int | None = None
    window: str
    hard: bool
    spent: float
    reserved: float
    left: float
    opens_at: int | None
    source: str
    key_name: str | None = Field(None, description="What a key is called; null if it has no name.")


class BudgetAnswers(BaseModel):
    """Budgets by subject."""

    budgets: list[BudgetAnswer]


async def _budgets(request: Request) -> Budgets:
    budgets: Budgets | None = request.app.state.budgets
    if budgets is None:
        raise Unavailable("this gateway runs without accounts and without budgets in its configuration")
    return budgets


TheBudgets = Annotated[Budgets, Depends(_budgets)]
Kind = Annotated[str, Path(description="`key`, `user`, `tenant`, `model` or `tag`.")]


@router.get("/budgets", name="budgets_list", response_model=BudgetAnswers)
@requires(Scope.USAGE)
async def list_budgets(request: Request, caller: Caller, key_names: TheKeyNames) -> Response:
    """The budgets that the caller's own calls meet; for owners those of their tenant, for admins all."""
    budgets: Budgets | None = request.app.state.budgets
    if budgets is None:
        return reply({"budgets": []})
    accounts: Accounts | None = request.app.state.accounts
    reader = budgets.reader
    views = await asyncio.to_thread(lambda: reader.views(_visible(reader, accounts, caller)))
    return reply({"budgets": await _with_key_names(views, key_names)})


@router.put(
    "/budgets/{kind}/{name:path}",
    name="budgets_put",
    response_model=BudgetAnswer,
    openapi_extra=json_body(BudgetSettings, {"usd": 100, "window": "month"}),
)
@requires(Scope.TENANT_ADMIN)
async def put_budget(
    kind: Kind, name: str, request: Request, budgets: TheBudgets, caller: Caller, key_names: TheKeyNames
) -> Response:
    """Gives a subject its budget, in place of any other; what was spent in the window stays counted. Owners give
    budgets to the users and keys of their tenant; those of tenants, models and tags are admins'."""
    wanted = parse(BudgetSettings, await read_json(request.receive, request.scope))

    subject, tenant = await asyncio.to_thread(_changeable, kind, name, request.app.state.accounts, caller)
    await budgets.give(subject, wanted, tenant, actor_of(caller))
    budget = Budget.of(subject, wanted, tenant=tenant)
    views = await asyncio.to_thread(budgets.reader.views, [budget])
    return reply((await _with_key_names(views, key_names))[0])


@router.delete("/budgets/{kind}/{name:path}", name="budgets_delete", response_model=Deleted)
@requires(Scope.TENANT_ADMIN)
async def delete_budget(kind: Kind, name: str, request: Request, budgets: TheBudgets, caller: Caller) -> Response:
    """Takes a subject's own budget away; one of the configuration, of its team's members, or of all subjects of its
    kind holds again then."""

    subject, tenant = await asyncio.to_thread(_changeable, kind, name, request.app.state.accounts, caller)
    if not await budgets.give(subject, None, tenant, actor_of(caller)):
        raise NotFound(f"the {kind} '{name[:80]}' has no budget of its own; GET /budgets shows what there is")
    return reply({"deleted": True})


async def _with_key_names(views: Iterable[Mapping[str, Any]], key_names: KeyNames) -> list[dict[str, Any]]:
    """``views`` of budgets, each with what its key is called."""
    names = await key_names.of(view["name"] for view in views if view["kind"] == "key")
    return [{**view, "key_name": names.get(view["name"]) if view["kind"] == "key" else None} for view in views]


def _visible(budgets: BudgetReader, accounts: Accounts | None, caller: Principal) -> list[Budget]:
    """What ``caller`` may see: models and tags are shared by tenants, so only admins see what was spent on them."""
    known = budgets.list()
    tenants: dict[str, str] = {}
    if Scope.ADMIN in caller.scopes or accounts is None:
        tenants.update((budget.subject, budget.tenant or "") for budget in known.named())
    if accounts is not None and not caller.in_job:
        tenants.update(_subjects_of(accounts, caller))
    tenants.update((subject, caller.tenant) for subject in caller.subjects)
    return [budget for subject in sorted(tenants) if (budget := known.met(subject, tenants[subject])) is not None]


def _subjects_of(accounts: Accounts, caller: Principal) -> dict[str, str]:
    """The caller's own keys; of an owner all users and keys of its tenant, of an admin those of all: each with its
    tenant."""
    if Scope.TENANT_ADMIN not in caller.scopes:
        return {} if caller.by_key else {f"key:{key.id}": key.tenant for key in accounts.keys.list(caller.user)}
    users = {f"user:{user.name}": user.tenant for user in accounts.users.list(caller)}
    return users | {f"key:{key.id}": key.tenant for key in accounts.keys.list(by=caller)}


def _changeable(kind: str, name: str, accounts: Accounts | None, caller: Principal) -> tuple[str, str | None]:
    """The subject, and the tenant that it belongs to. Raises :class:`NotFound` for a user or key that is not there, and
    just so for one of another tenant; :class:`PermissionDenied` for what only admins may change."""
    subject = subject_of(kind, name)
    if kind == "user" and accounts is not None:
        user = accounts.users.get(name, caller)
        return f"user:{user.name}", user.tenant
    if kind == "key" and accounts is not None:
        return subject, accounts.keys.get(name, caller).tenant
    if Scope.ADMIN not in caller.scopes:
        raise PermissionDenied(
            f"only admins change the budget of a {kind}; owners change those of users and keys", code="missing_scope"
        )
    return subject, name if kind == "tenant" else None
