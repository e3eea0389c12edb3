"""Windows and their counts, as a process and the database tell each other of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class WindowKey(NamedTuple):
    """What names one window of one subject."""

    subject: str
    unit: str
    period: str


class Counted(NamedTuple):
    """What was spent in a window, and what all processes hold of it."""

    settled: int
    reserved: int


@dataclass(frozen=True, slots=True)
class Spending:
    """What a holder reports of one window: what calls have used, and how much of its holding ends with that."""

    key: WindowKey
    ends: float | None
    """Unix seconds; ``None`` means never."""
    spent: int
    released: int
    refused: bool = False
    """Whether calls were refused because too little is left."""
