"""Where requests wait for a deployment that is full or was told to wait: first come, first served."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence

from sage.middleware.dispatch.attempts import AttemptPlan
from sage.middleware.dispatch.deployment import DeploymentLease, PublicModel

_LATER = 0.001  # seconds; a timer may go off a little before its time


class _Waiter:
    __slots__ = ("course", "future", "kind", "limit", "models", "number", "whole")

    def __init__(
        self, course: AttemptPlan, models: Sequence[PublicModel], limit: float, number: int, whole: bool
    ) -> None:
        self.course = course
        self.models = models
        self.limit = limit
        self.number = number
        self.whole = whole
        self.kind = _kind(course, models, whole)
        self.future: asyncio.Future[DeploymentLease | None] = asyncio.get_running_loop().create_future()

    def hopes(self, now: float) -> bool:
        if self.course.worth_waiting(self.models, now):
            return True
        return self.whole and self.course.soonest(self.models, now) <= self.limit


class DeploymentQueue:
    """Hands out deployments: at once where nobody waits, else in the order in which requests came.

    A slot that comes free is handed over to whoever waits longest and can use it, so nobody overtakes.
    """

    def __init__(self, size: int) -> None:
        """``size``: how many requests may wait for one model."""
        self._size = size
        self._lines: dict[str, dict[_Waiter, None]] = {}
        self._numbers = itertools.count()

    def claim(self, course: AttemptPlan, models: Sequence[PublicModel]) -> DeploymentLease | None:
        """A lease at once, of what those who wait already cannot use; none if there is none."""
        if course.models[0].name in self._lines:
            self.serve()
        return course.claim(models, time.monotonic())

    async def wait(
        self, course: AttemptPlan, models: Sequence[PublicModel], limit: float, *, whole: bool = False
    ) -> DeploymentLease | None:
        """A lease of one of ``models`` by ``limit`` (``time.monotonic``), if one comes free.

        Gives up when there is nothing to hope for: all that are not full have failed or are left alone. ``whole``
        tells that there are no others to turn to, so that deployments that were told to wait are waited for.
        """
        asked = course.models[0]
        if asked.waiting >= self._size:
            return None
        waiter = _Waiter(course, models, limit, next(self._numbers), whole)
        self._lines.setdefault(asked.name, {})[waiter] = None
        asked.waiting += 1
        try:
            self.serve()
            while not waiter.future.done() and (now := time.monotonic()) < limit:
                until = min(limit, course.soonest(models, now))
                await asyncio.wait((waiter.future,), timeout=max(0.0, until - now) + _LATER)
                if not waiter.future.done():
                    self.serve()
        except BaseException:
            if waiter.future.done() and (lease := waiter.future.result()) is not None:
                self.give_back(lease)
            raise
        finally:
            asked.waiting -= 1
            self._leave(asked.name, waiter)
        return waiter.future.result() if waiter.future.done() else None

    def give_back(self, lease: DeploymentLease) -> None:
        """Ends ``lease`` and hands what it held to whoever waits for it."""
        lease.close()
        if self._lines:
            self.serve()

    def serve(self) -> None:
        """Gives those who wait what they can have now."""
        now = time.monotonic()
        for name, _ in sorted(self._lines.items(), key=lambda line: next(iter(line[1])).number):
            self._serve(name, now)

    def _serve(self, name: str, now: float) -> None:
        stuck = set()  # kinds of requests of which one is known to wait on, as all behind it must
        for waiter in list(self._lines[name]):
            if waiter.kind in stuck:
                continue
            lease = waiter.course.claim(waiter.models, now)
            if lease is None and waiter.hopes(now):
                if waiter.kind is not None:
                    stuck.add(waiter.kind)
                continue
            waiter.future.set_result(lease)
            self._leave(name, waiter)

    def _leave(self, name: str, waiter: _Waiter) -> None:
        line = self._lines.get(name)
        if line is not None:
            line.pop(waiter, None)
            if not line:
                del self._lines[name]


def _kind(course: AttemptPlan, models: Sequence[PublicModel], whole: bool) -> tuple[int, ...] | None:
    """Equal for requests that can use the same deployments, so that one of them tells for all; none if it differs."""
    totals = {d.timeouts.total for model in models for d in model.deployments}
    return (whole, *(id(model) for model in models)) if course.fresh and len(totals) == 1 else None
