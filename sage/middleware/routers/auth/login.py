"""Logging in and out over HTTP, the first admin, and the public signing keys."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, Request, Response
from fastapi.security import OAuth2PasswordRequestForm
from pydantic import BaseModel

from sage.middleware.auth.addresses import network_of
from sage.middleware.auth.principal import Scope
from sage.middleware.auth.sessions import Login
from sage.middleware.routers.auth.bodies import AccountsDep, StrictBody, shown
from sage.middleware.routers.auth.users import UserAnswer
from sage.middleware.routers.http.deps import Caller
from sage.middleware.routers.http.guard import guarded_router, public, requires
from sage.middleware.routers.http.openapi_bodies import ErrorDetail

router = guarded_router("Accounts")


class RefreshBody(StrictBody):
    """A request for the next tokens of a session."""

    refresh_token: str


class SetupBody(StrictBody):
    """Makes the first admin. ``token`` is in ``data_dir/setup-token`` for 15 minutes after the server's start."""

    token: str
    username: str
    password: str


class TokenAnswer(BaseModel):
    """A session's tokens; ``expires_in`` is in seconds."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 (OAuth's word for the scheme)
    expires_in: int
    refresh_token: str


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
    return UserAnswer(**shown(user))


@router.get("/.well-known/jwks.json", name="jwks")
@public
async def jwks(accounts: AccountsDep) -> dict[str, list[dict[str, str]]]:
    """The public keys that access tokens are signed with."""
    return await asyncio.to_thread(lambda: accounts.tokens.keys.jwks())  # the first call loads libraries


def _tokens(login: Login, response: Response) -> TokenAnswer:
    response.headers["cache-control"] = "no-store"
    return TokenAnswer(access_token=login.access_token, expires_in=login.expires_in, refresh_token=login.refresh_token)
