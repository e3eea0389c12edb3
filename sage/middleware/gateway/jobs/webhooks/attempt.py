"""One call of a webhook: signed, to an allowed address only.

Signed as Standard Webhooks (github.com/standard-webhooks/standard-webhooks): every attempt has the same ``webhook-id``,
by which a receiver knows what it has taken already.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson
from yarl import URL

from sage.addresses import AddressRefused, AllowedHosts
from sage.middleware.queue.records import StoredJob
from sage.middleware.settings.webhooks import WebhookSettings, webhook_key
from sage.pinned_resolver import pinned_session


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``."""
    signed = hmac.digest(key, b"%b.%d.%b" % (message_id.encode(), timestamp, body), "sha256")
    return "v1," + base64.b64encode(signed).decode()


class WebhookPoster:
    """Posts to the receivers of jobs under ``hosts``; ``view`` makes what they get of a job."""

    def __init__(
        self,
        settings: WebhookSettings,
        hosts: AllowedHosts,
        view: Callable[[StoredJob], dict[str, Any]],
        clock: Callable[[], float],
    ) -> None:
        self._timeout = settings.timeout
        self._key = webhook_key(settings.secret) if settings.secret is not None else b""
        self._hosts = hosts
        self._view = view
        self._clock = clock

    async def attempt(self, job: StoredJob) -> tuple[str | None, str]:
        """What went wrong, ``None`` for nothing, and the ``Retry-After`` of the receiver."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(job)
        except AddressRefused as exc:
            return exc.message, ""
        except TimeoutError:
            return f"no answer within {self._timeout:g} s", ""
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            return f"it cannot be reached ({type(exc).__name__})", ""

    async def _post(self, job: StoredJob) -> tuple[str | None, str]:
        destination = await self._hosts.resolve(job.webhook_url or "")
        body = webhook_body(self._view(job))
        async with (
            pinned_session(destination) as session,
            session.post(
                URL(destination.url.url), data=body, headers=self._headers(job, body), allow_redirects=False
            ) as answer,
        ):
            if 200 <= answer.status < 300:
                return None, ""
            return f"it answered {answer.status}", answer.headers.get("Retry-After", "")

    def _headers(self, job: StoredJob, body: bytes) -> dict[str, str]:
        message_id, timestamp = f"msg_{job.id}_{job.retries}", int(self._clock())
        return {
            "Content-Type": "application/json",
            "User-Agent": "sage-webhooks",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self._key, message_id, timestamp, body),
        }


def webhook_body(view: dict[str, Any]) -> bytes:
    """A job's view without its results, with the names that Standard Webhooks has for what happened and when."""
    told = {name: value for name, value in view.items() if name not in ("result", "webhook")}
    ended = datetime.fromtimestamp(view["finished_at"] or 0, UTC).isoformat().replace("+00:00", "Z")
    return orjson.dumps({"type": f"job.{view['state']}", "timestamp": ended, **told})
