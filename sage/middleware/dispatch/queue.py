"""Requests that wait for a deployment that is full or cooling down: tenants take turns, and within each its users."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from sage.fair_queue import FairQueue, TurnHistory
from sage.middleware.dispatch.attempts import AttemptPlan
from sage.middleware.dispatch.deployment import Deployment, DeploymentLease, PublicModel

Lane = frozenset[object]
"""What the requests in one line wait for."""
_MAX_LANES = 256
"""Lines that are kept though nobody stands in them, for the order of their tenants' next turns."""
_TIMER_SLACK = 0.001
"""Seconds; a timer may go off a little before its time."""


class _Waiter:
    """One request that waits until ``limit`` for a deployment of ``models``."""

    __slots__ = ("future", "group", "is_last_resort", "lane", "limit", "models", "plan")

    def __init__(self, plan: AttemptPlan, models: Sequence[PublicModel], limit: float, is_last_resort: bool) -> None:
        self.plan = plan
        self.models = models
        self.limit = limit
        self.is_last_resort = is_last_resort
        self.lane = _lane(models)
        self.group = _group(plan, models, is_last_resort)
        self.future: asyncio.Future[DeploymentLease | None] = asyncio.get_running_loop().create_future()

    def may_be_served(self, now: float) -> bool:
        """Whether it can still get a deployment in time."""
        if self.plan.is_worth_waiting(self.models, now):
            return True
        return self.is_last_resort and self.plan.available_from(self.models, now) <= self.limit


