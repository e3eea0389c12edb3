"""The composition root: :func:`create_app` builds everything once and passes it on."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.routing import Route

from sage.middleware.app.access_log import AccessLog
from sage.middleware.app.audit import make_audit_upkeep
from sage.middleware.app.budgets import connect_budgets, end_budgets, open_budgets
from sage.middleware.app.edge import EdgeMiddleware
from sage.middleware.app.error_handlers import add_error_handlers
from sage.middleware.app.ledger import follow_captures, make_ledger
from sage.middleware.app.mcp import Mcp
from sage.middleware.app.open_streams import OpenStreams
from sage.middleware.app.openapi import describe
from sage.middleware.app.pages.console import PATH as CONSOLE
from sage.middleware.app.pages.console import add_console
from sage.middleware.app.pages.documentation import add_pages
from sage.middleware.app.registry import make_registry
from sage.middleware.app.routes import add_routes, hot_limits
from sage.middleware.app.separate_counts import warn_of_separate_counts
from sage.middleware.app.slashes import Slashes
from sage.middleware.app.version import version
from sage.middleware.app.worker_process import WorkerProcess
from sage.middleware.audit.log import AuditLog
from sage.middleware.audit.upkeep import AuditUpkeep
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.authenticator import Authenticator
from sage.middleware.auth.login_throttle import BOUNDS
from sage.middleware.auth.passwords import HashCost
from sage.middleware.budgets.budgets import Budgets
from sage.middleware.dispatch.dispatch import Dispatch
from sage.middleware.gateway.builtin_embedders import NAMES as EMBEDDER_NAMES
from sage.middleware.gateway.builtin_embedders import EmbedderProvider
from sage.middleware.gateway.configuration import Configuration
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.jobs.opening import Queue
from sage.middleware.gateway.jobs.rights import JobRights
from sage.middleware.gateway.metrics import Metrics
from sage.middleware.gateway.model_caller import RunningGateway
from sage.middleware.gateway.readiness import Readiness
from sage.middleware.gateway.responses.background import BackgroundResponses
from sage.middleware.gateway.services.generating import generate
from sage.middleware.gateway.vector_stores.attachments import Attachments
from sage.middleware.gateway.vector_stores.files import StoreFiles
from sage.middleware.gateway.vector_stores.outcomes import Outcomes
from sage.middleware.gateway.vector_stores.stores import VectorStores
from sage.middleware.gateway.vector_stores.upkeep import StoreUpkeep
from sage.middleware.limits.limiter import make_limiter, make_login_counts
from sage.middleware.providers.clients import make_transport
from sage.middleware.providers.transport import Transport
from sage.middleware.registry.registry import Registry
from sage.middleware.routers.flower.browser_session import BrowserSessions
from sage.middleware.routers.flower.routes import flower_routes
from sage.middleware.routers.http.open_answers import OpenAnswers
from sage.middleware.routers.tasks.shortcuts import job_shortcuts
from sage.middleware.settings.queue import check_broker
from sage.middleware.settings.reading import LoadedSettings
from sage.middleware.settings.settings import Settings

if TYPE_CHECKING:
    from sage.middleware.retrieval.embedding.protocols import Models

_DESCRIPTION = (
    "A team's LLM gateway, model manager and search engine. *Authorize* with your name and password, or paste a key."
)


def create_app(
    settings: Settings,
    *,
    gateway: Gateway | None = None,
    hash_cost: HashCost | None = None,
    secret: str | None = None,
    loaded: LoadedSettings | None = None,
) -> EdgeMiddleware:
    """The whole gateway as one ASGI application.

    Nothing runs before its lifespan begins. A ``gateway`` that is passed in is used, and closed by its owner.
    ``secret`` is the credential that every request needs in a gateway without accounts; ``None`` means none.
    ``loaded`` says where ``settings`` come from; without it they are the program's, and cannot be reloaded.
    ``hash_cost`` is for tests: passwords are hashed at the full cost without it.
    Raises :class:`sage.errors.ConfigError` when the data directory or the broker cannot be used.
    """
    check_broker(settings.queue.broker)
    owned = None if gateway is not None else make_gateway(settings)
    gateway = gateway or owned
    assert gateway is not None
    accounts = _open_accounts(settings, hash_cost) if settings.auth.enabled else None
    authenticator = Authenticator(accounts) if accounts is not None else None
    warn_of_separate_counts(settings, accounts)
    budgets = open_budgets(settings, gateway.registry)
    if budgets is not None:
        connect_budgets(gateway, budgets, settings)
    open_answers = OpenAnswers()
    if accounts is not None and authenticator is not None:
        OpenStreams(authenticator, gateway.deadlines, open_answers, accounts.clock)
    audit = accounts.audit if accounts is not None else AuditLog(settings.data_dir, settings.database)
    if budgets is not None:
        budgets.store.audit = audit
    mcp = Mcp(gateway, settings, audit, authenticator)
    log = AccessLog() if settings.api.access_log else None
    rights = JobRights(authenticator, accounts.job_tokens if accounts is not None else None)
    own_worker = _own_worker(settings, authenticator, secret)
    queue = Queue(settings, rights, own_worker)
    gateway.responses.background = BackgroundResponses(queue)
    if own_worker is not None:
        own_worker.on_exit = queue.worker_gone
    outcomes = Outcomes(gateway.stores.access, queue)
    attachments = Attachments(gateway.stores.access, queue, outcomes, settings.retrieval.limits.max_store_files)
    vector_stores = VectorStores(gateway.stores.access, attachments)
    store_upkeep = StoreUpkeep(vector_stores, outcomes, audit)
    queue.followers.append(store_upkeep.follow)
    app = FastAPI(
        title="SAGE Middleware",
        version=version(),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # its address would be made from the Host header, which anyone can write
        generate_unique_id_function=lambda route: route.name,
        lifespan=_lifespan(
            *(gateway, owned, accounts, authenticator, budgets, log, queue, mcp),
            make_audit_upkeep(audit, accounts, settings),
            store_upkeep,
            shares_models=settings.database is not None,
        ),
    )
    app.state.settings = settings
    app.state.gateway = gateway
    app.state.configuration = Configuration(gateway, settings, loaded, partial(_trial, gateway), _faults)
    app.state.readiness = Readiness(
        gateway.registry, queue, gateway.ledger, gateway.rates.limiter, mcp.servers, settings.data_dir
    )
    app.state.mcp_servers = mcp.servers
    app.state.queue = queue
    app.state.vector_stores = vector_stores
    app.state.store_upkeep = store_upkeep
    app.state.store_files = StoreFiles(gateway.stores.access, attachments)
    app.state.own_worker = own_worker
    app.state.accounts = accounts
    if accounts is not None:
        accounts.throttle.shared = make_login_counts(gateway.rates.limiter, BOUNDS)
    app.state.audit = audit
    app.state.authenticator = authenticator
    app.state.budgets = budgets
    app.state.open_answers = open_answers
    add_error_handlers(app)
    hot = add_routes(app, gateway, authenticator) | job_shortcuts(gateway, queue, authenticator)
    app.router.routes.append(mcp.route)
    flower_sessions = BrowserSessions(accounts, authenticator) if accounts is not None and authenticator else None
    app.state.flower_sessions = flower_sessions
    app.router.routes += flower_routes(gateway.transport, settings, flower_sessions, authenticator)
    add_pages(app, with_accounts=authenticator is not None, home=CONSOLE if settings.console else "/docs")
    if settings.console:
        add_console(app)
    slashes = Slashes(route.path for route in app.router.routes if isinstance(route, Route))
    return EdgeMiddleware(app, hot, hot_limits(), slashes, settings, log, secret)


def _trial(gateway: Gateway, settings: Settings) -> Registry:
    """Another registry of ``settings``, to see whether they work; nothing runs in it."""
    return make_registry(Registry, settings, gateway.transport)


def _faults(settings: Settings, registry: Registry) -> list[str]:
    # Here, since only a reload needs it.
    from sage.middleware.app.config_check import check

    return [finding.text for finding in check(settings, registry)]


def _open_accounts(settings: Settings, hash_cost: HashCost | None) -> Accounts:
    return Accounts(settings.data_dir, settings.auth, hash_cost=hash_cost, url=settings.database)


def _own_worker(settings: Settings, authenticator: Authenticator | None, secret: str | None) -> WorkerProcess | None:
    if not settings.queue.runs_worker:
        return None
    credential = secret or secrets.token_urlsafe(32)
    if authenticator is not None:
        authenticator.admit_worker(credential)
    return WorkerProcess(settings, credential)


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document of a gateway with accounts. Leaves no files behind."""
    with tempfile.TemporaryDirectory() as directory:
        app = create_app(Settings(data_dir=Path(directory))).app
        assert isinstance(app, FastAPI)
        try:
            return describe(app)
        finally:
            app.state.budgets.close()
            app.state.accounts.close()


