"""What the receiver of a job's webhook is told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from sage.middleware.queue.records import StoredJob
from sage.middleware.webhooks.message import WebhookMessage


def webhook_message(job: StoredJob, view: dict[str, Any]) -> WebhookMessage:
    """A job's ``view`` without its results, with the names that Standard Webhooks has for what happened and when."""
    told = {name: value for name, value in view.items() if name not in ("result", "webhook")}
    ended = datetime.fromtimestamp(view["finished_at"] or 0, UTC).isoformat().replace("+00:00", "Z")
    body = orjson.dumps({"type": f"job.{view['state']}", "timestamp": ended, **told})
    return WebhookMessage(f"msg_{job.id}_{job.retries}", body, job.webhook_attempts)
