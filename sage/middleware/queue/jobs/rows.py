"""Rows of jobs as records, and the statements that change one job."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import orjson
from sqlalchemy import ColumnElement, bindparam, func, insert, or_, select, update

from sage.errors import Conflict, NotFound
from sage.middleware.queue.jobs.writer import Transaction
from sage.middleware.queue.models import jobs
from sage.middleware.queue.records import StoredJob
from sage.middleware.queue.states import QUEUED, TRANSITIONS

MOST_DELIVERIES = 3
"""Without progress; then the job is dead."""

_c = jobs.c
VIEW: tuple[ColumnElement[Any], ...] = (
    *(_c.sequence, _c.id, _c.kind, _c.queue, _c.priority, _c.state, _c.held, _c.tenant, _c.user, _c.key_id),
    *(_c.meta, _c.details, _c.created_at, _c.started_at, _c.finished_at, _c.expires_at, _c.deadline, _c.time_limit),
    *(
        _c.run,
        _c.worker,
        _c.lease_until,
        _c.deliveries,
        _c.strikes,
        _c.retries,
        _c.total,
        _c.done,
        _c.failed,
        _c.usage,
        _c.has_items,
    ),
    *(_c.errors_apart, _c.result_ttl, _c.input_file_id, _c.output_file_id, _c.error_file_id),
    *(_c.error_message, _c.error_code, _c.webhook_url, _c.webhook_state, _c.webhook_attempts),
    *(func.coalesce(func.length(_c.line), 0).label("has_line"), _c.result),
)
"""The columns of a :class:`StoredJob`, in its order."""

INSERT = insert(jobs).returning(*VIEW)
BY_ID = select(*VIEW).where(_c.id == bindparam("job_id"))


def in_states(states: Iterable[str]) -> ColumnElement[bool]:
    """Whether a job is in one of ``states``: as alternatives, since IN is expanded anew at every execution."""
    return or_(*(_c.state == state for state in states))


def job_of(row: Sequence[Any]) -> StoredJob:
    """The record of a row that begins with the columns of :data:`VIEW`."""
    values: list[Any] = [*row[: len(VIEW)]]
    values[-2] = bool(values[-2])
    values[-1] = None if values[-1] is None else orjson.loads(values[-1])
    return StoredJob(*values)


def new_job_id() -> str:
    return f"job_{secrets.token_hex(12)}"


def new_run(job_id: str) -> str:
    """A name for one delivery; it says of which job, so that late results find it."""
    return f"run_{job_id.removeprefix('job_')}_{secrets.token_hex(8)}"


def job_id_of(run: str) -> str:
    return f"job_{run.removeprefix('run_').partition('_')[0]}"


def load(transaction: Transaction, job_id: str) -> StoredJob:
    """The job as the transaction sees it; raises :class:`NotFound`."""
    row = transaction.connection.execute(BY_ID, {"job_id": job_id}).one_or_none()
    if row is None:
        raise no_such_job(job_id)
    return job_of(row)


def run_ended(run: str) -> Conflict:
    return Conflict(
        f"run '{run[:80]}' has ended: its job was cancelled or finished, or its lease expired; stop working on it",
        code="run_ended",
    )


def no_such_job(job_id: str) -> NotFound:
    return NotFound(f"there is no job '{job_id[:64]}' (GET /tasks lists yours)", param="id", code="job_not_found")


def change(transaction: Transaction, job: StoredJob, **values: Any) -> StoredJob:
    """Changes columns of a job; a new ``state`` must be one that may follow."""
    state = values.get("state")
    if state is not None and state not in TRANSITIONS[job.state]:
        raise Conflict(f"job '{job.id}' is {job.state}, so it cannot become {state}", code="job_state")
    bound = {f"to_{name}": value for name, value in values.items()}
    row = transaction.connection.execute(_change_of(tuple(values)), {"at": job.sequence, **bound}).one()
    return job_of(row)


@cache
def _change_of(names: tuple[str, ...]) -> Any:
    """The statement that changes these columns of the job ``at``."""
    columns = {name: bindparam(f"to_{name}", type_=_c[name].type) for name in names}
    return update(jobs).where(_c.sequence == bindparam("at")).values(columns).returning(*VIEW)


def put_back(transaction: Transaction, job: StoredJob, available_at: float, *, strikes: int) -> StoredJob:
    """Queues a job that its worker has given up or lost."""
    return change(
        transaction,
        job,
        state=QUEUED,
        run=None,
        worker=None,
        lease_until=None,
        available_at=available_at,
        strikes=strikes,
    )
