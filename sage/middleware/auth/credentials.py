"""The full check of a credential against the database, which gives its :class:`Principal`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from sage.errors import AuthenticationFailed
from sage.middleware.auth.api_keys.text import PREFIX, matches, parse_key
from sage.middleware.auth.credential_cache import Verified
from sage.middleware.auth.database import AccountsDatabase
from sage.middleware.auth.job_tokens import PREFIX as JOB_PREFIX
from sage.middleware.auth.job_tokens import JobClaims, JobTokens
from sage.middleware.auth.models import KeyRow, RevisionRow, SessionRow, UserRow
from sage.middleware.auth.principal import IN_JOBS, ROLES, Asker, Principal, Scope, with_implied
from sage.middleware.auth.subjects import subjects_of
from sage.middleware.auth.user_names import account_of
from sage.middleware.settings.limits import Limits

if TYPE_CHECKING:
    from sage.middleware.auth.tokens import Tokens


class Verifier:
    """Checks API keys, access tokens and the credentials of jobs; its calls block on the database.

    ``roles`` are the configured limits of each role's users.
    """

    def __init__(
        self,
        database: AccountsDatabase,
        tokens: Callable[[], Tokens],
        job_tokens: JobTokens,
        clock: Callable[[], float],
        roles: Mapping[str, Limits],
    ) -> None:
        self._database = database
        self._tokens = tokens
        self._job_tokens = job_tokens
        self._clock = clock
        self._roles = roles

    def verify(self, credential: str) -> Verified:
        """The principal of ``credential`` with the rights that it has now; raises :class:`AuthenticationFailed`."""
        if credential.startswith(PREFIX):
            return self._verify_key(credential)
        if credential.startswith(JOB_PREFIX):
            claims = self._job_tokens.read(credential)
            owner = self.rights_of(claims.asker)
            return Verified(job_principal(owner.principal, claims), owner.revision)
        return self._verify_token(credential)

    def verify_again(self, credential: str, before: Principal) -> Verified:
        """The rights now of ``before``, who began a call with ``credential``; raises :class:`AuthenticationFailed`.

        After an access token has expired they are those of its session; after a job's credential has, those that it
        had, since who runs the job looks them up. Those of an identity provider's token are its user's: what newer
        claims took away is away.
        """
        if not (before.by_key or before.in_job or before.session):
            return self.rights_of(before.asker)
        if before.expires_at is None or before.expires_at > self._clock() or before.by_key:
            return self.verify(credential)
        with self._database.read() as session:
            if before.session is not None:
                return self._rights_of_session(session, before.session, before.user)
            return Verified(before, session.scalars(select(RevisionRow.value)).one())

    def rights_of(self, asker: Asker) -> Verified:
        """What ``asker`` may do now; raises :class:`AuthenticationFailed` when it may not ask any more."""
        with self._database.read() as session:
            if asker.key is not None:
                return self._rights_of_key(session, asker.key, asker.tenant)
            row = session.execute(
                select(UserRow, RevisionRow.value)
                .join(RevisionRow, RevisionRow.id == 1)
                .where(UserRow.account == account_of(asker.user))
            ).first()
            if row is None or row[0].disabled:
                raise _no_more(f"the user '{asker.user}' {'does not exist' if row is None else 'is disabled'}")
            user, revision = row
            if user.tenant != asker.tenant:
                raise _no_more(f"the user '{asker.user}' has moved to another tenant")
            return Verified(self._principal_of_user(session, user), revision)

    def tenant_of(self, user: str) -> str:
        """The tenant of a user; raises :class:`AuthenticationFailed` when there is no such user."""
        with self._database.read() as session:
            tenant = session.scalar(select(UserRow.tenant).where(UserRow.account == account_of(user)))
        if tenant is None:
            raise _no_more(f"the user '{user}' does not exist")
        return tenant

    def _rights_of_key(self, session: Session, key_id: str, tenant: str) -> Verified:
        row = _find_key(session, key_id)
        if row is None or row[0].tenant != tenant:
            raise _no_more("its API key does not exist")
        try:
            return self._principal_of_key(session, row)
        except AuthenticationFailed as exc:
            raise _no_more(exc.message) from None

    def _verify_key(self, text: str) -> Verified:
        key_id = parse_key(text)
        if key_id is None:
            raise _invalid_key("it is mistyped or cut off (its checksum does not fit)")
        with self._database.read() as session:
            row = _find_key(session, key_id)
            key = row[0] if row is not None else None
            is_newest = matches(text, key.secret_hash if key is not None else None)
            is_previous = matches(text, key.previous_hash if key is not None else None)
            if row is None or not (is_newest or is_previous):
                raise _invalid_key("there is no such key")
            verified = self._principal_of_key(session, row)
            return verified if is_newest else self._until_replaced(verified, row[0].previous_expires_at)

    def _until_replaced(self, verified: Verified, ends_at: int | None) -> Verified:
        """The rights that a key's secret before its newest has for a while."""
        if ends_at is None or ends_at <= self._clock():
            raise _invalid_key("it has been rotated; use its new secret")
        own = verified.principal.expires_at
        expires_at = ends_at if own is None else min(own, ends_at)
        principal = replace(verified.principal, expires_at=expires_at, is_replaced=True)
        return Verified(principal, verified.revision)

    def _principal_of_key(self, session: Session, row: Row[KeyRow, UserRow, int]) -> Verified:
        key, user, revision = row
        if key.revoked_at is not None:
            raise _invalid_key("it has been revoked")
        if key.expires_at is not None and key.expires_at <= self._clock():
            raise _invalid_key("it has expired")
        if user.disabled:
            raise _invalid_key("its user is disabled")
        if key.tenant != user.tenant and user.role != "admin":
            raise _invalid_key("its user has moved to another tenant; make a new key")
        subjects = subjects_of(session, user, key.tenant, key, self._roles)
        principal = Principal(
            user=user.name,
            tenant=key.tenant,
            scopes=with_implied(scope for scope in _scopes_of(user) if scope in key.scopes),
            models=tuple(key.models),
            tools=tuple(key.tools),
            credential=f"key:{key.id}",
            expires_at=key.expires_at,
            role=user.role,
            subjects=subjects.subjects,
            limits=subjects.limits,
            tags=subjects.tags,
            tenant_models=subjects.tenant_models,
        )
        return Verified(principal, revision)

    def _verify_token(self, text: str) -> Verified:
        claims = self._tokens().read(text)
        with self._database.read() as session:
            verified = self._rights_of_session(session, claims.session, claims.subject)
        principal = replace(verified.principal, credential=f"token:{claims.token_id}", expires_at=claims.expires_at)
        return Verified(principal, verified.revision)

    def _rights_of_session(self, session: Session, session_id: str, subject: str) -> Verified:
        row = _find_session(session, session_id)
        session_ended = AuthenticationFailed("the access token's session has ended; log in again", code="session_ended")
        if row is None:
            raise session_ended
        login, user, revision = row
        if login.revoked_at is not None or user.name != subject or user.disabled:
            raise session_ended
        return Verified(replace(self._principal_of_user(session, user), session=login.id), revision)

    def of_member(self, session: Session, user: UserRow, credential: str, expires_at: int) -> Verified:
        """The rights of a user whom a provider's token names."""
        revision = session.scalar(select(RevisionRow.value)) or 0
        principal = replace(self._principal_of_user(session, user), credential=credential, expires_at=expires_at)
        return Verified(principal, revision)

    def _principal_of_user(self, session: Session, user: UserRow) -> Principal:
        subjects = subjects_of(session, user, user.tenant, None, self._roles)
        return Principal(
            user=user.name,
            tenant=user.tenant,
            scopes=_scopes_of(user),
            role=user.role,
            subjects=subjects.subjects,
            limits=subjects.limits,
            tenant_models=subjects.tenant_models,
        )


