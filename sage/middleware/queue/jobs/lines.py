"""The lines that the store itself writes for items without a result, in the shape of the job's kind."""

from __future__ import annotations

from typing import Any

import orjson

from sage.middleware.queue.batch_lines import EXPIRED, EXPIRED_MESSAGE, unfinished_line
from sage.middleware.queue.records import StoredJob

WORKER_LOST = "worker_lost"
WORKER_LOST_MESSAGE = "its worker ended or was lost each of the three times that it worked on this line"
JOB_EXPIRED = "expired"


def missing_line(job: StoredJob, index: int, body: bytes, code: str, message: str) -> bytes:
    """What the user reads for the item with the input ``body``, which has no result."""
    if job.kind == "batch":
        if code == JOB_EXPIRED:
            code, message = EXPIRED, EXPIRED_MESSAGE
        return unfinished_line(job.id, index, body, code, message)
    line: dict[str, Any] = {"index": index, "status": 500, "error": {"message": message, "code": code}}
    return orjson.dumps(_named(body) | line)


def _named(body: bytes) -> dict[str, Any]:
    """What tells the item from others: its own id, or the name of its source."""
    try:
        item = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    names = ("custom_id", "source")
    return {name: item[name] for name in names if item.get(name) is not None} if isinstance(item, dict) else {}
