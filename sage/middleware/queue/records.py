"""What goes into the store of jobs and comes out of it. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage.middleware.queue.states import NORMAL, QUEUED


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be added. ``key_id`` is the API key of who asks; ``None`` means a login.

    ``input`` holds the items of a job of many, a line each: as bytes, or in a file, which may be removed once the job
    is added; ``None`` means a job of one. ``total`` is how many lines these are; ``None`` means that the store counts.
    ``request_hash`` says whether a second request with the same ``idempotency_key`` is the same request. A ``held`` job
    is not claimed before :meth:`JobStore.unhold`. With ``errors_apart`` the lines of failed items are a file of their
    own. Of the limits in seconds, ``window`` counts from when the job is added: what has not ended by then ends with
    what is done. ``time_limit`` counts from the first start, ``result_ttl`` from the end; ``None`` means no limit, and
    the store's own TTL.
    """

    kind: str
    tenant: str
    user: str
    params: Mapping[str, Any]
    key_id: str | None = None
    input: bytes | Path | None = None
    total: int | None = None
    input_file_id: str | None = None
    priority: int = NORMAL
    queue: str = "default"
    idempotency_key: str | None = None
    request_hash: bytes | None = None
    held: bool = False
    errors_apart: bool = False
    window: float | None = None
    time_limit: float | None = None
    result_ttl: float | None = None
    webhook_url: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as it is now. ``deliveries`` is how often a worker got it, ``strikes`` how often since its last progress.

    ``total`` is ``None`` while nobody knows it; ``result`` is small JSON.
    """

    sequence: int
    id: str
    kind: str
    queue: str
    priority: int
    state: str
    held: bool
    tenant: str
    user: str
    key_id: str | None
    metadata: dict[str, Any]
    details: dict[str, Any]
    created_at: float
    started_at: float | None
    finished_at: float | None
    expires_at: float | None
    deadline: float | None
    time_limit: float | None
    run: str | None
    worker: str | None
    lease_until: float | None
    deliveries: int
    strikes: int
    retries: int
    total: int | None
    done: int
    failed: int
    usage: dict[str, Any]
    has_items: bool
    errors_apart: bool
    result_ttl: float | None
    input_file_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    error_message: str | None
    error_code: str | None
    webhook_url: str | None
    webhook_state: str | None
    webhook_attempts: int
    has_line: bool
    """Its only item has its result, which is in the row."""
    result: Any

    @property
    def counts(self) -> JobCounts:
        return JobCounts(self.total, self.done, self.failed)

    @property
    def is_waiting(self) -> bool:
        """Whether a worker may claim it."""
        return self.state == QUEUED and not self.held


@dataclass(frozen=True, slots=True)
class JobCounts:
    """How many items there are, have succeeded, and have failed."""

    total: int | None
    done: int
    failed: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that a worker has got, with its parameters; ``run`` names this delivery."""

    run: str
    job: StoredJob
    params: Any
    line: bytes | None = None
    """The item of a job that has one, which needs no lease of its own; ``None`` means that items are to be leased."""


@dataclass(frozen=True, slots=True)
class LeasedItem:
    """A line of a job's input, without its end of line; ``index`` is its place, from 0."""

    index: int
    body: bytes


@dataclass(frozen=True, slots=True)
class ItemLease:
    """Items for a run. No items and ``more`` means: ask again when those that the run has are done."""

    items: list[LeasedItem]
    more: bool


@dataclass(frozen=True, slots=True)
class ResultLine:
    """What came of an item. ``line`` is the JSON that the user reads, on one line; ``usage`` is for the job's sums."""

    index: int
    ok: bool
    line: bytes
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a run ends. ``state`` is ``succeeded`` or ``failed``; ``retry`` puts a failed job back, unless it was the
    third delivery without progress."""

    state: str
    result: Any = None
    error_message: str | None = None
    error_code: str | None = None
    retry: bool = False


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How the queue stands. ``oldest`` is when the job that waits longest was made; ``ended`` counts per state since
    this process started."""

    queued: int
    running: int
    cancelling: int
    oldest: float | None
    ended: Mapping[str, int]
