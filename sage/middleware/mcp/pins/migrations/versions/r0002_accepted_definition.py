"""The form in which a tool was accepted, to be compared with what is offered now."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Of a tool that has changed since it was accepted, nobody knows the accepted form."""
    op.add_column("mcp_tools", sa.Column("accepted_definition", sa.Text()))
    op.execute("UPDATE mcp_tools SET accepted_definition = definition WHERE accepted = offered")
