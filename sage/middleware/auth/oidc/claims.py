"""What a provider's signed token says, once its signature, times and audience are checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError

from sage.errors import AuthenticationFailed
from sage.middleware.auth.oidc.provider import OidcProvider
from sage.middleware.auth.teams.tenants import is_tenant
from sage.middleware.auth.tokens import read_object
from sage.middleware.settings.oidc import Oidc

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""No shared secrets (HS…), which whoever has our configuration could sign with, and never ``none``."""
CLOCK_SKEW = 60
_ORDER = ("viewer", "user", "owner", "admin")


@dataclass(frozen=True, slots=True)
class ProviderClaims:
    """What counts here of a token's claims. Times are in Unix seconds.

    ``role`` is ``None`` when the claims give none; ``""`` means that they do not decide on it. As with ``tenant``.
    """

    issuer: str
    subject: str
    user: str
    tenant: str | None
    role: str | None
    issued_at: int
    expires_at: int


async def read_claims(provider: OidcProvider, token: str, now: float) -> Mapping[str, Any]:
    """The claims of a token that the provider has signed; raises :class:`AuthenticationFailed`."""
    try:
        header = jws.extract_compact(token.encode("ascii")).headers()
        kid, algorithm = header.get("kid"), header.get("alg")
        if algorithm not in ALGORITHMS or not (kid is None or isinstance(kid, str)) or "crit" in header:
            raise invalid("its algorithm or its header is not accepted")
        key = await provider.key(kid)
        if key is None:
            raise invalid("its provider has no such key ('kid')")
        claims = read_object(jws.deserialize_compact(token, key, algorithms=[algorithm]).payload)
    except (JoseError, ValueError, TypeError, KeyError) as exc:
        raise invalid("it is malformed, or its signature is wrong") from exc
    times = {name: claims.get(name) for name in ("exp", "iat", "nbf") if name in claims}
    if not {"exp", "iat"} <= times.keys() or any(type(value) is not int for value in times.values()):
        raise invalid("its times are missing or not whole seconds")
    if claims["exp"] + CLOCK_SKEW <= now:
        raise AuthenticationFailed("the provider's token has expired; get a new one there", code="token_expired")
    if claims["iat"] > now + CLOCK_SKEW or claims.get("nbf", 0) > now + CLOCK_SKEW:
        raise invalid("it is not valid yet; compare the clocks")
    return claims


def check_audience(claims: Mapping[str, Any], issuer: str, audience: str) -> None:
    """Raises :class:`AuthenticationFailed` for a token of another issuer, or for somebody else."""
    aud = claims.get("aud")
    if claims.get("iss") != issuer or audience not in (aud if isinstance(aud, list) else [aud]):
        raise invalid("it is of another issuer or for another audience")


def map_claims(claims: Mapping[str, Any], settings: Oidc) -> ProviderClaims:
    """What the configuration makes of a token's claims; raises :class:`AuthenticationFailed`."""
    subject, user = claims.get("sub"), _at(claims, settings.claims.user)
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise invalid("its claim 'sub' is missing or too long")
    if not isinstance(user, str) or not user:
        raise invalid(f"its claim '{settings.claims.user}', the user's name, is missing (auth.oidc.claims.user)")
    role: str | None = ""
    if settings.role_map:
        given = _at(claims, settings.claims.roles)
        values = given if isinstance(given, list) else str(given).split() if given is not None else []
        roles = {settings.role_map[value] for value in values if isinstance(value, str) and value in settings.role_map}
        role = max(roles, key=_ORDER.index, default=None)
    tenant: str | None = ""
    if settings.claims.tenant is not None:
        tenant = _only(_at(claims, settings.claims.tenant))
    return ProviderClaims(settings.issuer, subject, user, tenant, role, claims["iat"], claims["exp"])


def _only(value: Any) -> str | None:
    """The one tenant that a claim names, as a text or as the only text of a list; ``None`` means none, or several."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) and is_tenant(value) else None


def _at(claims: Mapping[str, Any], path: str) -> Any:
    if path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def invalid(reason: str) -> AuthenticationFailed:
    """The error for a provider's token that is not accepted."""
    return AuthenticationFailed(f"the provider's token is not valid: {reason}", code="invalid_token")
