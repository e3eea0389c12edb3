"""What the two kinds of databases have in common: an engine, transactions of three kinds, and a lock for migrations."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Connection, Engine

ALONE = "sage_alone"
"""An execution option: the transaction keeps other writers of its room away from its start."""


class Seat(Protocol):
    """A seat that one process has at a time; it is free again when that process ends, however that happens."""

    @property
    def is_leader(self) -> bool: ...

    def try_lead(self) -> bool:
        """Takes the seat if it is free, and sees whether it still has it; returns that. Blocking."""
        ...

    def resign(self) -> None:
        """Gives the seat back."""
        ...


class Backend(Protocol):
    """Where a room's tables are.

    ``place`` names it in errors, without a secret. Transactions of ``reader`` see one consistent state, those of
    ``writer`` are alone among the room's writers from their start, those of ``sharer`` need not be.
    """

    place: str
    reader: Engine
    writer: Engine
    sharer: Engine

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be there yet; told without a connection."""
        ...

    def migrating(self) -> AbstractContextManager[Connection]:
        """A write transaction that no other process's migration overlaps, and that may take as long as it takes."""
        ...

    def seat(self, name: str) -> Seat | None:
        """The seat of that name in the room; ``None`` means that the database has none to give."""
        ...

    def dispose(self, *, close: bool) -> None:
        """Forgets every connection, and closes it with ``close``."""
        ...