def make_gateway(settings: Settings, *, transport: Transport | None = None) -> Gateway:
    """The gateway below HTTP, with every model of the configuration and those that providers list themselves.

    ``transport`` replaces the HTTP client towards upstreams.
    """
    transport = transport or make_transport(settings.llm.transport)
    registry = make_registry(Registry, settings, transport)
    embedders = EmbedderProvider(settings.data_dir / "models")
    registry.pulled_onnx = embedders
    for name, is_listed in EMBEDDER_NAMES.items():
        registry.register_own(name, embedders, listed=is_listed)
    dispatch = Dispatch(transport, settings.llm.routing)
    ledger = make_ledger(settings, registry)
    return Gateway(
        registry,
        dispatch,
        transport,
        Metrics(),
        settings,
        partial(_search_models, settings.data_dir / "models"),
        generate,
        embedders,
        ledger,
        make_limiter(settings.limits),
    )


def _search_models(models: Path, running_gateway: RunningGateway) -> Models:
    # Here, since it brings numpy, which start-up does without.
    from sage.middleware.gateway.collections.embedders import RegistryModels

    return RegistryModels(running_gateway, directory=models)


def _lifespan(
    gateway: Gateway,
    owned: Gateway | None,
    accounts: Accounts | None,
    authenticator: Authenticator | None,
    budgets: Budgets | None,
    log: AccessLog | None,
    queue: Queue,
    mcp: Mcp,
    audit: AuditUpkeep,
    store_upkeep: StoreUpkeep,
    *,
    shares_models: bool,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        followers = [asyncio.create_task(audit.run()), asyncio.create_task(store_upkeep.run())]
        if log is not None:
            log.start()
        if accounts is not None and authenticator is not None:
            await asyncio.to_thread(accounts.prepare_setup)
            followers.append(asyncio.create_task(authenticator.follow()))
            if gateway.ledger is not None and gateway.ledger.captures is not None:
                followers.append(asyncio.create_task(follow_captures(accounts, gateway.ledger.captures)))
        if shares_models:
            followers.append(asyncio.create_task(gateway.registry.follow_stored()))
        if budgets is not None:
            await budgets.begin()
        followers.append(asyncio.create_task(gateway.responses.keep_purged()))
        gateway.loop = asyncio.get_running_loop()
        gateway.rates.limiter.begin()
        gateway.registry.preload()
        gateway.services.begin()
        if gateway.ledger is not None:
            gateway.ledger.start()
        queue.begin()
        mcp.begin()
        try:
            yield
        finally:
            await mcp.close()
            await queue.close()
            for follower in followers:
                follower.cancel()
            await asyncio.wait(followers)
            if owned is not None:
                await owned.close()
            if budgets is not None:
                await end_budgets(gateway, budgets)
            if log is not None:
                log.stop()
            audit.close()
            if accounts is not None:
                accounts.close()

    return lifespan
