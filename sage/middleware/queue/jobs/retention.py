"""What happens to jobs that have ended: they are done again, or forgotten with all that they made."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, delete, update

from sage.errors import Conflict
from sage.middleware.queue.jobs.items import reset_failed
from sage.middleware.queue.jobs.rows import change
from sage.middleware.queue.jobs.writer import Transaction
from sage.middleware.queue.models import files, jobs
from sage.middleware.queue.records import StoredJob
from sage.middleware.queue.states import ENDED, QUEUED, SUCCEEDED

_FORGET = delete(jobs).where(jobs.c.sequence == bindparam("at"))
_HIDE_FILES = update(files).where(files.c.job_id == bindparam("of_job")).values(deleted=True)


def retry(transaction: Transaction, job: StoredJob, now: float) -> StoredJob:
    """Queues a job that has ended: only its items without a good result are done again.

    Raises :class:`Conflict` when there is nothing to do again.
    """
    if job.state not in ENDED:
        raise Conflict(f"job '{job.id}' is {job.state}; only a job that has ended can be retried", code="job_state")
    if job.state == SUCCEEDED and not job.failed:
        raise Conflict(f"job '{job.id}' has succeeded, so there is nothing to retry", code="job_state")
    if job.has_items:
        reset_failed(transaction, job)
    hide_outputs(transaction, job)
    nothing = ("started_at", "finished_at", "expires_at", "error_message", "error_code", "result", "worker")
    values: dict[str, Any] = dict.fromkeys((*nothing, "output_file_id", "error_file_id", "webhook_state", "webhook_at"))
    values |= {"state": QUEUED, "available_at": now, "strikes": 0, "failed": 0, "retries": job.retries + 1}
    if not job.has_items:
        values["done"] = 0
        if job.kind == "batch":  # it ended before its input was taken, which is checked once more
            details = {name: value for name, value in job.details.items() if name != "errors"}
            values |= {"held": True, "details": details}
    if job.has_line:
        values |= {"line": None, "done": 0}
    if job.deadline is not None and job.deadline <= now:
        values["deadline"] = None  # it has passed, and the user wants the rest all the same
    return change(transaction, job, **values)


def check_ended(job: StoredJob) -> None:
    """Raises :class:`Conflict` for a job that may not be forgotten yet."""
    if job.state not in ENDED:
        raise Conflict(f"job '{job.id}' is {job.state}; cancel it first", code="job_state")


def forget(transaction: Transaction, job: StoredJob) -> None:
    """Removes the row, and has the files that the job made removed with the next purge."""
    hide_outputs(transaction, job)
    transaction.connection.execute(_FORGET, {"at": job.sequence})


def hide_outputs(transaction: Transaction, job: StoredJob) -> None:
    """Deletes the files that the job made: they are gone for users now, and from the disk with the next purge."""
    transaction.connection.execute(_HIDE_FILES, {"of_job": job.id})
