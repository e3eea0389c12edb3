"""Who gave a budget."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Of budgets that are there, nobody knows it: as if an admin had given them."""
    op.add_column("budgets", sa.Column("given_by", sa.String(320)))
