"""Teams: what holds for the members of one tenant together. A team's name is the tenant's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sage.errors import Conflict, NotFound, PermissionDenied
from sage.middleware.auth.changes import Also, Changes, without_before
from sage.middleware.auth.database import AccountsDatabase
from sage.middleware.auth.grants import check_note, check_patterns
from sage.middleware.auth.models import KeyRow, TenantRow, UserRow
from sage.middleware.auth.principal import Principal
from sage.middleware.auth.subjects import limits_of, stored_limits
from sage.middleware.auth.teams.authority import governs_all
from sage.middleware.auth.teams.tenants import DEFAULT_TENANT, EVERY_MODEL, check_tenant
from sage.middleware.settings.capture import CaptureSettings
from sage.middleware.settings.limits import Limits


@dataclass(frozen=True, slots=True)
class Team:
    """A team as listings show it. ``limits`` are of all its members and keys together, ``member_limits`` of each member
    that has none of its own; ``None`` means none. ``created_at`` is in Unix seconds; ``members`` and ``keys`` count
    its users and the keys that are not revoked."""

    name: str
    note: str
    models: tuple[str, ...]
    limits: Limits | None
    member_limits: Limits | None
    capture: CaptureSettings | None
    members: int
    keys: int
    deleted: bool
    created_at: int


class TeamChanges(TypedDict, total=False):
    """What is to become of a team; what is left out stays as it is. ``deleted`` of ``False`` brings one back."""

    note: str
    models: Sequence[str]
    limits: Limits | None
    member_limits: Limits | None
    capture: CaptureSettings | None
    deleted: bool


class Teams:
    """The teams of one installation. Its calls block on the database.

    ``by`` is the caller: an owner sees its own team and changes its note, its members' limits and what is captured;
    admins and the operator (``None``) do all. To others a team that is not theirs does not exist.
    """

    def __init__(self, database: AccountsDatabase, clock: Callable[[], float], changes: Changes) -> None:
        self._database = database
        self._clock = clock
        self._changes = changes

    def list(self, by: Principal | None = None) -> list[Team]:
        """The teams that ``by`` manages, by name, without deleted ones."""
        query = select(TenantRow).where(TenantRow.deleted_at.is_(None)).order_by(TenantRow.name)
        if by is not None and not governs_all(by):
            query = query.where(TenantRow.name == by.tenant)
        with self._database.read() as session:
            return [_view(session, row) for row in session.scalars(query)]

    def get(self, name: str, by: Principal | None = None) -> Team:
        """A team; raises :class:`NotFound` also for one that ``by`` does not manage."""
        with self._database.read() as session:
            return _view(session, _require(session, name, by))

    def add(
        self, name: str, by: Principal | None = None, also: Also | None = None, **changes: Unpack[TeamChanges]
    ) -> Team:
        """Makes a team. Raises :class:`Conflict` for a name that is taken, also by a deleted team, whose data is still
        there."""
        _require_admin(by)
        check_tenant(name)
        with self._database.write() as session:
            row = session.get(TenantRow, name)
            if row is not None and row.deleted_at is not None:
                raise Conflict(
                    f"the team '{name}' was deleted, and what it stored is still there; bring it back by PATCH with "
                    "deleted: false or 'sage team restore', or take another name",
                    param="name",
                    code="team_deleted",
                )
            if row is not None:
                raise Conflict(f"there is a team '{name}' already", param="name", code="team_exists")
            row = TenantRow(name=name, note="", models=[*EVERY_MODEL], created_at=int(self._clock()))
            session.add(row)
            details = _apply(row, changes, row.created_at)
            session.flush()
            if also is not None:
                also(session.connection(), f"tenant:{name}", name)
            self._changes.tell(session, by, "team.create", f"team:{name}", name, without_before(details))
            if row.capture is not None:
                self._database.bump(session)  # what its calls say is kept from now on
            return _view(session, row)

    def change(
        self, name: str, by: Principal | None = None, also: Also | None = None, **changes: Unpack[TeamChanges]
    ) -> Team:
        """Changes a team, and does what ``also`` does with it; what that takes away is gone within a second."""
        with self._database.write() as session:
            row = _require(session, name, by, deleted=changes.get("deleted") is False)
            if not governs_all(by):
                require_owners_part(changes)
            if changes.get("deleted"):
                _require_empty(session, row)
            details = _apply(row, changes, int(self._clock()))
            if also is not None:
                also(session.connection(), f"tenant:{name}", name)
            if changes:
                self._database.bump(session)
                self._changes.tell(session, by, "team.change", f"team:{name}", name, details)
            return _view(session, row)

    def delete(self, name: str, by: Principal | None = None) -> Team:
        """Deletes a team that has no members and no keys any more. What it has stored stays, so its name stays taken.

        Raises :class:`Conflict` while it has members or keys.
        """
        with self._database.write() as session:
            row = _require(session, name, by)
            _require_admin(by)
            _require_empty(session, row)
            row.deleted_at = int(self._clock())
            self._database.bump(session)
            self._changes.tell(session, by, "team.delete", f"team:{name}", name, {})
            return _view(session, row)

    def captures(self) -> dict[str, CaptureSettings]:
        """By tenant, for those whose prompts or answers are to be kept."""
        with self._database.read() as session:
            rows = session.scalars(select(TenantRow).where(TenantRow.capture.is_not(None)))
            found = {row.name: CaptureSettings.model_validate(row.capture) for row in rows}
        return {name: capture for name, capture in found.items() if capture.prompts}


def _require(session: Session, name: str, by: Principal | None, *, deleted: bool = False) -> TenantRow:
    row = session.get(TenantRow, name) if name.isascii() and name.isprintable() else None
    is_theirs = governs_all(by) or (by is not None and name == by.tenant)
    if row is None or not is_theirs or (row.deleted_at is not None and not deleted):
        raise NotFound(f"there is no team '{name[:64]}'; GET /auth/teams and 'sage team list' show them", param="name")
    return row


def _require_admin(by: Principal | None) -> None:
    if not governs_all(by):
        raise PermissionDenied("only an admin makes and deletes teams", code="missing_scope")


def require_owners_part(changes: Collection[str]) -> None:
    """Raises :class:`PermissionDenied` for what bounds the owner itself."""
    for name in ("models", "limits", "budget", "deleted"):
        if name in changes:
            raise PermissionDenied(f"only an admin changes the '{name}' of a team", param=name, code="beyond_creator")


def _require_empty(session: Session, row: TenantRow) -> None:
    members, keys = _count(session, row.name)
    if row.name == DEFAULT_TENANT:
        raise Conflict(f"the team '{row.name}' cannot be deleted: new users belong to it", code="team_not_empty")
    if members or keys:
        raise Conflict(
            f"the team '{row.name}' has {members} members and {keys} keys; move its users to another team and "
            "revoke its keys first",
            code="team_not_empty",
        )


def _apply(row: TenantRow, changes: TeamChanges, now: int) -> dict[str, Any]:
    """Makes the changes; returns what they are, as it is told."""
    details: dict[str, Any] = {}
    if "note" in changes:
        details["note_before"], row.note = row.note, check_note(changes["note"])
        details["note"] = row.note
    if "models" in changes:
        details["models_before"], row.models = list(row.models), list(check_patterns(changes["models"]))
        details["models"] = row.models
    if "limits" in changes:
        details["limits_before"], row.limits = row.limits, stored_limits(changes["limits"])
        details["limits"] = row.limits
    if "member_limits" in changes:
        details["member_limits_before"], row.member_limits = row.member_limits, stored_limits(changes["member_limits"])
        details["member_limits"] = row.member_limits
    if "capture" in changes:
        capture = changes["capture"]
        details["capture_before"], row.capture = (
            row.capture,
            None if capture is None else capture.model_dump(mode="json"),
        )
        details["capture"] = row.capture
    if "deleted" in changes:
        details["deleted"], row.deleted_at = changes["deleted"], now if changes["deleted"] else None
    return details


def _count(session: Session, tenant: str) -> tuple[int, int]:
    members = session.scalar(select(func.count()).where(UserRow.tenant == tenant)) or 0
    keys = session.scalar(select(func.count()).where(KeyRow.tenant == tenant, KeyRow.revoked_at.is_(None))) or 0
    return members, keys


def _view(session: Session, row: TenantRow) -> Team:
    members, keys = _count(session, row.name)
    return Team(
        name=row.name,
        note=row.note,
        models=tuple(row.models),
        limits=limits_of(row.limits),
        member_limits=limits_of(row.member_limits),
        capture=None if row.capture is None else CaptureSettings.model_validate(row.capture),
        members=members,
        keys=keys,
        deleted=row.deleted_at is not None,
        created_at=row.created_at,
    )
