"""API keys: making them within the rights of their creator, listing them and revoking them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from sage.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from sage.middleware.auth.database import AccountsDatabase
from sage.middleware.auth.grants import KeyRequest, decide, operator
from sage.middleware.auth.keys import make_key
from sage.middleware.auth.models import KeyRow, UserRow
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.auth.users import check_tenant, require_user

_MAX_LIVE_KEYS = 1000


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as listings show it. Times are in Unix seconds."""

    id: str
    name: str
    user: str
    tenant: str
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    last4: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A new key with its text, which is shown once and stored nowhere."""

    key: ApiKey
    secret: str = field(repr=False)


class ApiKeys:
    """The API keys of one installation. Its calls block on the database."""

    def __init__(self, database: AccountsDatabase, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def create(self, creator: Principal, request: KeyRequest) -> MadeKey:
        """Makes a key for ``creator``, never with more rights than it has (:mod:`sage.middleware.auth.grants`)."""
        with self._database.write() as session:
            return self._create(session, require_user(session, creator.user), creator, request)

    def create_for(self, name: str, request: KeyRequest) -> MadeKey:
        """Makes a key for the user ``name``, by order of the operator who owns the data directory."""
        with self._database.write() as session:
            user = require_user(session, name)
            return self._create(session, user, operator(user.name, user.tenant, user.role), request)

    def list(self, user: str | None = None) -> list[ApiKey]:
        """The keys of ``user``, oldest first, revoked ones too; ``None`` means those of all users."""
        query = select(KeyRow, UserRow.name).join(UserRow, UserRow.id == KeyRow.user_id)
        with self._database.read() as session:
            if user is not None:
                query = query.where(KeyRow.user_id == require_user(session, user).id)
            rows = session.execute(query.order_by(KeyRow.created_at, KeyRow.id)).all()
            return [_view(row, name) for row, name in rows]

    def revoke(self, key_id: str, by: Principal | None = None) -> ApiKey:
        """Revokes a key and every key that it made.

        ``by`` may revoke its own keys, and as an admin any key; ``None`` stands for the operator. Raises
        :class:`NotFound` for a key that does not exist, and just so for a key of another user.
        """
        now = int(self._clock())
        if key_id.startswith("sk-sage-"):  # a whole key names itself, and no error may repeat it
            key_id = key_id.removeprefix("sk-sage-").partition("-")[0]
        with self._database.write() as session:
            row = session.get(KeyRow, key_id) if key_id.isascii() else None
            owner = session.get(UserRow, row.user_id) if row is not None else None
            is_foreign = by is not None and Scope.ADMIN not in by.scopes and owner is not None and owner.name != by.user
            if row is None or owner is None or is_foreign:
                raise NotFound(f"there is no API key '{key_id[:32]}'; GET /auth/keys and 'sage key list' show them")
            self._revoke_tree(session, row, now)
            self._database.bump(session)
            return _view(row, owner.name)

    def _create(self, session: Session, user: UserRow, creator: Principal, request: KeyRequest) -> MadeKey:
        now = int(self._clock())
        if len(request.name) > 100 or not request.name.isprintable():
            raise InvalidRequest("a key's name has at most 100 printable characters", param="name")
        if request.tenant is not None:
            check_tenant(request.tenant)
        if user.disabled:
            raise Conflict(f"the user '{user.name}' is disabled; enable it first", code="user_disabled")
        grant = decide(creator, request, now)
        live = select(KeyRow.id).where(KeyRow.user_id == user.id, KeyRow.revoked_at.is_(None))
        if len(session.scalars(live.limit(_MAX_LIVE_KEYS)).all()) >= _MAX_LIVE_KEYS:
            raise Conflict(f"'{user.name}' has {_MAX_LIVE_KEYS} keys; revoke some first", code="too_many_keys")
        new_key = make_key()
        row = KeyRow(
            id=new_key.id,
            user_id=user.id,
            parent_id=self._live_parent(session, creator),
            name=request.name,
            secret_hash=new_key.hash,
            last4=new_key.last4,
            scopes=[str(scope) for scope in grant.scopes],
            models=list(grant.models),
            tenant=grant.tenant,
            created_at=now,
            expires_at=grant.expires_at,
            revoked_at=None,
        )
        session.add(row)
        session.flush()
        return MadeKey(_view(row, user.name), new_key.text)

    def _live_parent(self, session: Session, creator: Principal) -> str | None:
        """The id of the key that makes another, read anew: it may have been revoked since the request was checked."""
        if not creator.by_key:
            return None
        parent = session.get(KeyRow, creator.credential.removeprefix("key:"))
        if parent is None or parent.revoked_at is not None:
            raise PermissionDenied("the key that makes this one has been revoked")
        return parent.id

    def _revoke_tree(self, session: Session, row: KeyRow, now: int) -> None:
        pending = [row]
        while pending:
            current = pending.pop()
            current.revoked_at = current.revoked_at or now
            pending.extend(session.scalars(select(KeyRow).where(KeyRow.parent_id == current.id)))


def _view(row: KeyRow, user: str) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        user=user,
        tenant=row.tenant,
        scopes=tuple(row.scopes),
        models=tuple(row.models),
        last4=row.last4,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
