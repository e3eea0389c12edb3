"""The first admin of a new installation, made with a one-time token that only the data directory's owner can read."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sage.errors import AuthenticationFailed, Conflict
from sage.middleware.auth.teams.tenants import DEFAULT_TENANT
from sage.middleware.auth.users import User, Users
from sage.private_files import write_private

LIFETIME = 15 * 60  # seconds


@dataclass(frozen=True, slots=True)
class _Issued:
    hash: bytes
    expires_at: float


class FirstAdmin:
    """Keeps the setup token: a file of mode 0600 for the operator, its hash here."""

    def __init__(self, users: Users, path: Path, clock: Callable[[], float]) -> None:
        self._users = users
        self._path = path
        self._clock = clock
        self._issued: _Issued | None = None

    def prepare(self) -> Path | None:
        """For the start of a server: without users, writes a new token and returns its path; else removes it."""
        if self._users.exist():
            self._remove()
            return None
        token = f"setup-{secrets.token_urlsafe(32)}"
        write_private(self._path, f"{token}\n".encode("ascii"), replace=True)
        self._issued = _Issued(_hash(token), self._clock() + LIFETIME)
        return self._path

    def expire(self) -> None:
        """Removes the token once it has expired; cheap enough to be called often."""
        issued = self._issued
        if issued is not None and self._clock() >= issued.expires_at:
            self._remove()

    def is_awaited(self) -> bool:
        """Whether there is a token that has not expired, and no user yet."""
        self.expire()
        return self._issued is not None and not self._users.exist()

    def check(self, token: str) -> None:
        """Raises :class:`AuthenticationFailed` unless ``token`` is the one in the file and has not expired."""
        self.expire()
        issued = self._issued
        digest = _hash(token)
        if not hmac.compare_digest(digest, issued.hash if issued is not None else bytes(32)) or issued is None:
            raise AuthenticationFailed(
                "the setup token is wrong, used or expired; restart the server for a new one, or run "
                "'sage user add NAME --role admin'",
                code="invalid_setup_token",
            )

    def complete(self, token: str, name: str, password: str) -> User:
        """Makes the first user, an admin, and removes the token. Hashes a password (:class:`Passwords`)."""
        self.check(token)
        try:
            user = self._users.add(name, password, "admin", DEFAULT_TENANT, first=True)
        except Conflict:
            self._remove()
            raise
        self._remove()
        return user

    def _remove(self) -> None:
        self._issued = None
        self._path.unlink(missing_ok=True)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
