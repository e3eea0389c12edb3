"""``/auth/options``: how a person can log in here, for a page that asks before anybody has."""

from __future__ import annotations

import asyncio

from fastapi import Request
from pydantic import BaseModel, Field

from sage.middleware.auth.accounts import Accounts
from sage.middleware.routers.auth.session_cookie import tokens
from sage.middleware.routers.http.guard import guarded_router, public

router = guarded_router("Accounts")


class LoginOptions(BaseModel):
    """How a person can log in."""

    accounts: bool = Field(description="False where everybody on this machine may do everything (`--no-auth`).")
    setup: bool = Field(description="Whether the first admin is still to be made, with the set-up token.")
    single_sign_on: bool = Field(description="Whether `GET /auth/oidc/login` leads to a provider.")
    session: bool = Field(description="Whether the browser has the cookie of a session, good or not.")


@router.get("/auth/options", name="auth_options")
@public
async def auth_options(request: Request) -> LoginOptions:
    """How a person can log in here."""
    accounts: Accounts | None = request.app.state.accounts
    if accounts is None:
        return LoginOptions(accounts=False, setup=False, single_sign_on=False, session=False)
    return LoginOptions(
        accounts=True,
        setup=await asyncio.to_thread(accounts.first_admin.is_awaited),
        single_sign_on=accounts.single_sign_on is not None,
        session=bool(tokens(request)),
    )