def _find_key(session: Session, key_id: str) -> Row[KeyRow, UserRow, int] | None:
    return session.execute(
        select(KeyRow, UserRow, RevisionRow.value)
        .join(UserRow, UserRow.id == KeyRow.user_id)
        .join(RevisionRow, RevisionRow.id == 1)
        .where(KeyRow.id == key_id)
    ).first()


def _find_session(session: Session, session_id: str) -> Row[SessionRow, UserRow, int] | None:
    return session.execute(
        select(SessionRow, UserRow, RevisionRow.value)
        .join(UserRow, UserRow.id == SessionRow.user_id)
        .join(RevisionRow, RevisionRow.id == 1)
        .where(SessionRow.id == session_id)
    ).first()


def job_principal(owner: Principal, claims: JobClaims) -> Principal:
    """A job of ``owner``, whose credential makes these ``claims``."""
    return replace(
        owner,
        scopes=owner.scopes & IN_JOBS,
        credential=f"job:{claims.job}",
        expires_at=min(claims.expires_at, owner.expires_at or claims.expires_at),
        session=None,
    )


def _scopes_of(user: UserRow) -> frozenset[Scope]:
    return ROLES.get(user.role, frozenset())


def _invalid_key(reason: str) -> AuthenticationFailed:
    return AuthenticationFailed(f"the API key is not valid: {reason}", code="invalid_api_key")


def _no_more(reason: str) -> AuthenticationFailed:
    return AuthenticationFailed(f"who asked may not do so any more: {reason}", code="rights_revoked")
