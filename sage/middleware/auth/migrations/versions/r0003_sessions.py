"""What a used refresh token led to, and who used it; what a provider of single sign-on last said of a user."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds columns to refresh tokens and users."""
    op.add_column("refresh_tokens", sa.Column("used_by", sa.LargeBinary(32)))
    op.add_column("refresh_tokens", sa.Column("successor_salt", sa.LargeBinary(32)))
    op.add_column("users", sa.Column("claims_at", sa.Integer().with_variant(sa.BigInteger(), "postgresql")))
    op.add_column("users", sa.Column("withdrawn", sa.Boolean(), nullable=False, server_default=sa.false()))
