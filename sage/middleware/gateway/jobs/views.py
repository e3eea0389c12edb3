"""A job as its users see it."""

from __future__ import annotations

from typing import Any

from sage.middleware.queue.records import StoredJob
from sage.middleware.queue.states import PRIORITIES

PRIORITY_NAMES = {number: name for name, number in PRIORITIES.items()}


def job_view(job: StoredJob, rate: float | None) -> dict[str, Any]:
    """The view of a job; ``rate`` is how many items it finishes a second, and ``None`` when nobody knows."""
    finished = job.done + job.failed
    seconds_left = None
    if rate and job.total is not None and job.finished_at is None:
        seconds_left = round((job.total - finished) / rate, 1)
    error = None
    if job.error_message is not None:
        error = {"message": job.error_message, "code": job.error_code}
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "user": job.user,
        "priority": PRIORITY_NAMES[job.priority],
        "queue": job.queue,
        "metadata": job.metadata,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "expires_at": job.expires_at,
        "deliveries": job.deliveries,
        "retries": job.retries,
        "progress": {
            "total": job.total,
            "done": job.done,
            "failed": job.failed,
            "rate": None if rate is None else round(rate, 2),
            "seconds_left": seconds_left,
        },
        "result": job.result,
        "output_file_id": job.output_file_id,
        "error_file_id": job.error_file_id,
        "error": error,
        "webhook": _webhook(job),
        "status_url": f"/tasks/{job.id}",
    }


def _webhook(job: StoredJob) -> dict[str, Any] | None:
    """Whom the end of the job is told, and whether it was taken: ``state`` ``None`` means that it has not ended."""
    if job.webhook_url is None:
        return None
    return {"url": job.webhook_url, "state": job.webhook_state, "attempts": job.webhook_attempts}
