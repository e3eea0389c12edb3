"""Calls of low priority, such as those of a batch: which of them may run beside live ones, and which waits."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

from sage.errors import Unavailable
from sage.fair_queue import FairQueue
from sage.middleware.dispatch.attempts import AttemptPlan, Unavailability
from sage.middleware.dispatch.deployment import Deployment, DeploymentLease, PublicModel
from sage.middleware.dispatch.prefix_affinity import Prefixes
from sage.middleware.dispatch.queue import DeploymentQueue
from sage.middleware.providers.base import ModelCall

_RECENT = 1.0
"""Seconds after the end of the last live call in which another one is expected."""
_PACE = 0.01
"""Seconds from one start to the next while live calls run anywhere in the gateway: each costs the event loop time."""
_SHARE = 8
"""Of so many live calls at a deployment without a bound, one low call more may run there."""
_LEAST = 2
"""Low calls that may run beside live ones at a deployment without a bound."""
_MOST_WAITING = 256
_PATIENCE = 30.0
"""Seconds that a low call waits; then it is refused, and its sender tries again."""
_REST = (10.0, 60.0)
"""The shortest and the longest time in seconds in which a deployment with live traffic takes no low call at all."""
_REST_FACTOR = 200
"""Such a rest lasts as many times as long as the last low call there ran: of 100 live calls it then meets about one."""
_AGED = "\0aged"
"""In the live queue, what a low call stands under whose time has come: it takes no tenant's turn."""


class DeploymentUse:
    """What low calls do, and live ones did, at one deployment."""

    __slots__ = ("ended", "in_flight", "live_ended", "rests_until")

    def __init__(self) -> None:
        self.in_flight = 0
        self.ended: float | None = None
        """The deployment's ``last_used`` as the last low call has left it."""
        self.live_ended = -math.inf
        """When the last live call had ended that is known of (``time.time``)."""
        self.rests_until = math.inf
        """When a low call that live ones keep waiting goes with them (``time.monotonic``); infinity means not asked
        yet, or that one runs."""


class LowPriorityLease(DeploymentLease):
    """The lease of a low call; ``closed`` is called once everything is given back."""

    __slots__ = ("_closed", "_since", "_use")

    def begin(self, use: DeploymentUse, closed: Callable[[], None]) -> None:
        """Counts it in ``use`` until it is closed."""
        self._use, self._closed, self._since = use, closed, time.monotonic()
        use.in_flight += 1
        use.rests_until = math.inf

    def close(self) -> None:
        use, deployment, now = self._use, self.deployment, time.monotonic()
        if deployment.last_used is not None and deployment.last_used != use.ended:
            use.live_ended = deployment.last_used
        super().close()
        use.ended = deployment.last_used
        use.in_flight -= 1
        if not use.in_flight:
            shortest, longest = _REST
            use.rests_until = now + min(longest, max(shortest, _REST_FACTOR * (now - self._since)))
        self._closed()


class LowPriorityPlan(AttemptPlan):
    """The attempts of a low call: it may ask a deployment only where it is in no live call's way."""

    __slots__ = ("_calls", "_spent", "is_aged")

    _new_lease = LowPriorityLease

    def __init__(
        self, call: ModelCall, models: list[PublicModel], started_at: float, prefixes: Prefixes, calls: LowPriorityCalls
    ) -> None:
        super().__init__(call, models, started_at, prefixes)
        self.is_aged = False
        """It has waited for so long that it goes as a live call goes."""
        self._calls = calls
        self._spent = 0.0

    @property
    def tenant(self) -> str:
        return _AGED if self.is_aged else super().tenant

    def stop_clock(self) -> None:
        """The time of the call stands still from now on, until :meth:`resume`."""
        self._spent = time.monotonic() - self.started_at

    def resume(self, now: float) -> None:
        self.started_at = now - self._spent

    def age(self) -> None:
        """From now on it goes as a live call goes, in nobody's turn."""
        self.is_aged = True

    def waits_for(self, now: float) -> list[Deployment]:
        """What it could ask were there no live calls: of the first model that is not out of order."""
        for model in self.models:
            if self.is_worth_waiting((model,), now):
                return list(model.deployments)
        return []

    def claim(self, models: Iterable[PublicModel], now: float) -> DeploymentLease | None:
        lease = super().claim(models, now)
        if isinstance(lease, LowPriorityLease):
            self._calls.begin(lease, now)
        return lease

    def _condition(self, deployment: Deployment, now: float) -> Unavailability | None:
        reason = super()._condition(deployment, now)
        if reason is None and not self.is_aged and not self._calls.admits(deployment, now):
            return Unavailability.GIVES_WAY
        return reason


