"""The way of one call: may the caller ask, is the request allowed, which deployment answers, what did it use."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from sage.errors import SageError, Unavailable
from sage.middleware.auth.principal import Principal
from sage.middleware.budgets.reservation import Reservation
from sage.middleware.dispatch.deployment import Deployment, PublicModel
from sage.middleware.dispatch.dispatch import Dispatch
from sage.middleware.dispatch.explain import Explanation
from sage.middleware.dispatch.passed_answer import PassedAnswer
from sage.middleware.dispatch.prefix_affinity import Prefixes
from sage.middleware.dispatch.upstream_answer import UpstreamAnswer, timeout_error, total_timeout
from sage.middleware.gateway import admission
from sage.middleware.gateway.builtin_embedders import EmbedderProvider
from sage.middleware.gateway.collections.collections import CollectionGateway
from sage.middleware.gateway.metrics import CLIENT_LEFT, Metrics, ModelMetrics
from sage.middleware.gateway.model_caller import RunningGateway
from sage.middleware.gateway.rates import RatedCall, RateLimits
from sage.middleware.gateway.responses.kept import KeptResponses
from sage.middleware.gateway.services.plans import Messages, ServiceDependencies
from sage.middleware.gateway.services.services import GatewayServices
from sage.middleware.gateway.settlement import captured, estimate, forget, note_end, settled_cost
from sage.middleware.gateway.vector_stores.access import StoreAccess
from sage.middleware.gateway.vector_stores.search import StoreSearch
from sage.middleware.limits.local_limiter import Admitted, Limiter, LocalLimiter
from sage.middleware.providers.base import ModelCall, Sink, takes_nothing
from sage.middleware.providers.transport import Transport
from sage.middleware.providers.wire.repeated_events import HasShape
from sage.middleware.registry.registry import Registry
from sage.middleware.settings.settings import Settings
from sage.middleware.usage.captured_call import CapturedCall
from sage.middleware.usage.estimates import estimate_prompt
from sage.middleware.usage.price_list import PriceList
from sage.middleware.usage.settled_calls import SettledCall

if TYPE_CHECKING:  # bring SQLAlchemy and numpy, which fronts and a gateway without searches do not load
    from sage.middleware.gateway.call_budgets import CallBudgets
    from sage.middleware.gateway.tools.tool_servers import ToolServers
    from sage.middleware.retrieval.embedding.protocols import Models
    from sage.middleware.usage.ledger import Ledger

_FIRST_ATTEMPT = (b"x-sage-attempts", b"1")
_CLOSE_WITHIN = 5.0
"""Seconds that work on collections and services may take to end, while models can still be asked."""


class Gateway:
    """Everything below HTTP: models, collections and services. The routes and :class:`LLMService` use the same one."""

    def __init__(
        self,
        registry: Registry,
        dispatch: Dispatch,
        transport: Transport,
        metrics: Metrics,
        settings: Settings,
        search_models: Callable[[RunningGateway], Models],
        generate: Callable[[RunningGateway, str, Messages], str],
        embedders: EmbedderProvider | None = None,
        ledger: Ledger | None = None,
        limiter: Limiter | None = None,
    ) -> None:
        """``search_models`` makes the embedders and rerankers of collections; it is called when the first is needed.
        ``generate`` gives a model's answer to messages as text; it is called on threads. ``embedders`` answers for
        the models of the registry that run in this process; it is closed with the gateway, as is ``ledger``, which
        every call is settled in. ``limiter`` counts rates; without it this process counts them alone."""
        data_dir, running = settings.data_dir, self.running_gateway
        models = partial(search_models, running)
        self.registry = registry
        self.metrics = metrics
        self.retrieval = settings.retrieval
        self.collections = CollectionGateway(
            data_dir / "collections",
            data_dir / "models",
            settings.retrieval,
            models,
            metrics.retrieval,
            settings.services,
        )
        self.stores = StoreSearch(StoreAccess(self.collections, data_dir, settings.database))
        self.services = GatewayServices(
            data_dir,
            settings.services,
            ServiceDependencies(models, partial(generate, running)),
            metrics.services,
        )
        self.responses = KeptResponses(settings)
        self.ending = asyncio.Event()
        """Set when the gateway shuts down: who watches it would keep it for ever."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop that it runs on; ``None`` means that it does not run yet."""
        self._dispatch = dispatch
        self.deadlines = dispatch.deadlines
        """What watches over calls are entered in."""
        self.transport = transport
        self.limits = settings.llm.limits
        self.rates = RateLimits(limiter or LocalLimiter(), metrics)
        self.low_priority = dispatch.low_priority
        self.low_priority.count_running = metrics.count_in_flight
        metrics.low_priority = self.low_priority
        self._embedders = embedders
        self.ledger = metrics.ledger = ledger
        self.captures = ledger.captures if ledger is not None else None
        self.settled: Callable[[SettledCall], None] = ledger.add if ledger is not None else forget
        self.mcp: ToolServers | None = None
        """The MCP servers behind it; ``None`` means that there are none."""
        self.budgets: CallBudgets | None = None
        """Reserves for calls; ``None`` means that nobody has a budget."""

    def share_with_others(self, on_health: Callable[[Deployment], None], in_flight: Callable[[], int]) -> None:
        """Tells other processes of this gateway of failures of deployments, and counts their running calls as live
        ones, for calls of low priority."""
        self._dispatch.on_health = on_health
        own = self.metrics.count_in_flight
        self.low_priority.count_running = lambda: own() + in_flight()

    @property
    def prefixes(self) -> Prefixes:
        """Which deployments have which conversations in their caches."""
        return self._dispatch.prefixes

    def running_gateway(self) -> tuple[Gateway, asyncio.AbstractEventLoop]:
        """Itself and its event loop, for threads that ask its models. Raises :class:`Unavailable` before it runs."""
        if self.loop is None:
            raise Unavailable("the gateway does not run yet, and no model can be asked; try again soon")
        return self, self.loop

    async def close(self) -> None:
        """Closes services and collections, ends every engine and closes the connections to upstreams."""
        closing = asyncio.gather(self.services.close(), self.collections.close())
        await asyncio.wait((closing,), timeout=_CLOSE_WITHIN)
        await self.rates.limiter.close()
        await self.registry.close()
        await self.transport.close()  # ends the calls of models that a collection still waits for
        await closing
        await self.stores.access.close()
        if self._embedders is not None:
            await asyncio.to_thread(self._embedders.close)
        if self.ledger is not None:
            await asyncio.to_thread(self.ledger.stop)
        await asyncio.to_thread(self.responses.close)

    @property
    def prices(self) -> PriceList | None:
        """What deployments cost; ``None`` means that this gateway knows no prices."""
        return self.ledger.prices if self.ledger is not None else None

    def call(self, principal: Principal, call: ModelCall) -> GatewayCall:
        """``async with gateway.call(principal, call) as answer`` admits, dispatches and counts the call exactly once.

        Raises what admission or the last deployment raised; nothing was sent to the client in that case.
        """
        return LowPriorityCall(self, principal, call) if call.low_priority else GatewayCall(self, principal, call)

    def run_tools_here(self) -> None:
        """To be called before tools of the gateway run in an answer: only one of its processes can."""

    def check(self, call: ModelCall) -> None:
        """Raises :class:`sage.errors.InvalidRequest` for what no caller may ask of any model. Changes no object that
        ``call`` was made of but its body, and may run on any thread."""
        admission.check(call, self.limits)

    def check_late_fields(self, fields: Mapping[str, Any]) -> None:
        """As :meth:`check`, for ``fields`` of a form that come when its beginning was sent already."""
        admission.check_late_fields(fields, self.limits)

    def admit_known(self, principal: Principal, call: ModelCall) -> list[PublicModel] | None:
        """As :meth:`admit`, at once, where only the requested model may answer, and is known. ``None`` means that
        :meth:`admit` has to be asked; nothing was checked then."""
        model = self.registry.get(call.model)
        if model is None or call.fallbacks or model.fallbacks:
            return None
        principal.require_model(call.model)
        admission.check(call, self.limits)
        return [model]

    async def admit(self, principal: Principal, call: ModelCall) -> list[PublicModel]:
        """The models that may answer, in order: the requested one, the caller's fallbacks, its own, then theirs.

        Raises :class:`sage.errors.PermissionDenied` for a model that the caller may not use, and what the checks of
        the request and the look-up of the model raise.
        """
        principal.require_model(call.model)
        for name in call.fallbacks:
            principal.require_model(name)
        admission.check(call, self.limits)
        registry = self.registry
        model = registry.get(call.model) or await registry.resolve(call.model)
        if not call.fallbacks and not model.fallbacks:
            return [model]
        models = [model]
        models += [await registry.resolve(name) for name in call.fallbacks]
        models = list({each.name: each for each in models}.values())
        names = {each.name for each in models}
        for each in models:  # it grows: fallbacks have fallbacks of their own, and each model is asked once
            for name in each.fallbacks:
                # A configured fallback that the caller may not use is skipped: the caller did not ask for it.
                if name not in names and principal.allows_model(name):
                    names.add(name)
                    with contextlib.suppress(SageError):  # one that cannot answer is no reason to refuse the request
                        models.append(await registry.resolve(name))
        return models

    def open(self, call: ModelCall, models: list[PublicModel]) -> Awaitable[UpstreamAnswer]:
        """The call at the first deployment of ``models`` that answers."""
        return self._dispatch.open(call, models)

    async def explain(self, principal: Principal, call: ModelCall) -> Explanation:
        """Which deployments would be chosen now for ``call``, and why. Sends nothing; raises as a call would."""
        call.caller = (principal.tenant, principal.user)
        return self._dispatch.explain(call, await self.admit(principal, call))


