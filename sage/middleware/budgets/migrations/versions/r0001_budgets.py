"""Budgets, counters of windows, holders with what they hold, events to be told, and the revision."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sage.middleware.database.types import Whole

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the six tables."""
    op.create_table(
        "budgets",
        sa.Column("subject", sa.String(320), primary_key=True),
        sa.Column("tenant", sa.String(64)),
        sa.Column("unit", sa.String(8), nullable=False),
        sa.Column("amount", Whole, nullable=False),
        sa.Column("window", sa.String(8), nullable=False),
        sa.Column("hard", sa.Boolean(), nullable=False),
        sa.Column("updated_at", Whole, nullable=False),
    )
    op.create_table(
        "budget_counters",
        sa.Column("subject", sa.String(320), primary_key=True),
        sa.Column("unit", sa.String(8), primary_key=True),
        sa.Column("period", sa.String(32), primary_key=True),
        sa.Column("ends", sa.Float()),
        sa.Column("settled", Whole, nullable=False),
        sa.Column("reserved", Whole, nullable=False),
        sa.Column("told", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "budget_holders",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("beat", Whole, nullable=False),
    )
    op.create_table(
        "budget_holdings",
        sa.Column("holder", sa.String(32), primary_key=True),
        sa.Column("subject", sa.String(320), primary_key=True),
        sa.Column("unit", sa.String(8), primary_key=True),
        sa.Column("period", sa.String(32), primary_key=True),
        sa.Column("amount", Whole, nullable=False),
    )
    revision_table = op.create_table(
        "budget_revision",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.CheckConstraint("id = 1", name="budget_revision_one_row"),
    )
    op.create_table(
        "budget_events",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Float(), nullable=False),
    )
    op.bulk_insert(revision_table, [{"id": 1, "value": 1}])
