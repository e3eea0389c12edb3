"""A call says when it was admitted, and what it has met on its way: waits, attempts that failed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds the columns; calls before know nothing of it."""
    op.add_column("usage_requests", sa.Column("admitted_ms", sa.Float()))
    op.add_column("usage_requests", sa.Column("steps", sa.Text()))
