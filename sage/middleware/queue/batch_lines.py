"""The lines of a batch's output and error files, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

import orjson

EXPIRED = "batch_expired"
EXPIRED_MESSAGE = "This request could not be executed before the completion window expired."


def answered_line(job_id: str, index: int, custom_id: str, status: int, request_id: str, body: Any) -> dict[str, Any]:
    """The line of a request that was answered with ``status``."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return {"id": _request_id(job_id, index), "custom_id": custom_id, "response": response, "error": None}


def failed_line(job_id: str, index: int, custom_id: str, code: str, message: str) -> dict[str, Any]:
    """The line of a request that got no answer."""
    error = {"code": code, "message": message}
    return {"id": _request_id(job_id, index), "custom_id": custom_id, "response": None, "error": error}


def unfinished_line(job_id: str, index: int, item: bytes, code: str, message: str) -> bytes:
    """The line of ``item``, a line of the job's input, which has no result when the job ends."""
    return orjson.dumps(failed_line(job_id, index, orjson.loads(item)["custom_id"], code, message))


def _request_id(job_id: str, index: int) -> str:
    return f"batch_req_{job_id.removeprefix('job_')}_{index}"
