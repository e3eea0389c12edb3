"""A new job as a row, and as files what is too large for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import bindparam, delete, select

from sage.errors import Conflict
from sage.middleware.queue.jobs.rows import INSERT, VIEW, job_of
from sage.middleware.queue.jobs.writer import Transaction
from sage.middleware.queue.models import jobs
from sage.middleware.queue.records import NewJob, StoredJob
from sage.middleware.queue.states import QUEUED

_c = jobs.c
_SAME_KEY = select(*VIEW, _c.request_hash).where(
    _c.tenant == bindparam("of_tenant"),
    _c.user == bindparam("of_user"),
    _c.idempotency_key == bindparam("with_key"),
)
_WITHDRAW = delete(jobs).where(_c.id == bindparam("job_id"), _c.state == QUEUED, _c.deliveries == 0)


def values_of(new: NewJob, job_id: str, now: float) -> dict[str, Any]:
    """All columns but those of parameters and input."""
    names = (
        *("kind", "queue", "priority", "held", "tenant", "user", "key_id", "idempotency_key", "request_hash"),
        *("time_limit", "result_ttl", "total", "errors_apart", "input_file_id", "webhook_url"),
    )
    zeros = ("deliveries", "strikes", "done", "failed", "next_index", "next_offset", "retries", "webhook_attempts")
    return {
        **{name: getattr(new, name) for name in names},
        **dict.fromkeys(zeros, 0),
        "id": job_id,
        "state": QUEUED,
        "meta": dict(new.metadata),
        "details": dict(new.details),
        "usage": {},
        "created_at": now,
        "deadline": None if new.window is None else now + new.window,
        "available_at": now,
        "has_items": new.input is not None,
    }


def add_once(transaction: Transaction, new: NewJob, values: Mapping[str, Any]) -> tuple[StoredJob, bool]:
    """The job, and whether it is new. Raises :class:`Conflict` when its key came with another request."""
    if new.idempotency_key is not None:
        same = {"of_tenant": new.tenant, "of_user": new.user, "with_key": new.idempotency_key}
        row = transaction.connection.execute(_SAME_KEY, same).one_or_none()
        if row is not None:
            if row.request_hash != new.request_hash:
                raise Conflict(
                    f"the key '{new.idempotency_key[:64]}' was used for another request; take a new one",
                    param="Idempotency-Key",
                    code="idempotency_conflict",
                )
            return job_of(row), False
    return job_of(transaction.connection.execute(INSERT, values).one()), True


def withdraw(transaction: Transaction, job_id: str) -> bool:
    """Removes a job that nobody has had yet; returns whether it is gone."""
    return transaction.connection.execute(_WITHDRAW, {"job_id": job_id}).rowcount == 1
