"""Forgetting a user: the calls go, and the sums stay without the name, since a tenant's costs have to add up."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, Table, delete, select

from sage.middleware.database.database import Database
from sage.middleware.usage.models import days, quarters, requests, series, series_tags, tag_quarters
from sage.middleware.usage.writer import BatchWriter

_PIECE = 2000


def erase_user(database: Database, user: str, tenant: str | None = None) -> int:
    """Deletes the calls of ``user``, and takes the name and the keys out of the sums; returns how many calls there
    were. With ``tenant`` only what the user did there."""
    erased = 0
    while count := _erase_calls(database, user, tenant):
        erased += count
    erased += _erase_series(database, user, tenant)
    for table in (quarters, days, tag_quarters):
        with database.writing() as connection:
            _take_name_out(connection, table, user, tenant)
    return erased


def _erase_calls(database: Database, user: str, tenant: str | None) -> int:
    with database.writing() as connection:
        theirs = select(series.c.id).where(*_of(series, user, tenant))
        ids = (
            connection.execute(select(requests.c.id).where(requests.c.series.in_(theirs)).limit(_PIECE)).scalars().all()
        )
        if ids:
            connection.execute(delete(requests).where(requests.c.id.in_(ids)))
        return len(ids)


def _erase_series(database: Database, user: str, tenant: str | None) -> int:
    """Deletes what the user's calls had in common, and calls that came meanwhile; returns how many."""
    with database.writing() as connection:
        # whoever writes such a call has this locked, or finds it gone and writes it anew
        theirs = select(series.c.id).where(*_of(series, user, tenant)).order_by(series.c.id).with_for_update()
        ids = connection.execute(theirs).scalars().all()
        if not ids:
            return 0
        late = connection.execute(delete(requests).where(requests.c.series.in_(ids))).rowcount
        connection.execute(delete(series_tags).where(series_tags.c.series.in_(ids)))
        connection.execute(delete(series).where(series.c.id.in_(ids)))
        return late


def _take_name_out(connection: Connection, table: Table, user: str, tenant: str | None) -> None:
    rows = connection.execute(select(table).where(*_of(table, user, tenant))).mappings().all()
    connection.execute(delete(table).where(*_of(table, user, tenant)))
    writer = BatchWriter()
    for row in rows:  # one by one: rows that differed in their key alone become one
        nameless = {**row, "user": ""} | ({"key": ""} if "key" in row else {})
        writer.add_sums(connection, table, [tuple(nameless[column.name] for column in table.columns)])


def _of(table: Table, user: str, tenant: str | None) -> list[ColumnElement[bool]]:
    return [table.c.user == user] + ([] if tenant is None else [table.c.tenant == tenant])
