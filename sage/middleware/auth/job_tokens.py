"""The credential of a running job: who asked for it, signed with a key of this installation.

It carries no rights: those are looked up at every check, as they are then. A worker gets one when it claims a job, and
the next one before it expires. Its text is ``jt-sage-<claims>.<HMAC-SHA256>``, both parts in base64url.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from sage.errors import AuthenticationFailed, ConfigError
from sage.middleware.auth.principal import Asker
from sage.middleware.database.shared_files import SharedFiles

PREFIX = "jt-sage-"
_FILE = "jobs.key"
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class JobClaims:
    """What a job's credential says. ``expires_at`` is in Unix seconds."""

    asker: Asker
    job: str
    expires_at: int


class JobTokens:
    """Makes and reads the credentials of jobs, with the key ``jobs.key`` among ``files``, which is made on first use.

    Raises :class:`ConfigError` when it cannot be used.
    """

    def __init__(self, files: SharedFiles, clock: Callable[[], float]) -> None:
        files.add(_FILE, secrets.token_bytes(_KEY_BYTES))
        self._key = files.read(_FILE) or b""
        if len(self._key) != _KEY_BYTES:
            place = files.place(_FILE)
            raise ConfigError(f"{place} is not a key of {_KEY_BYTES} bytes; remove it, and another one is made")
        self._clock = clock

    def make(self, asker: Asker, job: str, lifetime: int) -> str:
        """A credential for the job with the id ``job``, valid for ``lifetime`` seconds."""
        claims = [asker.user, asker.tenant, asker.key, job, int(self._clock()) + lifetime]
        body = _encode(json.dumps(claims, separators=(",", ":")).encode())
        return f"{PREFIX}{body}.{_encode(self._sign(body))}"

    def read(self, text: str) -> JobClaims:
        """The claims of a credential that is ours and valid now; raises :class:`AuthenticationFailed`."""
        body, _, signature = text.removeprefix(PREFIX).partition(".")
        if not hmac.compare_digest(_encode(self._sign(body)), signature):
            raise AuthenticationFailed(
                "the job's credential is not valid: its signature is wrong", code="invalid_token"
            )
        user, tenant, key, job, expires_at = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        if expires_at <= self._clock():
            raise AuthenticationFailed("the job's credential has expired", code="token_expired")
        return JobClaims(Asker(user, tenant, key), job, expires_at)

    def _sign(self, body: str) -> bytes:
        return hmac.digest(self._key, body.encode("ascii"), hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
