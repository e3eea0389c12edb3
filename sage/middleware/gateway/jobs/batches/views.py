"""A batch as OpenAI's clients see it: its job in their words."""

from __future__ import annotations

from typing import Any

from sage.middleware.queue.records import StoredJob
from sage.middleware.queue.states import CANCELLED, CANCELLING, ENDED, QUEUED, SUCCEEDED

KIND = "batch"
_JOB, _BATCH = "job_", "batch_"
_EXPIRED = "expired"
"""The error of a job whose deadline has passed."""


def batch_id(job_id: str) -> str:
    """The batch that is the job ``job_id``."""
    return _BATCH + job_id.removeprefix(_JOB)


def job_id(batch: str) -> str:
    """The job that is ``batch``; what is no id of a batch is none of a job either."""
    return _JOB + batch.removeprefix(_BATCH) if batch.startswith(_BATCH) else batch[:64] + "?"


def batch_status(job: StoredJob) -> str:
    """The status of the batch that is ``job``."""
    if job.state == CANCELLED:
        return "cancelled"
    if job.state == CANCELLING:
        return "cancelling"
    if job.state in ENDED:
        if job.error_code == _EXPIRED:
            return "expired"
        return "completed" if job.state == SUCCEEDED else "failed"
    if job.state == QUEUED and job.held:
        return "validating"
    return "finalizing" if job.total is not None and job.done + job.failed >= job.total else "in_progress"


def batch_object(job: StoredJob) -> dict[str, Any]:
    """The batch that is ``job``."""
    status = batch_status(job)
    details = job.details
    ended_at = _second(job.finished_at)
    return {
        "id": batch_id(job.id),
        "object": "batch",
        "endpoint": details["endpoint"],
        "model": details.get("model"),
        "errors": _errors(job, status),
        "input_file_id": job.input_file_id,
        "completion_window": details["completion_window"],
        "status": status,
        "output_file_id": job.output_file_id,
        "error_file_id": job.error_file_id,
        "created_at": _second(job.created_at),
        "in_progress_at": _second(details.get("in_progress_at")),
        "expires_at": _second(job.deadline),
        "finalizing_at": ended_at if status in ("completed", "expired") else None,
        "completed_at": ended_at if status == "completed" else None,
        "failed_at": ended_at if status == "failed" else None,
        "expired_at": ended_at if status == "expired" else None,
        "cancelling_at": _second(details.get("cancelling_at")) if status in ("cancelling", "cancelled") else None,
        "cancelled_at": ended_at if status == "cancelled" else None,
        "request_counts": {"total": job.total or 0, "completed": job.done, "failed": job.failed},
        "usage": _usage(job),
        "metadata": job.metadata or None,
    }


def _errors(job: StoredJob, status: str) -> dict[str, Any] | None:
    data = job.details.get("errors")
    if data is None and status == "failed":
        data = [{"code": job.error_code, "message": job.error_message, "param": None, "line": None}]
    return None if data is None else {"object": "list", "data": data}


def _usage(job: StoredJob) -> dict[str, Any]:
    spent = job.usage
    return {
        "input_tokens": spent.get("prompt_tokens", 0),
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": spent.get("completion_tokens", 0),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": spent.get("total_tokens", 0),
    }


def _second(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