class DeploymentQueue:
    """Hands out deployments: at once where no request waits, else to the tenants in turn.

    A deployment that becomes free goes to the tenant whose last turn there is longest ago, in it to the user of whom
    the same is true, to the longest waiting of the user's requests that can use it; so no request overtakes another of
    its user, and nobody is kept waiting by one that asks for much. Turns at other deployments do not count: who uses
    one model all the time is not behind at another.
    """

    def __init__(self, size: int) -> None:
        """``size``: how many requests may wait for one model."""
        self._size = size
        self._lanes: dict[Lane, FairQueue[_Waiter]] = {}
        """Those that wait for the same, by tenant. Lanes take turns, too, since they may share a part of it."""
        self._lane_turns = TurnHistory()
        self._waiting = 0
        """Requests in all lanes."""

    def claim(self, plan: AttemptPlan, models: Sequence[PublicModel]) -> DeploymentLease | None:
        """A lease at once, of what the waiting requests cannot use; ``None`` means that there is none."""
        if plan.models[0].waiting:
            self.serve()
        lease = plan.claim(models, time.monotonic())
        if lease is not None:
            self._record_turn(_lane(models), plan)
        return lease

    async def wait(
        self, plan: AttemptPlan, models: Sequence[PublicModel], limit: float, *, is_last_resort: bool = False
    ) -> DeploymentLease | None:
        """A lease of one of ``models`` if one becomes free by ``limit`` (``time.monotonic``), else ``None``.

        Gives up early when no deployment is full, and none is available: all have failed or are cooling down; and when
        the queue is full and a tenant comes that has fewer requests in it than this one. ``is_last_resort`` means that
        the request has no other models to turn to, so that it also waits for deployments that are cooling down.
        """
        requested = plan.models[0]
        if requested.waiting >= self._size and not self._make_room(requested, plan):
            return None
        waiter = _Waiter(plan, models, limit, is_last_resort)
        queue = self._queue_of(waiter.lane)
        queue.push(plan.tenant, waiter)
        requested.waiting += 1
        self._waiting += 1
        try:
            await self._wait_for(waiter)
        except BaseException:
            if waiter.future.done() and (lease := waiter.future.result()) is not None:
                self.give_back(lease)
            raise
        finally:
            requested.waiting -= 1
            self._waiting -= 1
            queue.remove(plan.tenant, waiter)
        return waiter.future.result() if waiter.future.done() else None

    def _make_room(self, model: PublicModel, plan: AttemptPlan) -> bool:
        """Refuses the newest request of the user that has the most, in the tenant that has the most, of those that wait
        for ``model``.

        Returns false if the tenant of ``plan`` would have as many then, or if it is that tenant, its user would.
        """
        waiting = [each for queue in self._lanes.values() for each in queue.in_turn() if each.plan.models[0] is model]
        tenants = Counter(waiter.plan.tenant for waiter in waiting)
        longest, most = max(tenants.items(), key=lambda item: item[1], default=("", 0))
        is_another = most > tenants[plan.tenant] + 1
        tenant = longest if is_another else plan.tenant
        users = Counter(waiter.plan.user for waiter in waiting if waiter.plan.tenant == tenant)
        user, most = max(users.items(), key=lambda item: item[1], default=("", 0))
        if not is_another and most <= users[plan.user] + 1:
            return False
        newest = next(each for each in reversed(waiting) if (each.plan.tenant, each.plan.user) == (tenant, user))
        self._lanes[newest.lane].remove(tenant, newest)
        newest.future.set_result(None)
        return True

    async def _wait_for(self, waiter: _Waiter) -> None:
        """Returns when ``waiter`` has its answer or its time is over; looks again whenever time frees a deployment."""
        self.serve()
        while not waiter.future.done() and (now := time.monotonic()) < waiter.limit:
            until = min(waiter.limit, waiter.plan.available_from(waiter.models, now))
            await asyncio.wait((waiter.future,), timeout=max(0.0, until - now) + _TIMER_SLACK)
            if not waiter.future.done():
                self.serve()

    def is_awaited(self, deployment: Deployment) -> bool:
        """Whether a request waits for what ``deployment`` has places of."""
        if not self._waiting:
            return False
        return any(queue and not lane.isdisjoint(deployment.bounds) for lane, queue in self._lanes.items())

    def give_back(self, lease: DeploymentLease) -> None:
        """Closes ``lease`` and hands what it held to the requests that wait for it."""
        lease.close()
        if self._waiting:
            self.serve()

    def serve(self) -> None:
        """Gives the waiting requests what is free now, and their refusal to those that cannot be served."""
        now = time.monotonic()
        blocked = set()  # groups of which one waiter must go on waiting, as all others of it must
        for waiter in self._in_turn():
            group = None if waiter.plan.is_divided else waiter.group
            if group in blocked:
                continue
            lease = waiter.plan.claim(waiter.models, now)
            if lease is None and waiter.may_be_served(now):
                if group is not None:
                    blocked.add(group)
                continue
            waiter.future.set_result(lease)
            self._lanes[waiter.lane].remove(waiter.plan.tenant, waiter)
            if lease is not None:
                self._record_turn(waiter.lane, waiter.plan)

    def _in_turn(self) -> Iterator[_Waiter]:
        for lane in sorted((lane for lane, queue in self._lanes.items() if queue), key=self._lane_turns.last):
            yield from self._lanes[lane].in_turn()

    def _queue_of(self, lane: Lane) -> FairQueue[_Waiter]:
        queue = self._lanes.get(lane)
        if queue is None:
            if len(self._lanes) >= _MAX_LANES:
                self._lanes = {lane: queue for lane, queue in self._lanes.items() if queue}
            queue = self._lanes[lane] = FairQueue(_user_of)
        return queue

    def _record_turn(self, lane: Lane, plan: AttemptPlan) -> None:
        self._lane_turns.record(lane)
        self._queue_of(lane).record_turn(plan.tenant, plan.user)


def _user_of(waiter: _Waiter) -> str:
    return waiter.plan.user


def _lane(models: Sequence[PublicModel]) -> Lane:
    """What a request for ``models`` waits for: slots of engines, places that a provider or a deployment has."""
    return frozenset(bound for model in models for deployment in model.deployments for bound in deployment.bounds)


def _group(plan: AttemptPlan, models: Sequence[PublicModel], is_last_resort: bool) -> tuple[int, ...] | None:
    """Equal for requests that can use the same deployments, so that one of them answers for all.

    ``None`` means that the request differs from all others.
    """
    totals = {d.timeouts.total for model in models for d in model.deployments}
    shared = plan.is_untouched and len(totals) == 1
    return (is_last_resort, plan.takes_slot, *map(id, models)) if shared else None
