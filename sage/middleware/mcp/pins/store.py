"""Pins of tools: what a server offers is used only in the form in which it was accepted.

A server that nobody has seen before is believed, if its settings say so; whatever it changes or adds later is held back
until an admin accepts it. Without that, a server could show harmless tools at first and others once it is trusted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, select, update

from sage.errors import Conflict, NotFound
from sage.middleware.database.database import Database
from sage.middleware.database.statements import insert_into
from sage.middleware.mcp.pins.database import open_pins_database
from sage.middleware.mcp.pins.tables import servers, tools
from sage.middleware.settings.database import DatabaseUrl

FIRST = "first sight"
"""Who has accepted what a server had at first."""


@dataclass(frozen=True, slots=True)
class PinnedTool:
    """A tool as it was offered last; ``accepted`` is the digest that may be used, ``None`` where none may."""

    server: str
    name: str
    accepted: str | None
    accepted_at: int | None
    accepted_by: str | None
    offered: str
    offered_at: int
    definition: Mapping[str, Any]
    accepted_definition: Mapping[str, Any] | None = None
    """As it was accepted; ``None`` where it never was, or nobody has kept it."""

    @property
    def state(self) -> str:
        """``accepted``, ``changed`` since it was, or ``new``."""
        if self.accepted == self.offered:
            return "accepted"
        return "new" if self.accepted is None else "changed"


class Pins:
    """The pins of one installation. Its calls block; the database is opened with the first."""

    def __init__(self, data_dir: Path, url: DatabaseUrl | None = None, clock: Callable[[], float] = time.time) -> None:
        self._data_dir = data_dir
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._database: Database | None = None

    def open(self) -> Database:
        """Its database. Raises :class:`sage.errors.ConfigError` and :class:`sage.errors.Unavailable`."""
        with self._lock:
            if self._database is None:
                self._database = open_pins_database(self._data_dir, self._url)
            return self._database

    def close(self) -> None:
        """Closes the database; it may be opened again."""
        with self._lock:
            database, self._database = self._database, None
        if database is not None:
            database.close()

    def observe(
        self, server: str, offered: Iterable[tuple[str, str, Mapping[str, Any]]], *, trust_first: bool
    ) -> list[str]:
        """Notes what ``server`` offers now: ``(name, digest, definition)``. Returns the names of tools that are held
        back since now, as they are new or changed."""
        now, held = int(self._clock()), []
        with self.open().writing() as connection:
            is_first = connection.execute(select(servers).where(servers.c.server == server)).first() is None
            if is_first:
                connection.execute(servers.insert().values(server=server, first_seen=now))
            before = {row.tool: row for row in connection.execute(select(tools).where(tools.c.server == server))}
            for name, digest, definition in offered:
                row = before.get(name)
                if row is not None and row.offered == digest:
                    continue
                fields: dict[str, Any] = {"offered": digest, "offered_at": now}
                fields["definition"] = orjson.dumps(definition).decode()
                if is_first and trust_first:
                    fields |= {"accepted": digest, "accepted_at": now, "accepted_by": FIRST}
                    fields["accepted_definition"] = fields["definition"]
                elif row is None or row.accepted != digest:
                    held.append(name)
                _upsert(connection, server, name, fields)
        return held

    def of(self, server: str) -> list[PinnedTool]:
        """All that was offered by ``server``, by name."""
        query = select(tools).where(tools.c.server == server).order_by(tools.c.tool)
        with self.open().reading() as connection:
            rows = connection.execute(query).all()
        return [
            PinnedTool(
                *(row.server, row.tool, row.accepted, row.accepted_at, row.accepted_by, row.offered, row.offered_at),
                orjson.loads(row.definition),
                None if row.accepted_definition is None else orjson.loads(row.accepted_definition),
            )
            for row in rows
        ]

    def accepted(self) -> dict[tuple[str, str], str]:
        """The digests that may be used, by server and tool."""
        query = select(tools.c.server, tools.c.tool, tools.c.accepted).where(tools.c.accepted.is_not(None))
        with self.open().reading() as connection:
            return {(row.server, row.tool): row.accepted for row in connection.execute(query)}

    def servers(self) -> list[str]:
        """The servers that were seen."""
        with self.open().reading() as connection:
            return [row.server for row in connection.execute(select(servers.c.server).order_by(servers.c.server))]

    def accept(self, server: str, wanted: Mapping[str, str | None] | None, by: str) -> list[str]:
        """Accepts tools as they are offered now; returns the names of those that were held back.

        ``wanted`` are their names, each with the digest that was looked at, ``None`` for whatever is offered; without
        it, all. Raises :class:`NotFound` for a tool that was never offered, :class:`Conflict` for one that is offered
        in another form by now; nothing is accepted then.
        """
        now = int(self._clock())
        with self.open().writing() as connection:
            rows = {row.tool: row for row in connection.execute(select(tools).where(tools.c.server == server))}
            for name, digest in (wanted or {}).items():
                if name not in rows:
                    raise NotFound(f"the MCP server '{server}' has offered no tool '{name[:100]}'", param="tools")
                if digest is not None and rows[name].offered != digest:
                    raise Conflict(f"'{name}' is offered in another form by now; look at it again", param="tools")
            names = [name for name in (rows if wanted is None else wanted) if rows[name].accepted != rows[name].offered]
            for name in names:
                accepted = {"accepted": rows[name].offered, "accepted_at": now, "accepted_by": by}
                accepted["accepted_definition"] = rows[name].definition
                found = (tools.c.server == server) & (tools.c.tool == name)
                connection.execute(update(tools).where(found).values(accepted))
        return names


def _upsert(connection: Connection, server: str, name: str, fields: dict[str, Any]) -> None:
    statement = insert_into(connection, tools).values(server=server, tool=name, **fields)
    connection.execute(statement.on_conflict_do_update(index_elements=["server", "tool"], set_=fields))
