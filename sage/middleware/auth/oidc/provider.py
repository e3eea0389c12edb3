"""The OpenID provider over HTTP: its description, its keys and its tokens, fetched with bounds and kept.

OpenID Connect Discovery 1.0; RFC 7517 (keys); RFC 6749, 4.1.3 with RFC 7636 (a code for tokens).
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import time
from typing import Any
from urllib.parse import quote_plus, urlsplit

import aiohttp
from authlib.oidc.discovery import OpenIDProviderMetadata
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from sage.errors import Unavailable
from sage.middleware.settings.oidc import LOCAL_NAMES, Oidc

FETCH_FLOOR = 30.0
"""Seconds at least between two fetches of the keys, whatever keys tokens name."""
KEEP = 3600.0
"""Seconds after which the keys are fetched again, if the provider answers; until then and else the known ones count."""
_TIMEOUT = 10.0
_MOST_BYTES = 512 * 1024
SigningKeys = dict[str | None, RSAKey | ECKey | OKPKey]


class OidcProvider:
    """Belongs to one event loop. Its calls raise :class:`Unavailable`, which says what is wrong with the provider."""

    def __init__(self, settings: Oidc) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._metadata: dict[str, Any] | None = None
        self._keys: SigningKeys = {}
        self._fetched_at = self._tried_at = -math.inf

    async def metadata(self) -> dict[str, Any]:
        """Its description of itself."""
        if self._metadata is None:
            found = await self._fetch("GET", f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != self._settings.issuer:
                raise self._wrong(f"it calls itself '{str(found.get('issuer'))[:200]}'; write that in auth.oidc.issuer")
            try:
                OpenIDProviderMetadata(found).validate_jwks_uri()
            except ValueError as exc:
                raise self._wrong(str(exc)) from exc
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                parts = urlsplit(str(found.get(name, "")))
                if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL_NAMES):
                    raise self._wrong(f"its '{name}' is no https:// address")
            self._metadata = found
        return self._metadata

    async def key(self, kid: str | None) -> RSAKey | ECKey | OKPKey | None:
        """The key of that id, or the only one; ``None`` means that it has no such key."""
        async with self._lock:
            now = time.monotonic()
            is_due = self._find(kid) is None or now - self._fetched_at > KEEP
            if is_due and now - self._tried_at > FETCH_FLOOR:
                self._tried_at = now
                try:
                    found = await self._fetch("GET", (await self.metadata())["jwks_uri"])
                    self._keys, self._fetched_at = _signing_keys(found), now
                except (Unavailable, JoseError, ValueError, TypeError):
                    if self._find(kid) is None:
                        raise
            return self._find(kid)

    async def tokens(self, code: str, verifier: str, redirect_url: str) -> dict[str, Any]:
        """The tokens for the code of a login."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_url,
            "code_verifier": verifier,
            "client_id": self._settings.client_id,
        }
        secret = self._settings.client_secret
        metadata = await self.metadata()
        headers = {}
        if secret is not None:
            methods = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
            if "client_secret_basic" in methods:
                headers["Authorization"] = _basic(self._settings.client_id, secret.get_secret_value())
            else:
                form["client_secret"] = secret.get_secret_value()
        return await self._fetch("POST", metadata["token_endpoint"], form, headers)

    def _find(self, kid: str | None) -> RSAKey | ECKey | OKPKey | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    async def _fetch(
        self, method: str, url: str, form: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT), trust_env=True) as client,
                client.request(method, url, data=form, headers=headers, allow_redirects=False) as answer,
            ):
                body = b""
                async for piece in answer.content.iter_chunked(65536):
                    body += piece
                    if len(body) > _MOST_BYTES:
                        raise self._wrong(f"its answer is over {_MOST_BYTES} bytes")
                if answer.status != 200:
                    raise self._wrong(f"{urlsplit(url).path} answered {answer.status}")
                value = json.loads(body)
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise self._wrong(f"it cannot be reached ({type(exc).__name__})") from exc
        except ValueError as exc:
            raise self._wrong("its answer is not JSON") from exc
        if not isinstance(value, dict):
            raise self._wrong("its answer is not a JSON object")
        return value

    def _wrong(self, what: str) -> Unavailable:
        return Unavailable(
            f"single sign-on does not work now: the provider {self._settings.issuer}: {what}; passwords and API keys "
            "work as ever",
            retry_after=FETCH_FLOOR,
            code="provider_unavailable",
        )


def _basic(client_id: str, secret: str) -> str:
    """RFC 6749, 2.3.1: both are form-encoded first."""
    text = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return f"Basic {base64.b64encode(text.encode()).decode('ascii')}"


def _signing_keys(found: dict[str, Any]) -> SigningKeys:
    """The public keys that can sign, by their ids; shared secrets are none."""
    keys = [key for key in found.get("keys", ()) if isinstance(key, dict) and key.get("use", "sig") == "sig"]
    usable = [key for key in keys if key.get("kty") in ("RSA", "EC", "OKP")]
    return {
        key.kid: key for key in KeySet.import_key_set({"keys": usable}).keys if isinstance(key, RSAKey | ECKey | OKPKey)
    }
