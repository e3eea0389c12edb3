"""What is to be stored, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.service.memory_orchestrator.records import MemoryRecord, MemoryScope, fingerprint


@dataclass(frozen=True, slots=True)
class MemoryInput:
    """What is to be stored, checked. ``expires`` in Unix seconds, ``ttl`` in seconds from when it is stored."""

    scope: MemoryScope
    session: str
    content: str
    type: str = "conversation"
    metadata: Mapping[str, Any] | None = None
    vector: Sequence[float] | None = None
    ttl: float | None = None
    expires: float | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """A memory, and whether it was not there before."""

    record: MemoryRecord
    new: bool


def says(record: MemoryRecord, said: MemoryInput) -> bool:
    """Whether ``record`` is what is to be stored, so that nothing is corrected."""
    return (
        record.session == said.session
        and record.type == said.type
        and fingerprint(record.content) == fingerprint(said.content)
        and (said.metadata is None or dict(record.metadata) == dict(said.metadata))
    )
