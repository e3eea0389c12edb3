"""What a front answers itself: searches (:mod:`sage.middleware.app.workers.front_collections`), and calls of models at
remote servers that nothing bounds. All else is the owner's."""

from __future__ import annotations

from collections.abc import Collection
from contextvars import ContextVar
from typing import Any, NoReturn, cast

from sage.errors import SageError
from sage.middleware.app.workers.forwarding import Forwarder, RecordedRequest
from sage.middleware.app.workers.front_usage import FrontRecords
from sage.middleware.auth.principal import Principal
from sage.middleware.budgets.subjects import BudgetedSubjects
from sage.middleware.dispatch.deployment import Deployment, PublicModel
from sage.middleware.dispatch.dispatch import Dispatch
from sage.middleware.dispatch.upstream_answer import UpstreamAnswer
from sage.middleware.gateway.elsewhere import Elsewhere
from sage.middleware.gateway.gateway import Gateway, GatewayCall
from sage.middleware.gateway.metrics import Metrics
from sage.middleware.gateway.rates import RateLimits
from sage.middleware.limits.local_limiter import Limiter
from sage.middleware.providers.base import ModelCall
from sage.middleware.providers.transport import Transport
from sage.middleware.registry.registry import Registry
from sage.middleware.routers.http.asgi import UNLOGGED, ASGIApp, Receive, Scope, Send, note
from sage.middleware.settings.settings import Model as ModelSettings
from sage.middleware.settings.settings import Settings
from sage.middleware.usage.price_list import PriceList

RECORDED = "sage.recorded"
"""In the scope of a request at a front: its :class:`RecordedRequest`."""
_MOST_KNOWN = 10_000
_current: ContextVar[RecordedRequest | None] = ContextVar("recorded request", default=None)


class OfTheOwner:
    """Stands for what a front does not have: whatever it is asked, the owner has to answer."""

    def __getattr__(self, name: str) -> NoReturn:
        raise Elsewhere(name)


class FrontRegistry(Registry):
    """The registry of a front: names and deployments as the owner has them, but no say over any model."""

    elsewhere: frozenset[str] = frozenset()
    """Names of models that run in the owner itself."""
    budgeted: BudgetedSubjects | None = None
    """Those whose calls are the owner's, since they have budgets; ``None`` means that there are none."""
    here: dict[str, bool]
    """Names of which it is known that they are :meth:`served_here`."""
    captured: frozenset[str] = frozenset()
    """Teams whose prompts and answers are kept, which the owner does."""
    _asleep: frozenset[str] = frozenset()
    """Providers whose server has to be woken first."""

    def restore(self) -> None:
        self.mirror()

    def register(self, name: str, settings: ModelSettings, *, source: str = "program") -> PublicModel:
        self.here = {}
        return super().register(name, settings, source=source)

    def sleeping(self, providers: Collection[str]) -> None:
        """From now on the servers of these providers sleep, and no others."""
        if self._asleep != frozenset(providers):
            self._asleep, self.here = frozenset(providers), {}

    def mirror(self) -> None:
        """Takes over what the owner has changed. It has stored that already, and says what is wrong with it."""
        self.here = {}
        before = {name: each for name, each in self._stored.items() if self._is_runtime(name)}
        self.take_over(before, self._read_stored())
        self.pulled.refresh()
        for provider in self.providers.values():
            self._model_lists.forget(provider)

    async def load(self, name: str, *, wait: bool = True) -> PublicModel:
        raise Elsewhere(name)

    async def unload(self, name: str) -> PublicModel:
        raise Elsewhere(name)

    async def served_here(self, name: str) -> bool:
        """Whether the model of that name can be asked from here. Nobody but the owner says that there is none."""
        known = self.here
        served = await self._is_served_here(name)
        if served and len(known) < _MOST_KNOWN:
            known[name] = True
        return served

    async def _is_served_here(self, name: str) -> bool:
        model = self._models.get(name)
        if model is None:
            if name in self.elsewhere:
                return False
            try:
                model = await self.resolve(name)
            except SageError:
                return False
        return bool(model.deployments) and all(self._is_asked_here(each) for each in model.deployments)

    def _is_asked_here(self, deployment: Deployment) -> bool:
        """An engine, a bound, and a server that sleeps have one owner."""
        return (
            deployment.managed is None
            and deployment.max_concurrency is None
            and deployment.quota.limit is None
            and bool(deployment.provider.endpoints)
            and deployment.provider.name not in self._asleep
        )


