"""What a change of a key does to its row, and to the keys that were made with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from sqlalchemy import select
from sqlalchemy.orm import Session

from sage.errors import PermissionDenied
from sage.middleware.auth.changes import actor_of
from sage.middleware.auth.grants import allowed_patterns, check_name, check_note, check_tags, common_patterns
from sage.middleware.auth.models import KeyRow
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.auth.subjects import stored_limits
from sage.middleware.settings.limits import Limits


class KeyChanges(TypedDict, total=False):
    """What is to become of a key; what is left out stays as it is."""

    name: str
    note: str
    tags: Sequence[str]
    limits: Limits | None
    tools: Sequence[str]


def alter(session: Session, row: KeyRow, changes: KeyChanges, by: Principal | None) -> dict[str, object]:
    """Makes the changes; returns what they are, as it is told. Raises :class:`PermissionDenied` for limits and tools
    that ``by`` may not set."""
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
    if "tools" in changes:
        if row.tools != ["*"]:
            _require_own(row, "tools", row.tools_by, by)
        details["tools_before"], row.tools = list(row.tools), _tools(session, row, changes["tools"], by)
        details["tools"], row.tools_by = row.tools, actor_of(by).name
        if narrowed := _narrow_below(session, row):
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


def _tools(session: Session, row: KeyRow, patterns: Sequence[str], by: Principal | None) -> list[str]:
    """The patterns, which are no more than the caller's, and than those of the key that has made this one."""
    tools = allowed_patterns(("*",) if by is None else by.tools, patterns, "tools")
    maker = None if row.parent_id is None else session.get(KeyRow, row.parent_id)
    return list(tools if maker is None else allowed_patterns(tuple(maker.tools), tools, "tools"))


def _narrow_below(session: Session, row: KeyRow) -> int:
    """Takes from the keys that were made with ``row``, and with these, what it may not call any more; returns how many
    that were."""
    count = 0
    for below in session.scalars(select(KeyRow).where(KeyRow.parent_id == row.id, KeyRow.revoked_at.is_(None))):
        tools = common_patterns(row.tools, below.tools)
        if tools != below.tools:
            below.tools = tools
            count += 1
        count += _narrow_below(session, below)
    return count
