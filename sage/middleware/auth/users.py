"""Users: making, listing and changing them, with the rules that keep an installation governable."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from sage.errors import Conflict, InvalidRequest, NotFound
from sage.middleware.auth.database import AccountsDatabase
from sage.middleware.auth.models import SessionRow, TenantRow, UserRow
from sage.middleware.auth.passwords import Passwords
from sage.middleware.auth.principal import ROLES
from sage.middleware.auth.user_names import account_of, looks_of, user_name

DEFAULT_TENANT = "default"

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


@dataclass(frozen=True, slots=True)
class User:
    """A user as listings show it. ``created_at`` is in Unix seconds."""

    name: str
    role: str
    tenant: str
    disabled: bool
    created_at: int


class Users:
    """The users of one installation. Calls block; those with a password also hash it (:class:`Passwords`)."""

    def __init__(self, database: AccountsDatabase, passwords: Passwords, clock: Callable[[], float]) -> None:
        self._database = database
        self._passwords = passwords
        self._clock = clock

    def add(
        self, name: str, password: str, role: str = "user", tenant: str = DEFAULT_TENANT, *, first: bool = False
    ) -> User:
        """Makes a user, with ``first`` only the first one. Raises :class:`Conflict` for a name that is taken."""
        name = _check_new(name, role, tenant)
        password_hash = self._passwords.hash_new(password, (name, tenant))
        with self._database.write() as session:
            if first and session.scalar(select(func.count()).select_from(UserRow)):
                raise Conflict("there are users already; log in, or run 'sage user add'", code="already_set_up")
            _check_free(session, name)
            ensure_tenant(session, tenant, int(self._clock()))
            row = UserRow(
                name=name,
                account=account_of(name),
                looks=looks_of(name),
                role=role,
                tenant=tenant,
                password_hash=password_hash,
                disabled=False,
                created_at=int(self._clock()),
            )
            session.add(row)
            session.flush()
            return _view(row)

    def list(self) -> list[User]:
        """All users by name."""
        with self._database.read() as session:
            return [_view(row) for row in session.scalars(select(UserRow).order_by(UserRow.account))]

    def check_new(self, name: str, role: str, tenant: str) -> None:
        """Raises what :meth:`add` would raise, but for the password: to be called before asking for one."""
        name = _check_new(name, role, tenant)
        with self._database.read() as session:
            _check_free(session, name)

    def exist(self) -> bool:
        """Whether there is any user."""
        with self._database.read() as session:
            return session.scalar(select(UserRow.id).limit(1)) is not None

    def change(
        self,
        name: str,
        *,
        role: str | None = None,
        tenant: str | None = None,
        disabled: bool | None = None,
        password: str | None = None,
    ) -> User:
        """Changes what is not ``None``. Disabling and a new password end the user's sessions with all their tokens.

        Raises :class:`Conflict` for disabling or demoting the last enabled admin.
        """
        if role is not None:
            _check_role(role)
        if tenant is not None:
            check_tenant(tenant)
        password_hash = None if password is None else self._passwords.hash_new(password, (name,))
        with self._database.write() as session:
            row = require_user(session, name)
            if row.role == "admin" and not row.disabled and (disabled or role not in (None, "admin")):
                _keep_an_admin(session, row)
            row.role = role or row.role
            if tenant is not None:
                ensure_tenant(session, tenant, int(self._clock()))
                row.tenant = tenant
            row.disabled = row.disabled if disabled is None else disabled
            row.password_hash = password_hash or row.password_hash
            if disabled or password_hash:
                end_sessions(session, row.id, int(self._clock()))
            self._database.bump(session)
            return _view(row)


def check_tenant(name: str) -> None:
    """Raises :class:`InvalidRequest` unless ``name`` can be a tenant's name."""
    if _TENANT.fullmatch(name) is None:
        raise InvalidRequest(
            "a tenant has 1 to 64 of the characters a-z A-Z 0-9 . _ @ + - and starts with a letter or digit",
            param="tenant",
        )


def ensure_tenant(session: Session, name: str, now: int) -> TenantRow:
    """The tenant of that name, made when there is none; raises :class:`Conflict` for one that was deleted."""
    row = session.get(TenantRow, name)
    if row is None:
        row = TenantRow(name=name, note="", models=["*"], created_at=now)
        session.add(row)
        session.flush()
    elif row.deleted_at is not None:
        raise Conflict(
            f"the team '{name}' was deleted, and what it stored is still there; restore it first, or take another name",
            param="tenant",
            code="team_deleted",
        )
    return row


def _check_new(name: str, role: str, tenant: str) -> str:
    """The form in which the name of a new user is stored."""
    name = user_name(name)
    check_tenant(tenant)
    _check_role(role)
    return name


def _check_free(session: Session, name: str) -> None:
    """Raises :class:`Conflict` for a name that a user has, or that looks like a user's."""
    if find_user(session, name) is not None:
        raise Conflict(f"the user name '{name}' is taken", param="username", code="name_taken")
    other = session.scalar(select(UserRow.name).where(UserRow.looks == looks_of(name)).limit(1))
    if other is not None:
        message = f"the user name '{name}' looks like '{other}', which is taken"
        raise Conflict(message, param="username", code="name_taken")


def find_user(session: Session, name: str) -> UserRow | None:
    """The user with that name, in upper or lower case; ``None`` if there is none."""
    try:
        name = user_name(name)
    except InvalidRequest:
        return None
    return session.scalar(select(UserRow).where(UserRow.account == account_of(name)))


def require_user(session: Session, name: str) -> UserRow:
    """The user with that name; raises :class:`NotFound` with the existing names."""
    row = find_user(session, name)
    if row is None:
        raise NotFound(
            f"there is no user '{name[:64]}'; {_existing_names(session)}", param="name", code="user_not_found"
        )
    return row


def end_sessions(session: Session, user_id: int, now: int) -> None:
    """Revokes every session of a user. The caller must increase the revision."""
    is_live = (SessionRow.user_id == user_id) & SessionRow.revoked_at.is_(None)
    session.execute(update(SessionRow).where(is_live).values(revoked_at=now))


def _existing_names(session: Session) -> str:
    names = session.scalars(select(UserRow.name).order_by(UserRow.account).limit(11)).all()
    if not names:
        return "there are no users yet; make the first: sage user add NAME --role admin"
    return f"there are: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}"


def _keep_an_admin(session: Session, row: UserRow) -> None:
    others = select(func.count()).where(UserRow.role == "admin", UserRow.disabled.is_(False), UserRow.id != row.id)
    if not session.scalar(others):
        raise Conflict(f"'{row.name}' is the last enabled admin; make another admin first", code="last_admin")


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise InvalidRequest(f"there is no role '{role[:32]}'; known: {', '.join(sorted(ROLES))}", param="role")


def _view(row: UserRow) -> User:
    return User(row.name, row.role, row.tenant, row.disabled, row.created_at)
