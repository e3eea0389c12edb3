"""Access tokens: ES256 JWTs by python-jose, behind one strict reader.

python-jose checks signatures correctly when it gets one algorithm for one key. What it accepts (``crit``, repeated
claims, times that are not integers) and what could lead it to another key is refused here before it gets the token.
No error repeats any content of the token.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jose import jwk, jwt
from jose.exceptions import JOSEError

from sage.errors import AuthenticationFailed
from sage.middleware.auth.principal import MAX_BYTES
from sage.middleware.auth.signing_keys import KeySet, SigningKey

ISSUER = "sage-middleware"
AUDIENCE = "sage-middleware"
CLOCK_SKEW = 60  # seconds that ``iat`` may lie in the future

_PARTS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_HEADERS = frozenset({"alg", "kid", "typ"})
_SIGNATURE_BYTES = 64
_LATEST = 2**53


@dataclass(frozen=True, slots=True)
class Claims:
    """The content of a verified access token. ``expires_at`` is in Unix seconds."""

    subject: str
    session: str
    token_id: str
    expires_at: int


class Tokens:
    """Makes and reads access tokens with the keys of one installation."""

    def __init__(self, keys: KeySet, clock: Callable[[], float]) -> None:
        self.keys = keys
        self._clock = clock
        self._signers: dict[str, Any] = {}
        self._verifiers: dict[str, Any] = {}

    def make(self, subject: str, session: str, lifetime: int) -> str:
        """A signed token for the user ``subject`` in ``session``, valid for ``lifetime`` seconds."""
        now = int(self._clock())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now,
            "exp": now + lifetime,
            "jti": secrets.token_urlsafe(16),
            "sid": session,
        }
        key = self.keys.signer
        signer = self._signers.get(key.kid)
        if signer is None:
            self._signers = {key.kid: (signer := jwk.construct(key.private_pem, key.algorithm))}
        return str(jwt.encode(claims, signer, algorithm=key.algorithm, headers={"kid": key.kid}))

    def read(self, token: str) -> Claims:
        """The claims of a token that is ours and valid now; raises :class:`AuthenticationFailed` otherwise.

        The caller must look up whether the session has ended.
        """
        if len(token) > MAX_BYTES:
            raise _invalid(f"it is over {MAX_BYTES} bytes")
        if _PARTS.fullmatch(token) is None:
            raise _invalid("it is not three base64url parts; API keys start with 'sk-sage-'")
        header, claims, signature = token.split(".")
        if len(_decode(signature)) != _SIGNATURE_BYTES:
            raise _invalid("its signature has the wrong length")
        key = self._key_of(_parse(header))
        parsed = self._claims_of(_parse(claims))
        self._check_signature(token, key)
        return parsed

    def _key_of(self, header: dict[str, Any]) -> SigningKey:
        if not header.keys() <= _HEADERS:
            raise _invalid("its header has fields that are not accepted (crit, jku, x5u, jwk, x5c and the like)")
        if header.get("typ") != "JWT":
            raise _invalid("its header's 'typ' is not 'JWT'")
        kid = header.get("kid")
        key = self.keys.find(kid) if isinstance(kid, str) else None
        if key is None:
            raise _invalid("it is signed by a key that is not ours ('kid')")
        if header.get("alg") != key.algorithm:
            raise _invalid("its header's 'alg' is not the algorithm of its key")
        return key

    def _claims_of(self, claims: dict[str, Any]) -> Claims:
        now = self._clock()
        if claims.get("iss") != ISSUER or claims.get("aud") != AUDIENCE:
            raise _invalid("it is of another issuer or for another audience")
        subject, session, token_id = (_text(claims, name, ascii_only=name != "sub") for name in ("sub", "sid", "jti"))
        issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
        if issued_at > now + CLOCK_SKEW or ("nbf" in claims and _time(claims, "nbf") > now):
            raise _invalid("it is not valid yet; compare the clocks")
        if expires_at <= now:
            raise AuthenticationFailed(
                "the access token has expired; get a new one by POST /auth/refresh, POST /auth/token or 'sage token'",
                code="token_expired",
            )
        return Claims(subject, session, token_id, expires_at)

    def _check_signature(self, token: str, key: SigningKey) -> None:
        verifier = self._verifiers.get(key.kid)
        if verifier is None:
            verifier = self._verifiers[key.kid] = jwk.construct(key.public_jwk, key.algorithm)
        # The times were checked above, against our own clock.
        options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
        try:
            jwt.decode(token, verifier, algorithms=[key.algorithm], audience=AUDIENCE, issuer=ISSUER, options=options)
        except JOSEError:
            raise _invalid("its signature is wrong") from None


def _invalid(reason: str) -> AuthenticationFailed:
    return AuthenticationFailed(f"the access token is not valid: {reason}", code="invalid_token")


def _decode(part: str) -> bytes:
    """Strict base64url: each value has exactly one text, so that a token cannot be respelled."""
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise _invalid("a part of it is not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii") != part:
        raise _invalid("a part of it is not base64url")
    return data


def _parse(part: str) -> dict[str, Any]:
    return read_object(_decode(part))


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object of a part of a token; raises :class:`AuthenticationFailed` for all else, and repeated names."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _invalid("a part of it is not a JSON object with each name once") from None
    if not isinstance(value, dict):
        raise _invalid("a part of it is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name is repeated")
    return value


def _no_constant(name: str) -> None:
    raise ValueError("not JSON")


def _text(claims: dict[str, Any], name: str, *, ascii_only: bool) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value or not (value.isascii() if ascii_only else value.isprintable()):
        raise _invalid(f"its claim '{name}' is missing or not a text")
    return value


def _time(claims: dict[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int or not 0 <= value < _LATEST:
        raise _invalid(f"its claim '{name}' is missing or not a whole number of seconds")
    return value
