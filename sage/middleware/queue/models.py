"""The tables of the queue: jobs, their items, stored files, and what schedules have started.

Times are Unix seconds with fractions. Rows stay small: large parameters, inputs and results are files.
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table

from sage.middleware.database.schema import of_rows
from sage.middleware.database.types import Whole

metadata = MetaData()


jobs = Table(
    "jobs",
    metadata,
    Column("sequence", Whole, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("kind", String(32), nullable=False),
    Column("queue", String(64), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", String(12), nullable=False),
    Column("held", Boolean, nullable=False),  # queued, but not to be claimed yet
    Column("tenant", String(64), nullable=False),
    Column("user", String(64), nullable=False),
    Column("key_id", String(12)),
    Column("idempotency_key", String(255)),
    Column("request_hash", LargeBinary(32)),
    Column("params", LargeBinary),  # JSON; NULL: in the job's directory
    Column("meta", JSON, nullable=False),
    Column("details", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("available_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("expires_at", Float),
    Column("deadline", Float),
    Column("time_limit", Float),
    Column("result_ttl", Float),
    Column("run", String(80)),
    Column("worker", String(128)),
    Column("lease_until", Float),
    Column("deliveries", Integer, nullable=False),
    Column("strikes", Integer, nullable=False),  # deliveries since the last progress
    Column("total", Whole),
    Column("done", Whole, nullable=False),
    Column("failed", Whole, nullable=False),
    Column("usage", JSON, nullable=False),  # sums of what the results used
    Column("has_items", Boolean, nullable=False),
    Column("input", LargeBinary),  # lines; NULL: in the job's directory
    Column("next_index", Whole, nullable=False),  # the first item that nobody has leased yet,
    Column("next_offset", Whole, nullable=False),  # and where the input goes on there
    Column("line", LargeBinary),  # the user's line of a job's only item
    Column("errors_apart", Boolean, nullable=False),
    Column("input_file_id", String(40)),
    Column("output_file_id", String(40)),
    Column("error_file_id", String(40)),
    Column("result", LargeBinary),  # JSON
    Column("error_message", String),
    Column("error_code", String(64)),
    Column("retries", Integer, nullable=False),
    Column("webhook_url", String),
    Column("webhook_state", String(12)),
    Column("webhook_attempts", Integer, nullable=False),
    Column("webhook_at", Float),
)
Index(
    "ix_jobs_key",
    jobs.c.tenant,
    jobs.c.user,
    jobs.c.idempotency_key,
    unique=True,
    **of_rows(jobs.c.idempotency_key.is_not(None)),
)
Index("ix_jobs_tenant", jobs.c.tenant, jobs.c.sequence)
Index("ix_jobs_tenant_state", jobs.c.tenant, jobs.c.state)
Index("ix_jobs_state", jobs.c.state, jobs.c.queue, jobs.c.priority, jobs.c.tenant, jobs.c.sequence)
Index("ix_jobs_deadline", jobs.c.state, jobs.c.deadline, **of_rows(jobs.c.deadline.is_not(None)))
Index("ix_jobs_input_file_id", jobs.c.input_file_id, **of_rows(jobs.c.input_file_id.is_not(None)))
Index("ix_jobs_expires_at", jobs.c.expires_at, **of_rows(jobs.c.expires_at.is_not(None)))
Index("ix_jobs_webhook_at", jobs.c.webhook_at, **of_rows(jobs.c.webhook_at.is_not(None)))

job_items = Table(
    "job_items",
    metadata,
    Column("job", Whole, primary_key=True),  # jobs.sequence
    Column("number", Whole, primary_key=True),  # its place in the input, from 0
    Column("state", Integer, nullable=False),
    Column("strikes", Integer, nullable=False),  # deliveries that ended without a result
    Column("input_at", Whole, nullable=False),  # bytes of the input
    Column("input_size", Whole, nullable=False),
    Column("result_at", Whole),  # bytes of the spool
    Column("result_size", Whole),
    Column("line_start", Whole),  # where the user's line begins in that
    sqlite_with_rowid=False,
)
Index("ix_job_items_state", job_items.c.job, job_items.c.state, job_items.c.strikes, job_items.c.number)

files = Table(
    "files",
    metadata,
    Column("sequence", Whole, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False),
    Column("user", String(64), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("size", Whole, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("blob", String(64), nullable=False),  # its name in the store's directory
    Column("job_id", String(40)),  # the job that made it
    Column("deleted", Boolean, nullable=False),  # hidden; it goes when no unfinished job reads it
    sqlite_autoincrement=True,
)
Index("ix_files_tenant", files.c.tenant, files.c.sequence)
Index("ix_files_expires_at", files.c.expires_at)
Index("ix_files_job_id", files.c.job_id)

schedule_runs = Table(
    "schedule_runs",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("due_at", Float, primary_key=True),
    Column("job_id", String(40)),
    Column("created_at", Float, nullable=False),
)
