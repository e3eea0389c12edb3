"""The tables of the audit: its events, and the head of their chain.

The database itself refuses to change or delete an event. Whoever owns it can take that rule away, and then the chain
tells (:mod:`sage.middleware.audit.verification`).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, Column, Connection, Index, Integer, MetaData, String, Table, Text, event

from sage.middleware.audit.event import GENESIS
from sage.middleware.database.types import Whole

metadata = MetaData()

events = Table(
    "audit_events",
    metadata,
    Column("seq", Whole, primary_key=True, autoincrement=False),
    Column("at", Whole, nullable=False),  # milliseconds since 1970
    Column("actor", Text, nullable=False),
    Column("credential", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("details", Text, nullable=False),  # JSON
    Column("address", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Index("ix_audit_events_tenant", "tenant", "seq"),
    Index("ix_audit_events_actor", "actor", "seq"),
    Index("ix_audit_events_target", "target", "seq"),
)
"""Numbered from 1 without gaps. ``hash`` covers the row and the hash of the one before."""

head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("seq", Whole, nullable=False),
    Column("hash", String(64), nullable=False),
    CheckConstraint("id = 1", name="audit_head_one_row"),
)
"""One row with the number and the hash of the last event; 0 and zeros before the first. Writers lock it."""

FIRST_HEAD = {"id": 1, "seq": 0, "hash": GENESIS}


def forbid_changes(connection: Connection) -> None:
    """Makes the database refuse changes of events."""
    if connection.dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER audit_events_no_{verb.lower()} BEFORE {verb} ON audit_events "
                "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
            )
        return
    connection.exec_driver_sql(
        "CREATE OR REPLACE FUNCTION audit_events_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$"
    )
    for verbs, each in (("UPDATE OR DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
        connection.exec_driver_sql(
            f"CREATE TRIGGER audit_events_no_{each.lower()}_change BEFORE {verbs} ON audit_events "
            f"FOR EACH {each} EXECUTE FUNCTION audit_events_refuse()"
        )


@event.listens_for(events, "after_create")
def _protect(_: Table, connection: Connection, **__: Any) -> None:
    forbid_changes(connection)


@event.listens_for(head, "after_create")
def _begin_with_none(table: Table, connection: Connection, **_: Any) -> None:
    connection.execute(table.insert().values(FIRST_HEAD))
