"""Who may manage whom: an admin everybody, an owner the users and keys of its tenant but no admins, nobody beyond their
own rights. What is not theirs to manage is to them as if it did not exist.

``by`` is the caller; ``None`` stands for the operator, who owns the data directory and may do everything.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from sage.errors import InvalidRequest, NotFound, PermissionDenied
from sage.middleware.auth.models import UserRow
from sage.middleware.auth.principal import ROLES, Principal, Scope
from sage.middleware.auth.user_names import account_of, user_name

_SHOWN = 10


def governs_all(by: Principal | None) -> bool:
    """Whether users, keys and teams of every tenant are ``by``'s to manage."""
    return by is None or Scope.ADMIN in by.scopes


def governs(by: Principal | None, user: UserRow) -> bool:
    """Whether ``by`` may see and change that user and its keys."""
    if by is None or governs_all(by):
        return True
    return Scope.TENANT_ADMIN in by.scopes and user.tenant == by.tenant and user.role != "admin"


def find_user(session: Session, name: str) -> UserRow | None:
    """The user with that name, in upper or lower case; ``None`` if there is none."""
    try:
        account = account_of(user_name(name))
    except InvalidRequest:
        return None
    return session.scalar(select(UserRow).where(UserRow.account == account))


def require_user(session: Session, name: str, by: Principal | None = None) -> UserRow:
    """The user of that name; raises :class:`NotFound` with the existing names, also for one that ``by`` does not
    manage."""
    row = find_user(session, name)
    if row is None or not governs(by, row):
        names = _existing_names(session, by)
        raise NotFound(f"there is no user '{name[:64]}'; {names}", param="name", code="user_not_found")
    return row


def is_bound(by: Principal) -> bool:
    """Whether a key holds ``by`` to some models, to some tools, or to limits, which its user's login is free of."""
    return by.by_key and (
        (by.models, by.tools) != (("*",), ("*",)) or any(limits.subject.startswith("key:") for limits in by.limits)
    )


def require_tenant(by: Principal | None, tenant: str) -> None:
    """Raises :class:`PermissionDenied` when ``by`` manages no users of ``tenant``, whether or not there is such."""
    if by is not None and not governs_all(by) and tenant != by.tenant:
        raise PermissionDenied(
            f"your users belong to the tenant '{by.tenant}'; only an admin puts one into another",
            param="tenant",
            code="beyond_creator",
        )


def require_role(by: Principal | None, role: str) -> None:
    """Raises :class:`PermissionDenied` for a role with more rights than ``by`` has itself.

    A key that does not reach all models, or that has limits, may make nobody: a user who logs in is not bound by it.
    """
    if by is None or governs_all(by):
        return
    beyond = sorted(ROLES[role] - by.scopes)
    if beyond:
        raise PermissionDenied(
            f"a user of the role '{role}' has the scope '{beyond[0]}', which you do not have",
            param="role",
            code="beyond_creator",
        )
    if is_bound(by):
        raise PermissionDenied(
            "a key with limits, or for some models only, cannot manage users, who would not be bound by it; log in",
            code="beyond_creator",
        )


def _existing_names(session: Session, by: Principal | None) -> str:
    if by is not None and Scope.TENANT_ADMIN not in by.scopes:
        return "users are managed by the owners of their team, and by admins"
    query = select(UserRow.name).order_by(UserRow.account).limit(_SHOWN + 1)
    if by is not None and not governs_all(by):
        query = query.where(UserRow.tenant == by.tenant, UserRow.role != "admin")
    names = session.scalars(query).all()
    if not names:
        return "there are no users yet; make the first: sage user add NAME --role admin"
    return f"there are: {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"
