"""Accounts over HTTP: login, the caller's own keys, users for admins, and the public signing keys."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.security import OAuth2PasswordRequestForm
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, WithJsonSchema

from sage.errors import InvalidRequest, PermissionDenied
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.addresses import network_of
from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.principal import ROLES, Scope
from sage.middleware.auth.sessions import Login
from sage.middleware.auth.users import DEFAULT_TENANT
from sage.middleware.routers.http.deps import Caller
from sage.middleware.routers.http.guard import guarded_router, public, requires
from sage.middleware.routers.http.openapi_bodies import ErrorDetail

router = guarded_router("Accounts")


def _accounts(request: Request) -> Accounts:
    accounts: Accounts = request.app.state.accounts
    return accounts


AccountsDep = Annotated[Accounts, Depends(_accounts)]


class StrictBody(BaseModel):
    """A JSON body: unknown fields are refused, and no input is shown in errors."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class RefreshBody(StrictBody):
    """A request for the next tokens of a session."""

    refresh_token: str


class SetupBody(StrictBody):
    """Makes the first admin. ``token`` is in ``data_dir/setup-token`` for 15 minutes after the server's start."""

    token: str
    username: str
    password: str


# What is checked later, with errors that say more; these are for OpenAPI.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$"
_PATTERN = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": r"^[^ ?\[]+$"}


def _or_null(items: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "array", **items}, {"type": "null"}]}


class KeyBody(StrictBody):
    """A new key of the caller. What is left out is taken from the caller's own rights (all scopes but ``admin``)."""

    name: str = Field("", json_schema_extra={"maxLength": 100})
    scopes: Annotated[
        list[str] | None, WithJsonSchema(_or_null({"items": {"enum": [*map(str, Scope)]}, "minItems": 1}))
    ] = None
    models: Annotated[
        list[str] | None,
        WithJsonSchema(_or_null({"items": _PATTERN, "minItems": 1, "maxItems": 50})),
        Field(description="Patterns of public model names; '*' is the only wildcard."),
    ] = None
    tenant: Annotated[
        str | None, WithJsonSchema({"anyOf": [{"type": "string", "pattern": _NAME}, {"type": "null"}]})
    ] = None
    expires_at: int | None = Field(
        None, description="Unix seconds; left out, never, or with the key that makes it.", le=2**53
    )


UserName = Annotated[str, Field(validation_alias=AliasChoices("username", "name"))]  # shown as "name" in listings


class NewUserBody(StrictBody):
    """A new user."""

    username: UserName
    password: str
    role: Annotated[str, WithJsonSchema({"enum": [*ROLES]})] = "user"
    tenant: Annotated[str, WithJsonSchema({"type": "string", "pattern": _NAME})] = DEFAULT_TENANT


class UserChangeBody(StrictBody):
    """Changes to the user ``username``. Disabling it, or a new password, ends all its sessions."""

    username: UserName
    role: str | None = None
    tenant: str | None = None
    disabled: bool | None = None
    password: str | None = None


