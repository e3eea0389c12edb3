"""Every route of the gateway: hot ones, which are plain ASGI, and those that the framework runs."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from sage.middleware.app.inference_routes import INFERENCE_ROUTES
from sage.middleware.auth.authenticator import Authenticator
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.routers import (
    audit,
    budgets,
    collections,
    documents,
    health,
    kv,
    limits,
    memory,
    models,
    search,
    services,
    settings,
    usage,
    vdb,
)
from sage.middleware.routers.auth import flower, keys, login, me, oidc, options, teams, users
from sage.middleware.routers.http.asgi import ASGIApp
from sage.middleware.routers.http.guard import GuardedRoute
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.mcp import metadata as mcp_metadata
from sage.middleware.routers.mcp import servers as mcp_servers
from sage.middleware.routers.ollama import models as ollama_models
from sage.middleware.routers.openai import audio as openai_audio
from sage.middleware.routers.openai import batches as openai_batches
from sage.middleware.routers.openai import files as openai_files
from sage.middleware.routers.openai import images as openai_images
from sage.middleware.routers.openai import models as openai_models
from sage.middleware.routers.openai import vector_store_files as openai_vector_store_files
from sage.middleware.routers.openai import vector_stores as openai_vector_stores
from sage.middleware.routers.openai.responses import stored as stored_responses
from sage.middleware.routers.tasks import schedules, tasks, worker

FORM_ROUTES: tuple[HotRoute, ...] = (*openai_audio.FORM_ROUTES, *openai_images.FORM_ROUTES)
"""Those with files, which the process answers that keeps what has to be kept of them (`--workers`)."""
HOT_ROUTES: tuple[HotRoute, ...] = (*INFERENCE_ROUTES, *search.ROUTES, *FORM_ROUTES)
_ROUTERS: tuple[APIRouter, ...] = (
    openai_models.router,
    openai_files.router,
    openai_batches.router,
    openai_vector_stores.router,
    openai_vector_store_files.router,
    stored_responses.router,
    ollama_models.router,
    models.router,
    documents.router,
    collections.router,
    services.router,
    health.router,
    kv.router,
    vdb.router,
    memory.router,
    tasks.router,
    worker.router,
    schedules.router,
    schedules.listing,
    usage.router,
    budgets.router,
    limits.router,
    audit.router,
    settings.router,
    mcp_servers.router,
    mcp_metadata.router,
    options.router,
)

_ACCOUNT_ROUTERS: tuple[APIRouter, ...] = (
    login.router,
    flower.router,
    oidc.router,
    me.router,
    keys.router,
    users.router,
    teams.router,
)


def routers(*, with_accounts: bool = True) -> tuple[APIRouter, ...]:
    """The routers of framework routes. Without accounts there are no routes to log in."""
    return (*_ROUTERS, *_ACCOUNT_ROUTERS) if with_accounts else _ROUTERS


def guarded_routes(*, with_accounts: bool = True) -> list[GuardedRoute]:
    """The framework routes."""
    routes = [route for router in routers(with_accounts=with_accounts) for route in router.routes]
    return [route for route in routes if isinstance(route, GuardedRoute)]


def add_routes(app: FastAPI, gateway: Gateway, authenticator: Authenticator | None) -> dict[tuple[str, str], ASGIApp]:
    """Adds every route to ``app``; returns the endpoints of the hot ones by method and path.

    Raises :class:`TypeError` for a framework route without a guard.
    """
    hot = [route.mount(gateway, authenticator) for route in HOT_ROUTES]
    app.router.routes.extend(hot)
    for router in routers(with_accounts=authenticator is not None):
        for route in router.routes:
            if not isinstance(route, GuardedRoute):
                raise TypeError(f"the route {route} is not guarded: make its router with guarded_router")
        app.router.routes.extend(router.routes)
    return {("POST", route.path): route.app for route in hot}


def hot_limits() -> dict[tuple[str, str], int]:
    """How many bytes bodies have at most, by method and path, for the hot routes that take fewer than others."""
    return {("POST", route.path): route.max_body for route in HOT_ROUTES if route.max_body is not None}
