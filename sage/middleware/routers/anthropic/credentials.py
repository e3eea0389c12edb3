"""``x-api-key``, in which Anthropic's clients send their key: read on its routes, and nowhere else."""

from __future__ import annotations

from collections.abc import Awaitable

from sage.errors import AuthenticationFailed
from sage.middleware.routers.http.asgi import FIELDS, ASGIApp, Fields, Receive, Scope, Send

_KEY, _AUTHORIZATION = b"x-api-key", b"authorization"


def take_api_key(scope: Scope) -> None:
    """Makes ``Authorization`` of ``x-api-key``, so that all that reads a credential finds it there.

    Raises :class:`AuthenticationFailed` for two credentials that are not the same.
    """
    fields: Fields = scope[FIELDS]
    key = fields.get(_KEY)
    if key is None:
        return
    keyed = fields.keyed
    if keyed is None:
        keyed = fields.keyed = _keyed(scope, fields, key)
    if keyed is not None:
        scope[FIELDS] = keyed
        scope["headers"] = [*scope["headers"], (_AUTHORIZATION, keyed[_AUTHORIZATION])]


def _keyed(scope: Scope, fields: Fields, key: bytes) -> Fields | None:
    """``fields`` with ``key`` in ``Authorization``; ``None`` if it stands there."""
    given = [value for name, value in scope["headers"] if name == _AUTHORIZATION]
    keys = {value.strip() for name, value in scope["headers"] if name == _KEY}
    if len(keys) > 1 or any(_bearer(value) not in keys for value in given):
        raise AuthenticationFailed(
            "the request has two credentials that differ, in 'x-api-key' and 'Authorization': send one of them",
            code="two_credentials",
        )
    return None if given else Fields({**fields, _AUTHORIZATION: b"Bearer " + key.strip()}.items())


def _bearer(authorization: bytes) -> bytes:
    scheme, _, credential = authorization.partition(b" ")
    return credential.strip() if scheme.lower() == b"bearer" else authorization


class WithApiKey:
    """An endpoint whose callers may send their key in ``x-api-key``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if _KEY in scope[FIELDS]:
            take_api_key(scope)
        return self._app(scope, receive, send)
