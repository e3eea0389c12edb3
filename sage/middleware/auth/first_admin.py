"""The first admin of a fresh installation, by a one-time token that only who holds the data directory can read."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sage.errors import AuthenticationFailed, Conflict
from sage.middleware.auth.private_files import write_private
from sage.middleware.auth.users import DEFAULT_TENANT, User, Users

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
        """Called when a server starts: without users, writes a fresh token and answers where; else clears it away."""
        if self._users.exist():
            self._drop()
            return None
        token = f"setup-{secrets.token_urlsafe(32)}"
        write_private(self._path, f"{token}\n".encode("ascii"), replace=True)
        self._issued = _Issued(_hash(token), self._clock() + LIFETIME)
        return self._path

    def expire(self) -> None:
        """Removes the token once its time is over; cheap, for calling now and then."""
        issued = self._issued
        if issued is not None and self._clock() >= issued.expires_at:
            self._drop()

    def check(self, token: str) -> None:
        """Raises :class:`AuthenticationFailed` unless ``token`` is the one in the file and in its time."""
        self.expire()
        issued = self._issued
        given = _hash(token)
        if not hmac.compare_digest(given, issued.hash if issued is not None else bytes(32)) or issued is None:
            raise AuthenticationFailed(
                "the setup token is wrong, used or expired; restart the server for a new one, or run "
                "'sage user add NAME --role admin'",
                code="invalid_setup_token",
            )

    def complete(self, token: str, name: str, password: str) -> User:
        """Makes the first user, an admin, and uses the token up. Hashes a password (:class:`Passwords`)."""
        self.check(token)
        try:
            user = self._users.add(name, password, "admin", DEFAULT_TENANT, first=True)
        except Conflict:
            self._drop()
            raise
        self._drop()
        return user

    def _drop(self) -> None:
        self._issued = None
        self._path.unlink(missing_ok=True)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
