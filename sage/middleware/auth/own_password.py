"""A new password for oneself: by the current one, and with an end to what the old one had opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from sage.errors import AuthenticationFailed
from sage.middleware.auth.api_keys.revocation import revoke_all_of
from sage.middleware.auth.changes import Changes
from sage.middleware.auth.database import AccountsDatabase
from sage.middleware.auth.passwords import Passwords
from sage.middleware.auth.principal import Principal
from sage.middleware.auth.teams.authority import require_user
from sage.middleware.auth.users import end_sessions


@dataclass(frozen=True, slots=True)
class PasswordChange:
    """What a new password has ended."""

    ended_sessions: int
    revoked_keys: int


class OwnPassword:
    """Hashes two passwords a call (:class:`Passwords`)."""

    def __init__(
        self, database: AccountsDatabase, passwords: Passwords, clock: Callable[[], float], changes: Changes
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._clock = clock
        self._changes = changes

    def change(self, by: Principal, current: str, new: str, *, revoke_keys: bool = False) -> PasswordChange:
        """Gives the caller a new password, ends its other sessions and, when asked, revokes all its keys.

        Raises :class:`AuthenticationFailed` when ``current`` is not its password.
        """
        wrong = AuthenticationFailed("the current password is wrong", code="wrong_password")
        with self._database.read() as session:
            stored = require_user(session, by.user).password_hash
        if not self._passwords.verify(current, stored):
            raise wrong
        password_hash = self._passwords.hash_new(new, (by.user, by.tenant))
        now = int(self._clock())
        with self._database.write() as session:
            row = require_user(session, by.user)
            if row.disabled or row.password_hash != stored:
                raise wrong  # changed while the password was checked
            row.password_hash = password_hash
            ended = end_sessions(session, row.id, now, keep=by.session)
            revoked = revoke_all_of(session, row.id, now) if revoke_keys else 0
            self._database.bump(session)
            done = PasswordChange(ended, revoked)
            self._changes.tell(session, by, "user.password", f"user:{row.name}", row.tenant, asdict(done))
            return done
