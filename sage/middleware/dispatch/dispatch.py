"""Chooses a deployment, makes the call, and tries another one as long as no byte has gone to the client."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence

from sage.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    RateLimited,
    SageError,
    Unavailable,
    Unsupported,
    UpstreamFailed,
)
from sage.middleware.dispatch import retry_budget
from sage.middleware.dispatch.attempts import AttemptPlan, Unavailability
from sage.middleware.dispatch.deadlines import Deadlines
from sage.middleware.dispatch.deployment import Deployment, DeploymentLease, PublicModel
from sage.middleware.dispatch.explain import Explanation, explanation
from sage.middleware.dispatch.later_answer import later_answer
from sage.middleware.dispatch.low_priority import LowPriorityCalls, LowPriorityPlan
from sage.middleware.dispatch.passed_answer import PassedAnswer, takes_its_time
from sage.middleware.dispatch.prefix_affinity import Prefixes
from sage.middleware.dispatch.queue import DeploymentQueue
from sage.middleware.dispatch.refusal import refusal
from sage.middleware.dispatch.upstream_answer import (
    UpstreamAnswer,
    UpstreamStream,
    engine_death,
    timeout_error,
)
from sage.middleware.providers.base import Endpoint, ModelCall, UpstreamRequest, UpstreamResponse
from sage.middleware.providers.call_steps import StepKind
from sage.middleware.providers.transport import Transport
from sage.middleware.providers.wire.errors import CREDENTIAL_REFUSED, retry_after
from sage.middleware.settings.settings import Routing

# Errors after which another deployment is tried; after any other, the caller has to change the request.
_RETRYABLE = (UpstreamFailed, DeadlineExceeded, RateLimited, Unavailable, NotFound)
# The transport ends a call more gently, where it waits for the upstream's bytes. This much later the call is cancelled
# whatever it waits for: a head that comes slowly, or a client that does not read.
_CANCEL_LATER = 0.1
_NOWHERE = Endpoint("http://nowhere.invalid")


class Dispatch:
    """Leads a call to an answer, over the deployments of its model and of the model's fallbacks."""

    def __init__(self, transport: Transport, routing: Routing | None = None) -> None:
        self._transport = transport
        self._routing = routing or Routing()
        self._queue = DeploymentQueue(self._routing.queue_size)
        self.low_priority = LowPriorityCalls(self._queue)
        self.prefixes = Prefixes()
        self.deadlines = Deadlines()
        self.on_health: Callable[[Deployment], None] | None = None
        """Called when a failure at a deployment was recorded, and when its probe was answered."""

    async def open(self, call: ModelCall, models: list[PublicModel]) -> UpstreamAnswer:
        """The first good answer of ``models``, in the order in which they are to answer; the caller closes it.

        At most three requests go upstream. One that failed goes to another deployment, with another key or, where no
        other is left, to the same one once more.
        Raises the last failure, or why no request was made.
        """
        call.dispatched_at = started_at = time.monotonic()
        if call.low_priority:
            plan: AttemptPlan = LowPriorityPlan(call, models, started_at, self.prefixes, self.low_priority)
            lease = await self._lease(plan)
        else:
            plan = AttemptPlan(call, models, started_at, self.prefixes)
            lease = plan.claim_only() or await self._lease(plan)
        try:
            while True:
                try:
                    return await self._attempt(call, plan, lease)
                except Unsupported as exc:
                    plan.record_unsupported(lease.deployment, exc)
                except InvalidRequest as exc:
                    if not plan.record_refused_field(lease.deployment, exc):
                        raise
                except _RETRYABLE as exc:
                    plan.record_failure(lease, exc, _concerns_key(exc))
                    if plan.sent and not await self._may_go_on(call, plan, lease):
                        raise
                lease = await self._lease(plan)
        finally:
            plan.failure = None  # its traceback holds the plan

    def explain(self, call: ModelCall, models: list[PublicModel]) -> Explanation:
        """What would be chosen now for ``call``, and why; sends nothing and changes nothing."""
        now = time.monotonic()
        plan = AttemptPlan(call, models, now, self.prefixes)
        for deployment in (d for model in models for d in model.deployments):
            try:
                deployment.provider.encode(call, deployment.target, _NOWHERE)
            except Unsupported as exc:
                plan.record_unsupported(deployment, exc)
            except SageError:
                pass  # the request itself is wrong, which says nothing of the deployment
        return explanation(plan, now, self._routing)

    def end(self, lease: DeploymentLease, failure: SageError | None = None, *, is_complete: bool = False) -> None:
        """Takes ``lease`` back, with what was learnt: a failure, or a complete answer."""
        if failure is not None:
            lease.failed(failure, time.monotonic(), self._routing)
            if self.on_health is not None:
                self.on_health(lease.deployment)
        elif is_complete and lease.deployment.breaker.failing:
            lease.deployment.breaker.succeed(lease.caller)
        self._queue.give_back(lease)

    async def _lease(self, plan: AttemptPlan) -> DeploymentLease:
        """The next deployment to ask, after a wait if there must be one; raises if there is none."""
        if isinstance(plan, LowPriorityPlan) and not plan.is_aged:
            return await self._low_priority_lease(plan)
        now = time.monotonic()
        limit = now + self._routing.queue_timeout
        for count, model in enumerate(plan.models, 1):
            lease = self._queue.claim(plan, (model,))
            if lease is None and plan.is_worth_waiting((model,), now):
                until_here = plan.models[:count]  # a model before this one may be free sooner
                patience = limit if count < len(plan.models) or not _has_slots(until_here) else math.inf
                lease = await self._queue.wait(plan, until_here, min(patience, plan.deadline(until_here)))
                plan.record_step(StepKind.QUEUE, now)
                now = time.monotonic()
            if lease is not None:
                return lease
        limit = min(limit, plan.deadline(plan.models))
        if plan.available_from(plan.models, now, Unavailability.COOLING) <= limit:
            lease = await self._queue.wait(plan, plan.models, limit, is_last_resort=True)
            plan.record_step(StepKind.QUEUE, now)
            if lease is not None:
                return lease
        if plan.readmit(time.monotonic()):
            return await self._lease(plan)
        raise refusal(plan, time.monotonic(), self._routing)

    async def _low_priority_lease(self, plan: LowPriorityPlan) -> DeploymentLease:
        """As :meth:`_lease`. A low call waits for live ones only: its sender can wait for what is out of order."""
        while True:
            began = time.monotonic()
            lease = await self.low_priority.wait(plan)
            plan.record_step(StepKind.QUEUE, began)
            if lease is not None:
                return lease
            if plan.is_aged:
                return await self._lease(plan)
            now = time.monotonic()
            if not plan.is_worth_waiting(plan.models, now) and not plan.readmit(now):
                raise refusal(plan, now, self._routing)

    async def _attempt(self, call: ModelCall, plan: AttemptPlan, lease: DeploymentLease) -> UpstreamAnswer:
        deployment = lease.deployment
        provider = deployment.provider
        plan.sent = False
        response: UpstreamResponse | None = None
        try:
            endpoint = await _ready_endpoint(lease, plan) if deployment.opens else provider.endpoints[lease.key]
            request = provider.encode(call, deployment.target, endpoint)
            self._start(request, call, plan, lease)
            try:
                response = await (request.transport or self._transport).send(request)
            finally:
                if request.opened is not None:
                    plan.record_connection(request.opened, deployment)
            if response.status != 200:
                response = await later_answer(provider, request, response, request.transport or self._transport)
            if call.stream:
                answer = (PassedAnswer if call.relayed else UpstreamStream)(lease, response, call, self)
                await answer.begin()
            else:
                body, usage = provider.decode(call, await response.read())
                whole = UpstreamAnswer(deployment, body, usage)
        except BaseException as exc:
            if response is not None:
                response.close()
            error = await self._give_up(call, plan, lease, exc, response)
            try:
                if error is exc:
                    raise
                raise error from exc
            finally:
                del error  # whose traceback holds this frame
        if lease.model is not None or call.omitted is not None:
            self._record_answer(call, plan, lease)
        if not call.stream:
            response.close()
            self.end(lease, is_complete=True)
            return whole
        request.body = b""
        call.forget_body()
        return answer

    def _start(self, request: UpstreamRequest, call: ModelCall, plan: AttemptPlan, lease: DeploymentLease) -> None:
        """``request`` is sent next: how long it may take, and that it counts."""
        deployment = lease.deployment
        request.timeouts = deployment.timeouts
        request.whole = not call.stream or (call.relayed and takes_its_time(call))
        budget = plan.models[0].budget
        if deployment.breaker.failing:
            # A good upstream may close kept connections as often as it likes; a failing one gets no more than a fifth.
            request.once = not budget.left(time.monotonic())
        if lease.model is not None:
            request.total = plan.seconds_left(deployment)
        call.deadline = deadline = plan.started_at + deployment.timeouts.total + _CANCEL_LATER
        self.deadlines.expect(deadline)
        plan.sent = True
        call.asked = deployment
        call.attempts += 1
        if call.attempts == 1:
            budget.request(plan.started_at)

    def _record_answer(self, call: ModelCall, plan: AttemptPlan, lease: DeploymentLease) -> None:
        """What the first byte of a good answer shows."""
        if lease.probes:
            lease.answered(self._routing)
            if self.on_health is not None:
                self.on_health(lease.deployment)
            self._queue.serve()
        plan.record_answer(lease)
        if call.omitted is not None:
            plan.record_accepted(lease.deployment)

    async def _give_up(
        self,
        call: ModelCall,
        plan: AttemptPlan,
        lease: DeploymentLease,
        exc: BaseException,
        response: UpstreamResponse | None,
    ) -> BaseException:
        """Gives the lease of a failed attempt back, with the failure if it is the deployment's; the error to raise."""
        failure: SageError | None = None
        try:
            error = timeout_error(call, lease.deployment, exc) or exc
            # The attempt is over: what follows is not to be cancelled.
            deadline, call.deadline = call.deadline, math.inf
            death = await engine_death(lease, exc, deadline)
            plan.record_attempt(lease.deployment, death or error)
            if death is not None:
                return death  # the owner of the model starts the engine again
            cut_short = plan.has_less_time and getattr(error, "code", "") == "total_timeout"
            if plan.sent and isinstance(error, SageError) and not cut_short:
                failure = error
        finally:
            if response is not None and (wait := _wished_pause(exc, response)) is not None:
                lease.deployment.keys.cool_down_all(time.monotonic() + wait)
            self.end(lease, failure)
        return error

    async def _may_go_on(self, call: ModelCall, plan: AttemptPlan, lease: DeploymentLease) -> bool:
        """Whether there is to be another attempt after a failed one; waits before it if so."""
        now, budget = time.monotonic(), plan.models[0].budget
        wait = retry_budget.pause(call.attempts)
        if (
            call.attempts > min(retry_budget.MOST, lease.deployment.retries)
            or not plan.can_continue(now + wait, self._routing.queue_timeout)
            or not budget.left(now)
            or (call.form is not None and not call.form.can_repeat)
        ):
            return False
        budget.retry()
        await asyncio.sleep(wait)
        plan.record_step(StepKind.PAUSE, now)
        return True


async def _ready_endpoint(lease: DeploymentLease, plan: AttemptPlan) -> Endpoint:
    """Loads or wakes the model first. That has a time limit of its own and does not count as the call's time."""
    began = time.monotonic()
    endpoint = await lease.open()
    plan.started_at += time.monotonic() - began
    plan.record_step(StepKind.LOAD, began, lease.deployment)
    return endpoint


def _has_slots(models: Sequence[PublicModel]) -> bool:
    """Whether a deployment of ``models`` is an engine of ours, for whose slots a request waits as long as it may take:
    the engine would have it wait, too."""
    return any(deployment.slots is not None for model in models for deployment in model.deployments)


def _wished_pause(refused: BaseException, response: UpstreamResponse) -> float | None:
    """The seconds of ``Retry-After`` in the refusal of a server that is down."""
    if response.status < 300 or not isinstance(refused, Unavailable) or retry_after(response.headers) is None:
        return None
    return refused.retry_after


def _concerns_key(failure: SageError) -> bool:
    return isinstance(failure, RateLimited) or failure.code == CREDENTIAL_REFUSED
