"""The tables of accounts: users, API keys, sessions with their refresh tokens, and the revision of all rights.

Times are whole Unix seconds. No secret is stored: of API keys and refresh tokens only the SHA-256, of
passwords the argon2id hash.
"""

from __future__ import annotations

from sqlalchemy import JSON, CheckConstraint, Connection, ForeignKey, Index, LargeBinary, String, Table, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Holds the metadata of the tables, which the migrations must arrive at."""


class UserRow(Base):
    """Someone who can log in. Names are unique whatever their case."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64, collation="NOCASE"), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    tenant: Mapped[str] = mapped_column(String(64))
    password_hash: Mapped[str | None] = mapped_column(String(255))
    disabled: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[int]


class KeyRow(Base):
    """An API key. ``parent_id`` is the key that made it: revoking a key revokes what it made."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    last4: Mapped[str] = mapped_column(String(4))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    models: Mapped[list[str]] = mapped_column(JSON)
    tenant: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int]
    expires_at: Mapped[int | None]
    revoked_at: Mapped[int | None]


class SessionRow(Base):
    """A login. Every access token names one and is good only while its session is.

    ``revoked_at`` revokes all its tokens. The row is deleted once ``expires_at`` has passed, when none of its tokens
    can be valid any more.
    """

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[int]
    expires_at: Mapped[int] = mapped_column(index=True)
    revoked_at: Mapped[int | None]


class RefreshTokenRow(Base):
    """A refresh token by its SHA-256. A used one stays, so that a second use is noticed."""

    __tablename__ = "refresh_tokens"
    __table_args__ = (Index("ix_refresh_tokens_session_id", "session_id"),)

    hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    created_at: Mapped[int]
    used_at: Mapped[int | None]


class RevisionRow(Base):
    """One row that counts every change that can take a right away."""

    __tablename__ = "revision"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


@event.listens_for(RevisionRow.__table__, "after_create")
def _begin_at_one(_: Table, connection: Connection, **__: object) -> None:
    connection.exec_driver_sql("INSERT INTO revision (id, value) VALUES (1, 1)")
