"""Which tools of MCP servers a key may call."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds a column to API keys: those that are there may call all, as soon as they have the scope."""
    op.add_column("api_keys", sa.Column("tools", sa.JSON(), nullable=False, server_default=sa.text("'[\"*\"]'")))