class GatewayCall:
    """One call, from its admission until it is counted."""

    __slots__ = (
        "_answer",
        "_call",
        "_capture",
        "_first_at",
        "_gateway",
        "_metrics",
        "_models",
        "_principal",
        "_prompt_tokens",
        "_rated",
        "_reservation",
        "_started",
        "_status",
        "body",
        "deployment",
    )

    _answer: UpstreamAnswer
    _metrics: ModelMetrics
    _models: list[PublicModel]
    body: bytes
    """The complete answer, or the first events of the stream."""
    deployment: str
    """The name of the deployment that answered."""

    def __init__(self, gateway: Gateway, principal: Principal, call: ModelCall) -> None:
        self._gateway = gateway
        self._principal = principal
        self._call = call
        call.caller = (principal.tenant, principal.user)
        self._first_at: float | None = None
        self._prompt_tokens = 0
        self._capture: CapturedCall | None = None
        self._rated: Admitted | RatedCall | None = None
        self._reservation: Reservation | None = None
        self._status = 200

    async def __aenter__(self) -> GatewayCall:
        self._started = time.perf_counter()
        call, gateway = self._call, self._gateway
        principal = self._principal
        self._models = models = gateway.admit_known(principal, call) or await gateway.admit(principal, call)
        # What could fail comes before anything is taken from limits and budgets.
        captures = gateway.captures
        if captures is not None and captures.settings:
            self._capture = captured(captures, principal, call)
        if call.stream:
            # of the body, which is forgotten once the stream has begun
            self._prompt_tokens = estimate_prompt(call.body, call.text_size)
        requested = models[0]
        if principal.limits or requested.limits or len(models) > 1:
            rated = gateway.rates.admit(principal, call, models, self._prompt_tokens)
            self._rated = rated if rated is None or isinstance(rated, Admitted) else await rated
        if gateway.budgets is not None:
            try:
                reserved = gateway.budgets.reserve(principal, call, models)
                if reserved is not None:
                    self._reservation = reserved if isinstance(reserved, Reservation) else await reserved
            except BaseException:
                if self._rated is not None:
                    self._rated.cancel()
                raise
        self._metrics = gateway.metrics.begin(requested.label)
        try:
            self._answer = answer = await gateway.open(call, models)
        except BaseException as exc:
            note_end(call, exc)
            self._settle(None, _status_of(exc), exc)
            raise
        self.body, self.deployment = answer.body, answer.deployment.name
        if self._capture is not None:
            self._capture.add(answer.body)
        if call.stream:
            self._first_at = time.perf_counter()
            self._metrics.time_to_first_token.observe(self._first_at - self._started)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        answer, status = self._answer, self._status
        try:
            answer.close()
            if exc is not None:
                timeout = timeout_error(self._call, answer.deployment, exc)
                note_end(self._call, timeout or exc, answer.deployment)
                status = status if status != 200 else _status_of(timeout or exc)
                if timeout is not None:
                    raise timeout from exc
        finally:
            self._settle(answer, status)

    @property
    def provider(self) -> str:
        """The name of the provider that answered."""
        return self._answer.deployment.provider.name

    def answers_in(self, kind: str) -> bool:
        """Whether the answer to a call with a request in the wire ``kind`` is in that wire, and not in OpenAI's."""
        return kind in self._answer.deployment.provider.native_answers

    @property
    def prompt_estimate(self) -> int:
        """About how many tokens the prompt has; no upstream has counted them."""
        return self._prompt_tokens or estimate_prompt(self._call.body, self._call.text_size)

    @property
    def media_type(self) -> str:
        """The ``Content-Type`` of an answer that goes on as it comes."""
        return cast(PassedAnswer, self._answer).media_type

    @property
    def is_events(self) -> bool:
        """Whether such an answer is a stream of events, in which an error can still be told."""
        return cast(PassedAnswer, self._answer).is_events

    @property
    def sender(self) -> HasShape | None:
        """Who sends events of a stream by their shape; ``None`` means that nobody does."""
        return self._answer.sender

    @property
    def finished(self) -> bool:
        """Whether :attr:`body` or :meth:`more` has returned the last event of the stream."""
        return self._answer.finished

    async def cost(self) -> int | None:
        """What a whole answer costs, in nano-dollars, as the ledger will have it; ``None`` means that nobody knows.
        Waits for about a second where the model's price was never looked up."""
        prices, answer = self._gateway.prices, self._answer
        if prices is None:
            return None
        await prices.resolve([answer.deployment])
        ms = (time.perf_counter() - self._started) * 1000
        return settled_cost(prices, answer.deployment, answer.usage, estimate(self._call, answer, None, 0), ms)

    def timed_out(self) -> SageError | None:
        """The error if the call was cancelled because its time is over, else ``None``."""
        return total_timeout(self._answer.deployment) if self._call.timed_out else None

    def more(self, write: Sink = takes_nothing) -> Awaitable[bytes]:
        """The next events that ``write`` does not take; empty at the stream's regular end. Raises when it breaks."""
        if self._capture is not None:
            return self._more_of(self._capture, write)
        return self._answer.more(write)

    async def _more_of(self, capture: CapturedCall, write: Sink) -> bytes:
        events = await self._answer.more(capture.passing(write))
        capture.add(events)
        return events

    @property
    def is_drained(self) -> bool:
        """Whether nothing is left for :meth:`drain`."""
        return self._answer.is_drained

    async def drain(self) -> None:
        """Makes the upstream's connection ready for other calls, after the client was sent the complete stream."""
        await self._answer.drain()

    def broke(self, error: SageError) -> None:
        """Counts the call under the status of ``error``: the stream broke, though its HTTP status was 200."""
        note_end(self._call, error, self._answer.deployment)
        self._status = error.status

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers that name the deployment and the number of attempts; a name outside ASCII is percent-encoded."""
        attempts = self._call.attempts
        number = _FIRST_ATTEMPT if attempts == 1 else (b"x-sage-attempts", b"%d" % attempts)
        headers = [self._answer.deployment.header, number]
        if self._reservation is not None and self._reservation.has_soft:
            headers += [(b"x-sage-budget", note.encode()) for note in self._reservation.notes()]
        if self._rated is not None:
            headers += self._rated.headers
        return headers

    def _settle(self, answer: UpstreamAnswer | None, status: int, failure: BaseException | None = None) -> None:
        """Counts the call, once, at its end; without an ``answer`` it has failed with ``failure``, or was left."""
        call, models, now = self._call, self._models, time.perf_counter()
        usage = answer.usage if answer is not None else None
        estimated = estimate(call, answer, failure, self._prompt_tokens) if usage is None else None
        self._metrics.settle(status, now - self._started, usage)
        if self._rated is not None:
            tokens = usage.prompt_tokens + usage.completion_tokens if usage is not None else sum(estimated or ())
            self._rated.settle(tokens)
        if self._capture is not None and self._gateway.captures is not None:
            self._gateway.captures.keep(self._capture)
        self._gateway.settled(
            (
                now,
                self._started,
                self._first_at,
                self._principal,
                call.request_id,
                models,
                call.operation,
                call.stream,
                call.asked,
                call.attempts,
                status,
                usage,
                estimated,
                self._reservation,
                call.dispatched_at,
                call.steps,
            )
        )


class LowPriorityCall(GatewayCall):
    """A call that live ones go before."""

    __slots__ = ()

    async def __aenter__(self) -> GatewayCall:
        calls = self._gateway.low_priority
        calls.in_progress += 1
        try:
            return await super().__aenter__()
        except BaseException:
            calls.in_progress -= 1
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, exc, trace)
        finally:
            self._gateway.low_priority.in_progress -= 1


def _status_of(exc: BaseException) -> int:
    if isinstance(exc, SageError):
        return exc.status
    return 500 if isinstance(exc, Exception) else CLIENT_LEFT
