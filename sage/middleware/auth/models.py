"""The tables of accounts: users, API keys, sessions with their refresh tokens, and the revision of all rights.

Times are whole Unix seconds. No secret is stored: of API keys and refresh tokens only the SHA-256, of
passwords the argon2id hash.
"""

from __future__ import annotations

from typing import Annotated, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Connection,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    event,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Seconds = Annotated[int, mapped_column(Integer().with_variant(BigInteger(), "postgresql"))]
"""A time in whole Unix seconds. SQLite's integers have room for any."""

MaybeJSON = JSON(none_as_null=True)
"""JSON, or SQL's NULL for ``None``."""


class Base(DeclarativeBase):
    """Holds the metadata of the tables, which the migrations must arrive at."""


class UserRow(Base):
    """Someone who can log in. Names are unique whatever their case: ``account`` is what their spellings have in common,
    ``looks`` what names have in common that a reader takes for each other (:mod:`sage.middleware.auth.user_names`).
    """

    __tablename__ = "users"
    __table_args__ = (Index("ix_users_issuer_subject", "issuer", "subject", unique=True),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64).with_variant(String(64, collation="NOCASE"), "sqlite"), unique=True)
    account: Mapped[str] = mapped_column(String(65), server_default=text("''"), unique=True, index=True)
    looks: Mapped[str] = mapped_column(String(65), server_default=text("''"), index=True)
    role: Mapped[str] = mapped_column(String(16))
    tenant: Mapped[str] = mapped_column(String(64))
    password_hash: Mapped[str | None] = mapped_column(String(255))
    disabled: Mapped[bool] = mapped_column(default=False)
    limits: Mapped[dict[str, Any] | None] = mapped_column(MaybeJSON)
    """``None`` means those that its team gives its members, else those of its role."""
    issuer: Mapped[str | None] = mapped_column(String(255))
    """Of the provider of single sign-on that answers for it."""
    subject: Mapped[str | None] = mapped_column(String(255))
    """What that provider calls it."""
    claims_at: Mapped[Seconds | None]
    """When the newest of that provider's claims were made that its role and tenant go by."""
    withdrawn: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether it is disabled because those claims gave it no role."""
    created_at: Mapped[Seconds]
    last_login_at: Mapped[Seconds | None]


class TenantRow(Base):
    """A team: those who share their data, and what holds for all of them together. A tenant's name is its id.

    A deleted one keeps its row, since its data stays under its name.
    """

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    note: Mapped[str] = mapped_column(String(1000), server_default=text("''"))
    models: Mapped[list[str]] = mapped_column(JSON)
    """Patterns of the models that its members and keys reach at most."""
    limits: Mapped[dict[str, Any] | None] = mapped_column(MaybeJSON)
    """Of all together."""
    member_limits: Mapped[dict[str, Any] | None] = mapped_column(MaybeJSON)
    """Of each member that has none of its own."""
    capture: Mapped[dict[str, Any] | None] = mapped_column(MaybeJSON)
    """Whether and how long prompts and answers are kept; ``None`` means that they are not."""
    created_at: Mapped[Seconds]
    deleted_at: Mapped[Seconds | None]


class KeyRow(Base):
    """An API key. ``parent_id`` is the key that made it: revoking a key revokes what it made.

    A rotated key stays the same key with a new secret; the one before it is good until ``previous_expires_at``.
    """

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    last4: Mapped[str] = mapped_column(String(4))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    models: Mapped[list[str]] = mapped_column(JSON)
    tools: Mapped[list[str]] = mapped_column(JSON, server_default=text("'[\"*\"]'"))
    tenant: Mapped[str] = mapped_column(String(64))
    note: Mapped[str] = mapped_column(String(1000), server_default=text("''"))
    tags: Mapped[list[str]] = mapped_column(JSON, server_default=text("'[]'"))
    limits: Mapped[dict[str, Any] | None] = mapped_column(MaybeJSON)
    limits_by: Mapped[str | None] = mapped_column(String(320))  # as the audit names who set them; NULL: unknown
    tools_by: Mapped[str | None] = mapped_column(String(320))
    created_at: Mapped[Seconds]
    expires_at: Mapped[Seconds | None]
    revoked_at: Mapped[Seconds | None]
    last_used_at: Mapped[Seconds | None]
    rotated_at: Mapped[Seconds | None]
    previous_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    previous_expires_at: Mapped[Seconds | None]


class SessionRow(Base):
    """A login. Every access token names one and is good only while its session is.

    ``revoked_at`` revokes all its tokens. The row is deleted once ``expires_at`` has passed, when none of its tokens
    can be valid any more.
    """

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[Seconds]
    expires_at: Mapped[Seconds] = mapped_column(index=True)
    revoked_at: Mapped[Seconds | None]


class RefreshTokenRow(Base):
    """A refresh token by its SHA-256. A used one stays, so that a second use is noticed."""

    __tablename__ = "refresh_tokens"
    __table_args__ = (Index("ix_refresh_tokens_session_id", "session_id"),)

    hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    created_at: Mapped[Seconds]
    used_at: Mapped[Seconds | None]
    used_by: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    """A hash of what is known of the client that used it."""
    successor_salt: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    """What its successor is made of, with the token itself."""


class RevisionRow(Base):
    """One row that counts every change that can take a right away."""

    __tablename__ = "revision"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


@event.listens_for(RevisionRow.__table__, "after_create")
def _begin_at_one(_: Table, connection: Connection, **__: object) -> None:
    connection.exec_driver_sql("INSERT INTO revision (id, value) VALUES (1, 1)")
