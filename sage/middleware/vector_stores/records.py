"""What goes into the tables of vector stores and comes out of them. Times are Unix seconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

IN_PROGRESS: Final = "in_progress"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
STATUSES: Final = (IN_PROGRESS, COMPLETED, FAILED, CANCELLED)
"""Those of a file that its users see."""
REMOVED: Final = "removed"
"""Of a file that is taken out of its store while a job may still be at it: nobody sees it."""

DAY = 86_400.0
FILE = "vector_stores.db"
"""Where SQLite keeps them, below ``data_dir``."""


@dataclass(frozen=True, slots=True)
class StoreKey:
    """Which store: a collection of a tenant."""

    tenant: str
    collection: str


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """A collection as a vector store. ``made_at`` is when the collection was made, ``created_at`` when the store was;
    ``expires_days`` after ``last_active_at`` it expires (``None``: never), and from ``expired_at`` on its collection is
    no more."""

    tenant: str
    collection: str
    made_at: float
    name: str
    description: str | None
    meta: dict[str, str]
    created_at: float
    last_active_at: float
    expires_days: int | None
    expired_at: float | None = None

    @property
    def key(self) -> StoreKey:
        return StoreKey(self.tenant, self.collection)

    @property
    def expires_at(self) -> float | None:
        return None if self.expires_days is None else self.last_active_at + self.expires_days * DAY

    def has_expired(self, now: float) -> bool:
        return self.expired_at is not None or (self.expires_at is not None and self.expires_at <= now)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of a store. ``ticket`` names the request that it is read for, ``job_id`` the job that reads it;
    ``settled`` says that nothing of it is left to be done."""

    tenant: str
    collection: str
    file_id: str
    filename: str
    status: str
    attributes: dict[str, Any]
    max_tokens: int
    overlap_tokens: int
    created_at: float
    ticket: str
    usage_bytes: int = 0
    error_code: str | None = None
    error_message: str | None = None
    job_id: str | None = None
    settled: bool = False

    @property
    def key(self) -> StoreKey:
        return StoreKey(self.tenant, self.collection)


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """Files that came into a store together."""

    id: str
    tenant: str
    collection: str
    created_at: float
    job_id: str | None = None
    cancelled: bool = False

    @property
    def key(self) -> StoreKey:
        return StoreKey(self.tenant, self.collection)


@dataclass(slots=True)
class StoreCounts:
    """How many files a store has in each status, and the bytes of their texts."""

    files: Counter[str] = field(default_factory=Counter)
    usage_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FilePosition:
    """Which files of a store are asked for: ``limit`` of them after, or before, the file of that id."""

    limit: int = 20
    ascending: bool = False
    after: str | None = None
    before: str | None = None
    status: str | None = None
    batch: str | None = None
