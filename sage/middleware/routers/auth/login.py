"""Logging in and out over HTTP, the first admin, and the public signing keys."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import Depends, Form, Request, Response
from fastapi.security import OAuth2PasswordRequestForm
from pydantic import BaseModel, Field

from sage.errors import AuthenticationFailed
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.addresses import network_of
from sage.middleware.auth.principal import Scope
from sage.middleware.auth.sessions import Login
from sage.middleware.routers.auth.bodies import AccountsDep, StrictBody
from sage.middleware.routers.auth.session_cookie import client_of, give, require_own_page, take, tokens
from sage.middleware.routers.auth.subject_budgets import SubjectBudgets
from sage.middleware.routers.auth.users import UserAnswer
from sage.middleware.routers.budgets import TheBudgets
from sage.middleware.routers.http.deps import Caller
from sage.middleware.routers.http.guard import guarded_router, public, requires
from sage.middleware.routers.http.openapi_bodies import ErrorDetail

router = guarded_router("Accounts")


class RefreshBody(StrictBody):
    """A request for the next tokens of a session; without a token its cookie is read."""

    refresh_token: str | None = None


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
    refresh_token: str | None = Field(None, description="Not there for a browser's session: it is in a cookie.")


class TokenError(BaseModel):
    """An error of the token endpoint. For a form with `grant_type=password` it is that of OAuth2 (RFC 6749, 5.2)."""

    error: ErrorDetail | str
    error_description: str


@router.post(
    "/auth/token",
    name="auth_token",
    response_model_exclude_none=True,
    responses={"default": {"description": "An error, by its status.", "model": TokenError}},
)
@public
async def auth_token(
    form: Annotated[OAuth2PasswordRequestForm, Depends()],
    accounts: AccountsDep,
    request: Request,
    response: Response,
    session: Annotated[Literal["cookie"] | None, Form(description="Where a browser keeps the refresh token.")] = None,
) -> TokenAnswer:
    """Logs in with user name and password (OAuth2 password form). After several failures it takes a growing while until
    the next try is checked (429 with `Retry-After`). A form with `grant_type=password` gets errors in OAuth2's shape
    (RFC 6749, 5.2), with `error: invalid_grant` and the like as a text; other forms get the usual envelope, and
    `error_description` beside it.

    With `session=cookie` the refresh token is not in the answer but in a cookie for `/auth` that no script can read.
    """
    if session is not None:
        require_own_page(request)
    address = network_of(request.client.host) if request.client is not None else ""
    with await accounts.throttle.attempt(form.username, address):
        login = await accounts.passwords.run(accounts.sessions.login, form.username, form.password)
    return _tokens(login, response, request if session is not None else None)


@router.post("/auth/refresh", name="auth_refresh", response_model_exclude_none=True)
@public
async def auth_refresh(
    accounts: AccountsDep, request: Request, response: Response, body: RefreshBody | None = None
) -> TokenAnswer:
    """The next tokens of a session. A refresh token works once; its second use ends the session, but for ten seconds in
    which the same client (by address and `User-Agent`) gets the same answer again. Without a token in the body that of
    a browser's cookie is used, and the next one goes there."""
    client = client_of(request)
    if body is not None and body.refresh_token is not None:
        return _tokens(await asyncio.to_thread(accounts.sessions.refresh, body.refresh_token, client), response)
    require_own_page(request)
    login = await asyncio.to_thread(_refresh_by_cookie, accounts, tokens(request), client)
    return _tokens(login, response, request)


def _refresh_by_cookie(accounts: Accounts, found: list[str], client: str) -> Login:
    failure = AuthenticationFailed(
        "there is no refresh token, neither in the body nor in a cookie; log in", code="missing_credential"
    )
    for token in found:
        try:
            return accounts.sessions.refresh(token, client)
        except AuthenticationFailed as exc:
            failure = exc
    raise failure


@router.post("/auth/logout", name="auth_logout", status_code=204)
@requires(Scope.ACCOUNT)
async def auth_logout(accounts: AccountsDep, caller: Caller, request: Request, response: Response) -> None:
    """Ends the session of the access token that the request carries, and takes a browser's cookie away."""
    await asyncio.to_thread(accounts.sessions.logout, caller.session)
    take(response, request)


@router.post("/auth/setup", name="auth_setup", status_code=201)
@public
async def auth_setup(body: SetupBody, accounts: AccountsDep, budgets: TheBudgets) -> UserAnswer:
    """Makes the first admin with the one-time setup token."""
    accounts.first_admin.check(body.token)  # before it waits for a free thread to hash the password
    user = await accounts.passwords.run(accounts.first_admin.complete, body.token, body.username, body.password)
    return UserAnswer(**await SubjectBudgets(budgets).shown_one("user", user))


@router.get("/.well-known/jwks.json", name="jwks")
@public
async def jwks(accounts: AccountsDep) -> dict[str, list[dict[str, str]]]:
    """The public keys that access tokens are signed with."""
    return await asyncio.to_thread(lambda: accounts.tokens.keys.jwks())  # the first call loads libraries


def _tokens(login: Login, response: Response, browser: Request | None = None) -> TokenAnswer:
    """The answer; the refresh token goes into a cookie where a ``browser`` asks."""
    response.headers["cache-control"] = "no-store"
    refresh_token: str | None = login.refresh_token
    if browser is not None:
        give(response, browser, login)
        refresh_token = None
    return TokenAnswer(access_token=login.access_token, expires_in=login.expires_in, refresh_token=refresh_token)
