"""The tables of pins: which tools of MCP servers were accepted, and what the servers offer now."""

from __future__ import annotations

from sqlalchemy import Column, MetaData, String, Table, Text

from sage.middleware.database.types import Whole

metadata = MetaData()
NAME = 128
"""The longest name of a tool, in characters."""

servers = Table(
    "mcp_servers",
    metadata,
    Column("server", String(32), primary_key=True),
    Column("first_seen", Whole, nullable=False),
)
"""Servers that were asked for their tools before."""

tools = Table(
    "mcp_tools",
    metadata,
    Column("server", String(32), primary_key=True),
    Column("tool", String(NAME), primary_key=True),
    Column("accepted", String(64)),
    Column("accepted_at", Whole),
    Column("accepted_by", Text),
    Column("accepted_definition", Text),
    Column("offered", String(64), nullable=False),
    Column("offered_at", Whole, nullable=False),
    Column("definition", Text, nullable=False),
)
"""``accepted`` and ``offered`` are SHA-256 of a definition; ``definition`` is the one that is offered, as JSON."""
