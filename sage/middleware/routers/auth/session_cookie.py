"""A browser's session: its refresh token in a cookie that no script can read and no other site can send.

Its access tokens live in the page's memory. The cookie is good for ``/auth`` alone: no other route reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fastapi import Request, Response

from sage.errors import PermissionDenied
from sage.middleware.auth.addresses import network_of
from sage.middleware.auth.sessions import Login
from sage.middleware.routers.http.browser_origin import header, is_loopback, is_same_origin

NAME = "sage-session"
_VALUE = re.compile(r"[A-Za-z0-9_-]{8,128}")
_MOST = 4
"""Cookies of that name that are looked at: another site of the same domain may have set some."""


def give(response: Response, request: Request, login: Login) -> None:
    """Gives the browser the cookie, for as long as the session lasts."""
    response.headers.append("set-cookie", cookie(request, NAME, login.refresh_token, login.session_ends_in))


def take(response: Response, request: Request) -> None:
    """Takes the cookie away, where the browser has one."""
    if any(True for _ in values(request, NAME)):
        response.headers.append("set-cookie", cookie(request, NAME, "", 0))


def tokens(request: Request) -> list[str]:
    """The refresh tokens in the request's cookies; there may be several."""
    return [value for value, _ in zip(values(request, NAME), range(_MOST), strict=False) if _VALUE.fullmatch(value)]


def values(request: Request, name: str) -> Iterator[str]:
    """The values of the cookies of that name."""
    for key, content in request.scope["headers"]:
        if key == b"cookie":
            for part in content.decode("latin-1").split(";"):
                found, _, value = part.strip().partition("=")
                if found == name:
                    yield value


def cookie(request: Request, name: str, value: str, max_age: int, *, same_site: str = "Strict") -> str:
    """A header's value that sets a cookie. It needs TLS, but for a browser on this machine."""
    text = f"{name}={value}; Path=/auth; Max-Age={max_age}; HttpOnly; SameSite={same_site}"
    return text if is_loopback(request.scope) else f"{text}; Secure"


def require_own_page(request: Request) -> None:
    """Raises :class:`PermissionDenied` for what a page of another origin asks for, unless that is one of
    ``api.allowed_origins``. A client that is no browser says nothing of it and may pass."""
    if is_same_origin(request.scope) is not False:
        return
    origin, allowed = header(request.scope, b"origin"), request.app.state.settings.api.allowed_origins
    if origin == "" or origin not in allowed:
        raise PermissionDenied(
            "a page of another origin asks for a browser's session; an administrator can allow it "
            "(api.allowed_origins)",
            code="origin_not_allowed",
        )


def client_of(request: Request) -> str:
    """What tells one client from another: its network and its User-Agent."""
    network = network_of(request.client.host) if request.client is not None else ""
    return f"{network} {header(request.scope, b'user-agent')}"
