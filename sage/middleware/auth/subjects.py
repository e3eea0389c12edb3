"""What the calls of a credential count against: its key, the keys that made it, its user and its tenant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from sage.middleware.auth.models import KeyRow, TenantRow, UserRow
from sage.middleware.settings.limits import Limits, SubjectLimits

NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Subjects:
    """What holds for a credential beside its scopes, as the fields of that name of a ``Principal``."""

    subjects: tuple[str, ...]
    limits: tuple[SubjectLimits, ...]
    tags: tuple[str, ...]
    tenant_models: tuple[str, ...]


def subjects_of(
    session: Session, user: UserRow, tenant: str, key: KeyRow | None, roles: Mapping[str, Limits]
) -> Subjects:
    """What holds for ``user`` in ``tenant`` with ``key``, where ``roles`` are the configured defaults.

    The tags of a key are also those of the keys made with it, and its limits hold for all of these together. A user's
    limits are its own, else those that its team gives each member, else those of its role. The tenant's are of all its
    members and keys together.
    """
    team = session.get(TenantRow, tenant)
    found: list[tuple[str, Limits]] = []
    tags: list[str] = []
    while key is not None:
        found.append((f"key:{key.id}", limits_of(key.limits) or NO_LIMITS))
        tags.extend(key.tags)
        key = session.get(KeyRow, key.parent_id) if key.parent_id is not None else None
    found.append((f"user:{user.name}", _limits_of_user(user, team, roles)))
    found.append((f"tenant:{tenant}", (limits_of(team.limits) if team is not None else None) or NO_LIMITS))
    return Subjects(
        subjects=tuple(subject for subject, _ in found),
        limits=tuple(SubjectLimits(subject, limits) for subject, limits in found if limits != NO_LIMITS),
        tags=tuple(dict.fromkeys(tags)),
        tenant_models=("*",) if team is None else tuple(team.models),
    )


def limits_of(stored: Mapping[str, Any] | None) -> Limits | None:
    """Limits as a row has them; ``None`` means that it has none of its own."""
    return None if stored is None else Limits.model_validate(stored)


def stored_limits(limits: Limits | None) -> dict[str, int] | None:
    """Limits as a row keeps them."""
    return None if limits is None else limits.model_dump(exclude_none=True)


def _limits_of_user(user: UserRow, team: TenantRow | None, roles: Mapping[str, Limits]) -> Limits:
    own, of_team = limits_of(user.limits), limits_of(team.member_limits) if team is not None else None
    return next((limits for limits in (own, of_team, roles.get(user.role)) if limits is not None), NO_LIMITS)
