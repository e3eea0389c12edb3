"""The tables of the ledger: calls, what many of them have in common, and their sums by quarters of an hour.

A call's ``id`` is its time: milliseconds since 1970, shifted by 20 bits, and a number below. So ids are in the order of
time, and a range of time is a range of ids. A quarter is numbered from 1970. Every time zone of today is a multiple of
a quarter of an hour from UTC, so the days of all of them are made of whole quarters.

Costs are in nano-dollars. Names without a value are empty texts, since they are parts of primary keys.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, Index, MetaData, Table, Text, text

from sage.middleware.database.schema import of_rows
from sage.middleware.database.types import Whole

metadata = MetaData()

QUARTER = 900
"""Seconds."""
QUARTERS_A_DAY = 96
series = Table(
    "usage_series",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=False),
    Column("tenant", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("upstream_model", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("tags", Text, nullable=False),  # a JSON list
    Column("at", Whole, nullable=False),
)
"""What calls have in common, under a number made of it. ``at`` is the day on which the last was written, in Unix
seconds."""

series_tags = Table(
    "usage_series_tags",
    metadata,
    Column("tag", Text, primary_key=True),
    Column("series", Whole, primary_key=True, autoincrement=False),
)

requests = Table(
    "usage_requests",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=False),
    Column("request_id", Text, nullable=False),
    Column("series", Whole, nullable=False),
    Column("attempts", Whole, nullable=False),
    Column("status", Whole, nullable=False),
    Column("prompt_tokens", Whole, nullable=False),
    Column("cached_tokens", Whole, nullable=False),
    Column("completion_tokens", Whole, nullable=False),
    Column("reasoning_tokens", Whole, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("cost", Whole),
    Column("ms", Float, nullable=False),
    Column("first_token_ms", Float),
    Column("admitted_ms", Float),
    Column("steps", Text),
    Index("ix_usage_requests_series", "series", "id"),
    Index(
        "ix_usage_requests_failed",
        "status",
        "id",
        **of_rows(text("status >= 400")),
    ),
)

SUMS = (
    "requests",
    "failed",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "estimated",
    "cost",
    "unpriced",
    "ms",
)
"""What is added up. ``failed``, ``estimated`` and ``unpriced`` count calls; ``cost`` is that of the priced ones."""


def _sums() -> list[Column[int]]:
    return [Column(name, Whole, nullable=False) for name in SUMS]


quarters = Table(
    "usage_quarters",
    metadata,
    Column("quarter", Whole, primary_key=True, autoincrement=False),
    Column("tenant", Text, primary_key=True),
    Column("user", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    *_sums(),
    Index("ix_usage_quarters_user", "user", "quarter"),
)

days = Table(
    "usage_days",
    metadata,
    Column("day", Whole, primary_key=True, autoincrement=False),
    Column("tenant", Text, primary_key=True),
    Column("user", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    *_sums(),
)
"""The same by days of UTC, numbered from 1970: what lies between the first and the last day of a period."""

tenant_quarters = Table(
    "usage_tenant_quarters",
    metadata,
    Column("quarter", Whole, primary_key=True, autoincrement=False),
    Column("tenant", Text, primary_key=True),
    *_sums(),
)
"""Of all calls of a tenant: what the days of a time zone are made of."""

tag_quarters = Table(
    "usage_tag_quarters",
    metadata,
    Column("quarter", Whole, primary_key=True, autoincrement=False),
    Column("tenant", Text, primary_key=True),
    Column("user", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
    *_sums(),
)
"""Calls with several tags count under each of them."""

captures = Table(
    "usage_captures",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=False),
    Column("request_id", Text, nullable=False, index=True),
    Column("tenant", Text, nullable=False),
    Column("user", Text, nullable=False, index=True),
    Column("model", Text, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("expires_at", Whole, nullable=False, index=True),
)
"""Texts of calls, of teams that have switched that on, redacted."""

writers = Table(
    "usage_writers",
    metadata,
    Column("writer", Text, primary_key=True),
    Column("batch", Whole, nullable=False),
    Column("at", Whole, nullable=False),
)
"""The last batch that each process has written, so that none counts twice whose commit was not heard of."""
