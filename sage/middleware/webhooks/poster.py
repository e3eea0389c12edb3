"""One call of a webhook: signed, to an allowed address only.

Every attempt has the same ``webhook-id``, by which a receiver knows what it has taken already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
from yarl import URL

from sage.addresses import AddressRefused, AllowedHosts
from sage.middleware.settings.webhooks import WebhookSettings, webhook_key
from sage.middleware.webhooks.message import WebhookMessage
from sage.middleware.webhooks.signature import sign
from sage.pinned_resolver import pinned_session


class WebhookPoster:
    """Posts to receivers under ``hosts``. ``clock`` gives Unix seconds."""

    def __init__(self, settings: WebhookSettings, hosts: AllowedHosts, clock: Callable[[], float]) -> None:
        self._timeout = settings.timeout
        self._key = webhook_key(settings.secret) if settings.secret is not None else b""
        self._hosts = hosts
        self._clock = clock

    async def attempt(self, url: str, message: WebhookMessage) -> tuple[str | None, str]:
        """What went wrong, ``None`` for nothing, and the ``Retry-After`` of the receiver."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(url, message)
        except AddressRefused as exc:
            return exc.message, ""
        except TimeoutError:
            return f"no answer within {self._timeout:g} s", ""
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            return f"it cannot be reached ({type(exc).__name__})", ""

    async def _post(self, url: str, message: WebhookMessage) -> tuple[str | None, str]:
        destination = await self._hosts.resolve(url)
        async with (
            pinned_session(destination) as session,
            session.post(
                URL(destination.url.url), data=message.body, headers=self._headers(message), allow_redirects=False
            ) as answer,
        ):
            if 200 <= answer.status < 300:
                return None, ""
            return f"it answered {answer.status}", answer.headers.get("Retry-After", "")

    def _headers(self, message: WebhookMessage) -> dict[str, str]:
        timestamp = int(self._clock())
        return {
            "Content-Type": "application/json",
            "User-Agent": "sage-webhooks",
            "webhook-id": message.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self._key, message.id, timestamp, message.body),
        }