class FrontGateway(Gateway):
    """The gateway of a front. Raises :class:`Elsewhere` for everything that is the owner's, before anything is done."""

    registry: FrontRegistry

    def __init__(
        self,
        registry: FrontRegistry,
        dispatch: Dispatch,
        transport: Transport,
        metrics: Metrics,
        settings: Settings,
        limiter: Limiter | None = None,
    ) -> None:
        """``limiter`` counts rates together with the owner's; without it a call that has limits is the owner's."""
        # Not Gateway's own, which makes collections and services.
        self.registry = registry
        self.metrics = metrics
        self.retrieval = settings.retrieval
        self.collections = cast(Any, OfTheOwner())
        self.stores = cast(Any, OfTheOwner())
        self.services = cast(Any, OfTheOwner())
        self.responses = cast(Any, OfTheOwner())
        self.loop = None
        self.transport = transport
        self.low_priority = dispatch.low_priority
        self._dispatch = dispatch
        self.deadlines = dispatch.deadlines
        self.limits = settings.llm.limits
        self.rates = RateLimits(limiter or cast(Any, OfTheOwner()), metrics)
        self._embedders = None
        self.mcp = cast(Any, OfTheOwner())
        self.ledger = None
        self.budgets = None
        self.captures = None
        self.records = FrontRecords()
        self.settled = self.records.add

    @property
    def prices(self) -> PriceList | None:
        raise Elsewhere("prices")

    def call(self, principal: Principal, call: ModelCall) -> GatewayCall:
        if call.low_priority:
            raise Elsewhere(call.model)
        return GatewayCall(self, principal, call)

    def run_tools_here(self) -> None:
        raise Elsewhere("tools")

    def admit_known(self, principal: Principal, call: ModelCall) -> list[PublicModel] | None:
        registry = self.registry
        if call.model not in registry.here or principal.tenant in registry.captured:
            return None
        models = super().admit_known(principal, call)
        if models is not None and registry.budgeted is not None and registry.budgeted.of(principal, [call.model]):
            raise Elsewhere("budgets")
        return models

    async def admit(self, principal: Principal, call: ModelCall) -> list[PublicModel]:
        registry = self.registry
        if principal.tenant in registry.captured:
            raise Elsewhere(principal.tenant)
        for name in (call.model, *call.fallbacks) if call.fallbacks else (call.model,):
            if name not in registry.here and not await registry.served_here(name):
                raise Elsewhere(name)
        models = await super().admit(principal, call)
        if registry.budgeted is not None and registry.budgeted.of(principal, [model.name for model in models]):
            raise Elsewhere("budgets")
        if len(models) > 1:
            for model in models:
                if not await registry.served_here(model.name):
                    raise Elsewhere(model.name)
        return models

    async def open(self, call: ModelCall, models: list[PublicModel]) -> UpstreamAnswer:
        recorded = _current.get()
        if recorded is not None:
            recorded.keep()
        return await self._dispatch.open(call, models)


class FrontRoute:
    """A hot route at a front: answered here, or forwarded with the body that was read already."""

    def __init__(self, app: ASGIApp, forwarder: Forwarder) -> None:
        self._app = app
        self._forwarder = forwarder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        recorded: RecordedRequest = scope[RECORDED]
        token = _current.set(recorded)
        try:
            await self._app(scope, receive, send)
            return
        except Elsewhere:
            pass
        finally:
            _current.reset(token)
        note(scope, **{UNLOGGED: True})  # the owner has its line
        scope["sage.exchange"].added = []  # and its answer has all headers
        await self._forwarder.forward(scope, recorded.again(), recorded.send)
