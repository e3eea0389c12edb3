"""The tables of kept responses: each response, its items, and the events of those in the background.

Times are Unix seconds. Responses, items and events are JSON as they are sent.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()
LONGEST_ID = 128
"""Characters of an item's id."""

responses = Table(
    "responses",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("user", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("previous", String(64)),
    Column("job", String(40)),  # of a response in the background
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("responses_expire", "expires_at"),
    Index("responses_of_user", "user", "tenant"),
)
"""One row a response. ``status`` is that of the body."""

items = Table(
    "response_items",
    metadata,
    Column("response", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("is_output", Boolean, nullable=False),
    Column("id", String(LONGEST_ID), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("approved_at", Float),  # of a request for the caller's approval: once it was used
    Index("response_items_by_id", "id"),
)
"""Its own input, then its output, in order."""

secrets = Table(
    "response_secrets",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("secret", LargeBinary, nullable=False),
)
"""Random bytes by which the gateway knows what it has made, and has not kept."""

events = Table(
    "response_events",
    metadata,
    Column("response", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)
"""The events of a response in the background, by their ``sequence_number``."""
