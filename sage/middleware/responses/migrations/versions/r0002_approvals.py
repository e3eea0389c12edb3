"""Approvals of calls of tools."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds when an approval was used, and the table of secrets."""
    op.add_column("response_items", sa.Column("approved_at", sa.Float()))
    op.create_table(
        "response_secrets",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
    )
