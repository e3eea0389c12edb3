"""The session of a browser that looks at Flower: a cookie that is good for ``/flower`` alone.

The cookie holds the access token of a login session of its own, encrypted: whoever steals it has no token for the rest
of the gateway. Rights are checked as with every access token, so a session dies with a logout, its user or their role.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from sage.errors import AuthenticationFailed, Conflict
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.authenticator import Authenticator
from sage.middleware.auth.principal import Principal
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.auth.sessions import LONGEST_PAGE_TOKEN
from sage.middleware.routers.http.asgi import Scope

if TYPE_CHECKING:
    from sage.middleware.routers.flower.seal import Seal

IDLE = LONGEST_PAGE_TOKEN
"""Seconds that a session lasts without a request."""
LONGEST = 8 * 3600
"""Seconds after which it ends in any case."""

_NAME = "sage-flower"
_VALUE = re.compile(r"[A-Za-z0-9_-]{1,4096}")
_MOST_COOKIES = 8
"""Of that name in one request: another site of the same domain may have set some."""


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """A session that is good now. ``ends_at``: when it ends in any case, in Unix seconds."""

    principal: Principal
    ends_at: int


class BrowserSessions:
    """Opens, finds and ends the sessions of browsers. A restart of the gateway ends them all."""

    def __init__(
        self, accounts: Accounts, authenticator: Authenticator, clock: Callable[[], float] = time.time
    ) -> None:
        self._accounts = accounts
        self._authenticator = authenticator
        self._clock = clock

    @cached_property
    def _seal(self) -> Seal:
        from sage.middleware.routers.flower.seal import Seal  # 6 MiB that only those who look at Flower need

        return Seal()

    async def open(self, name: str, password: str, address: str) -> str:
        """The value of the cookie of a new session.

        Raises :class:`AuthenticationFailed` for a wrong password, :class:`RateLimited` for too many of them, and
        :class:`PermissionDenied` for a user who is no admin.
        """
        accounts = self._accounts
        login = partial(accounts.sessions.login_for_pages, lifetime=LONGEST, token_lifetime=IDLE)
        with await accounts.throttle.attempt(name, address):
            token = await accounts.passwords.run(login, name, password, Permission.ADMIN)
        return self._seal.close(token, int(self._clock()) + LONGEST)

    def open_for(self, principal: Principal) -> str:
        """The value of the cookie for a browser that has logged in already: of the same login session, whose end is its
        end too. Raises :class:`Conflict` for who has none, such as a key."""
        if principal.session is None:
            raise Conflict("log in with a name and a password: a key opens no session", code="no_session")
        token = self._accounts.tokens.make(principal.user, principal.session, IDLE)
        return self._seal.close(token, int(self._clock()) + LONGEST)

    async def find(self, scope: Scope) -> BrowserSession | None:
        """The session of a request's cookie; ``None`` means that it has none that is good."""
        for value in _cookies(scope):
            opened = self._seal.open(value)
            if opened is None or opened[1] <= self._clock():
                continue
            authorization = b"Bearer " + opened[0].encode("ascii")
            try:
                principal = self._authenticator.cached(authorization)
                principal = principal or await self._authenticator.authenticate(authorization)
            except AuthenticationFailed:
                continue
            return BrowserSession(principal, opened[1])
        return None

    def renewed(self, session: BrowserSession) -> str | None:
        """The value of a cookie that lasts longer; ``None`` means that the present one lasts long enough."""
        now, principal = int(self._clock()), session.principal
        expires_at = principal.expires_at or 0
        if principal.session is None or expires_at - now > IDLE / 2 or session.ends_at - expires_at < 1:
            return None
        lifetime = min(IDLE, session.ends_at - now)
        token = self._accounts.tokens.make(principal.user, principal.session, lifetime)
        return self._seal.close(token, session.ends_at)

    async def end(self, principal: Principal) -> None:
        """Ends a session, in all browsers."""
        await asyncio.to_thread(self._accounts.sessions.logout, principal.session)


def set_cookie(value: str, *, secure: bool) -> tuple[bytes, bytes]:
    """The header that gives a browser the cookie; ``secure`` keeps it off connections without TLS."""
    return _header(value, IDLE, secure=secure)


def take_cookie(*, secure: bool) -> tuple[bytes, bytes]:
    """The header that takes the cookie away."""
    return _header("", 0, secure=secure)


def _header(value: str, max_age: int, *, secure: bool) -> tuple[bytes, bytes]:
    text = f"{_NAME}={value}; Path=/flower; Max-Age={max_age}; HttpOnly; SameSite=Strict"
    return b"set-cookie", (text + "; Secure" if secure else text).encode("ascii")


def _cookies(scope: Scope) -> Iterator[str]:
    """The values of the cookie in a request; there may be several."""
    left = _MOST_COOKIES
    for name, content in scope["headers"]:
        if name != b"cookie":
            continue
        for part in content.decode("latin-1").split(";"):
            key, _, value = part.strip().partition("=")
            if key == _NAME and left and _VALUE.fullmatch(value):
                left -= 1
                yield value
