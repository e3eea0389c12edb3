"""Calls on their way into the database, and their ids."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass

from sage.middleware.usage.records import UsageRecord

ID_BITS = 20
_NUMBERS = (1 << ID_BITS) - 1


def first_id(time: float) -> int:
    """The least id that a call which ended at ``time`` (Unix seconds) or later can have."""
    return int(time * 1000) << ID_BITS


def time_of(identity: int) -> float:
    """When the call with that id ended, in Unix seconds, to the millisecond."""
    return (identity >> ID_BITS) / 1000


@dataclass(slots=True)
class LedgerEntry:
    """A call that is to be written, or was."""

    id: int
    record: UsageRecord


@dataclass(slots=True)
class LateCost:
    """The cost of a call that was written before its price was known."""

    entry: LedgerEntry
    cost: int | None


class Identities:
    """Ids for calls: their times, and numbers that start somewhere, so that two processes hardly ever meet."""

    def __init__(self) -> None:
        self._number = itertools.count(secrets.randbelow(_NUMBERS))

    def next(self, time: float) -> int:
        return (int(time * 1000) << ID_BITS) | (next(self._number) & _NUMBERS)
