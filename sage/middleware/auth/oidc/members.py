"""The users that a provider answers for: made, changed and withdrawn as its claims say."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from sage.errors import AuthenticationFailed, PermissionDenied
from sage.middleware.auth.changes import Changes, nobody
from sage.middleware.auth.database import AccountsDatabase
from sage.middleware.auth.models import TenantRow, UserRow
from sage.middleware.auth.oidc.claims import ProviderClaims
from sage.middleware.auth.teams.authority import find_user
from sage.middleware.auth.teams.tenants import DEFAULT_TENANT, ensure_tenant
from sage.middleware.auth.user_names import account_of, looks_of, user_name
from sage.middleware.auth.users import end_sessions


class Members:
    """Brings users up to what claims say. Calls need a write transaction."""

    def __init__(self, database: AccountsDatabase, changes: Changes, *, creates: bool) -> None:
        self._database = database
        self._changes = changes
        self._creates = creates

    def find(self, session: Session, claims: ProviderClaims) -> UserRow | None:
        """Its user, if it was here before."""
        mine = (UserRow.issuer == claims.issuer) & (UserRow.subject == claims.subject)
        return session.scalar(select(UserRow).where(mine))

    def is_current(self, row: UserRow, claims: ProviderClaims) -> bool:
        """Whether the user is as the claims say, or newer ones have been seen."""
        if row.claims_at is not None and row.claims_at > claims.issued_at:
            return True
        has_rights = claims.role is not None and claims.tenant is not None
        return (
            row.claims_at is not None
            and row.withdrawn != has_rights
            and claims.role in ("", None, row.role)
            and claims.tenant in ("", None, row.tenant)
        )

    def bring_up(self, session: Session, claims: ProviderClaims, now: int) -> UserRow | None:
        """The user as the claims say now; ``None`` means that they give it no rights: its sessions end, and its keys
        are refused until they do again. Raises :class:`PermissionDenied` for a stranger who is not let in."""
        row = self.find(session, claims)
        has_rights = claims.role is not None and claims.tenant is not None and not _is_deleted(session, claims.tenant)
        if row is None:
            if not has_rights:
                return None
            row = self._join(session, claims, now)
        if row.claims_at is not None and row.claims_at > claims.issued_at:
            return None if row.disabled else row  # older claims than those that it goes by
        before = (row.role, row.tenant, row.disabled)
        row.claims_at = claims.issued_at
        if has_rights:
            self._give(session, row, claims, now)
        elif not row.disabled:
            row.disabled = row.withdrawn = True
            end_sessions(session, row.id, now)
        after = (row.role, row.tenant, row.disabled)
        if after != before:
            self._database.bump(session)
            names = ("role", "tenant", "disabled")
            details = dict(zip(names, after, strict=True)) | {"issuer": claims.issuer}
            details |= {f"{name}_before": value for name, value in zip(names, before, strict=True)}
            self._changes.tell(
                session, nobody(row.name, row.tenant), "user.claims", f"user:{row.name}", row.tenant, details
            )
        return None if row.disabled else row

    def _give(self, session: Session, row: UserRow, claims: ProviderClaims, now: int) -> None:
        row.role = claims.role or row.role
        if claims.tenant and claims.tenant != row.tenant:
            ensure_tenant(session, claims.tenant, now)
            row.tenant = claims.tenant
        if row.withdrawn:
            row.disabled = row.withdrawn = False

    def _join(self, session: Session, claims: ProviderClaims, now: int) -> UserRow:
        name = user_name(claims.user)
        row = find_user(session, name)
        if row is not None and (row.issuer is not None or row.password_hash is not None):
            raise PermissionDenied(
                f"the user name '{row.name}' belongs to somebody else here; an admin renames or removes one of them",
                code="name_taken",
            )
        if row is None:
            similar = session.scalar(select(UserRow.name).where(UserRow.looks == looks_of(name)).limit(1))
            if not self._creates or similar is not None:
                raise PermissionDenied(
                    f"'{name}' is not invited; an admin makes the user first (without a password)", code="not_invited"
                )
            tenant, role = claims.tenant or DEFAULT_TENANT, claims.role or "user"
            ensure_tenant(session, tenant, now)
            row = UserRow(
                name=name, account=account_of(name), looks=looks_of(name), role=role, tenant=tenant, created_at=now
            )
            row.disabled = False
            session.add(row)
            session.flush()
            details = {"role": role, "issuer": claims.issuer}
            self._changes.tell(session, nobody(name, tenant), "user.create", f"user:{name}", tenant, details)
        row.issuer, row.subject = claims.issuer, claims.subject
        return row


def _is_deleted(session: Session, tenant: str) -> bool:
    """Whether it is the name of a deleted team, into which nobody comes."""
    row = session.get(TenantRow, tenant) if tenant else None
    return row is not None and row.deleted_at is not None


def no_rights() -> AuthenticationFailed:
    """The error for somebody whose claims give no rights here."""
    return AuthenticationFailed(
        "the provider's claims give you no role or no team here, or you are disabled; an administrator maps roles in "
        "auth.oidc.role_map, and the claim in auth.oidc.claims.tenant names one team",
        code="no_role",
    )
