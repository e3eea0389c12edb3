"""Chooses a deployment, makes the call, and tries another one while no byte has gone to the client yet."""

from __future__ import annotations

import asyncio
import math
import time

from sage.errors import DeadlineExceeded, NotFound, RateLimited, SageError, Unavailable, Unsupported, UpstreamFailed
from sage.middleware.dispatch import retry_budget as retries
from sage.middleware.dispatch.attempts import AttemptPlan, Unavailability, crowded
from sage.middleware.dispatch.deployment import DeploymentLease, PublicModel
from sage.middleware.dispatch.explain import Explanation, explanation
from sage.middleware.dispatch.prefix_affinity import Prefixes
from sage.middleware.dispatch.queue import DeploymentQueue
from sage.middleware.dispatch.upstream_call import UpstreamCall, death_of_engine, timeout_error
from sage.middleware.providers.base import Endpoint, ModelCall
from sage.middleware.providers.transport import Transport, UpstreamResponse
from sage.middleware.providers.wire.errors import CREDENTIAL_REFUSED
from sage.middleware.settings.settings import Routing

# What another deployment may do better; anything else is the caller's to mend.
_ANOTHER = (UpstreamFailed, DeadlineExceeded, RateLimited, Unavailable, NotFound)
# The transport keeps the limit of the whole time more gently, where it waits for an upstream's bytes. Later than that a
# call is cancelled whatever it waits for: a head that trickles, or a client that does not read.
_LATER = 0.1
_NOWHERE = Endpoint("http://nowhere.invalid")


