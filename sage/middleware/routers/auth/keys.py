"""API keys over HTTP: the caller's own, and those of the users that it manages."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Response
from pydantic import BaseModel, Field, WithJsonSchema

from sage.errors import InvalidRequest, PermissionDenied
from sage.middleware.auth.api_keys.api_keys import OVERLAP
from sage.middleware.auth.grants import MAX_NOTE, MAX_TAGS, KeyRequest
from sage.middleware.auth.principal import Scope
from sage.middleware.routers.auth.bodies import (
    PATTERNS,
    AccountsDep,
    LimitsAnswer,
    StrictBody,
    TenantName,
    or_null,
)
from sage.middleware.routers.auth.subject_budgets import TheSubjectBudgets
from sage.middleware.routers.budgets import BudgetAnswer
from sage.middleware.routers.http.deps import Caller
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.settings.budgets import BudgetSettings
from sage.middleware.settings.limits import Limits

router = guarded_router("Accounts")

_SCOPES = {"type": "array", "items": {"enum": [*map(str, Scope)]}, "minItems": 1}
_TAG = {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[^ ,]+$"}
_TAGS = {"type": "array", "items": _TAG, "maxItems": MAX_TAGS}


_NULLABLE = {"limits", "expires_at"}


class KeyBody(StrictBody):
    """A new key. What is left out is taken from the caller's own rights, without ``admin``, ``tenant:admin``,
    ``tools:write`` and ``worker``."""

    name: str = Field("", json_schema_extra={"maxLength": 100})
    scopes: Annotated[list[str] | None, WithJsonSchema(or_null(_SCOPES))] = None
    models: Annotated[
        list[str] | None,
        WithJsonSchema(or_null(PATTERNS)),
        Field(description="Patterns of public model names; '*' is the only wildcard."),
    ] = None
    tools: Annotated[
        list[str] | None,
        WithJsonSchema(or_null(PATTERNS)),
        Field(description="Patterns of tools of MCP servers, such as `docs__*`; '*' is the only wildcard."),
    ] = None
    tenant: TenantName | None = None
    expires_at: int | None = Field(
        None, description="Unix seconds; left out, never, or with the key that makes it.", le=2**53
    )
    user: str | None = Field(None, description="Whose key it is to be, if not the caller's: a user that it manages.")
    note: str = Field("", json_schema_extra={"maxLength": MAX_NOTE})
    tags: Annotated[list[str], WithJsonSchema(_TAGS)] = Field(default_factory=list)
    limits: Limits | None = Field(None, description="Of this key and the keys made with it, together.")
    budget: BudgetSettings | None = Field(None, description="Of this key and the keys made with it, together.")


class KeyChangeBody(StrictBody):
    """Changes to a key. ``limits`` or a ``budget`` of ``null`` takes them away, ``expires_at`` of ``null`` lets it live
    until it is revoked."""

    name: str | None = Field(None, json_schema_extra={"maxLength": 100})
    note: str | None = Field(None, json_schema_extra={"maxLength": MAX_NOTE})
    tags: Annotated[list[str] | None, WithJsonSchema(or_null(_TAGS))] = None
    tools: Annotated[
        list[str] | None,
        WithJsonSchema(or_null(PATTERNS)),
        Field(description="Patterns of tools of MCP servers; never more than the maker of the key may call."),
    ] = None
    models: Annotated[
        list[str] | None,
        WithJsonSchema(or_null(PATTERNS)),
        Field(description="Patterns of public model names; never more than the maker of the key may ask."),
    ] = None
    expires_at: int | None = Field(None, description="Unix seconds, in the future; null: never.", le=2**53)
    limits: Limits | None = None
    budget: BudgetSettings | None = None


class RotationBody(StrictBody):
    """How a key gets its new secret."""

    overlap: int = Field(OVERLAP, description="Seconds for which the old secret is good; 0 ends it at once.")


class KeyAnswer(BaseModel):
    """A key without its secret; times are in Unix seconds."""

    id: str
    name: str
    user: str
    tenant: str
    scopes: list[str]
    models: list[str]
    tools: list[str]
    last4: str
    note: str
    tags: list[str]
    limits: LimitsAnswer
    budget: BudgetAnswer | None
    made_by: str | None
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None = Field(description="Up to a minute old.")
    rotated_at: int | None
    previous_expires_at: int | None = Field(description="Until when the secret before the newest is good.")


class NewKeyAnswer(KeyAnswer):
    """A key with its secret, which is shown this once."""

    key: str


class KeyList(BaseModel):
    """Keys, oldest first."""

    keys: list[KeyAnswer]


@router.get("/auth/keys", name="auth_keys_list")
@requires(Scope.ACCOUNT)
async def auth_keys_list(
    accounts: AccountsDep,
    budgets: TheSubjectBudgets,
    caller: Caller,
    user: str | None = None,
    team: str | None = None,
) -> KeyList:
    """The caller's own keys; to owners and admins also another user's, or a whole team's."""
    if Scope.TENANT_ADMIN not in caller.scopes and (team is not None or user not in (None, caller.user)):
        param = "team" if team is not None else "user"
        raise PermissionDenied("only admins and owners see other users' keys", param=param, code="missing_scope")
    name = caller.user if user is None and team is None else user
    keys = await asyncio.to_thread(accounts.keys.list, name, by=caller, tenant=team)
    return KeyList(keys=[KeyAnswer(**key) for key in await budgets.shown("key", keys)])


