"""The check before every route: the table says which scope it needs, the guard is bound to the route itself.

A route whose name the table (`auth/routes.py`) does not know cannot even be made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute, APIRouter
from starlette.routing import Route

from sage.middleware.auth.authenticator import Authenticator
from sage.middleware.auth.principal import LOCAL, Principal
from sage.middleware.auth.routes import ROUTES
from sage.middleware.routers.http.asgi import ASGIApp, Receive, Scope, Send


def credential(scope: Scope) -> bytes | None:
    """The value of ``Authorization``, the only place that a credential is read from; a doubled header is none."""
    found: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            if found is not None:
                return b""
            found = value
    return found


def known(scope: Scope, authenticator: Authenticator | None) -> Principal | None:
    """The caller, if that can be told without waiting: ``local``, or a credential that was verified before."""
    if authenticator is None:
        return LOCAL
    value = credential(scope)
    return authenticator.cached(value) if value is not None else None


async def identify(scope: Scope, authenticator: Authenticator | None) -> Principal:
    """Who calls; raises :class:`sage.errors.AuthenticationFailed`. Without an authenticator everyone is ``local``."""
    principal = known(scope, authenticator)
    if principal is not None:
        return principal
    assert authenticator is not None
    return await authenticator.authenticate(credential(scope))


class Guard:
    """An ASGI endpoint behind the check for the route ``name``."""

    def __init__(self, name: str, app: ASGIApp, authenticator: Authenticator | None) -> None:
        self._needed = ROUTES[name]
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        authenticator, needed = self._authenticator, self._needed
        # A credential that is known does not pay for `identify`'s coroutine.
        principal = known(scope, authenticator) or await identify(scope, authenticator)
        scope["state"]["principal"] = principal
        if needed is not None and needed not in principal.scopes:
            principal.require(needed)
        await self._app(scope, receive, send)


class GuardedRoute(APIRoute):
    """A framework route behind the check for its name; for ``APIRouter(route_class=GuardedRoute)``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        needed = ROUTES[self.name]
        handle = super().get_route_handler()
        if needed is None:
            return handle

        async def guarded(request: Request) -> Response:
            principal = await identify(request.scope, request.app.state.authenticator)
            request.scope["state"]["principal"] = principal
            principal.require(needed)
            return await handle(request)

        return guarded


class AnyPathRoute(GuardedRoute):
    """As :class:`GuardedRoute`, where a ``:path`` parameter may be any text: the framework's own leaves out the line
    end that a key ends with, and knows no other. A router of these is added as its routes (``app.router.routes``): of
    one that is included, the framework makes the patterns anew."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z", re.DOTALL)


def any_path_router(tag: str) -> APIRouter:
    """A router of :class:`AnyPathRoute`."""
    return APIRouter(route_class=AnyPathRoute, tags=[tag], generate_unique_id_function=lambda route: route.name)


def hot_route(path: str, name: str, app: ASGIApp, authenticator: Authenticator | None) -> Route:
    """A POST route that the framework describes but does not run."""
    return Route(path, Guard(name, app, authenticator), methods=["POST"], name=name)