class Dispatch:
    """The way of a call to an answer, over the deployments of a model and of its fallbacks."""

    def __init__(self, transport: Transport, routing: Routing | None = None) -> None:
        self._transport = transport
        self._routing = routing or Routing()
        self._slots = DeploymentQueue(self._routing.queue_size)
        self._prefixes = Prefixes()

    async def open(self, call: ModelCall, models: list[PublicModel]) -> UpstreamCall:
        """The first good answer of ``models``, in the order in which they are to answer; the caller closes it.

        At most three requests go upstream, and none to the same deployment, or with the same key, after it failed.
        Raises what the last of them raised, or why none was made.
        """
        begun = time.monotonic()
        course = AttemptPlan(call, models, begun, self._prefixes)
        first = models[0].deployments[0] if len(models[0].deployments) == 1 else None
        if first is not None and first.plain and not first.breaker.until and first.keys.until <= begun:
            lease = DeploymentLease(first)
        else:
            lease = await self._lease(course)
        while True:
            try:
                return await self._attempt(call, course, lease)
            except Unsupported as exc:
                course.cannot(lease.deployment, exc)
            except _ANOTHER as exc:
                course.failed(lease, exc, _speaks_of_key(exc))
                if course.sent:
                    await self._pause(course, lease, exc)
            lease = await self._lease(course)

    def explain(self, call: ModelCall, models: list[PublicModel]) -> Explanation:
        """What would be chosen now for ``call``, and why; asks nobody and changes nothing."""
        now = time.monotonic()
        course = AttemptPlan(call, models, now, self._prefixes)
        for deployment in (d for model in models for d in model.deployments):
            try:
                deployment.provider.encode(call, deployment.target, _NOWHERE)
            except Unsupported as exc:
                course.cannot(deployment, exc)
            except SageError:
                pass  # the request is at fault, not who was chosen
        return explanation(course, now, self._routing)

    def end(self, lease: DeploymentLease, failure: SageError | None = None, *, whole: bool = False) -> None:
        """Takes ``lease`` back, with what was learnt: a failure, or a whole answer."""
        if failure is not None:
            lease.failed(failure, time.monotonic(), self._routing)
        elif whole:
            lease.succeeded()
        self._slots.give_back(lease)

    async def _lease(self, course: AttemptPlan) -> DeploymentLease:
        """The next deployment to ask, waited for if it must be; raises if there is none."""
        now = time.monotonic()
        patience = now + self._routing.queue_timeout
        for place, model in enumerate(course.models, 1):
            lease = self._slots.claim(course, (model,))
            if lease is None and course.worth_waiting((model,), now):
                hoped = course.models[:place]  # one of those before may be free sooner
                lease = await self._slots.wait(course, hoped, min(patience, course.ends(hoped)))
                now = time.monotonic()
            if lease is not None:
                return lease
        patience = min(patience, course.ends(course.models))
        if course.soonest(course.models, now, Unavailability.COOLING) <= patience:
            lease = await self._slots.wait(course, course.models, patience, whole=True)
            if lease is not None:
                return lease
        raise course.refusal(time.monotonic(), crowded(course.models[0], self._routing))

    async def _attempt(self, call: ModelCall, course: AttemptPlan, lease: DeploymentLease) -> UpstreamCall:
        deployment = lease.deployment
        course.sent = False
        exchange: UpstreamCall | None = None
        response: UpstreamResponse | None = None
        try:
            if deployment.managed is None and not deployment.provider.asleep:
                endpoint = deployment.provider.endpoints[lease.key]
            else:
                endpoint = await _engine_of(lease, course)
            request = deployment.provider.encode(call, deployment.target, endpoint)
            request.timeouts, request.socket = deployment.timeouts, endpoint.socket
            if lease.model is not None:
                request.total = course.left(deployment)
            call.deadline = course.begun + deployment.timeouts.total + _LATER
            if call.on_deadline is not None:
                call.on_deadline()
            course.sent = True
            course.attempts += 1
            if course.attempts == 1:
                course.models[0].budget.request(course.begun)
            response = await self._transport.send(request)
            exchange = UpstreamCall(lease, response, call, self)
            await exchange.begin()
        except BaseException as exc:
            if response is not None:
                response.close()
            meant = await self._lost(call, course, lease, exc, exchange)
            if meant is exc:
                raise
            raise meant from exc
        exchange.attempts = course.attempts
        if lease.model is not None:
            if lease.probe:
                lease.answered(self._routing)
                self._slots.serve()
            course.answered(lease)
        if not call.stream:
            lease.succeeded()
        return exchange

    async def _lost(
        self,
        call: ModelCall,
        course: AttemptPlan,
        lease: DeploymentLease,
        exc: BaseException,
        exchange: UpstreamCall | None,
    ) -> BaseException:
        """What ``exc`` means, with the lease given back and blame where it belongs."""
        blamed: SageError | None = None
        try:
            meant = timeout_error(call, lease.deployment, exc) or exc
            ends, call.deadline = call.deadline, math.inf  # the attempt is over: nobody is to cancel what follows
            lost = await death_of_engine(lease, exc, ends)
            if lost is not None:
                return lost  # the model's owner sees to it
            cut_short = course.hurried and getattr(meant, "code", "") == "total_timeout"
            if course.sent and isinstance(meant, SageError) and not cut_short:
                blamed = meant
        finally:
            if exchange is not None and exchange.cooldown is not None:
                lease.deployment.keys.cool_down_all(time.monotonic() + exchange.cooldown)
            self.end(lease, blamed)
        return meant

    async def _pause(self, course: AttemptPlan, lease: DeploymentLease, failure: SageError) -> None:
        """Waits before another attempt; raises ``failure`` if there is to be none."""
        now, budget = time.monotonic(), course.models[0].budget
        wait = retries.pause(course.attempts)
        if (
            course.attempts > min(retries.MOST, lease.deployment.retries)
            or not course.may_go_on(now + wait, self._routing.queue_timeout)
            or not budget.left(now)
        ):
            raise failure
        budget.retry()
        await asyncio.sleep(wait)


async def _engine_of(lease: DeploymentLease, course: AttemptPlan) -> Endpoint:
    """Where a model serves that has to be loaded, or woken, first; the time that it takes has a limit of its own."""
    began = time.monotonic()
    endpoint = await lease.open()
    course.begun += time.monotonic() - began
    return endpoint


def _speaks_of_key(failure: SageError) -> bool:
    return isinstance(failure, RateLimited) or failure.code == CREDENTIAL_REFUSED
