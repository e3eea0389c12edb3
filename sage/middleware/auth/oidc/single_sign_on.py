"""Logins at an OpenID provider by code and PKCE, and that provider's access tokens as credentials.

OpenID Connect Core 1.0, 3.1; RFC 7636 (PKCE, ``S256``); RFC 9700.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable
from urllib.parse import urlencode

from authlib.oauth2.rfc7636 import create_s256_code_challenge

from sage.middleware.auth.changes import Changes
from sage.middleware.auth.credential_cache import Verified
from sage.middleware.auth.credentials import Verifier
from sage.middleware.auth.database import AccountsDatabase
from sage.middleware.auth.oidc.claims import ProviderClaims, check_audience, invalid, map_claims, read_claims
from sage.middleware.auth.oidc.members import Members, no_rights
from sage.middleware.auth.oidc.pending import PendingLogin
from sage.middleware.auth.oidc.provider import OidcProvider
from sage.middleware.auth.sessions import Login, LoginSessions
from sage.middleware.settings.oidc import Oidc


class SingleSignOn:
    """Belongs to one event loop."""

    def __init__(
        self,
        settings: Oidc,
        database: AccountsDatabase,
        sessions: LoginSessions,
        verifier: Verifier,
        changes: Changes,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self._database = database
        self._sessions = sessions
        self._verifier = verifier
        self._clock = clock
        self._provider = OidcProvider(settings)
        self._members = Members(database, changes, creates=settings.create_users == "first_sight")

    async def begin(self, redirect_url: str) -> tuple[PendingLogin, str]:
        """A new login, and the address at the provider where it goes on."""
        pending = PendingLogin(secrets.token_urlsafe(24), secrets.token_urlsafe(24), secrets.token_urlsafe(48))
        query = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": redirect_url,
            "scope": " ".join(dict.fromkeys(("openid", *self.settings.scopes))),
            "state": pending.state,
            "nonce": pending.nonce,
            "code_challenge": create_s256_code_challenge(pending.verifier),
            "code_challenge_method": "S256",
        }
        endpoint = (await self._provider.metadata())["authorization_endpoint"]
        return pending, f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    async def complete(self, pending: PendingLogin, state: str, code: str, redirect_url: str) -> Login:
        """The session of whoever has logged in at the provider; raises :class:`AuthenticationFailed`."""
        if not hmac.compare_digest(pending.state.encode(), state.encode("utf-8", "surrogatepass")):
            raise invalid("this login did not begin in this browser ('state'); begin again")
        token = (await self._provider.tokens(code, pending.verifier, redirect_url)).get("id_token")
        if not isinstance(token, str):
            raise invalid("the provider gave no ID token; auth.oidc.scopes needs 'openid'")
        claims = await read_claims(self._provider, token, self._clock())
        check_audience(claims, self.settings.issuer, self.settings.client_id)
        if (
            claims.get("nonce") != pending.nonce
            or claims.get("azp", self.settings.client_id) != self.settings.client_id
        ):
            raise invalid("it was made for another login ('nonce', 'azp')")
        return await asyncio.to_thread(self._log_in, map_claims(claims, self.settings))

    async def verify(self, token: str) -> Verified:
        """The rights of an access token of the provider; raises :class:`AuthenticationFailed`."""
        audience = self.settings.audience
        if audience is None:
            raise invalid("tokens of the provider are not accepted here (auth.oidc.audience is not set)")
        claims = await read_claims(self._provider, token, self._clock())
        check_audience(claims, self.settings.issuer, audience)
        if "nonce" in claims or "at_hash" in claims:
            raise invalid("it is an ID token; send an access token")
        return await asyncio.to_thread(self._recognize, map_claims(claims, self.settings))

    def _log_in(self, claims: ProviderClaims) -> Login:
        now = int(self._clock())
        with self._database.write() as session:
            user = self._members.bring_up(session, claims, now)
            if user is not None:
                return self._sessions.open_for(session, user, self.settings.session_ttl)
        raise no_rights()  # only now: what the claims took away must be committed

    def _recognize(self, claims: ProviderClaims) -> Verified:
        with self._database.read() as session:
            user = self._members.find(session, claims)
            if user is not None and self._members.is_current(user, claims):
                if user.disabled:
                    raise no_rights()
                return self._verifier.of_member(session, user, f"oidc:{claims.subject}", claims.expires_at)
        with self._database.write() as session:
            user = self._members.bring_up(session, claims, int(self._clock()))
            if user is not None:
                session.flush()
                return self._verifier.of_member(session, user, f"oidc:{claims.subject}", claims.expires_at)
        raise no_rights()
