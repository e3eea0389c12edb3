"""The files that gateways of one PostgreSQL database share."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sage.middleware.database.types import Whole

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "shared_files",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("version", Whole, nullable=False),
    )
