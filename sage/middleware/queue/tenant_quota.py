"""How many jobs a tenant may have that have not ended, so that one tenant cannot fill the queue."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from sage.errors import RateLimited

_FRESH_SECONDS = 10.0
_RETRY_AFTER = 5.0


class _TenantCount:
    """The unfinished jobs of a tenant: at most so many, since jobs that end are not taken off before the next count."""

    __slots__ = ("added", "at", "count", "pending")

    def __init__(self) -> None:
        self.at = -_FRESH_SECONDS
        self.count = 0
        self.pending = 0
        """Jobs that are being added."""
        self.added = 0
        """Jobs that were added since the gateway has started."""


class TenantQuota:
    """Admits new jobs, ``most`` of each tenant. Belongs to the event loop.

    ``count`` asks the database, which is done only now and then, and before a job is refused.
    """

    def __init__(self, most: int, count: Callable[[str], Awaitable[int]]) -> None:
        self._most = most
        self._count = count
        self._tenants: dict[str, _TenantCount] = {}

    async def admit(self, tenant: str) -> None:
        """Takes a place for one job, until :meth:`settle`. Raises :class:`RateLimited` (``too_many_jobs``)."""
        known = self._tenants.setdefault(tenant, _TenantCount())
        if known.count + known.pending >= self._most or time.monotonic() - known.at >= _FRESH_SECONDS:
            before = known.added
            count = await self._count(tenant)
            known.count, known.at = count + known.added - before, time.monotonic()
        if known.count + known.pending >= self._most:
            raise RateLimited(
                f"the tenant '{tenant}' has {self._most} jobs that have not ended (queue.limits.max_unfinished); wait "
                "for some, or cancel them",
                code="too_many_jobs",
                retry_after=_RETRY_AFTER,
            )
        known.pending += 1

    def settle(self, tenant: str, *, is_added: bool) -> None:
        """The job was added, or was not."""
        known = self._tenants[tenant]
        known.pending -= 1
        known.count += is_added
        known.added += is_added
