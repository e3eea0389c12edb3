"""Stores, their files, batches of these, and the files of a batch."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sage.middleware.database.types import Whole

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the four tables."""
    _make_stores()
    _make_files()
    op.create_table(
        "vector_store_batches",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("collection", sa.String(80), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("job_id", sa.String(40)),
        sa.Column("cancelled", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_vector_store_batches_store", "vector_store_batches", ["tenant", "collection"])
    op.create_table(
        "vector_store_batch_files",
        sa.Column("batch", sa.String(40), primary_key=True),
        sa.Column("file_id", sa.String(40), primary_key=True),
    )


def _make_stores() -> None:
    op.create_table(
        "vector_stores",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("collection", sa.String(80), primary_key=True),
        sa.Column("made_at", sa.Float(), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("description", sa.String(512)),
        sa.Column("meta", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("last_active_at", sa.Float(), nullable=False),
        sa.Column("expires_days", sa.Integer()),
        sa.Column("expired_at", sa.Float()),
    )
    some = sa.text("expires_days IS NOT NULL")
    op.create_index(
        "ix_vector_stores_expires", "vector_stores", ["last_active_at"], sqlite_where=some, postgresql_where=some
    )


def _make_files() -> None:
    op.create_table(
        "vector_store_files",
        sa.Column("sequence", Whole, primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("collection", sa.String(80), nullable=False),
        sa.Column("file_id", sa.String(40), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("max_tokens", sa.Integer(), nullable=False),
        sa.Column("overlap_tokens", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("usage_bytes", Whole, nullable=False),
        sa.Column("error_code", sa.String(32)),
        sa.Column("error_message", sa.Text()),
        sa.Column("ticket", sa.String(40), nullable=False),
        sa.Column("job_id", sa.String(40)),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sqlite_autoincrement=True,
    )
    table = "vector_store_files"
    op.create_index("ix_vector_store_files_id", table, ["tenant", "collection", "file_id"], unique=True)
    op.create_index("ix_vector_store_files_order", table, ["tenant", "collection", "sequence"])
    op.create_index("ix_vector_store_files_ticket", table, ["ticket", "file_id"])
    op.create_index("ix_vector_store_files_job", table, ["job_id"])
    some = sa.text("NOT settled")
    op.create_index("ix_vector_store_files_unsettled", table, ["sequence"], sqlite_where=some, postgresql_where=some)
