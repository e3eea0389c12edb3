"""Users: making, listing and changing them, with the rules that keep an installation governable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from sage.errors import Conflict, InvalidRequest
from sage.middleware.auth.changes import Also, Changes
from sage.middleware.auth.database import AccountsDatabase
from sage.middleware.auth.models import SessionRow, UserRow
from sage.middleware.auth.passwords import Passwords
from sage.middleware.auth.principal import ROLES, Principal
from sage.middleware.auth.subjects import limits_of, stored_limits
from sage.middleware.auth.teams.authority import (
    find_user,
    governs,
    governs_all,
    require_role,
    require_tenant,
    require_user,
)
from sage.middleware.auth.teams.tenants import DEFAULT_TENANT, check_tenant, ensure_tenant
from sage.middleware.auth.user_names import account_of, looks_of, user_name
from sage.middleware.settings.limits import Limits


@dataclass(frozen=True, slots=True)
class User:
    """A user as listings show it. Times are in Unix seconds.

    ``limits`` are its own; ``None`` means those that its team gives each member, else those of its role.
    """

    name: str
    role: str
    tenant: str
    disabled: bool
    limits: Limits | None
    created_at: int
    last_login_at: int | None


class UserChanges(TypedDict, total=False):
    """What is to become of a user; what is left out stays as it is."""

    role: str
    tenant: str
    disabled: bool
    password: str
    limits: Limits | None
    end_sessions: bool


class Users:
    """The users of one installation. Calls block; those with a password also hash it (:class:`Passwords`).

    ``by`` is always the caller, whose rights bound what it may do (:mod:`sage.middleware.auth.teams.authority`).
    """

    def __init__(
        self, database: AccountsDatabase, passwords: Passwords, clock: Callable[[], float], changes: Changes
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._clock = clock
        self._changes = changes

    def add(
        self,
        name: str,
        password: str | None,
        role: str = "user",
        tenant: str = DEFAULT_TENANT,
        *,
        limits: Limits | None = None,
        first: bool = False,
        by: Principal | None = None,
        also: Also | None = None,
    ) -> User:
        """Makes a user, with ``first`` only the first one; without a password it cannot log in with one.

        Raises :class:`Conflict` for a name that is taken.
        """
        name = _check_new(name, role, tenant, by)
        password_hash = None if password is None else self._passwords.hash_new(password, (name, tenant))
        now = int(self._clock())
        with self._database.write() as session:
            if first and session.scalar(select(func.count()).select_from(UserRow)):
                raise Conflict("there are users already; log in, or run 'sage user add'", code="already_set_up")
            _check_free(session, name, by)
            ensure_tenant(session, tenant, now)
            row = UserRow(
                name=name,
                account=account_of(name),
                looks=looks_of(name),
                role=role,
                tenant=tenant,
                password_hash=password_hash,
                disabled=False,
                limits=stored_limits(limits),
                created_at=now,
            )
            session.add(row)
            session.flush()
            if also is not None:
                also(session.connection(), f"user:{name}", tenant)
            self._changes.tell(session, by, "user.create", f"user:{name}", tenant, {"role": role, "limits": row.limits})
            return _view(row)

    def list(self, by: Principal | None = None) -> list[User]:
        """The users that ``by`` manages, by name."""
        query = select(UserRow).order_by(UserRow.account)
        if by is not None and not governs_all(by):
            query = query.where(UserRow.tenant == by.tenant)
        with self._database.read() as session:
            return [_view(row) for row in session.scalars(query) if governs(by, row)]

    def get(self, name: str, by: Principal | None = None) -> User:
        """A user; raises :class:`NotFound` also for one that ``by`` does not manage."""
        with self._database.read() as session:
            return _view(require_user(session, name, by))

    def name_and_tenant(self, account: str) -> tuple[str, str]:
        """Those of the user who logs in as ``account``. Where there is no such user it is ``?`` and no tenant, since
        the text may be a password in the wrong field."""
        with self._database.read() as session:
            row = find_user(session, account)
            return ("?", "") if row is None else (row.name, row.tenant)

    def check_new(self, name: str, role: str, tenant: str) -> None:
        """Raises what :meth:`add` would raise, but for the password: to be called before asking for one."""
        name = _check_new(name, role, tenant, None)
        with self._database.read() as session:
            _check_free(session, name, None)

    def exist(self) -> bool:
        """Whether there is any user."""
        with self._database.read() as session:
            return session.scalar(select(UserRow.id).limit(1)) is not None

    def change(
        self, name: str, by: Principal | None = None, also: Also | None = None, **changes: Unpack[UserChanges]
    ) -> User:
        """Changes a user, and does what ``also`` does with it. Disabling it, a new password and ``end_sessions`` end
        its sessions with all their tokens.

        Raises :class:`Conflict` for disabling or demoting the last enabled admin.
        """
        if "role" in changes:
            _check_role(changes["role"], by)
        if "tenant" in changes:
            check_tenant(changes["tenant"])
            require_tenant(by, changes["tenant"])
        password_hash = self._passwords.hash_new(changes["password"], (name,)) if "password" in changes else None
        now = int(self._clock())
        with self._database.write() as session:
            row = require_user(session, name, by)
            require_role(by, row.role)
            if row.role == "admin" and not row.disabled and _takes_an_admin_away(changes):
                _keep_an_admin(session, row)
            details = _apply(session, row, changes, now)
            if password_hash is not None:
                row.password_hash = password_hash
                details["new_password"] = True
            if password_hash or changes.get("disabled") or changes.get("end_sessions"):
                details["ended_sessions"] = end_sessions(session, row.id, now)
            if also is not None:
                also(session.connection(), f"user:{row.name}", row.tenant)
            if changes:
                self._database.bump(session)
                self._changes.tell(session, by, "user.change", f"user:{row.name}", row.tenant, details)
            return _view(row)


def _takes_an_admin_away(changes: UserChanges) -> bool:
    return changes.get("disabled", False) or changes.get("role", "admin") != "admin"


def _apply(session: Session, row: UserRow, changes: UserChanges, now: int) -> dict[str, Any]:
    """Makes the changes, but for the password; returns what they are, as it is told."""
    details: dict[str, Any] = {}
    tenant, role, disabled = changes.get("tenant"), changes.get("role"), changes.get("disabled")
    if tenant is not None and tenant != row.tenant:
        ensure_tenant(session, tenant, now)
        details["tenant"], details["tenant_before"] = tenant, row.tenant
        row.tenant = tenant
    if role is not None and role != row.role:
        details["role"], details["role_before"] = role, row.role
        row.role = role
    if disabled is not None and disabled != row.disabled:
        details["disabled"] = row.disabled = disabled
    if disabled is not None:
        row.withdrawn = False  # from now on it is so because somebody wants it
    if "limits" in changes:
        details["limits_before"], row.limits = row.limits, stored_limits(changes["limits"])
        details["limits"] = row.limits
    return details


def _check_new(name: str, role: str, tenant: str, by: Principal | None) -> str:
    """The form in which the name of a new user is stored."""
    name = user_name(name)
    check_tenant(tenant)
    _check_role(role, by)
    require_tenant(by, tenant)
    return name


def _check_free(session: Session, name: str, by: Principal | None) -> None:
    """Raises :class:`Conflict` for a name that a user has, or that looks like a user's; which one that is, only those
    learn who may see it."""
    same = find_user(session, name)
    if same is not None and governs(by, same):
        message = (
            f"the user name '{name}' is taken by '{same.name}' of the team '{same.tenant}'; names are unique over all "
            "teams, since a login names no team"
        )
        raise Conflict(message, param="username", code="name_taken")
    other = session.scalar(select(UserRow).where(UserRow.looks == looks_of(name)).limit(1))
    if same is None and other is not None and governs(by, other):
        message = f"the user name '{name}' looks like '{other.name}', which is taken"
        raise Conflict(message, param="username", code="name_taken")
    if same is not None or other is not None:
        message = f"the user name '{name}' is taken; names are unique over all teams, since a login names no team"
        raise Conflict(message, param="username", code="name_taken")


def end_sessions(session: Session, user_id: int, now: int, *, keep: str | None = None) -> int:
    """Revokes every session of a user but the one with the id ``keep``; returns how many those were. The caller must
    increase the revision."""
    is_live = (SessionRow.user_id == user_id) & SessionRow.revoked_at.is_(None)
    if keep is not None:
        is_live &= SessionRow.id != keep
    live = session.scalars(select(SessionRow.id).where(is_live, SessionRow.expires_at > now)).all()
    session.execute(update(SessionRow).where(is_live).values(revoked_at=now))
    return len(live)


def _keep_an_admin(session: Session, row: UserRow) -> None:
    others = select(func.count()).where(UserRow.role == "admin", UserRow.disabled.is_(False), UserRow.id != row.id)
    if not session.scalar(others):
        raise Conflict(f"'{row.name}' is the last enabled admin; make another admin first", code="last_admin")


def _check_role(role: str, by: Principal | None) -> None:
    if role not in ROLES:
        raise InvalidRequest(f"there is no role '{role[:32]}'; known: {', '.join(sorted(ROLES))}", param="role")
    require_role(by, role)


def _view(row: UserRow) -> User:
    return User(
        name=row.name,
        role=row.role,
        tenant=row.tenant,
        disabled=row.disabled,
        limits=limits_of(row.limits),
        created_at=row.created_at,
        last_login_at=row.last_login_at,
    )
