"""Logging in at the configured OpenID provider, with a browser."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import RedirectResponse

from sage.errors import AuthenticationFailed, InvalidRequest, NotFound, SageError
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.oidc.pending import PendingLogin
from sage.middleware.routers.auth.bodies import AccountsDep
from sage.middleware.routers.auth.session_cookie import cookie, give, values
from sage.middleware.routers.http.browser_origin import header, is_loopback
from sage.middleware.routers.http.guard import guarded_router, public

router = guarded_router("Accounts")

_COOKIE = "sage-login"
_WITHIN = 600
"""Seconds that a login at the provider may take."""
_VALUE = re.compile(r"([A-Za-z0-9_-]{32})\.([A-Za-z0-9_-]{32})\.([A-Za-z0-9_-]{64})\.(/[A-Za-z0-9_.~/-]{0,200})")
_HOME = "/docs"
_CONSOLE = "/console"


@router.get("/auth/oidc/login", name="auth_oidc_login", status_code=303, response_class=RedirectResponse)
@public
async def oidc_login(
    accounts: AccountsDep,
    request: Request,
    target: Annotated[str, Query(alias="next", description="The path of this gateway to come back to.")] = _HOME,
) -> Response:
    """Sends a browser to the configured provider; it comes back to `/auth/oidc/callback`."""
    sign_on = accounts.single_sign_on
    if sign_on is None:
        raise _not_configured()
    pending, url = await sign_on.begin(_redirect_url(accounts, request))
    answer = RedirectResponse(url, 303, {"cache-control": "no-store"})
    value = f"{pending.state}.{pending.nonce}.{pending.verifier}.{_own_path(target)}"
    answer.headers.append("set-cookie", cookie(request, _COOKIE, value, _WITHIN, same_site="Lax"))
    return answer


@router.get("/auth/oidc/callback", name="auth_oidc_callback", status_code=303, response_class=RedirectResponse)
@public
async def oidc_callback(
    accounts: AccountsDep,
    request: Request,
    code: str = "",
    state: str = "",
    error: str = "",
) -> Response:
    """Where the provider sends the browser back. It gets its refresh token in a cookie, as `POST /auth/token` with
    `session=cookie` gives it. A browser that was going to the console is led there when it fails, too."""
    sign_on = accounts.single_sign_on
    if sign_on is None:
        raise _not_configured()
    found = next((match for match in map(_VALUE.fullmatch, values(request, _COOKIE)) if match), None)
    target = _own_path(found[4]) if found is not None else _HOME
    try:
        _require_granted(error)
        if found is None:
            raise AuthenticationFailed(
                "this login did not begin in this browser, or took over ten minutes; begin again: GET /auth/oidc/login",
                code="login_expired",
            )
        pending = PendingLogin(found[1], found[2], found[3])
        login = await sign_on.complete(pending, state, code, _redirect_url(accounts, request))
    except SageError as exc:
        if target != _CONSOLE:
            raise
        return _led(f"{_CONSOLE}#/login?failed={exc.code}", request)
    answer = _led(target, request)
    give(answer, request, login)
    return answer


def _require_granted(error: str) -> None:
    if error:
        shown = error if re.fullmatch(r"[a-z_]{1,64}", error) else "an error"
        raise AuthenticationFailed(f"the provider did not log you in: {shown}", code="provider_refused")


def _led(target: str, request: Request) -> Response:
    """The end of a login: the browser goes to ``target``."""
    answer = RedirectResponse(target, 303, {"cache-control": "no-store"})
    answer.headers.append("set-cookie", cookie(request, _COOKIE, "", 0, same_site="Lax"))
    return answer


def _redirect_url(accounts: Accounts, request: Request) -> str:
    sign_on = accounts.single_sign_on
    assert sign_on is not None
    if sign_on.settings.redirect_url is not None:
        return sign_on.settings.redirect_url
    if not is_loopback(request.scope):
        raise InvalidRequest(
            "single sign-on needs auth.oidc.redirect_url: https://<this gateway>/auth/oidc/callback",
            code="redirect_url_missing",
        )
    return f"http://{header(request.scope, b'host')}/auth/oidc/callback"


def _own_path(target: str) -> str:
    """``target`` when it is a plain path here: a login leads nowhere else."""
    is_plain = re.fullmatch(r"/[A-Za-z0-9_.~/-]{0,200}", target) is not None
    return target if is_plain and "//" not in target and ".." not in target else _HOME


def _not_configured() -> NotFound:
    return NotFound("this gateway has no single sign-on (auth.oidc)", code="no_single_sign_on")
