"""Teams, limits, tags and notes; users of a provider of single sign-on; what a rotated key was before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sage.middleware.auth.user_names import account_of, looks_of

revision = "0002"
down_revision = "0001"

_SECONDS = sa.Integer().with_variant(sa.BigInteger(), "postgresql")


def upgrade() -> None:
    """Makes the table of tenants, and adds columns to users and keys."""
    _make_tenants()
    _extend_users()
    _extend_keys()


def _make_tenants() -> None:
    tenants = op.create_table(
        "tenants",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("note", sa.String(1000), nullable=False, server_default=sa.text("''")),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("limits", sa.JSON(none_as_null=True)),
        sa.Column("member_limits", sa.JSON(none_as_null=True)),
        sa.Column("capture", sa.JSON(none_as_null=True)),
        sa.Column("created_at", _SECONDS, nullable=False),
        sa.Column("deleted_at", _SECONDS),
    )
    first_seen: dict[str, int] = {}
    for table in ("users", "api_keys"):
        rows = op.get_bind().execute(sa.text(f"SELECT tenant, min(created_at) FROM {table} GROUP BY tenant"))  # noqa: S608
        for name, created_at in rows:
            first_seen[name] = min(created_at, first_seen.get(name, created_at))
    for name, created_at in first_seen.items():
        op.execute(tenants.insert().values(name=name, models=["*"], created_at=created_at))


def _extend_users() -> None:
    op.add_column("users", sa.Column("account", sa.String(65), nullable=False, server_default=sa.text("''")))
    op.add_column("users", sa.Column("looks", sa.String(65), nullable=False, server_default=sa.text("''")))
    op.add_column("users", sa.Column("limits", sa.JSON(none_as_null=True)))
    op.add_column("users", sa.Column("issuer", sa.String(255)))
    op.add_column("users", sa.Column("subject", sa.String(255)))
    op.add_column("users", sa.Column("last_login_at", _SECONDS))
    fill = sa.text("UPDATE users SET account = :account, looks = :looks WHERE id = :id")
    for id, name in op.get_bind().execute(sa.text("SELECT id, name FROM users")).all():
        op.get_bind().execute(fill, {"id": id, "account": account_of(name), "looks": looks_of(name)})
    op.create_index("ix_users_account", "users", ["account"], unique=True)
    op.create_index("ix_users_looks", "users", ["looks"])
    op.create_index("ix_users_issuer_subject", "users", ["issuer", "subject"], unique=True)


def _extend_keys() -> None:
    op.add_column("api_keys", sa.Column("note", sa.String(1000), nullable=False, server_default=sa.text("''")))
    op.add_column("api_keys", sa.Column("tags", sa.JSON(), nullable=False, server_default=sa.text("'[]'")))
    op.add_column("api_keys", sa.Column("limits", sa.JSON(none_as_null=True)))
    op.add_column("api_keys", sa.Column("last_used_at", _SECONDS))
    op.add_column("api_keys", sa.Column("rotated_at", _SECONDS))
    op.add_column("api_keys", sa.Column("previous_hash", sa.LargeBinary(32)))
    op.add_column("api_keys", sa.Column("previous_expires_at", _SECONDS))
