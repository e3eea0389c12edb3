"""A memory that is to be stored, and the outcome of storing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sage.service.memory_orchestrator.context.dates import date_words
from sage.service.memory_orchestrator.records import NEVER, MemoryRecord, MemoryScope, fingerprint, key_use


@dataclass(frozen=True, slots=True)
class MemoryInput:
    """A memory that is to be stored; its fields are checked already.

    ``expires`` is in Unix seconds, ``ttl`` in seconds from when it is stored. ``created`` (Unix seconds) is when it was
    said; ``None`` means when it is stored. ``metadata=None`` means that the caller
    gave none. ``key`` is the idempotency key, or empty.
    """

    scope: MemoryScope
    session: str
    content: str
    type: str = "conversation"
    metadata: Mapping[str, Any] | None = None
    vector: Sequence[float] | None = None
    ttl: float | None = None
    expires: float | None = None
    key: str = ""
    created: float | None = None

    @property
    def key_use(self) -> str:
        return key_use(self.session, self.content)

    def matches(self, record: MemoryRecord) -> bool:
        """Whether ``record`` is this memory already, so that there is nothing to correct."""
        return (
            record.session == self.session
            and record.type == self.type
            and fingerprint(record.content) == fingerprint(self.content)
            and (self.metadata is None or dict(record.metadata) == dict(self.metadata))
        )

    def record(self, id: str, now: float) -> MemoryRecord:
        """The memory as it is stored at the time ``now``."""
        created = now if self.created is None else self.created
        expires = self.expires
        if expires is None:
            expires = NEVER if self.ttl is None else now + self.ttl
        return MemoryRecord(
            id,
            self.scope,
            self.session,
            self.content,
            self.type,
            self.metadata or {},
            created=created,
            expires=expires,
            keywords=date_words(created, self.content),
            keys=(self.key,) if self.key else (),
            uses=(self.key_use,) if self.key else (),
            vector=self.vector,
        )


class Stored(NamedTuple):
    """The memory that holds the text now. ``is_new=False`` means that it was there before."""

    record: MemoryRecord
    is_new: bool
