"""The full check of a credential against the database, which gives its :class:`Principal`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import Row, select

from sage.errors import AuthenticationFailed
from sage.middleware.auth.credential_cache import Verified
from sage.middleware.auth.database import AccountsDatabase
from sage.middleware.auth.job_tokens import PREFIX as JOB_PREFIX
from sage.middleware.auth.job_tokens import JobClaims, JobTokens
from sage.middleware.auth.keys import PREFIX, matches, parse_key
from sage.middleware.auth.models import KeyRow, RevisionRow, SessionRow, UserRow
from sage.middleware.auth.principal import IN_JOBS, ROLES, Asker, Principal, Scope

if TYPE_CHECKING:
    from sage.middleware.auth.tokens import Tokens


class Verifier:
    """Checks API keys, access tokens and the credentials of jobs; its calls block on the database."""

    def __init__(
        self,
        database: AccountsDatabase,
        tokens: Callable[[], Tokens],
        job_tokens: JobTokens,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._tokens = tokens
        self._job_tokens = job_tokens
        self._clock = clock

    def verify(self, credential: str) -> Verified:
        """The principal of ``credential`` with the rights that it has now; raises :class:`AuthenticationFailed`."""
        if credential.startswith(PREFIX):
            return self._verify_key(credential)
        if credential.startswith(JOB_PREFIX):
            claims = self._job_tokens.read(credential)
            owner = self.rights_of(claims.asker)
            return Verified(job_principal(owner.principal, claims), owner.revision)
        return self._verify_token(credential)

    def rights_of(self, asker: Asker) -> Verified:
        """What ``asker`` may do now; raises :class:`AuthenticationFailed` when it may not ask any more."""
        if asker.key is not None:
            return self._rights_of_key(asker.key, asker.tenant)
        with self._database.read() as session:
            row = session.execute(
                select(UserRow, RevisionRow.value)
                .join(RevisionRow, RevisionRow.id == 1)
                .where(UserRow.name == asker.user)
            ).first()
        if row is None or row[0].disabled:
            raise _no_more(f"the user '{asker.user}' {'does not exist' if row is None else 'is disabled'}")
        user, revision = row
        if user.tenant != asker.tenant:
            raise _no_more(f"the user '{asker.user}' has moved to another tenant")
        principal = Principal(user=user.name, tenant=user.tenant, scopes=_scopes_of(user), role=user.role)
        return Verified(principal, revision)

    def tenant_of(self, user: str) -> str:
        """The tenant of a user; raises :class:`AuthenticationFailed` when there is no such user."""
        with self._database.read() as session:
            tenant = session.scalar(select(UserRow.tenant).where(UserRow.name == user))
        if tenant is None:
            raise _no_more(f"the user '{user}' does not exist")
        return tenant

    def _rights_of_key(self, key_id: str, tenant: str) -> Verified:
        row = self._find_key(key_id)
        if row is None or row[0].tenant != tenant:
            raise _no_more("its API key does not exist")
        try:
            return self._principal_of_key(row)
        except AuthenticationFailed as exc:
            raise _no_more(exc.message) from None

    def _verify_key(self, text: str) -> Verified:
        key_id = parse_key(text)
        if key_id is None:
            raise _invalid_key("it is mistyped or cut off (its checksum does not fit)")
        row = self._find_key(key_id)
        if not matches(text, row[0].secret_hash if row is not None else None) or row is None:
            raise _invalid_key("there is no such key")
        return self._principal_of_key(row)

    def _principal_of_key(self, row: Row[KeyRow, UserRow, int]) -> Verified:
        key, user, revision = row
        if key.revoked_at is not None:
            raise _invalid_key("it has been revoked")
        if key.expires_at is not None and key.expires_at <= self._clock():
            raise _invalid_key("it has expired")
        if user.disabled:
            raise _invalid_key("its user is disabled")
        if key.tenant != user.tenant and user.role != "admin":
            raise _invalid_key("its user has moved to another tenant; make a new key")
        principal = Principal(
            user=user.name,
            tenant=key.tenant,
            scopes=frozenset(scope for scope in _scopes_of(user) if scope in key.scopes),
            models=tuple(key.models),
            credential=f"key:{key.id}",
            expires_at=key.expires_at,
            role=user.role,
        )
        return Verified(principal, revision)

    def _verify_token(self, text: str) -> Verified:
        claims = self._tokens().read(text)
        row = self._find_session(claims.session)
        session_ended = AuthenticationFailed("the access token's session has ended; log in again", code="session_ended")
        if row is None:
            raise session_ended
        login, user, revision = row
        if login.revoked_at is not None or user.name != claims.subject or user.disabled:
            raise session_ended
        principal = Principal(
            user=user.name,
            tenant=user.tenant,
            scopes=_scopes_of(user),
            credential=f"token:{claims.token_id}",
            expires_at=claims.expires_at,
            role=user.role,
            session=login.id,
        )
        return Verified(principal, revision)

    def _find_key(self, key_id: str) -> Row[KeyRow, UserRow, int] | None:
        with self._database.read() as session:
            return session.execute(
                select(KeyRow, UserRow, RevisionRow.value)
                .join(UserRow, UserRow.id == KeyRow.user_id)
                .join(RevisionRow, RevisionRow.id == 1)
                .where(KeyRow.id == key_id)
            ).first()

    def _find_session(self, session_id: str) -> Row[SessionRow, UserRow, int] | None:
        with self._database.read() as session:
            return session.execute(
                select(SessionRow, UserRow, RevisionRow.value)
                .join(UserRow, UserRow.id == SessionRow.user_id)
                .join(RevisionRow, RevisionRow.id == 1)
                .where(SessionRow.id == session_id)
            ).first()


def job_principal(owner: Principal, claims: JobClaims) -> Principal:
    """A job of ``owner``, whose credential makes these ``claims``."""
    return Principal(
        user=owner.user,
        tenant=owner.tenant,
        scopes=owner.scopes & IN_JOBS,
        models=owner.models,
        credential=f"job:{claims.job}",
        expires_at=min(claims.expires_at, owner.expires_at or claims.expires_at),
        role=owner.role,
    )


def _scopes_of(user: UserRow) -> frozenset[Scope]:
    return ROLES.get(user.role, frozenset())


def _invalid_key(reason: str) -> AuthenticationFailed:
    return AuthenticationFailed(f"the API key is not valid: {reason}", code="invalid_api_key")


def _no_more(reason: str) -> AuthenticationFailed:
    return AuthenticationFailed(f"who asked for this job may not do so any more: {reason}", code="rights_revoked")
