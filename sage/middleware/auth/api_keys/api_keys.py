"""API keys: making them within the rights of their creator, listing, changing, rotating and revoking them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from sqlalchemy import select
from sqlalchemy.orm import Session

from sage.errors import Conflict, InvalidRequest, PermissionDenied
from sage.middleware.auth.api_keys.alteration import KeyChanges, alter
from sage.middleware.auth.api_keys.reach import require_changeable, require_key, sees
from sage.middleware.auth.api_keys.revocation import revoke_tree
from sage.middleware.auth.api_keys.text import make_key
from sage.middleware.auth.changes import Also, Changes, actor_of
from sage.middleware.auth.database import AccountsDatabase
from sage.middleware.auth.grants import KeyRequest, check_name, check_note, check_tags, decide, operator
from sage.middleware.auth.models import KeyRow, UserRow
from sage.middleware.auth.principal import ROLES, Principal, Scope
from sage.middleware.auth.subjects import limits_of, stored_limits
from sage.middleware.auth.teams.authority import governs_all, require_user
from sage.middleware.auth.teams.tenants import check_tenant, ensure_tenant
from sage.middleware.settings.limits import Limits

_MAX_LIVE_KEYS = 1000
_AT_ONCE = 500
"""Keys that one query names: databases bound its parameters."""
_MAX_DEPTH = 8
"""Keys that may have been made one with the other."""

OVERLAP = 86400
"""Seconds for which the old secret of a rotated key is good, if nothing else is said."""
MAX_OVERLAP = 90 * 86400


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as listings show it. Times are in Unix seconds; ``last_used_at`` is up to a minute old."""

    id: str
    name: str
    user: str
    tenant: str
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    tools: tuple[str, ...]
    last4: str
    note: str
    tags: tuple[str, ...]
    limits: Limits | None
    made_by: str | None
    """The key that made it; ``None`` means a login or the operator."""
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    rotated_at: int | None
    previous_expires_at: int | None
    """Until when the secret before the newest is good; ``None`` means that there is none."""


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key with its new text, which is shown once and stored nowhere."""

    key: ApiKey
    secret: str = field(repr=False)


class ApiKeys:
    """The API keys of one installation. Its calls block on the database.

    ``by`` is the caller, ``None`` the operator; :mod:`sage.middleware.auth.api_keys.reach` says whose keys it may see
    and change. A key that is not the caller's to see is to it as if it did not exist.
    """

    def __init__(self, database: AccountsDatabase, clock: Callable[[], float], changes: Changes) -> None:
        self._database = database
        self._clock = clock
        self._changes = changes

    def create(self, by: Principal, request: KeyRequest, also: Also | None = None) -> MadeKey:
        """Makes a key of the caller, or of a user that it manages, never with more rights than the caller has
        (:mod:`sage.middleware.auth.grants`) or than that user."""
        with self._database.write() as session:
            is_own = request.user is None or request.user == by.user
            user = require_user(session, by.user if request.user is None else request.user, None if is_own else by)
            return self._create(session, user, by if is_own else _for(by, user), request, by, also)

    def create_for(self, name: str, request: KeyRequest) -> MadeKey:
        """Makes a key for the user ``name``, by order of the operator who owns the data directory."""
        with self._database.write() as session:
            user = require_user(session, name)
            return self._create(session, user, operator(user.name, user.tenant, user.role), request, None)

    def list(self, user: str | None = None, *, by: Principal | None = None, tenant: str | None = None) -> list[ApiKey]:
        """The keys that ``by`` may see, oldest first, revoked ones too: those of ``user`` or of ``tenant`` alone, or
        all."""
        query = select(KeyRow, UserRow).join(UserRow, UserRow.id == KeyRow.user_id)
        with self._database.read() as session:
            is_own = by is not None and user == by.user
            if user is not None:
                query = query.where(KeyRow.user_id == require_user(session, user, None if is_own else by).id)
            if tenant is not None:
                query = query.where(KeyRow.tenant == tenant)
            if by is not None and not is_own and not governs_all(by):
                query = query.where(KeyRow.tenant == by.tenant)
            rows = session.execute(query.order_by(KeyRow.created_at, KeyRow.id)).all()
            return [_view(row, owner.name) for row, owner in rows if sees(by, row, owner)]

    def get(self, key_id: str, by: Principal | None = None) -> ApiKey:
        """A key; raises :class:`NotFound` also for one that ``by`` may not see."""
        with self._database.read() as session:
            row, owner = require_key(session, key_id, by)
            return _view(row, owner.name)

    def names(self, ids: Iterable[str], by: Principal | None = None) -> dict[str, str]:
        """The names of those keys that have one and that ``by`` may see, by id; of revoked ones too."""
        query = select(KeyRow, UserRow).join(UserRow, UserRow.id == KeyRow.user_id).where(KeyRow.name != "")
        wanted = sorted(set(ids))
        found = {}
        with self._database.read() as session:
            for start in range(0, len(wanted), _AT_ONCE):
                some = query.where(KeyRow.id.in_(wanted[start : start + _AT_ONCE]))
                found.update({row.id: row.name for row, owner in session.execute(some).all() if sees(by, row, owner)})
        return found

    def change(
        self, key_id: str, by: Principal | None = None, also: Also | None = None, **changes: Unpack[KeyChanges]
    ) -> ApiKey:
        """Changes a key, and does what ``also`` does with it. A key may change those that it made, never itself.

        Its models and tools are never more than its maker's, and it never outlives it; what it loses of them, the keys
        that were made with it lose as well. Raises :class:`Conflict` for a revoked or expired key that is to live on.
        """
        with self._database.write() as session:
            row, owner = require_key(session, key_id, by)
            require_changeable(session, row, owner, by, also_itself=False)
            if "expires_at" in changes:
                _require_live(row, int(self._clock()))
            details = alter(session, row, changes, by, int(self._clock()))
            if also is not None:
                also(session.connection(), f"key:{row.id}", row.tenant)
            if changes:
                self._database.bump(session)
                details["user"] = owner.name
                self._changes.tell(session, by, "key.change", f"key:{row.id}", row.tenant, details)
            return _view(row, owner.name)

    def rotate(self, key_id: str, by: Principal | None = None, *, overlap: int = OVERLAP) -> MadeKey:
        """Gives a key a new secret, which is the same key with all that hangs on it. The secret that was the newest is
        good for ``overlap`` more seconds, one before it no longer.

        A key may rotate itself and those that it made. Raises :class:`Conflict` for a key that is revoked or expired.
        """
        if not 0 <= overlap <= MAX_OVERLAP:
            raise InvalidRequest(f"'overlap' is 0 to {MAX_OVERLAP} seconds", param="overlap")
        now = int(self._clock())
        with self._database.write() as session:
            row, owner = require_key(session, key_id, by)
            require_changeable(session, row, owner, by, also_itself=True)
            _require_live(row, now)
            new_key = make_key(row.id)
            row.previous_hash = row.secret_hash if overlap else None
            row.previous_expires_at = now + overlap if overlap else None
            row.secret_hash, row.last4, row.rotated_at = new_key.hash, new_key.last4, now
            self._database.bump(session)
            self._changes.tell(
                session, by, "key.rotate", f"key:{row.id}", row.tenant, {"user": owner.name, "overlap": overlap}
            )
            return MadeKey(_view(row, owner.name), new_key.text)

    def revoke(self, key_id: str, by: Principal | None = None) -> ApiKey:
        """Revokes a key and every key that it made."""
        with self._database.write() as session:
            row, owner = require_key(session, key_id, by)
            revoked = revoke_tree(session, row, int(self._clock()))
            self._database.bump(session)
            self._changes.tell(
                session, by, "key.revoke", f"key:{row.id}", row.tenant, {"user": owner.name, "revoked_keys": revoked}
            )
            return _view(row, owner.name)

    def _create(
        self,
        session: Session,
        user: UserRow,
        creator: Principal,
        request: KeyRequest,
        by: Principal | None,
        also: Also | None = None,
    ) -> MadeKey:
        now = int(self._clock())
        name, note, tags = check_name(request.name), check_note(request.note), check_tags(request.tags)
        if request.tenant is not None:
            check_tenant(request.tenant)
        if user.disabled:
            raise Conflict(f"the user '{user.name}' is disabled; enable it first", code="user_disabled")
        grant = decide(creator, request, now)
        ensure_tenant(session, grant.tenant, now)
        live = select(KeyRow.id).where(KeyRow.user_id == user.id, KeyRow.revoked_at.is_(None))
        if len(session.scalars(live.limit(_MAX_LIVE_KEYS)).all()) >= _MAX_LIVE_KEYS:
            raise Conflict(f"'{user.name}' has {_MAX_LIVE_KEYS} keys; revoke some first", code="too_many_keys")
        new_key = make_key()
        row = KeyRow(
            id=new_key.id,
            user_id=user.id,
            parent_id=_live_parent(session, by),
            name=name,
            secret_hash=new_key.hash,
            last4=new_key.last4,
            scopes=[str(scope) for scope in grant.scopes],
            models=list(grant.models),
            tools=list(grant.tools),
            tenant=grant.tenant,
            note=note,
            tags=list(tags),
            limits=stored_limits(request.limits),
            limits_by=actor_of(by).name if request.limits is not None else None,
            tools_by=actor_of(by).name,
            created_at=now,
            expires_at=grant.expires_at,
            revoked_at=None,
        )
        session.add(row)
        session.flush()
        details: dict[str, Any] = {"user": user.name, "name": name}
        details |= {"scopes": row.scopes, "models": row.models, "tools": row.tools, "tags": row.tags}
        details |= {"limits": row.limits, "expires_at": row.expires_at}
        if also is not None:
            also(session.connection(), f"key:{row.id}", row.tenant)
        self._changes.tell(session, by, "key.create", f"key:{row.id}", row.tenant, details)
        return MadeKey(_view(row, user.name), new_key.text)


def _require_live(row: KeyRow, now: int) -> None:
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        raise Conflict(f"the key '{row.id}' is revoked or expired; make a new one", code="key_ended")


def _for(by: Principal, user: UserRow) -> Principal:
    """The creator of a key for another user: with what both may do."""
    scopes = by.scopes & ROLES.get(user.role, frozenset[Scope]())
    return replace(by, scopes=scopes, tenant=user.tenant, role=user.role)


def _live_parent(session: Session, by: Principal | None) -> str | None:
    """The id of the key that makes another, read anew: it may have been revoked since the request was checked."""
    if by is None or not by.by_key:
        return None
    parent = session.get(KeyRow, by.credential.removeprefix("key:"))
    if parent is None or parent.revoked_at is not None or by.is_replaced:
        raise PermissionDenied("the key that makes this one has been revoked, or has a newer secret")
    above, depth = parent, 1
    while above.parent_id is not None and (row := session.get(KeyRow, above.parent_id)) is not None:
        above, depth = row, depth + 1
    if depth >= _MAX_DEPTH:
        raise Conflict(f"at most {_MAX_DEPTH} keys are made one with the other; log in to make this one")
    return parent.id


def _view(row: KeyRow, user: str) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        user=user,
        tenant=row.tenant,
        scopes=tuple(row.scopes),
        models=tuple(row.models),
        tools=tuple(row.tools),
        last4=row.last4,
        note=row.note,
        tags=tuple(row.tags),
        limits=limits_of(row.limits),
        made_by=row.parent_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        rotated_at=row.rotated_at,
        previous_expires_at=row.previous_expires_at,
    )
