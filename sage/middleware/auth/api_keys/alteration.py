"""What a change of a key does to its row, and to the keys that were made with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from sqlalchemy import select
from sqlalchemy.orm import Session

from sage.errors import InvalidRequest, PermissionDenied
from sage.middleware.auth.changes import actor_of
from sage.middleware.auth.grants import (
    allowed_patterns,
    check_name,
    check_note,
    check_tags,
    common_patterns,
    covers,
)
from sage.middleware.auth.models import KeyRow
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.auth.subjects import stored_limits
from sage.middleware.settings.limits import Limits

_Patterns = Literal["models", "tools"]


class KeyChanges(TypedDict, total=False):
    """What is to become of a key; what is left out stays as it is."""

    name: str
    note: str
    tags: Sequence[str]
    limits: Limits | None
    tools: Sequence[str]
    models: Sequence[str]
    expires_at: int | None


def alter(session: Session, row: KeyRow, changes: KeyChanges, by: Principal | None, now: int) -> dict[str, object]:
    """Makes the changes; returns what they are, as it is told. Raises :class:`PermissionDenied` for limits, tools,
    models and a time that ``by`` may not set."""
    details: dict[str, object] = {}
    if "name" in changes:
        details["name_before"], row.name = row.name, check_name(changes["name"])
        details["name"] = row.name
    if "note" in changes:
        details["note_before"], row.note = row.note, check_note(changes["note"])
        details["note"] = row.note
    if "tags" in changes:
        details["tags_before"], row.tags = list(row.tags), list(check_tags(changes["tags"]))
        details["tags"] = row.tags
    if "limits" in changes:
        if row.limits is not None:
            _require_own(row, "limits", row.limits_by, by)
        details["limits_before"], row.limits = row.limits, stored_limits(changes["limits"])
        details["limits"], row.limits_by = row.limits, actor_of(by).name
    if "models" in changes:
        models = _patterns(session, row, changes["models"], by, "models")
        if not all(any(covers(own, each) for own in row.models) for each in models):
            _require_manager("widen the models", "models", row, by)
        details["models_before"], row.models, details["models"] = list(row.models), models, models
        if narrowed := _narrow_below(session, row, "models"):
            details["narrowed_keys"] = narrowed
    if "expires_at" in changes:
        ends = _expiry(session, row, changes["expires_at"], now)
        if row.expires_at is not None and (ends is None or ends > row.expires_at):
            _require_manager("prolong the life", "expires_at", row, by)
        details["expires_at_before"], row.expires_at, details["expires_at"] = row.expires_at, ends, ends
        if shortened := _shorten_below(session, row):
            details["shortened_keys"] = shortened
    if "tools" in changes:
        if row.tools != ["*"]:
            _require_own(row, "tools", row.tools_by, by)
        details["tools_before"], row.tools = list(row.tools), _patterns(session, row, changes["tools"], by, "tools")
        details["tools"], row.tools_by = row.tools, actor_of(by).name
        if narrowed := _narrow_below(session, row, "tools"):
            details["narrowed_keys"] = narrowed
    return details


def _require_own(row: KeyRow, param: str, set_by: str | None, by: Principal | None) -> None:
    """Users change those limits and tools of their keys that they have set themselves. Of what is older than this
    rule nobody knows who has set it: it counts as an admin's."""
    if by is None or not by.scopes.isdisjoint({Scope.ADMIN, Scope.TENANT_ADMIN}) or set_by == actor_of(by).name:
        return
    raise PermissionDenied(
        f"an admin or owner has set the {param} of the key '{row.id}', and only they change them or take them away",
        param=param,
        code="missing_scope",
    )


def _require_manager(what: str, param: str, row: KeyRow, by: Principal | None) -> None:
    """Users narrow their keys: what an admin or owner may have bounded, only they widen."""
    if by is None or not by.scopes.isdisjoint({Scope.ADMIN, Scope.TENANT_ADMIN}):
        return
    raise PermissionDenied(
        f"only admins and owners {what} of the key '{row.id}'; make a new key", param=param, code="missing_scope"
    )


def _maker(session: Session, row: KeyRow) -> KeyRow | None:
    """The key that has made this one."""
    return None if row.parent_id is None else session.get(KeyRow, row.parent_id)


def _patterns(
    session: Session, row: KeyRow, patterns: Sequence[str], by: Principal | None, name: _Patterns
) -> list[str]:
    """The patterns, which are no more than the caller's, and than those of the key that has made this one."""
    allowed = allowed_patterns(("*",) if by is None else getattr(by, name), patterns, name)
    maker = _maker(session, row)
    return list(allowed if maker is None else allowed_patterns(tuple(getattr(maker, name)), allowed, name))


def _expiry(session: Session, row: KeyRow, expires_at: int | None, now: int) -> int | None:
    """When the key ends: not before now, and not after the key that has made it."""
    if expires_at is not None and expires_at <= now:
        raise InvalidRequest("give a time in the future, or revoke the key", param="expires_at")
    maker = _maker(session, row)
    if maker is not None and maker.expires_at is not None and (expires_at is None or expires_at > maker.expires_at):
        raise PermissionDenied(
            "a key cannot live longer than the key that made it", param="expires_at", code="beyond_creator"
        )
    return expires_at


def _below(session: Session, row: KeyRow) -> Sequence[KeyRow]:
    """The keys that were made with ``row`` and are not revoked."""
    return session.scalars(select(KeyRow).where(KeyRow.parent_id == row.id, KeyRow.revoked_at.is_(None))).all()


def _shorten_below(session: Session, row: KeyRow) -> int:
    """Has the keys that were made with ``row``, and with these, end with it; returns how many that were."""
    count = 0
    for below in _below(session, row):
        if row.expires_at is not None and (below.expires_at is None or below.expires_at > row.expires_at):
            below.expires_at = row.expires_at
            count += 1
        count += _shorten_below(session, below)
    return count


def _narrow_below(session: Session, row: KeyRow, name: _Patterns) -> int:
    """Takes from the keys that were made with ``row``, and with these, what it may not use any more; returns how many
    that were."""
    count = 0
    for below in _below(session, row):
        patterns = common_patterns(getattr(row, name), getattr(below, name))
        if patterns != getattr(below, name):
            setattr(below, name, patterns)
            count += 1
        count += _narrow_below(session, below, name)
    return count
