"""Revoking keys, with every key that they made."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from sage.middleware.auth.models import KeyRow


def revoke_all_of(session: Session, user_id: int, now: int) -> int:
    """Revokes every key of a user, and those made with them; returns how many those were."""
    pending = list(session.scalars(select(KeyRow.id).where(KeyRow.user_id == user_id, KeyRow.revoked_at.is_(None))))
    return sum(revoke_tree(session, row, now) for id in pending if (row := session.get(KeyRow, id)) is not None)


def revoke_tree(session: Session, row: KeyRow, now: int) -> int:
    """Revokes a key and every key that it made; returns how many of them were not revoked before."""
    pending, revoked = [row], 0
    while pending:
        current = pending.pop()
        if current.revoked_at is None:
            current.revoked_at, revoked = now, revoked + 1
        pending.extend(session.scalars(select(KeyRow).where(KeyRow.parent_id == current.id)))
    return revoked
