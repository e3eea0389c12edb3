"""Whose key a caller may see, change and rotate.

- A login sees and changes its user's keys, an owner those of the users that it manages within its tenant, an admin
  all. None but an admin changes a key that may do more than they may.
- A key sees what its user's login would, and may revoke it, since that gives nobody more rights. But it changes only
  the keys that it made, and rotates only these and itself: the secret of another key could do more than it may. An
  owner's key changes others too, unless it is held to limits or some models.
- A secret that has been replaced changes and rotates nothing.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from sage.errors import NotFound, PermissionDenied
from sage.middleware.auth.api_keys.text import PREFIX
from sage.middleware.auth.grants import is_within
from sage.middleware.auth.models import KeyRow, UserRow
from sage.middleware.auth.principal import Principal
from sage.middleware.auth.teams.authority import governs, governs_all, is_bound


def sees(by: Principal | None, key: KeyRow, owner: UserRow) -> bool:
    """Whether that key of ``owner`` exists for ``by``."""
    if by is None or governs_all(by) or owner.name == by.user:
        return True
    return governs(by, owner) and key.tenant == by.tenant


def require_key(session: Session, key_id: str, by: Principal | None) -> tuple[KeyRow, UserRow]:
    """A key and its user; raises :class:`NotFound` also for one that ``by`` does not see."""
    if key_id.startswith(PREFIX):  # a whole key names itself, and no error may repeat it
        key_id = key_id.removeprefix(PREFIX).partition("-")[0]
    row = session.get(KeyRow, key_id) if key_id.isascii() and key_id.isalnum() else None
    owner = session.get(UserRow, row.user_id) if row is not None else None
    if row is None or owner is None or not sees(by, row, owner):
        raise NotFound(f"there is no API key '{key_id[:32]}'; GET /auth/keys and 'sage key list' show them")
    return row, owner


def require_changeable(
    session: Session, key: KeyRow, owner: UserRow, by: Principal | None, *, also_itself: bool
) -> None:
    """Raises :class:`PermissionDenied` unless ``by``, which sees the key of ``owner``, may change it."""
    if by is None:
        return
    if by.is_replaced:
        raise PermissionDenied("this secret has been replaced by a newer one, which may do that", code="key_replaced")
    if governs_all(by):
        return
    if not is_within(key.scopes, key.models, key.tools, by):
        raise PermissionDenied(f"the key '{key.id}' may do more than you", code="beyond_creator")
    own_id = by.credential.removeprefix("key:")
    if not by.by_key or _is_theirs(session, key, own_id, also_itself=also_itself):
        return
    if key.id == own_id or not governs(by, owner) or is_bound(by):
        raise PermissionDenied(
            f"a key changes only the keys that it made; log in to change '{key.id}'", code="beyond_creator"
        )


def _is_theirs(session: Session, key: KeyRow, maker: str, *, also_itself: bool) -> bool:
    """Whether the key with the id ``maker`` made that key, or one in between."""
    if key.id == maker:
        return also_itself
    above: KeyRow | None = key
    while above is not None and above.parent_id is not None:
        if above.parent_id == maker:
            return True
        above = session.get(KeyRow, above.parent_id)
    return False
