"""Login sessions: opened by a login, continued by a refresh, ended by a logout."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from sage.errors import AuthenticationFailed, InvalidRequest
from sage.middleware.auth.changes import Changes, nobody
from sage.middleware.auth.database import AccountsDatabase
from sage.middleware.auth.models import RefreshTokenRow, SessionRow, UserRow
from sage.middleware.auth.passwords import Passwords
from sage.middleware.auth.principal import ROLES, Principal, Scope
from sage.middleware.auth.refresh_families import Replayed, find_token, first_of_family, is_refresh_token, successor_of
from sage.middleware.auth.teams.authority import find_user, require_user

if TYPE_CHECKING:
    from sage.middleware.auth.tokens import Tokens

T = TypeVar("T")

LONGEST_PAGE_TOKEN = 30 * 60
"""Seconds that an access token of :meth:`LoginSessions.login_for_pages` is valid at most."""


@dataclass(frozen=True, slots=True)
class Login:
    """The tokens of a session. ``expires_in`` is the access token's life in seconds, ``session_ends_in`` that of the
    session, within which there are further ones."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: int
    session_ends_in: int


class LoginSessions:
    """The login sessions of one installation. Each lasts ``refresh_ttl`` seconds from the login.

    Its calls block; :meth:`login` hashes a password (:class:`Passwords`).
    """

    def __init__(
        self,
        database: AccountsDatabase,
        passwords: Passwords,
        tokens: Callable[[], Tokens],
        clock: Callable[[], float],
        changes: Changes,
        *,
        access_ttl: float,
        refresh_ttl: float,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._tokens = tokens
        self._clock = clock
        self._changes = changes
        self._access_ttl = max(1, int(access_ttl))
        self._refresh_ttl = max(1, int(refresh_ttl))

    def login(self, name: str, password: str) -> Login:
        """A new session; raises :class:`AuthenticationFailed`, the same for every cause and after the same work."""

        def open_session(session: Session, user: UserRow) -> Login:
            return self._tokens_of(session, self._open(session, user, self._refresh_ttl), user)

        return self._login(name, password, open_session)

    def login_for_pages(self, name: str, password: str, scope: Scope, *, lifetime: int, token_lifetime: int) -> str:
        """An access token of a new session of ``lifetime`` seconds that has no refresh token.

        Raises as :meth:`login` does, and :class:`sage.errors.PermissionDenied` for a user without ``scope``.
        """

        def open_session(session: Session, user: UserRow) -> str:
            scopes = ROLES.get(user.role, frozenset())
            Principal(user=user.name, tenant=user.tenant, scopes=scopes).require(scope)
            session_row = self._open(session, user, lifetime)
            return self._tokens().make(user.name, session_row.id, token_lifetime)

        return self._login(name, password, open_session)

    def _login(self, name: str, password: str, open_session: Callable[[Session, UserRow], T]) -> T:
        """What ``open_session`` makes for a user with the right password."""
        wrong = AuthenticationFailed("wrong user name or password", code="wrong_password")
        with self._database.read() as session:
            row = find_user(session, name)
            stored = row.password_hash if row is not None else None
        is_right = self._passwords.verify(password, stored)
        if not is_right or row is None or stored is None or row.disabled:
            raise wrong
        new_hash = self._passwords.hash(password) if self._passwords.needs_rehash(stored) else None
        with self._database.write() as session:
            user = session.get(UserRow, row.id)
            if user is None or user.disabled or user.password_hash != stored:
                raise wrong  # changed while the password was checked
            user.password_hash = new_hash or stored
            user.last_login_at = int(self._clock())
            self._tell(session, user, "session.login")
            return open_session(session, user)

    def open_for(self, session: Session, user: UserRow, lifetime: float) -> Login:
        """A new session of a user whom somebody else has recognized; it lasts ``lifetime`` seconds at most."""
        user.last_login_at = int(self._clock())
        return self._tokens_of(session, self._open(session, user, min(int(lifetime), self._refresh_ttl)), user)

    def refresh(self, refresh_token: str, client: str | None = None) -> Login:
        """The session's next tokens in exchange for its newest refresh token, which is used up.

        A refresh token that is used twice was stolen: the whole session ends. For some seconds the same ``client``
        gets the same next refresh token again (:mod:`sage.middleware.auth.refresh_families`).
        """
        invalid = AuthenticationFailed(
            "the refresh token is not valid: unknown, used, expired or logged out; log in again", code="invalid_token"
        )
        if not is_refresh_token(refresh_token):
            raise invalid
        now = int(self._clock())
        with self._database.write() as session:
            family = _live_family(session, refresh_token, now)
            if family is not None:
                token, session_row, user = family
                try:
                    successor = successor_of(session, refresh_token, token, client, now)
                except Replayed:
                    self._end(session, session_row, user, "session.replay")
                else:
                    if successor is not None:
                        return self._login_of(session_row, user, successor)
        raise invalid  # only now: the revocation must be committed

    def logout(self, session_id: str | None) -> None:
        """Ends a session with all its tokens. Raises :class:`InvalidRequest` for ``None``, as an API key has."""
        if session_id is None:
            raise InvalidRequest(
                "an API key has no session to log out of; revoke it by DELETE /auth/keys/{id}", code="no_session"
            )
        with self._database.write() as session:
            session_row = session.get(SessionRow, session_id)
            user = session.get(UserRow, session_row.user_id) if session_row is not None else None
            if session_row is not None and user is not None and session_row.revoked_at is None:
                self._end(session, session_row, user, "session.logout")

    def issue(self, name: str | None) -> str:
        """An access token without a password and without a refresh token, for the operator.

        ``name`` may be ``None`` when there is exactly one enabled user.
        """
        with self._database.write() as session:
            user = require_user(session, name) if name is not None else _only_user(session)
            if user.disabled:
                raise InvalidRequest(f"the user '{user.name}' is disabled; sage user enable {user.name}")
            session_row = self._open(session, user, self._access_ttl)
            self._changes.tell(session, None, "session.issue", f"user:{user.name}", user.tenant, {})
            return self._tokens().make(user.name, session_row.id, self._access_ttl)

    def _open(self, session: Session, user: UserRow, lifetime: int) -> SessionRow:
        now = int(self._clock())
        session.execute(delete(SessionRow).where(SessionRow.expires_at <= now))
        session_row = SessionRow(
            id=secrets.token_urlsafe(16), user_id=user.id, created_at=now, expires_at=now + lifetime, revoked_at=None
        )
        session.add(session_row)
        session.flush()
        return session_row

    def _end(self, session: Session, session_row: SessionRow, user: UserRow, action: str) -> None:
        session_row.revoked_at = int(self._clock())
        self._database.bump(session)
        self._tell(session, user, action)

    def _tell(self, session: Session, user: UserRow, action: str) -> None:
        self._changes.tell(session, nobody(user.name, user.tenant), action, f"user:{user.name}", user.tenant, {})

    def _tokens_of(self, session: Session, session_row: SessionRow, user: UserRow) -> Login:
        return self._login_of(session_row, user, first_of_family(session, session_row.id, int(self._clock())))

    def _login_of(self, session_row: SessionRow, user: UserRow, refresh_token: str) -> Login:
        left = session_row.expires_at - int(self._clock())
        lifetime = min(self._access_ttl, left)
        return Login(self._tokens().make(user.name, session_row.id, lifetime), refresh_token, lifetime, left)


def _live_family(session: Session, refresh_token: str, now: int) -> tuple[RefreshTokenRow, SessionRow, UserRow] | None:
    """The token's row, with its session and user, unless that session has ended."""
    token = find_token(session, refresh_token)
    session_row = session.get(SessionRow, token.session_id) if token is not None else None
    user = session.get(UserRow, session_row.user_id) if session_row is not None else None
    if token is None or session_row is None or user is None or user.disabled:
        return None
    is_live = session_row.revoked_at is None and session_row.expires_at > now
    return (token, session_row, user) if is_live else None


def _only_user(session: Session) -> UserRow:
    users = session.scalars(
        select(UserRow).where(UserRow.disabled.is_(False)).order_by(UserRow.account).limit(11)
    ).all()
    if not users:
        raise InvalidRequest("there is no enabled user; make the first: sage user add NAME --role admin")
    if len(users) > 1:
        names = ", ".join(user.name for user in users[:10]) + (", …" if len(users) > 10 else "")
        raise InvalidRequest(f"there are several users; choose one with --user: {names}")
    return users[0]
