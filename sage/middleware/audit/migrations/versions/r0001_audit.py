"""Events, and the head of their chain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sage.middleware.audit.tables import FIRST_HEAD, forbid_changes
from sage.middleware.database.types import Whole

revision = "0001"
down_revision = None

_TEXTS = ("actor", "credential", "tenant", "action", "target", "details", "address")


def upgrade() -> None:
    """Makes the two tables."""
    op.create_table(
        "audit_events",
        sa.Column("seq", Whole, primary_key=True, autoincrement=False),
        sa.Column("at", Whole, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in _TEXTS),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    for name in ("tenant", "actor", "target"):
        op.create_index(f"ix_audit_events_{name}", "audit_events", [name, "seq"])
    forbid_changes(op.get_bind())
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("seq", Whole, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.CheckConstraint("id = 1", name="audit_head_one_row"),
    )
    op.bulk_insert(head, [FIRST_HEAD])
