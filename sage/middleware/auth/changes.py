"""What was changed in the accounts, told to whoever keeps an account of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from sage.middleware.audit.event import ANYONE, THE_OPERATOR, Actor, AuditEvent
from sage.middleware.audit.origin import caller_address
from sage.middleware.auth.principal import Principal

Also = Callable[[Connection, str, str], None]
"""What is done in the transaction that makes or changes a user, key or team: it is given the subject (``user:<name>``,
``key:<id>``, ``tenant:<name>``) and its tenant. It comes before the change is told; what it raises undoes all."""


@dataclass(frozen=True, slots=True)
class AccountChange:
    """One change. ``action`` is a noun and a verb, such as ``user.create``; ``target`` is ``user:<name>``,
    ``key:<id>`` or ``team:<name>``. ``details`` are values of JSON, never a secret.

    ``by`` is who made it; ``None`` means the operator, who owns the data directory. ``tenant`` is the target's.
    """

    by: Principal | None
    action: str
    target: str
    tenant: str
    details: Mapping[str, Any] = field(default_factory=dict)


class Changes:
    """Every change of users, keys and teams comes through here, within its transaction."""

    def __init__(self) -> None:
        self.on_change: Callable[[Session, AccountChange], None] | None = None
        """Writes it down in the same transaction; what it raises undoes the change."""

    def tell(
        self, session: Session, by: Principal | None, action: str, target: str, tenant: str, details: Mapping[str, Any]
    ) -> None:
        """Called once a change has been made, before it is committed."""
        if self.on_change is not None:
            self.on_change(session, AccountChange(by, action, target, tenant, details))


def nobody(name: str = "", tenant: str = "") -> Principal:
    """Whoever acts without a verified credential: ``name`` is whose name or token was used, if anybody's."""
    return Principal(user=name, tenant=tenant, scopes=frozenset())


def actor_of(by: Principal | None) -> Actor:
    """``by`` as the audit names it."""
    if by is None:
        return THE_OPERATOR
    return Actor(f"user:{by.user}" if by.user else ANYONE, by.credential if by.credential != "none" else "")


def audit_event(change: AccountChange) -> AuditEvent:
    """The change as an event of the audit."""
    by, address = actor_of(change.by), caller_address.get()
    return AuditEvent(change.action, change.target, by.name, by.credential, change.tenant, change.details, address)


def without_before(details: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of something new, which had no values before."""
    return {name: value for name, value in details.items() if not name.endswith("_before")}