@router.post("/auth/keys", name="auth_keys_create", status_code=201)
@requires(Scope.ACCOUNT)
async def auth_keys_create(
    body: KeyBody, accounts: AccountsDep, budgets: TheSubjectBudgets, caller: Caller, response: Response
) -> NewKeyAnswer:
    """Makes a key, never with more rights than the caller has; only this answer contains its secret."""
    fields: dict[str, Any] = {name: getattr(body, name) for name in KeyBody.model_fields if name != "budget"}
    made = await asyncio.to_thread(accounts.keys.create, caller, KeyRequest(**fields), budgets.given(body.budget))
    if body.budget is not None:
        await budgets.refresh()
    response.headers["cache-control"] = "no-store"
    return NewKeyAnswer(**await budgets.shown_one("key", made.key), key=made.secret)


@router.get("/auth/keys/{id}", name="auth_keys_show")
@requires(Scope.ACCOUNT)
async def auth_keys_show(id: str, accounts: AccountsDep, budgets: TheSubjectBudgets, caller: Caller) -> KeyAnswer:
    """One key, without its secret."""
    key = await asyncio.to_thread(accounts.keys.get, id, caller)
    return KeyAnswer(**await budgets.shown_one("key", key))


@router.patch("/auth/keys/{id}", name="auth_keys_change")
@requires(Scope.ACCOUNT)
async def auth_keys_change(
    id: str, body: KeyChangeBody, accounts: AccountsDep, budgets: TheSubjectBudgets, caller: Caller
) -> KeyAnswer:
    """Changes a key. A key may change those that it made, never itself. Limits, tools and a budget that an
    admin or owner has set are changed and taken away by admins and owners only. Models, tools and time that it loses,
    the keys that were made with it lose too."""
    has_budget = "budget" in body.model_fields_set
    changes: dict[str, Any] = {name: getattr(body, name) for name in body.model_fields_set if name != "budget"}
    changes = {name: value for name, value in changes.items() if value is not None or name in _NULLABLE}
    if not changes and not has_budget:
        raise InvalidRequest("nothing to change: give name, note, tags, models, tools, expires_at, limits or budget")
    given = budgets.changed({"budget": body.budget} if has_budget else {})
    key = await asyncio.to_thread(accounts.keys.change, id, caller, given, **changes)
    if has_budget:
        await budgets.refresh()
    return KeyAnswer(**await budgets.shown_one("key", key))


@router.post("/auth/keys/{id}/rotate", name="auth_keys_rotate")
@requires(Scope.ACCOUNT)
async def auth_keys_rotate(
    id: str,
    accounts: AccountsDep,
    budgets: TheSubjectBudgets,
    caller: Caller,
    response: Response,
    body: RotationBody | None = None,
) -> NewKeyAnswer:
    """Gives a key a new secret, which only this answer contains. It stays the same key, with its id, rights, limits,
    budgets and usage; its old secret is good for `overlap` more seconds."""
    overlap = OVERLAP if body is None else body.overlap
    made = await asyncio.to_thread(accounts.keys.rotate, id, caller, overlap=overlap)
    response.headers["cache-control"] = "no-store"
    return NewKeyAnswer(**await budgets.shown_one("key", made.key), key=made.secret)


@router.delete("/auth/keys/{id}", name="auth_keys_revoke")
@requires(Scope.ACCOUNT)
async def auth_keys_revoke(id: str, accounts: AccountsDep, budgets: TheSubjectBudgets, caller: Caller) -> KeyAnswer:
    """Revokes a key and all keys that were made with it: one's own, and those of users that one manages."""
    key = await asyncio.to_thread(accounts.keys.revoke, id, caller)
    return KeyAnswer(**await budgets.shown_one("key", key))
