"""A hot route: a POST route in plain ASGI, since the framework costs more than all the rest of a request.

One :class:`HotRoute` says everything about such a route: ``app/routes.py`` mounts it, ``app/openapi.py`` describes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel
from starlette.routing import Route

from sage.middleware.auth.credential_cache import CredentialCache
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.routers.http.asgi import ASGIApp
from sage.middleware.routers.http.guard import Guard
from sage.middleware.routers.http.openapi_bodies import EVENTS, JSON, ErrorEnvelope


@dataclass(frozen=True, kw_only=True)
class HotRoute:
    """One hot route.

    ``request`` and ``answer`` are the models of its bodies, for OpenAPI only: the endpoint parses its body itself.
    ``answer=None`` means that the answer is the upstream's, an object of any shape. ``stream_media`` is the media type
    of the answer to a request with ``stream``.

    ``takes`` are the media types of its bodies, ``gives`` is that of the answer, where it is no stream.

    ``max_body`` is how many bytes its bodies have at most; ``None`` means ``api.max_body_bytes``.

    ``endpoint`` makes the ASGI application over a gateway. ``errors`` wraps the guarded endpoint where a surface writes
    errors in a shape of its own, which ``error_model`` describes.
    """

    path: str
    name: str
    scope: Permission
    tag: str
    summary: str
    request: type[BaseModel]
    answer: type[BaseModel] | None = None
    endpoint: Callable[[Gateway], ASGIApp]
    max_body: int | None = None
    stream_media: str = EVENTS
    takes: tuple[str, ...] = (JSON,)
    gives: str = JSON
    errors: Callable[[ASGIApp], ASGIApp] | None = None
    error_model: type[BaseModel] = ErrorEnvelope

    def mount(self, gateway: Gateway, authenticator: CredentialCache | None) -> Route:
        """The route over ``gateway``. Without an authenticator every caller is ``local``."""
        guarded: ASGIApp = Guard(self.endpoint(gateway), self.scope, authenticator)
        app = guarded if self.errors is None else self.errors(guarded)
        return Route(self.path, app, methods=["POST"], name=self.name)
