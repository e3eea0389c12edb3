"""What many calls have in common is kept once, and calls name it by its number."""

from __future__ import annotations

import time

import orjson
import sqlalchemy as sa
from alembic import op

from sage.middleware.database.types import Whole
from sage.middleware.usage.batch_sums import series_number

revision = "0002"
down_revision = "0001"

_NAMES = ("tenant", "user", "key", "model", "provider", "deployment", "upstream_model", "operation")
_COMMON = (*_NAMES, "stream", "tags")
_BEFORE = ("id", "request_id")
_AFTER = ("attempts", "status", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "estimated")
_LAST = ("cost", "ms", "first_token_ms")
_DAY = 86400


def upgrade() -> None:
    """Makes the tables of what is common, and fills them and the calls anew."""
    for name in ("tenant", "user", "key", "model", "failed"):
        op.drop_index(f"ix_usage_requests_{name}", "usage_requests")
    op.rename_table("usage_requests", "usage_requests_old")
    if op.get_bind().dialect.name == "postgresql":  # the name belongs to the new table's
        op.execute("ALTER INDEX usage_requests_pkey RENAME TO usage_requests_old_pkey")
    _make_series()
    _make_requests()
    _fill()
    op.drop_table("usage_requests_old")
    op.drop_table("usage_request_tags")
    op.create_index("ix_usage_requests_series", "usage_requests", ["series", "id"])
    failed = sa.text("status >= 400")
    op.create_index(
        "ix_usage_requests_failed", "usage_requests", ["status", "id"], sqlite_where=failed, postgresql_where=failed
    )


def _make_series() -> None:
    op.create_table(
        "usage_series",
        sa.Column("id", Whole, primary_key=True, autoincrement=False),
        *[sa.Column(name, sa.Text(), nullable=False) for name in _NAMES],
        sa.Column("stream", sa.Boolean(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("at", Whole, nullable=False),
    )
    op.create_table(
        "usage_series_tags",
        sa.Column("tag", sa.Text(), primary_key=True),
        sa.Column("series", Whole, primary_key=True, autoincrement=False),
    )


def _make_requests() -> None:
    op.create_table(
        "usage_requests",
        sa.Column("id", Whole, primary_key=True, autoincrement=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("series", Whole, nullable=False),
        *[sa.Column(name, Whole, nullable=False) for name in _AFTER[:-1]],
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("cost", Whole),
        sa.Column("ms", sa.Float(), nullable=False),
        sa.Column("first_token_ms", sa.Float()),
    )


def _fill() -> None:
    connection = op.get_bind()
    common = ", ".join(f'"{name}"' for name in _COMMON)
    found = connection.execute(sa.text(f"SELECT DISTINCT {common} FROM usage_requests_old")).all()  # noqa: S608
    today = int(time.time()) // _DAY * _DAY
    rows, tags = [], []
    for *names, stream, listed in found:
        each = orjson.loads(listed)
        number = series_number((*names, bool(stream), each))
        values = dict(zip(_NAMES, names, strict=True))
        rows.append({"id": number, **values, "stream": bool(stream), "tags": listed, "at": today})
        tags += [{"tag": tag, "series": number} for tag in each]
    if rows:
        connection.execute(_table("usage_series", "id", *_COMMON, "at").insert(), rows)
    if tags:
        connection.execute(_table("usage_series_tags", "tag", "series").insert(), tags)
    first, last = (", ".join(names) for names in (_BEFORE, (*_AFTER, *_LAST)))
    theirs = ", ".join(f"r.{name}" for name in (*_AFTER, *_LAST))
    same = " AND ".join(f's."{name}" = r."{name}"' for name in _COMMON)
    connection.execute(
        sa.text(
            f"INSERT INTO usage_requests ({first}, series, {last}) SELECT r.id, r.request_id, s.id, {theirs} "  # noqa: S608
            f"FROM usage_requests_old r JOIN usage_series s ON {same}"
        )
    )


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *[sa.column(each) for each in columns])
