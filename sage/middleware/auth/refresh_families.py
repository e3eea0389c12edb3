"""Refresh tokens: each works once and gives its successor, and all of one login are a family.

As RFC 9700, 4.14.2 advises ("refresh token rotation"): a token that is used again was stolen, by whoever used it first
or by whoever comes now, so the whole family ends. But a client may send one token twice within a moment: a double
click, two tabs, a retry of a request whose answer was lost. For :data:`GRACE` seconds the same client gets the same
successor again. "The same client" is told by its network address and its ``User-Agent`` together.

The successor is an HMAC of a random value under the used token, and only that value is stored: neither the database
alone nor an old token alone gives it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode

from sqlalchemy.orm import Session

from sage.middleware.auth.models import RefreshTokenRow

GRACE = 10
"""Seconds for which the same client may use a token again."""

_TOKEN = re.compile(r"rt-sage-[A-Za-z0-9_-]{43}")


class Replayed(Exception):
    """A refresh token was used again: its family must end."""


def is_refresh_token(text: str) -> bool:
    """Whether ``text`` has the form of one."""
    return _TOKEN.fullmatch(text) is not None


def first_of_family(session: Session, session_id: str, now: int) -> str:
    """A new token of a login, stored."""
    return _store(session, f"rt-sage-{secrets.token_urlsafe(32)}", session_id, now)


def find_token(session: Session, text: str) -> RefreshTokenRow | None:
    """The row of a refresh token."""
    return session.get(RefreshTokenRow, _hash(text))


def successor_of(session: Session, text: str, token: RefreshTokenRow, client: str | None, now: int) -> str | None:
    """The next token of the family, in exchange for ``text``, whose row is ``token``.

    ``client`` says who uses it; ``None`` is the same as nobody. Nothing changes and ``None`` is returned when the same
    client has used the successor already: this request was overtaken. Raises :class:`Replayed`. The caller holds the
    write lock.
    """
    if token.used_at is None:
        token.used_at, token.used_by, token.successor_salt = now, _client_hash(client), secrets.token_bytes(32)
        return _store(session, _successor(text, token.successor_salt), token.session_id, now)
    is_same = client is not None and token.used_by is not None and token.used_by == _client_hash(client)
    if not is_same or token.successor_salt is None or not 0 <= now - token.used_at <= GRACE:
        raise Replayed
    successor = _successor(text, token.successor_salt)
    row = find_token(session, successor)
    return successor if row is not None and row.used_at is None else None


def _store(session: Session, text: str, session_id: str, now: int) -> str:
    session.add(RefreshTokenRow(hash=_hash(text), session_id=session_id, created_at=now))
    return text


def _successor(text: str, salt: bytes) -> str:
    digest = hmac.digest(text.encode("ascii"), salt, hashlib.sha256)
    return f"rt-sage-{urlsafe_b64encode(digest).rstrip(b'=').decode('ascii')}"


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("ascii")).digest()


def _client_hash(client: str | None) -> bytes | None:
    return None if client is None else hashlib.sha256(client.encode("utf-8", "surrogatepass")).digest()
