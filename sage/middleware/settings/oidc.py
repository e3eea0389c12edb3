"""The settings of single sign-on with an OpenID provider."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.quantities import Duration

LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")


def _secure(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL_NAMES):
        raise ValueError("is not an https:// address (http:// only on this machine)")
    return url


SecureUrl = Annotated[str, AfterValidator(_secure)]


class OidcClaims(SettingsSection):
    """Where the provider's tokens say what; dots lead into objects, as in ``realm_access.roles``."""

    user: str = "preferred_username"
    tenant: str | None = None
    """``None`` means that everyone belongs to the tenant that an admin says, at first ``default``."""
    roles: str = "roles"


class Oidc(SettingsSection):
    """Single sign-on."""

    issuer: SecureUrl
    client_id: str
    client_secret: SecretStr | None = None
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    claims: OidcClaims = Field(default_factory=OidcClaims)
    role_map: dict[str, Literal["viewer", "user", "owner", "admin"]] = Field(default_factory=dict)
    """The role here by a value of the claim; the highest counts, and who has none may not come in. Empty means that
    everyone comes in as ``user`` and that admins say the rest."""
    audience: str | None = None
    """What access tokens that are sent as bearer must be for; ``None`` means that none is accepted."""
    create_users: Literal["first_sight", "invited"] = "first_sight"
    redirect_url: SecureUrl | None = None
    """``https://<gateway>/auth/oidc/callback``, as the provider knows it; needed but on this machine."""
    session_ttl: Duration = 12 * 3600.0
    """After which a browser is sent to the provider again, whose claims then count anew."""
