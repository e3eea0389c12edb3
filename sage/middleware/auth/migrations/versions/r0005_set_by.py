"""Who has set the limits and the tools of a key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Of keys that are there, nobody knows it."""
    op.add_column("api_keys", sa.Column("limits_by", sa.String(320)))
    op.add_column("api_keys", sa.Column("tools_by", sa.String(320)))