class TokenAnswer(BaseModel):
    """A session's tokens; ``expires_in`` is in seconds."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 (OAuth's word for the scheme)
    expires_in: int
    refresh_token: str


class UserAnswer(BaseModel):
    """A user; ``created_at`` is in Unix seconds."""

    name: str
    role: str
    tenant: str
    disabled: bool
    created_at: int


class KeyAnswer(BaseModel):
    """A key without its secret; times are in Unix seconds."""

    id: str
    name: str
    user: str
    tenant: str
    scopes: list[str]
    models: list[str]
    last4: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None


class NewKeyAnswer(KeyAnswer):
    """A key with its secret, which is shown this once."""

    key: str


class MeAnswer(BaseModel):
    """Who the caller is, and what its credential may do."""

    user: str
    role: str
    tenant: str
    scopes: list[str]
    models: list[str]
    credential: str
    expires_at: int | None


class KeyList(BaseModel):
    """Keys, oldest first."""

    keys: list[KeyAnswer]


class UserList(BaseModel):
    """Users by name."""

    users: list[UserAnswer]


class TokenError(BaseModel):
    """An error of the token endpoint. For a form with `grant_type=password` it is that of OAuth2 (RFC 6749, 5.2)."""

    error: ErrorDetail | str
    error_description: str


@router.post(
    "/auth/token",
    name="auth_token",
    responses={"default": {"description": "An error, by its status.", "model": TokenError}},
)
@public
async def auth_token(
    form: Annotated[OAuth2PasswordRequestForm, Depends()], accounts: AccountsDep, request: Request, response: Response
) -> TokenAnswer:
    """Logs in with user name and password (OAuth2 password form). After several failures it takes a growing while until
    the next try is checked (429 with `Retry-After`). A form with `grant_type=password` gets errors in OAuth2's shape
    (RFC 6749, 5.2), with `error: invalid_grant` and the like as a text; other forms get the usual envelope, and
    `error_description` beside it."""
    address = network_of(request.client.host) if request.client is not None else ""
    with accounts.throttle.attempt(form.username, address):
        login = await accounts.passwords.run(accounts.sessions.login, form.username, form.password)
    return _tokens(login, response)


@router.post("/auth/refresh", name="auth_refresh")
@public
async def auth_refresh(body: RefreshBody, accounts: AccountsDep, response: Response) -> TokenAnswer:
    """The next tokens of a session. A refresh token works once; its second use ends the session."""
    return _tokens(await asyncio.to_thread(accounts.sessions.refresh, body.refresh_token), response)


@router.post("/auth/logout", name="auth_logout", status_code=204)
@requires(Scope.ACCOUNT)
async def auth_logout(accounts: AccountsDep, caller: Caller) -> None:
    """Ends the session of the access token that the request carries."""
    await asyncio.to_thread(accounts.sessions.logout, caller.session)


@router.post("/auth/setup", name="auth_setup", status_code=201)
@public
async def auth_setup(body: SetupBody, accounts: AccountsDep) -> UserAnswer:
    """Makes the first admin with the one-time setup token."""
    accounts.first_admin.check(body.token)  # before it waits for a free thread to hash the password
    user = await accounts.passwords.run(accounts.first_admin.complete, body.token, body.username, body.password)
    return UserAnswer(**asdict(user))


@router.get("/auth/me", name="auth_me")
@requires(Scope.ACCOUNT)
async def auth_me(caller: Caller) -> MeAnswer:
    """Who the caller is, and what its credential may do."""
    return MeAnswer(
        user=caller.user,
        role=caller.role,
        tenant=caller.tenant,
        scopes=sorted(caller.scopes),
        models=list(caller.models),
        credential=caller.credential,
        expires_at=None if caller.expires_at is None else int(caller.expires_at),
    )


@router.get("/auth/keys", name="auth_keys_list")
@requires(Scope.ACCOUNT)
async def auth_keys_list(accounts: AccountsDep, caller: Caller, user: str | None = None) -> KeyList:
    """The caller's own keys, or with ``user`` and the scope admin another user's."""
    if user is not None and user != caller.user and Scope.ADMIN not in caller.scopes:
        raise PermissionDenied("only admins see other users' keys", param="user", code="missing_scope")
    keys = await asyncio.to_thread(accounts.keys.list, user or caller.user)
    return KeyList(keys=[KeyAnswer(**_fields(key)) for key in keys])


@router.post("/auth/keys", name="auth_keys_create", status_code=201)
@requires(Scope.ACCOUNT)
async def auth_keys_create(body: KeyBody, accounts: AccountsDep, caller: Caller, response: Response) -> NewKeyAnswer:
    """Makes a key of the caller; only this answer contains its secret."""
    request = KeyRequest(body.name, body.scopes, body.models, body.tenant, body.expires_at)
    created = await asyncio.to_thread(accounts.keys.create, caller, request)
    response.headers["cache-control"] = "no-store"
    return NewKeyAnswer(**_fields(created.key), key=created.secret)


@router.delete("/auth/keys/{id}", name="auth_keys_revoke")
@requires(Scope.ACCOUNT)
async def auth_keys_revoke(id: str, accounts: AccountsDep, caller: Caller) -> KeyAnswer:
    """Revokes a key and all keys that were made with it. Admins may revoke any key, others their own."""
    return KeyAnswer(**_fields(await asyncio.to_thread(accounts.keys.revoke, id, caller)))


@router.get("/auth/users", name="auth_users_list")
@requires(Scope.ADMIN)
async def auth_users_list(accounts: AccountsDep) -> UserList:
    """All users."""
    users = await asyncio.to_thread(accounts.users.list)
    return UserList(users=[UserAnswer(**asdict(user)) for user in users])


@router.post("/auth/users", name="auth_users_create", status_code=201)
@requires(Scope.ADMIN)
async def auth_users_create(body: NewUserBody, accounts: AccountsDep) -> UserAnswer:
    """Makes a user."""
    user = await accounts.passwords.run(accounts.users.add, body.username, body.password, body.role, body.tenant)
    return UserAnswer(**asdict(user))


@router.patch("/auth/users", name="auth_users_change")
@requires(Scope.ADMIN)
async def auth_users_change(body: UserChangeBody, accounts: AccountsDep) -> UserAnswer:
    """Changes a user."""
    changes = body.model_dump(exclude={"username"}, exclude_none=True)
    if not changes:
        raise InvalidRequest("nothing to change: give role, tenant, disabled or password")
    if "password" in changes:
        user = await accounts.passwords.run(accounts.users.change, body.username, **changes)
    else:
        user = await asyncio.to_thread(accounts.users.change, body.username, **changes)
    return UserAnswer(**asdict(user))


@router.get("/.well-known/jwks.json", name="jwks")
@public
async def jwks(accounts: AccountsDep) -> dict[str, list[dict[str, str]]]:
    """The public keys that access tokens are signed with."""
    return await asyncio.to_thread(lambda: accounts.tokens.keys.jwks())  # the first call loads libraries


def _tokens(login: Login, response: Response) -> TokenAnswer:
    response.headers["cache-control"] = "no-store"
    return TokenAnswer(access_token=login.access_token, expires_in=login.expires_in, refresh_token=login.refresh_token)


def _fields(view: Any) -> dict[str, Any]:
    """The fields of a dataclass, with lists in place of tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(view).items()}
