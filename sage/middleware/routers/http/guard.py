"""The check before every route. Each route declares the scope that it requires, or that it is public.

A framework route declares it on its endpoint, with :func:`requires` or :func:`public` below the router's decorator. A
hot route declares it in its :class:`~sage.middleware.routers.http.hot_route.HotRoute`. A route that declares neither
cannot be made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, TypeVar
from urllib.parse import unquote_to_bytes

from fastapi import Request, Response
from fastapi.routing import APIRouter
from pydantic import BaseModel

from sage.errors import InvalidRequest
from sage.middleware.audit.origin import caller_address
from sage.middleware.auth.credential_cache import CredentialCache, digest_of
from sage.middleware.auth.principal import LOCAL, Principal
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.routers.http.asgi import FIELDS, ASGIApp, Fields, Receive, Scope, Send
from sage.middleware.routers.http.bodies import SMALL_BODY, VALIDATED_BODY, LargeBody, too_large
from sage.middleware.routers.http.late_route import LateRoute
from sage.middleware.routers.http.open_answers import OpenAnswer
from sage.middleware.routers.http.openapi_bodies import ErrorEnvelope

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
_DECLARED = "required_scope"
_MAX_BODY = "max_body"


def requires(scope: Permission) -> Callable[[Endpoint], Endpoint]:
    """Declares that the route of an endpoint requires ``scope``."""

    def declare(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _DECLARED, scope)
        return endpoint

    return declare


def public(endpoint: Endpoint) -> Endpoint:
    """Declares that the route of an endpoint is open to everyone, without a credential."""
    setattr(endpoint, _DECLARED, None)
    return endpoint


def max_body(size: int | None) -> Callable[[Endpoint], Endpoint]:
    """Declares how many bytes the bodies for an endpoint have at most; ``None`` means ``api.max_body_bytes``. Without
    it that is :data:`~sage.middleware.routers.http.bodies.SMALL_BODY`, or ``VALIDATED_BODY`` where the framework
    validates them."""

    def declare(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _MAX_BODY, size)
        return endpoint

    return declare


def credential(scope: Scope) -> bytes | None:
    """The value of ``Authorization``, the only place that a credential is read from.

    ``None`` means that there is no such header. With several of them it is empty, which no check accepts.
    """
    fields: Fields = scope[FIELDS]
    value = fields.get(b"authorization")
    if value is not None and len(fields) != len(scope["headers"]):
        count = sum(name == b"authorization" for name, _ in scope["headers"])
        return value if count == 1 else b""
    return value


def recognize(scope: Scope, authenticator: CredentialCache | None) -> Principal | None:
    """The caller, without waiting: ``local``, or the owner of a credential that was verified before.

    ``None`` means that the credential has to be verified, by :func:`identify`.
    """
    if authenticator is None:
        return LOCAL
    fields: Fields = scope[FIELDS]
    digest = fields.digest
    if digest is None:
        value = credential(scope)
        if value is None:
            return None
        digest = fields.digest = digest_of(value)
    return authenticator.cached_under(digest)


async def identify(scope: Scope, authenticator: CredentialCache | None) -> Principal:
    """The caller; raises :class:`sage.errors.AuthenticationFailed`. Without an authenticator everyone is ``local``."""
    principal = recognize(scope, authenticator)
    if principal is not None:
        return principal
    assert authenticator is not None
    return await authenticator.authenticate(credential(scope))


class Guard:
    """An ASGI endpoint that only callers with the scope ``required`` reach."""

    def __init__(self, app: ASGIApp, required: Permission, authenticator: CredentialCache | None) -> None:
        self._app = app
        self._required = required
        self._authenticator = authenticator

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        principal = recognize(scope, self._authenticator)
        if principal is None:
            return self._verify(scope, receive, send)
        scope["state"]["principal"] = principal
        if self._required not in principal.scopes:
            principal.require(self._required)
        return self._app(scope, receive, send)

    async def _verify(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = await identify(scope, self._authenticator)
        scope["state"]["principal"] = principal
        principal.require(self._required)
        await self._app(scope, receive, send)


class GuardedRoute(LateRoute):
    """A framework route behind the check for its scope; made by a :func:`guarded_router`.

    Bytes in its address that are no text are refused; the framework reads U+FFFD, which may be another's id.
    Raises :class:`TypeError` when the endpoint does not declare what it requires.
    """

    error_model: ClassVar[type[BaseModel]] = ErrorEnvelope
    """The shape of its errors, for OpenAPI."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _ = self.scope

    @property
    def scope(self) -> Permission | None:
        """The scope that it requires; ``None`` means that it is public."""
        try:
            scope: Permission | None = getattr(self.endpoint, _DECLARED)
        except AttributeError:
            raise TypeError(
                f"the route '{self.name}' declares no scope: put @requires(Scope.…) or @public on its endpoint, below "
                "the router's decorator"
            ) from None
        return scope

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        usual = SMALL_BODY if self.body_field is None else VALIDATED_BODY
        required, limit = self.scope, getattr(self.endpoint, _MAX_BODY, usual)
        handle = super().get_route_handler()

        async def limited(request: Request) -> Response:
            if limit is not None:
                _limit(request, limit)
            caller_address.set(request.client.host if request.client is not None else "")
            return await handle(request)

        if required is None:
            return limited

        async def guarded(request: Request) -> Response:
            principal = await identify(request.scope, request.app.state.authenticator)
            request.scope["state"]["principal"] = principal
            principal.require(required)
            _check_address(request.scope)
            answer = OpenAnswer(request.scope, required, request.app.state.open_answers)
            try:
                return answer.made(await limited(request))
            except BaseException:
                answer.end()
                raise

        return guarded


def _limit(request: Request, limit: int) -> None:
    """Limits the body of ``request``. Raises :class:`sage.errors.PayloadTooLarge` when its head says more.

    A body without a length has a bounded ``receive`` (``app/edge.py``); the server holds others to their length.
    """
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large(limit)
    if isinstance(request.receive, LargeBody):
        request.receive.narrow(limit)


def _check_address(scope: Scope) -> None:
    """Raises :class:`InvalidRequest` for a path or a query that is not UTF-8."""
    for part, name in ((scope.get("raw_path") or b"", "path"), (scope["query_string"], "query")):
        if b"%" in part:
            try:
                unquote_to_bytes(part).decode()
            except UnicodeDecodeError:
                raise InvalidRequest(f"the {name} of the URL is not UTF-8", code="invalid_url") from None


def guarded_router(tag: str, *, prefix: str = "", route_class: type[GuardedRoute] = GuardedRoute) -> APIRouter:
    """A router of guarded routes. Its routes are added to an app one by one (``app.router.routes``).

    A router that is *included* would build its routes again with the first request, on whichever thread that is, and
    with the framework's own patterns.
    """
    return APIRouter(
        prefix=prefix, route_class=route_class, tags=[tag], generate_unique_id_function=lambda route: route.name
    )