class _LowWaiter:
    """One low call that waits."""

    __slots__ = ("future", "group", "plan")

    def __init__(self, plan: LowPriorityPlan) -> None:
        self.plan = plan
        self.group = tuple(map(id, plan.models)) if plan.is_untouched else None
        """Equal for calls of which one answers for all; ``None`` means that it differs from all others."""
        self.future: asyncio.Future[DeploymentLease | None] = asyncio.get_running_loop().create_future()


class LowPriorityCalls:
    """All low calls of a gateway: those that run, and those that wait in turns of their tenants.

    A live call pays nothing for them: they look at its traces by themselves, from time to time. The rules:

    - where a live call waits for a deployment, no low call gets it; one place of a bounded deployment, of its provider
      or of its engine is left free; the only place is taken when there was no live call within the last second;
    - beside live calls at a deployment without a bound run two low calls, or an eighth of the live ones; with a bound,
      half of the places that are left; at an engine of ours, which computes on this machine, none;
    - while live calls run anywhere, a low call starts every 10 ms at most;
    - where none could run for 10 to 60 seconds, one goes as a live call goes.
    """

    def __init__(self, live: DeploymentQueue) -> None:
        self.count_running: Callable[[], int] = int
        """How many calls the gateway runs, low ones included."""
        self.in_progress = 0
        """Low calls that run or wait."""
        self.started = 0
        """Low calls that have started so far."""
        self.refused = 0
        """Low calls that were sent away since they waited for too long, or too many did."""
        self._live = live
        self._uses: WeakKeyDictionary[Deployment, DeploymentUse] = WeakKeyDictionary()
        self._queue: FairQueue[_LowWaiter] = FairQueue(lambda waiter: waiter.plan.user)
        self._timer: asyncio.TimerHandle | None = None
        self._last_start = -math.inf

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    async def wait(self, plan: LowPriorityPlan) -> DeploymentLease | None:
        """A lease for ``plan``; ``None`` means that it goes as a live call goes now, or that nothing can answer.

        The time of the call does not run meanwhile. Raises :class:`Unavailable` when it has waited for too long.
        """
        plan.stop_clock()
        if len(self._queue) >= _MOST_WAITING and not self._make_room(plan.tenant):
            raise self._refusal()
        waiter, owner = _LowWaiter(plan), plan.tenant
        self._queue.push(owner, waiter)
        try:
            self._serve()
            if not waiter.future.done():
                await asyncio.wait((waiter.future,), timeout=_PATIENCE)
        except BaseException:
            if waiter.future.done() and not waiter.future.exception() and (lease := waiter.future.result()) is not None:
                self._live.give_back(lease)
            raise
        finally:
            self._queue.remove(owner, waiter)
            plan.resume(time.monotonic())
        if not waiter.future.done():
            raise self._refusal()
        return waiter.future.result()

    def begin(self, lease: LowPriorityLease, now: float) -> None:
        """``lease`` was given to a low call."""
        self.started += 1
        self._last_start = now
        lease.begin(self._use(lease.deployment), self._serve_soon)

    def admits(self, deployment: Deployment, now: float) -> bool:
        """Whether a low call may start at ``deployment``, which has a place for it."""
        if self._live.is_awaited(deployment):
            return False
        use, bounds = self._use(deployment), _bounds(deployment)
        engine = deployment.slots is not None
        running = deployment.managed.slots_in_use if engine and deployment.managed else deployment.in_flight
        live = max(0, running - use.in_flight)
        has_live = live > 0 or time.time() - _live_ended(deployment, use) < _RECENT
        if any(taken >= most - 1 and (most > 1 or has_live) for taken, most in bounds):
            return False
        if not has_live:
            return self._may_start(now)
        if engine:
            return False
        if bounds:
            most_low = max(1, min(most - taken + use.in_flight for taken, most in bounds) // 2)
        else:
            most_low = max(_LEAST, live // _SHARE)
        return use.in_flight < most_low and self._may_start(now)

    def _may_start(self, now: float) -> bool:
        return now - self._last_start >= _PACE or self.count_running() <= self.in_progress

    def _use(self, deployment: Deployment) -> DeploymentUse:
        use = self._uses.get(deployment)
        if use is None:
            use = self._uses[deployment] = DeploymentUse()
        return use

    def _serve_soon(self) -> None:
        if self._queue:
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        """Gives the waiting calls what they may have now, and goes on to do so while one waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now, blocked = time.monotonic(), set()
        for waiter in self._queue.in_turn():
            group = None if waiter.plan.is_divided else waiter.group
            if group in blocked or waiter.future.done():
                continue
            if not self._answer(waiter, now) and group is not None:
                blocked.add(group)
        if self._queue:
            self._timer = asyncio.get_running_loop().call_later(_PACE, self._serve)

    def _answer(self, waiter: _LowWaiter, now: float) -> bool:
        """Whether ``waiter`` need not wait on."""
        plan, owner = waiter.plan, waiter.plan.tenant
        plan.resume(now)
        lease, deployments = None, plan.waits_for(now)
        if deployments:
            lease = plan.claim(next((model,) for model in plan.models if model.deployments == deployments), now)
            if lease is None and not self._is_due(deployments, now):
                return False
            self._queue.record_turn(owner, plan.user)
            if lease is None:
                plan.age()
        self._queue.remove(owner, waiter)
        waiter.future.set_result(lease)
        return True

    def _is_due(self, deployments: list[Deployment], now: float) -> bool:
        """Whether it is time that a low call runs at one of ``deployments``, though live ones are in its way."""
        uses = [self._use(deployment) for deployment in deployments]
        if any(use.in_flight for use in uses):
            return False
        for use in uses:
            if use.rests_until == math.inf:
                use.rests_until = now + _REST[0]
        if now < min(use.rests_until for use in uses):
            return False
        for use in uses:
            use.rests_until = now + _REST[1]  # the next one, if this one gets nowhere
        return True

    def _make_room(self, tenant: str) -> bool:
        newest = self._queue.make_room(tenant)
        if newest is None:
            return False
        newest.future.set_exception(self._refusal())
        return True

    def _refusal(self) -> Unavailable:
        self.refused += 1
        return Unavailable(
            "live requests go first, and there are many; a call with 'x-sage-priority: low' is to be tried again",
            retry_after=1.0,
            code="live_traffic_first",
        )


def _bounds(deployment: Deployment) -> list[tuple[int, int]]:
    """What bounds ``deployment``: each the places that are taken, and how many there are."""
    managed, slots, quota = deployment.managed, deployment.slots, deployment.quota
    bounds = []
    if deployment.max_concurrency is not None:
        bounds.append((deployment.in_flight, deployment.max_concurrency))
    if quota.limit is not None:
        bounds.append((quota.in_flight, quota.limit))
    if managed is not None and slots is not None:
        bounds.append((managed.slots_in_use, slots))
    return bounds


def _live_ended(deployment: Deployment, use: DeploymentUse) -> float:
    """When the last live call there has ended (``time.time``)."""
    last = deployment.last_used
    return use.live_ended if last is None or last == use.ended else last
