"""Jobs, their items, stored files, and what schedules have started."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from sage.middleware.database.types import Whole

revision = "0001"
down_revision = None


def _where(condition: str) -> dict[str, Any]:
    """The rows that an index has."""
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    """Makes the four tables."""
    _make_jobs()
    _make_job_items()
    _make_files()
    _make_schedule_runs()


def _make_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("sequence", Whole, nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("queue", sa.String(length=64), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("user", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=12), nullable=True),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.Column("request_hash", sa.LargeBinary(length=32), nullable=True),
        sa.Column("params", sa.LargeBinary(), nullable=True),
        sa.Column("meta", sa.JSON(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("available_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("deadline", sa.Float(), nullable=True),
        sa.Column("time_limit", sa.Float(), nullable=True),
        sa.Column("result_ttl", sa.Float(), nullable=True),
        sa.Column("run", sa.String(length=80), nullable=True),
        sa.Column("worker", sa.String(length=128), nullable=True),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("strikes", sa.Integer(), nullable=False),
        sa.Column("total", Whole, nullable=True),
        sa.Column("done", Whole, nullable=False),
        sa.Column("failed", Whole, nullable=False),
        sa.Column("usage", sa.JSON(), nullable=False),
        sa.Column("has_items", sa.Boolean(), nullable=False),
        sa.Column("input", sa.LargeBinary(), nullable=True),
        sa.Column("next_index", Whole, nullable=False),
        sa.Column("next_offset", Whole, nullable=False),
        sa.Column("line", sa.LargeBinary(), nullable=True),
        sa.Column("errors_apart", sa.Boolean(), nullable=False),
        sa.Column("input_file_id", sa.String(length=40), nullable=True),
        sa.Column("output_file_id", sa.String(length=40), nullable=True),
        sa.Column("error_file_id", sa.String(length=40), nullable=True),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("webhook_url", sa.String(), nullable=True),
        sa.Column("webhook_state", sa.String(length=12), nullable=True),
        sa.Column("webhook_attempts", sa.Integer(), nullable=False),
        sa.Column("webhook_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("sequence"),
        sa.UniqueConstraint("id"),
    )
    op.create_index("ix_jobs_deadline", "jobs", ["state", "deadline"], unique=False, **_where("deadline IS NOT NULL"))
    op.create_index("ix_jobs_expires_at", "jobs", ["expires_at"], unique=False, **_where("expires_at IS NOT NULL"))
    op.create_index(
        "ix_jobs_input_file_id",
        "jobs",
        ["input_file_id"],
        unique=False,
        **_where("input_file_id IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_key",
        "jobs",
        ["tenant", "user", "idempotency_key"],
        unique=True,
        **_where("idempotency_key IS NOT NULL"),
    )
    op.create_index("ix_jobs_state", "jobs", ["state", "queue", "priority", "tenant", "sequence"], unique=False)
    op.create_index("ix_jobs_tenant", "jobs", ["tenant", "sequence"], unique=False)
    op.create_index("ix_jobs_tenant_state", "jobs", ["tenant", "state"], unique=False)
    op.create_index("ix_jobs_webhook_at", "jobs", ["webhook_at"], unique=False, **_where("webhook_at IS NOT NULL"))


def _make_job_items() -> None:
    op.create_table(
        "job_items",
        sa.Column("job", Whole, nullable=False),
        sa.Column("number", Whole, nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("strikes", sa.Integer(), nullable=False),
        sa.Column("input_at", Whole, nullable=False),
        sa.Column("input_size", Whole, nullable=False),
        sa.Column("result_at", Whole, nullable=True),
        sa.Column("result_size", Whole, nullable=True),
        sa.Column("line_start", Whole, nullable=True),
        sa.PrimaryKeyConstraint("job", "number"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_job_items_state", "job_items", ["job", "state", "strikes", "number"], unique=False)


def _make_files() -> None:
    op.create_table(
        "files",
        sa.Column("sequence", Whole, nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("user", sa.String(length=64), nullable=False),
        sa.Column("purpose", sa.String(length=32), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=False),
        sa.Column("size", Whole, nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("blob", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_files_expires_at", "files", ["expires_at"], unique=False)
    op.create_index("ix_files_job_id", "files", ["job_id"], unique=False)
    op.create_index("ix_files_tenant", "files", ["tenant", "sequence"], unique=False)


def _make_schedule_runs() -> None:
    op.create_table(
        "schedule_runs",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", "due_at"),
    )
