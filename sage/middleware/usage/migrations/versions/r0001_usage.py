"""Calls, their tags, their sums by quarters of an hour, and who has written what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sage.middleware.database.types import Whole

revision = "0001"
down_revision = None

_NAMES = (
    "request_id",
    "tenant",
    "user",
    "key",
    "model",
    "provider",
    "deployment",
    "upstream_model",
    "operation",
)
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
_SUMS = ("requests", "failed", *_TOKENS, "estimated", "cost", "unpriced", "ms")


def upgrade() -> None:
    """Makes the eight tables."""
    _make_requests()
    op.create_table(
        "usage_request_tags",
        sa.Column("tag", sa.Text(), primary_key=True),
        sa.Column("id", Whole, primary_key=True, autoincrement=False),
    )
    op.create_index("ix_usage_request_tags_id", "usage_request_tags", ["id"])
    for table, time, names in (
        ("usage_quarters", "quarter", ("tenant", "user", "key", "model", "provider")),
        ("usage_days", "day", ("tenant", "user", "key", "model", "provider")),
        ("usage_tenant_quarters", "quarter", ("tenant",)),
        ("usage_tag_quarters", "quarter", ("tenant", "user", "tag")),
    ):
        op.create_table(
            table,
            sa.Column(time, Whole, primary_key=True, autoincrement=False),
            *[sa.Column(name, sa.Text(), primary_key=True) for name in names],
            *[sa.Column(name, Whole, nullable=False) for name in _SUMS],
        )
    op.create_index("ix_usage_quarters_user", "usage_quarters", ["user", "quarter"])
    op.create_table(
        "usage_captures",
        sa.Column("id", Whole, primary_key=True, autoincrement=False),
        *[sa.Column(name, sa.Text(), nullable=False) for name in ("request_id", "tenant", "user", "model")],
        *[sa.Column(name, sa.Text(), nullable=False) for name in ("prompt", "answer")],
        sa.Column("expires_at", Whole, nullable=False),
    )
    for name in ("request_id", "user", "expires_at"):
        op.create_index(f"ix_usage_captures_{name}", "usage_captures", [name])
    op.create_table(
        "usage_writers",
        sa.Column("writer", sa.Text(), primary_key=True),
        sa.Column("batch", Whole, nullable=False),
        sa.Column("at", Whole, nullable=False),
    )


def _make_requests() -> None:
    op.create_table(
        "usage_requests",
        sa.Column("id", Whole, primary_key=True, autoincrement=False),
        *[sa.Column(name, sa.Text(), nullable=False) for name in _NAMES],
        sa.Column("stream", sa.Boolean(), nullable=False),
        *[sa.Column(name, Whole, nullable=False) for name in ("attempts", "status", *_TOKENS)],
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("cost", Whole),
        sa.Column("ms", sa.Float(), nullable=False),
        sa.Column("first_token_ms", sa.Float()),
        sa.Column("tags", sa.Text(), nullable=False),
    )
    for name in ("tenant", "user", "key", "model"):
        op.create_index(f"ix_usage_requests_{name}", "usage_requests", [name, "id"])
    failed = sa.text("status >= 400")
    op.create_index(
        "ix_usage_requests_failed",
        "usage_requests",
        ["status", "id"],
        sqlite_where=failed,
        postgresql_where=failed,
    )
