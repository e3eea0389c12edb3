"""The names of tenants, and the rows that they get when a user or key first belongs to them."""

from __future__ import annotations

import re

from sqlalchemy.orm import Session

from sage.errors import Conflict, InvalidRequest
from sage.middleware.auth.models import TenantRow

DEFAULT_TENANT = "default"
EVERY_MODEL = ("*",)

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


def is_tenant(name: str) -> bool:
    """Whether ``name`` can be a tenant's name. Names that differ by case are different ones."""
    return _TENANT.fullmatch(name) is not None


def check_tenant(name: str) -> None:
    """Raises :class:`InvalidRequest` unless ``name`` can be a tenant's name."""
    if not is_tenant(name):
        raise InvalidRequest(
            "a tenant has 1 to 64 of the characters a-z A-Z 0-9 . _ @ + - and starts with a letter or digit",
            param="tenant",
        )


def ensure_tenant(session: Session, name: str, now: int) -> TenantRow:
    """The tenant of that name, made when there is none; raises :class:`Conflict` for one that was deleted."""
    row = session.get(TenantRow, name)
    if row is None:
        row = TenantRow(name=name, note="", models=[*EVERY_MODEL], created_at=now)
        session.add(row)
        session.flush()
    elif row.deleted_at is not None:
        raise Conflict(
            f"the team '{name}' was deleted, and what it stored is still there; restore it first, or take another name",
            param="tenant",
            code="team_deleted",
        )
    return row
