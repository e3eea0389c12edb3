"""Servers that were seen, and their tools."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sage.middleware.database.types import Whole

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the two tables."""
    op.create_table(
        "mcp_servers",
        sa.Column("server", sa.String(32), primary_key=True),
        sa.Column("first_seen", Whole, nullable=False),
    )
    op.create_table(
        "mcp_tools",
        sa.Column("server", sa.String(32), primary_key=True),
        sa.Column("tool", sa.String(128), primary_key=True),
        sa.Column("accepted", sa.String(64)),
        sa.Column("accepted_at", Whole),
        sa.Column("accepted_by", sa.Text()),
        sa.Column("offered", sa.String(64), nullable=False),
        sa.Column("offered_at", Whole, nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
    )
