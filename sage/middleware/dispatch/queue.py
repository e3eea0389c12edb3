"""Requests that wait for a deployment that is full or cooling down: first come, first served."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence

from sage.middleware.dispatch.attempts import AttemptPlan
from sage.middleware.dispatch.deployment import DeploymentLease, PublicModel

_TIMER_SLACK = 0.001
"""Seconds; a timer may go off a little before its time."""


class _Waiter:
    """One request that waits until ``limit`` for a deployment of ``models``."""

    __slots__ = ("future", "group", "is_last_resort", "limit", "models", "number", "plan")

    def __init__(
        self, plan: AttemptPlan, models: Sequence[PublicModel], limit: float, number: int, is_last_resort: bool
    ) -> None:
        self.plan = plan
        self.models = models
        self.limit = limit
        self.number = number
        """Waiters of all models are numbered in the order in which they came."""
        self.is_last_resort = is_last_resort
        self.group = _group(plan, models, is_last_resort)
        self.future: asyncio.Future[DeploymentLease | None] = asyncio.get_running_loop().create_future()

    def may_be_served(self, now: float) -> bool:
        """Whether it can still get a deployment in time."""
        if self.plan.is_worth_waiting(self.models, now):
            return True
        return self.is_last_resort and self.plan.available_from(self.models, now) <= self.limit


class DeploymentQueue:
    """Hands out deployments: at once where no request waits, else in the order in which requests came.

    A deployment that becomes free goes to the longest waiting request that can use it, so no request overtakes.
    """

    def __init__(self, size: int) -> None:
        """``size``: how many requests may wait for one model."""
        self._size = size
        self._waiters: dict[str, dict[_Waiter, None]] = {}
        """By requested model; in each, those that wait in their order."""
        self._numbers = itertools.count()

    def claim(self, plan: AttemptPlan, models: Sequence[PublicModel]) -> DeploymentLease | None:
        """A lease at once, of what the waiting requests cannot use; ``None`` means that there is none."""
        if plan.models[0].name in self._waiters:
            self.serve()
        return plan.claim(models, time.monotonic())

    async def wait(
        self, plan: AttemptPlan, models: Sequence[PublicModel], limit: float, *, is_last_resort: bool = False
    ) -> DeploymentLease | None:
        """A lease of one of ``models`` if one becomes free by ``limit`` (``time.monotonic``), else ``None``.

        Gives up early when no deployment is full, and none is available: all have failed or are cooling down.
        ``is_last_resort`` means that the request has no other models to turn to, so that it also waits for deployments
        that are cooling down.
        """
        requested = plan.models[0]
        if requested.waiting >= self._size:
            return None
        waiter = _Waiter(plan, models, limit, next(self._numbers), is_last_resort)
        self._waiters.setdefault(requested.name, {})[waiter] = None
        requested.waiting += 1
        try:
            await self._wait_for(waiter)
        except BaseException:
            if waiter.future.done() and (lease := waiter.future.result()) is not None:
                self.give_back(lease)
            raise
        finally:
            requested.waiting -= 1
            self._remove(requested.name, waiter)
        return waiter.future.result() if waiter.future.done() else None

    async def _wait_for(self, waiter: _Waiter) -> None:
        """Returns when ``waiter`` has its answer or its time is over; looks again whenever time frees a deployment."""
        self.serve()
        while not waiter.future.done() and (now := time.monotonic()) < waiter.limit:
            until = min(waiter.limit, waiter.plan.available_from(waiter.models, now))
            await asyncio.wait((waiter.future,), timeout=max(0.0, until - now) + _TIMER_SLACK)
            if not waiter.future.done():
                self.serve()

    def give_back(self, lease: DeploymentLease) -> None:
        """Closes ``lease`` and hands what it held to the requests that wait for it."""
        lease.close()
        if self._waiters:
            self.serve()

    def serve(self) -> None:
        """Gives the waiting requests what is free now, and their refusal to those that cannot be served."""
        now = time.monotonic()
        for name, _ in sorted(self._waiters.items(), key=lambda item: next(iter(item[1])).number):
            self._serve_model(name, now)

    def _serve_model(self, name: str, now: float) -> None:
        blocked = set()  # groups of which one waiter must go on waiting, as all behind it must
        for waiter in list(self._waiters[name]):
            if waiter.group in blocked:
                continue
            lease = waiter.plan.claim(waiter.models, now)
            if lease is None and waiter.may_be_served(now):
                if waiter.group is not None:
                    blocked.add(waiter.group)
                continue
            waiter.future.set_result(lease)
            self._remove(name, waiter)

    def _remove(self, name: str, waiter: _Waiter) -> None:
        waiters = self._waiters.get(name)
        if waiters is not None:
            waiters.pop(waiter, None)
            if not waiters:
                del self._waiters[name]


def _group(plan: AttemptPlan, models: Sequence[PublicModel], is_last_resort: bool) -> tuple[int, ...] | None:
    """Equal for requests that can use the same deployments, so that one of them answers for all.

    ``None`` means that the request differs from all others.
    """
    totals = {d.timeouts.total for model in models for d in model.deployments}
    return (is_last_resort, *map(id, models)) if plan.is_untouched and len(totals) == 1 else None
