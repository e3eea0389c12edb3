"""Leases of jobs: a run claims a job and renews its lease, and when it does neither, the job is lost to it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, case, func, select, update

from sage.errors import Conflict
from sage.middleware.queue.jobs.endings import Decide, JobVerdict
from sage.middleware.queue.jobs.items import only_line
from sage.middleware.queue.jobs.lines import JOB_EXPIRED
from sage.middleware.queue.jobs.rows import MOST_DELIVERIES, VIEW, in_states, job_id_of, job_of, new_run, run_ended
from sage.middleware.queue.jobs.writer import Transaction
from sage.middleware.queue.models import jobs
from sage.middleware.queue.records import JobEnd, StoredJob
from sage.middleware.queue.states import (
    CANCELLED,
    CANCELLING,
    DEAD,
    FAILED,
    HELD_BY_RUN,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    UNFINISHED,
)

_RETRY_SECONDS = 1.0
"""After the first failure of a job that may be tried again; then twice as long."""
TIME_LIMIT = "time_limit_exceeded"

_c = jobs.c
_CLAIM = (
    update(jobs)
    .where(_c.id == bindparam("job_id"), _c.state == QUEUED, _c.held.is_(False), _c.available_at <= bindparam("now"))
    .values(
        state=RUNNING,
        run=bindparam("new_run"),
        worker=bindparam("by"),
        lease_until=bindparam("until"),
        started_at=func.coalesce(_c.started_at, bindparam("now")),
        deliveries=_c.deliveries + 1,
        strikes=_c.strikes + 1,
    )
    .returning(*VIEW, _c.params, _c.input, _c.next_index)
)
_RENEW = (
    update(jobs)
    .where(_c.id == bindparam("job_id"), _c.run == bindparam("by_run"), in_states(HELD_BY_RUN))
    .values(lease_until=bindparam("until"))
    .returning(*VIEW)
)
_done, _failed, _total = (bindparam(name, type_=_c.done.type) for name in ("to_done", "to_failed", "to_total"))
_RENEW_PROGRESS = _RENEW.where(_c.has_items.is_(False)).values(
    total=func.coalesce(_total, _c.total),
    done=_done,
    failed=_failed,
    strikes=case((_done + _failed > _c.done + _c.failed, 0), else_=_c.strikes),
)
_RENEW_ALL = update(jobs).where(in_states(HELD_BY_RUN)).values(lease_until=bindparam("until"))

EXPIRED_LEASES = select(_c.id, _c.run).where(in_states(HELD_BY_RUN), _c.lease_until <= bindparam("now"))
WORKERS = select(_c.worker).where(in_states(HELD_BY_RUN)).distinct()
OF_WORKER = select(_c.id, _c.run).where(in_states(HELD_BY_RUN), _c.worker == bindparam("by"))
OVER_TIME = select(_c.id).where(in_states(HELD_BY_RUN), _c.started_at + _c.time_limit <= bindparam("before"))
OVER_DEADLINE = select(_c.id).where(in_states(UNFINISHED), _c.deadline <= bindparam("now"))


def claim(
    transaction: Transaction, job_id: str, worker: str, now: float, until: float
) -> tuple[StoredJob, bytes | None, bytes | None]:
    """The job, its parameters as they are in the row, and its item if it has one that nobody has leased.

    Raises :class:`Conflict` (``not_claimable``).
    """
    bound = {"job_id": job_id, "now": now, "new_run": new_run(job_id), "by": worker, "until": until}
    row = transaction.connection.execute(_CLAIM, bound).one_or_none()
    if row is None:
        raise Conflict(
            f"job '{job_id[:64]}' is not to be claimed: it is unknown, taken, or has ended", code="not_claimable"
        )
    job, (params, input, next_index) = job_of(row), row[-3:]
    has_one = job.has_items and job.total == 1 and not job.errors_apart and not next_index
    return job, params, only_line(input) if has_one and input is not None else None


def renew(transaction: Transaction, run: str, until: float, progress: dict[str, int | None] | None) -> StoredJob:
    """Raises :class:`Conflict` (``run_ended``)."""
    bound: dict[str, Any] = {"job_id": job_id_of(run), "by_run": run, "until": until}
    row = None
    if progress is not None:
        row = transaction.connection.execute(_RENEW_PROGRESS, bound | progress).one_or_none()
    if row is None:
        row = transaction.connection.execute(_RENEW, bound).one_or_none()
    if row is None:
        raise run_ended(run)
    return job_of(row)


def renew_all(transaction: Transaction, until: float) -> None:
    transaction.connection.execute(_RENEW_ALL, {"until": until})


def finished(run: str, ending: JobEnd, result: bytes | None, now: float) -> Decide:
    """What becomes of the job when its run ends so."""

    def decide(job: StoredJob) -> JobVerdict:
        if job.run != run:
            raise run_ended(run)
        if ending.state == SUCCEEDED:
            _check_items(job)
            return JobVerdict(SUCCEEDED, result=result)
        error = {"message": ending.error_message, "code": ending.error_code, "result": result}
        if job.state == CANCELLING:
            return JobVerdict(CANCELLED)
        if not ending.retry:
            return JobVerdict(FAILED, **error)  # type: ignore[arg-type]
        if job.strikes >= MOST_DELIVERIES:
            return JobVerdict(DEAD, **error)  # type: ignore[arg-type]
        wait = _RETRY_SECONDS * 2 ** max(job.strikes - 1, 0)
        return JobVerdict(QUEUED, available_at=now + wait, strikes=job.strikes)

    return decide


def _check_items(job: StoredJob) -> None:
    """Nothing is lost: a job with items succeeds when each has its result."""
    if job.has_items and (job.total is None or job.done + job.failed < job.total):
        raise Conflict(f"job '{job.id}' has items without a result, so it has not succeeded", code="items_unfinished")


def released(run: str, now: float) -> Decide:
    """What becomes of the job when its worker gives it back: that counts as no delivery."""

    def decide(job: StoredJob) -> JobVerdict:
        if job.run != run:
            raise run_ended(run)
        if job.state == CANCELLING:
            return JobVerdict(CANCELLED)
        return JobVerdict(QUEUED, available_at=now, strikes=max(job.strikes - 1, 0))

    return decide


def lost(run: str, now: float, *, expired: bool) -> Decide:
    """What becomes of the job when its worker is gone; with ``expired`` only if its lease still is."""

    def decide(job: StoredJob) -> JobVerdict | None:
        if job.run != run or (expired and job.lease_until is not None and job.lease_until > now):
            return None
        if job.state == CANCELLING:
            return JobVerdict(CANCELLED)
        if job.strikes >= MOST_DELIVERIES:
            message = f"its worker ended or was lost {MOST_DELIVERIES} times without progress, lastly '{job.worker}'"
            return JobVerdict(DEAD, message, "worker_lost")
        return JobVerdict(QUEUED, available_at=now, strikes=job.strikes)

    return decide


def over_time(job: StoredJob) -> JobVerdict | None:
    """A job that its own time limit did not end."""
    if job.state == CANCELLING:
        return JobVerdict(CANCELLED)
    if job.state != RUNNING:
        return None
    return JobVerdict(FAILED, f"it took longer than its time limit of {job.time_limit:g} seconds", TIME_LIMIT)


def over_deadline(job: StoredJob) -> JobVerdict | None:
    """A job that has not ended in time."""
    if job.state not in UNFINISHED:
        return None
    return (
        JobVerdict(CANCELLED) if job.state == CANCELLING else JobVerdict(FAILED, "it did not end in time", JOB_EXPIRED)
    )
